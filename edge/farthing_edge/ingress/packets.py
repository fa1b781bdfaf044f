"""The two packets of MQTT 3.1.1 of which there are many, cut and written by hand: PUBLISH (section 3.3) and PUBACK (section 3.4).

Rule 1: all else is handed on as it came, for paho to speak: there is one state machine of MQTT, and it is not here.
Rule 2: a packet of ours has an identifier from ``OURS`` up; paho counts its own from 1 and never gets there.
Rule 3: whatever is promised, no more is kept than ``MAX_KEPT``: of a larger message its beginning is handed on and the rest passed over.
"""

from collections.abc import Callable
from functools import lru_cache

from farthing.device.messages import MAX_ENVELOPE_SIZE

_PUBLISH, _PUBACK = 0x30, 0x40
_RETAIN, _QOS_1, _QOS_2 = 0x01, 0x02, 0x04
#: Packet identifiers of ours: half of all there are, several times what waits for its PUBACK.
OURS, LAST = 0x8000, 0xFFFF
#: The largest envelope with its topic, and a byte more to see that it is too large.
MAX_KEPT = MAX_ENVELOPE_SIZE + 256
#: A remaining length has at most four bytes (section 2.2.3).
_MAX_LENGTH_SIZE = 4


class PacketError(Exception):
    """What came is no packet of MQTT 3.1.1: there is no telling where the next one begins."""


class Packets:
    """Cuts a stream into packets, however it was split.

    ``published`` gets topic, payload (its beginning, if it is larger than any of ours) and whether it was retained; ``acknowledged`` is
    called for each PUBACK to a packet of ours; ``other`` gets all other packets. What ``feed`` returns is to be written: PUBACKs.
    """

    __slots__ = ("_acknowledged", "_other", "_published", "_rest", "_skip")

    def __init__(
        self,
        *,
        published: Callable[[bytes, bytes, bool], None],
        acknowledged: Callable[[], None],
        other: Callable[[bytes], None],
    ) -> None:
        self._published = published
        self._acknowledged = acknowledged
        self._other = other
        self._rest = b""
        self._skip = 0

    def feed(self, data: bytes) -> bytes:
        """Take ``data``; return the PUBACKs for what was published in it. ``PacketError``."""
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            data = data[passed:]
        if self._rest:
            data = self._rest + data
        replies: list[bytes] = []
        at, there = 0, len(data)
        while there - at >= 2:
            size, body = data[at + 1], at + 2
            if size & 0x80:
                size, body = _length(data, at + 1)
                if not body:
                    break
            end = body + size
            if end > there:
                if there - body < MAX_KEPT:
                    break
                # Its acknowledgement does not wait for the rest, which nobody reads.
                self._skip, end = end - there, there
            self._one(data, at, body, end, replies)
            at = end
        self._rest = data[at:]
        return b"".join(replies)

    def _one(self, data: bytes, at: int, body: int, end: int, replies: list[bytes]) -> None:
        head = data[at]
        kind = head & 0xF0
        if kind == _PUBLISH and not head & _QOS_2:
            payload = body + 2 + (data[body] << 8 | data[body + 1]) if end - body >= 2 else end + 1
            topic = data[body + 2 : payload]
            if head & _QOS_1:
                replies.append(b"\x40\x02" + data[payload : payload + 2])
                payload += 2
            if payload > end:
                raise PacketError("a PUBLISH that ends in its head")
            self._published(topic, data[payload:end], bool(head & _RETAIN))
        elif kind == _PUBACK and end - body == 2 and data[body] & 0x80:
            self._acknowledged()
        elif self._skip:
            raise PacketError("a control packet larger than any message")
        else:
            self._other(data[at:end])


def _length(data: bytes, at: int) -> tuple[int, int]:
    """The remaining length that begins at ``at``, and where it ends; 0 for the end where it is not all there."""
    size = 0
    for n, byte in enumerate(data[at : at + _MAX_LENGTH_SIZE]):
        size |= (byte & 0x7F) << 7 * n
        if not byte & 0x80:
            return size, at + n + 1
    if len(data) - at >= _MAX_LENGTH_SIZE:
        raise PacketError("a remaining length of more than four bytes")
    return 0, 0


def publish(topic: str, packet_id: int, payload: bytes) -> bytes:
    """A PUBLISH with QoS 1."""
    head = _topic(topic)
    size = len(head) + 2 + len(payload)
    length = b""
    while size > 0x7F:
        length += bytes((size & 0x7F | 0x80,))
        size >>= 7
    return b"\x32" + length + bytes((size,)) + head + packet_id.to_bytes(2, "big") + payload


@lru_cache(maxsize=4_096)  # a site's devices
def _topic(topic: str) -> bytes:
    encoded = topic.encode()
    return len(encoded).to_bytes(2, "big") + encoded
