"""The life of devices and gateways, as tables.

Rule 1: what no row allows raises ``IllegalStep`` and changes nothing.
Rule 2: a thing that is decommissioned or revoked stays so for ever.
Rule 3: fraud may only take steps that reduce what is allowed.

A device comes here enrolled: its certificate, from the factory's CA, binds key and id, and ``PutDevice`` gives it to an
operator and its sites (DESIGN, section 8).
"""

from collections.abc import Sequence

from farthing.v1.directive_pb2 import (
    DEVICE_STATUS_ACTIVE,
    DEVICE_STATUS_BLOCKED,
    DEVICE_STATUS_DECOMMISSIONED,
    DEVICE_STATUS_SUSPENDED,
    DeviceStatus,
)
from farthing.v1.registry_pb2 import (
    GATEWAY_STATUS_ACTIVE,
    GATEWAY_STATUS_REVOKED,
    GATEWAY_STATUS_SUSPENDED,
    GatewayStatus,
)


class IllegalStep(Exception):
    """A status that cannot follow the present one."""


#: from → to, for devices.
DEVICE_STEPS: frozenset[tuple[int, int]] = frozenset(
    {
        (DEVICE_STATUS_ACTIVE, DEVICE_STATUS_SUSPENDED),
        (DEVICE_STATUS_ACTIVE, DEVICE_STATUS_BLOCKED),
        (DEVICE_STATUS_ACTIVE, DEVICE_STATUS_DECOMMISSIONED),
        (DEVICE_STATUS_SUSPENDED, DEVICE_STATUS_ACTIVE),
        (DEVICE_STATUS_SUSPENDED, DEVICE_STATUS_BLOCKED),
        (DEVICE_STATUS_SUSPENDED, DEVICE_STATUS_DECOMMISSIONED),
        # A person looked at the case: the block is lifted, or the device goes.
        (DEVICE_STATUS_BLOCKED, DEVICE_STATUS_ACTIVE),
        (DEVICE_STATUS_BLOCKED, DEVICE_STATUS_SUSPENDED),
        (DEVICE_STATUS_BLOCKED, DEVICE_STATUS_DECOMMISSIONED),
    }
)

#: The steps of ``DEVICE_STEPS`` that reduce what is allowed.
REDUCING_STEPS: frozenset[tuple[int, int]] = frozenset(
    {
        (DEVICE_STATUS_ACTIVE, DEVICE_STATUS_SUSPENDED),
        (DEVICE_STATUS_ACTIVE, DEVICE_STATUS_BLOCKED),
        (DEVICE_STATUS_SUSPENDED, DEVICE_STATUS_BLOCKED),
    }
)

#: from → to, for gateways.
GATEWAY_STEPS: frozenset[tuple[int, int]] = frozenset(
    {
        (GATEWAY_STATUS_ACTIVE, GATEWAY_STATUS_SUSPENDED),
        (GATEWAY_STATUS_ACTIVE, GATEWAY_STATUS_REVOKED),
        (GATEWAY_STATUS_SUSPENDED, GATEWAY_STATUS_ACTIVE),
        (GATEWAY_STATUS_SUSPENDED, GATEWAY_STATUS_REVOKED),
    }
)


def device_step(present: int, wanted: int, *, only_reduce: bool = False) -> bool:
    """Whether ``wanted`` is a change; raise ``IllegalStep`` if it may not follow ``present``."""
    if present == wanted:
        return False
    if (present, wanted) not in DEVICE_STEPS:
        raise IllegalStep(f"a device that is {device_status_name(present)} cannot become {device_status_name(wanted)}")
    if only_reduce and (present, wanted) not in REDUCING_STEPS:
        raise IllegalStep(
            f"only a person may make a device that is {device_status_name(present)} {device_status_name(wanted)}"
        )
    return True


def gateway_step(present: int, wanted: int) -> bool:
    """Whether ``wanted`` is a change; raise ``IllegalStep`` if it may not follow ``present``."""
    if present == wanted:
        return False
    if (present, wanted) not in GATEWAY_STEPS:
        raise IllegalStep(
            f"a gateway that is {gateway_status_name(present)} cannot become {gateway_status_name(wanted)}"
        )
    return True


def device_status_name(status: int) -> str:
    """ "active", "suspended", "blocked", "decommissioned", or "unspecified"."""
    return _name(DeviceStatus.items(), status, "DEVICE_STATUS_")


def gateway_status_name(status: int) -> str:
    """ "active", "suspended", "revoked", or "unspecified"."""
    return _name(GatewayStatus.items(), status, "GATEWAY_STATUS_")


def _name(items: Sequence[tuple[str, int]], status: int, prefix: str) -> str:
    for name, number in items:
        if number == status:
            return name.removeprefix(prefix).lower()
    return f"status {status}"
