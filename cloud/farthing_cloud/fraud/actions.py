"""What fraud may do: make a device's status stricter, never more lenient."""

from farthing.v1 import directive_pb2

#: How little each status allows.
_STRICTNESS: dict[int, int] = {
    directive_pb2.DEVICE_STATUS_UNSPECIFIED: 0,
    directive_pb2.DEVICE_STATUS_ACTIVE: 0,
    directive_pb2.DEVICE_STATUS_SUSPENDED: 1,
    directive_pb2.DEVICE_STATUS_BLOCKED: 2,
    directive_pb2.DEVICE_STATUS_DECOMMISSIONED: 3,
}


def loosens(current: int, wanted: int) -> bool:
    """By values of ``DeviceStatus``: whether ``wanted`` would allow what ``current`` forbids; a status we do not know counts as the strictest."""
    return _STRICTNESS[wanted] < _STRICTNESS.get(current, max(_STRICTNESS.values()) + 1)
