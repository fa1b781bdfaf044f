"""Names of things, parsed once at the door.

Rule 1: ids of operators, agencies, sites, gateways, devices, accounts, tariffs and registers match one pattern in CA,
registry, broker and gateway, so that none of them can be read as a path, a topic or a wildcard.
Rule 2: an authorization's id follows from its intent and its gateway: anyone can recompute it, nobody can choose it.
"""

import base64
import hashlib
import re
from functools import lru_cache
from typing import NewType

import cbor2

OperatorId = NewType("OperatorId", str)
AgencyId = NewType("AgencyId", str)
SiteId = NewType("SiteId", str)
GatewayId = NewType("GatewayId", str)
DeviceId = NewType("DeviceId", str)
AccountId = NewType("AccountId", str)
TariffId = NewType("TariffId", str)
QuotaId = NewType("QuotaId", str)
RegisterId = NewType("RegisterId", str)
TokenId = NewType("TokenId", str)
#: 16 bytes, see :func:`authorization_id`.
AuthorizationId = NewType("AuthorizationId", bytes)
#: 32 bytes: HMAC-SHA-256 of the token under the site's key of an epoch.
TokenRef = NewType("TokenRef", bytes)
#: 16 random bytes of one start of a gateway.
StartId = NewType("StartId", bytes)

AUTHORIZATION_ID_SIZE = 16
START_ID_SIZE = 16
TOKEN_REF_SIZE = 32
COMMITMENT_SIZE = 32
#: 80 bits: nobody guesses one, and 16 characters are still typed.
RECEIPT_CODE_SIZE = 10
_CODE = re.compile(r"[A-Z2-7]{16}\Z")
_READ_ALIKE = str.maketrans({"0": "O", "1": "I", "8": "B", "-": None, " ": None})

#: What the pattern says, asked before it: so nothing longer is ever remembered.
MAX_ID_SIZE = 64
_ID = re.compile(r"[A-Za-z0-9-]{1,64}\Z")


class IdError(ValueError):
    """A name that does not match ``[A-Za-z0-9-]{1,64}`` or bytes of another length."""


@lru_cache(
    maxsize=4_096
)  # the same few names stand in every message; of strangers' no more than half a megabyte is kept
def _is_id(text: str) -> bool:
    return _ID.match(text) is not None


def parse_id(value: object) -> str:
    """Return ``value`` if it is a name that every part of Farthing accepts; raise ``IdError`` otherwise."""
    if not isinstance(value, str) or len(value) > MAX_ID_SIZE or not _is_id(value):
        raise IdError(f"an id is 1 to 64 letters, digits or hyphens, not {value!r:.80}")
    return value


def parse_bytes(value: object, size: int) -> bytes:
    """Return ``value`` if it is a byte string of ``size`` bytes; raise ``IdError`` otherwise."""
    if not isinstance(value, bytes) or len(value) != size:
        raise IdError(f"expected {size} bytes")
    return value


def authorization_id(device: DeviceId, device_epoch: int, counter: int, gateway: GatewayId) -> AuthorizationId:
    """The id of the authorization that ``gateway`` gives, or would give, to the intent (device, epoch, counter)."""
    before, after = _around(device, device_epoch, gateway)
    return AuthorizationId(hashlib.sha256(before + cbor2.dumps(counter) + after).digest()[:AUTHORIZATION_ID_SIZE])


@lru_cache(maxsize=4_096)  # a site's devices
def _around(device: DeviceId, device_epoch: int, gateway: GatewayId) -> tuple[bytes, bytes]:
    """What stands before and after the counter in CBOR ``["farthing/authorization/1", device, epoch, counter, gateway]``."""
    before = b"\x85" + cbor2.dumps("farthing/authorization/1") + cbor2.dumps(device) + cbor2.dumps(device_epoch)
    return before, cbor2.dumps(gateway)


def standing_authorization_id(
    device: DeviceId, device_epoch: int, register: RegisterId, register_epoch: int, gateway: GatewayId
) -> AuthorizationId:
    """The id under which ``gateway`` bills a device that was told yes once and for all (a smart meter)."""
    body = cbor2.dumps(["farthing/standing/1", device, device_epoch, register, register_epoch, gateway])
    return AuthorizationId(hashlib.sha256(body).digest()[:AUTHORIZATION_ID_SIZE])


def token_commitment(token: bytes, salt: bytes) -> bytes:
    """What a statement says of the token presented: SHA-256(salt ‖ token). ``salt`` is 16 random bytes."""
    return hashlib.sha256(salt + token).digest()


def key_uri(role: str, owner: str) -> str:
    """The URI that names a signing key in its certificate: ``role`` is "batch", "receipt" or "log". No door takes it for a caller's."""
    return f"spiffe://farthing/key/{role}/{owner}"


def receipt_code(commitment: bytes) -> bytes:
    """By what a payer finds the receipt of a use, without an account: 80 bits of a hash of the token's commitment.

    Its device shows it, and whoever knows token and salt can work it out; from the code nobody finds the token.
    """
    return hashlib.sha256(b"farthing/receipt-code/1" + commitment).digest()[:RECEIPT_CODE_SIZE]


def format_receipt_code(code: bytes) -> str:
    """A code as devices show it: base32 (RFC 4648, section 6) in four groups of four."""
    text = base64.b32encode(parse_bytes(code, RECEIPT_CODE_SIZE)).decode()
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


def parse_receipt_code(text: str) -> bytes:
    """Read what a person typed: any case and grouping, and 0, 1 and 8 for the letters they look like; raise ``IdError``."""
    plain = text.upper().translate(_READ_ALIKE)
    if not _CODE.match(plain):
        raise IdError("a receipt's code is 16 letters and digits, as its device showed it")
    return base64.b32decode(plain)
