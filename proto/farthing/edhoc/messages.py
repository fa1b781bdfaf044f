"""EDHOC's messages as bytes (RFC 9528, section 5): strict, deterministic CBOR, bounded.

One-byte identifiers that are the encoding of an integer -24..23 travel as that integer, all others as a byte string
(section 3.3.2); the surplus encoding is refused.
"""

import io
from dataclasses import dataclass

import cbor2

from farthing.edhoc.errors import MessageMalformed

#: Longest message we look at. A message_1 has 37 bytes; what is longer carries external data that we do not know.
MAX_MESSAGE_SIZE = 512
#: Longest connection identifier. OSCORE's sender ids for AES-CCM-16-64-128 have at most 7 bytes (RFC 8613, section 3.3).
MAX_IDENTIFIER_SIZE = 7
MAX_CIPHER_SUITES = 16
COORDINATE_SIZE = 32
COSE_KID = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalData:
    """One EAD item (section 3.8); a negative label is critical. The value is the byte string or None."""

    label: int
    value: bytes | None

    def is_critical(self) -> bool:
        """Whether the handshake must end if we do not know the label."""
        return self.label < 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Message1:
    """What an initiator opens with; ``suites`` ends with the one it selected."""

    method: int
    suites: tuple[int, ...]
    g_x: bytes
    c_i: bytes
    ead: tuple[ExternalData, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plaintext3:
    """What message_3 hides: the initiator's key identifier and its MAC."""

    kid: bytes
    mac: bytes
    ead: tuple[ExternalData, ...]
    encoded_ead: bytes


def encode_identifier(raw: bytes) -> bytes:
    """A connection or key identifier as it travels (section 3.3.2)."""
    return raw if _is_compact(raw) else cbor2.dumps(raw)


def id_cred(kid: bytes) -> bytes:
    """ID_CRED_x as both sides hash it: the map {4: kid}."""
    return cbor2.dumps({COSE_KID: kid})


def decode_message_1(data: bytes) -> Message1:
    """Raise ``MessageMalformed`` unless ``data`` is a message_1."""
    items = _sequence(data)
    if len(items) < 4:
        raise MessageMalformed("message_1 has at least four items")
    method, suites, g_x, c_i, *rest = items
    if not isinstance(g_x, bytes):
        raise MessageMalformed("G_X is a byte string")
    return Message1(
        method=_integer(method, "METHOD"),
        suites=_suites(suites),
        g_x=g_x,
        c_i=_identifier(c_i, "C_I", MAX_IDENTIFIER_SIZE),
        ead=_external_data(rest),
    )


def decode_message_3(data: bytes) -> bytes:
    """CIPHERTEXT_3; raise ``MessageMalformed`` unless ``data`` is one byte string."""
    items = _sequence(data)
    if len(items) != 1 or not isinstance(items[0], bytes):
        raise MessageMalformed("message_3 is one byte string")
    return items[0]


def decode_plaintext_3(data: bytes, *, mac_size: int) -> Plaintext3:
    """Raise ``MessageMalformed`` unless ``data`` names a key by kid and carries a MAC of ``mac_size`` bytes."""
    items = _sequence(data)
    if len(items) < 2:
        raise MessageMalformed("PLAINTEXT_3 has at least two items")
    kid, mac, *rest = items
    if isinstance(kid, dict):
        raise MessageMalformed("credentials are named by kid, in its short form")
    if not isinstance(mac, bytes) or len(mac) != mac_size:
        raise MessageMalformed(f"MAC_3 has {mac_size} bytes")
    return Plaintext3(
        kid=_identifier(kid, "ID_CRED_I", MAX_MESSAGE_SIZE),
        mac=mac,
        ead=_external_data(rest),
        encoded_ead=b"".join(cbor2.dumps(each) for each in rest),
    )


def _sequence(data: bytes) -> list[object]:
    """The items of a CBOR sequence in deterministic encoding (RFC 8742; RFC 9528, section 3.1)."""
    if len(data) > MAX_MESSAGE_SIZE:
        raise MessageMalformed(f"longer than {MAX_MESSAGE_SIZE} bytes")
    stream = io.BytesIO(data)
    items: list[object] = []
    try:
        while stream.tell() < len(data):
            items.append(cbor2.load(stream))
        again = b"".join(cbor2.dumps(each, canonical=True) for each in items)
    # Whatever an odd tag makes the decoder raise, it is the peer's bytes that are at fault.
    except Exception as err:
        raise MessageMalformed("not a CBOR sequence") from err
    if again != data:
        raise MessageMalformed("not deterministic CBOR")
    return items


def _integer(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise MessageMalformed(f"{what} is an integer")
    return value


def _suites(value: object) -> tuple[int, ...]:
    if isinstance(value, list):
        if not 2 <= len(value) <= MAX_CIPHER_SUITES:
            raise MessageMalformed("one cipher suite is an integer, 2 to 16 are an array")
        return tuple(_integer(each, "a cipher suite") for each in value)
    return (_integer(value, "SUITES_I"),)


def _identifier(value: object, what: str, longest: int) -> bytes:
    if isinstance(value, int) and not isinstance(value, bool) and -24 <= value <= 23:
        return cbor2.dumps(value)
    if not isinstance(value, bytes):
        raise MessageMalformed(f"{what} is a byte string or an integer -24 to 23")
    if _is_compact(value):
        raise MessageMalformed(f"{what} has a shorter encoding")
    if len(value) > longest:
        raise MessageMalformed(f"{what} is longer than {longest} bytes")
    return value


def _is_compact(raw: bytes) -> bool:
    return len(raw) == 1 and (raw[0] <= 0x17 or 0x20 <= raw[0] <= 0x37)


def _external_data(items: list[object]) -> tuple[ExternalData, ...]:
    found: list[ExternalData] = []
    waiting = list(reversed(items))
    while waiting:
        label = _integer(waiting.pop(), "an EAD label")
        value = waiting.pop() if waiting and isinstance(waiting[-1], bytes) else None
        assert value is None or isinstance(value, bytes)
        found.append(ExternalData(label=label, value=value))
    return tuple(found)
