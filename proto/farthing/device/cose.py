"""COSE_Sign1 with ES256 (RFC 9052, section 4.2; RFC 9053, section 2.1), in the one form Farthing uses.

Rule 1: a signature is over ``Sig_structure`` with external_aad ``cbor(["farthing/<kind>/1", recipient])``, so nothing
signed as one thing, or for one recipient, can be read as another.
Rule 2: a signer is named by the first 8 bytes of SHA-256 of its SubjectPublicKeyInfo.
Rule 3: signatures are randomized; "same content" compares payloads, never COSE bytes.
"""

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, Self, TypeAlias

import cbor2
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from farthing.device.reject import MessageError
from farthing.refusal import Refusal

Kind: TypeAlias = Literal[
    "intent", "reading", "end", "disclaimer", "chain", "grant", "batch", "receipt", "directive", "directive-head"
]

KEY_ID_SIZE = 8
SIGNATURE_SIZE = 64
#: A P-256 SubjectPublicKeyInfo takes 91 bytes; nobody's certificate belongs here.
MAX_SPKI_SIZE = 128
#: Larger than any statement or grant (see ``messages``): only to bound what is hashed for a stranger.
MAX_PAYLOAD_SIZE = 65_535

#: Protected header: ``{1: -7}``, alg ES256.
PROTECTED = bytes.fromhex("a10126")
# Everything before the key id: array of 4, bstr h'a10126', map {4: bstr of 8}.
_HEAD = b"\x84\x43" + PROTECTED + b"\xa1\x04\x48"
_SIGNATURE_HEAD = b"\x58\x40"
_PAYLOAD_AT = len(_HEAD) + KEY_ID_SIZE
_TAIL_SIZE = len(_SIGNATURE_HEAD) + SIGNATURE_SIZE
_HALF = SIGNATURE_SIZE // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign1:
    """A signed payload as it came: whose key it names, what was signed, and 64 bytes r ‖ s. Not yet verified."""

    kid: bytes
    payload: bytes
    signature: bytes


def key_id(spki: bytes) -> bytes:
    """The 8 bytes by which ``spki`` (SubjectPublicKeyInfo, DER) is named as a signer."""
    return hashlib.sha256(spki).digest()[:KEY_ID_SIZE]


def to_be_signed(kind: Kind, recipient: str, payload: bytes) -> bytes:
    """``Sig_structure`` (RFC 9052, section 4.4): what ES256 hashes and signs."""
    return _signature_prefix(kind, recipient) + _bstr(payload)


@lru_cache(maxsize=4096)  # kinds × recipients one process speaks to or for
def _signature_prefix(kind: Kind, recipient: str) -> bytes:
    external_aad = cbor2.dumps([f"farthing/{kind}/1", recipient])
    return b"\x84" + cbor2.dumps("Signature1") + cbor2.dumps(PROTECTED) + cbor2.dumps(external_aad)


def encode_sign1(kid: bytes, payload: bytes, signature: bytes) -> bytes:
    """The COSE_Sign1 of ``payload``; ``signature`` is 64 bytes r ‖ s over :func:`to_be_signed`."""
    if len(kid) != KEY_ID_SIZE or len(signature) != SIGNATURE_SIZE:
        raise MessageError("a key id has 8 bytes, an ES256 signature 64")
    return _HEAD + kid + _bstr(payload) + _SIGNATURE_HEAD + signature


def decode_sign1(data: bytes) -> Sign1:
    """Take a COSE_Sign1 apart; raise ``MessageError`` unless it is exactly what :func:`encode_sign1` writes."""
    end = len(data) - _TAIL_SIZE
    if end <= _PAYLOAD_AT or not data.startswith(_HEAD) or data[end : end + 2] != _SIGNATURE_HEAD:
        raise MessageError("not a COSE_Sign1 with ES256 and an 8-byte key id")
    if end - _PAYLOAD_AT > MAX_PAYLOAD_SIZE + 3:
        raise MessageError("payload too large", Refusal.TOO_LARGE)
    head = data[_PAYLOAD_AT]
    start = _PAYLOAD_AT + (1 if head < 0x58 else 2 if head == 0x58 else 3)
    payload = data[start:end]
    # Only the shortest head gives back the bytes it was read from.
    if _bstr(payload) != data[_PAYLOAD_AT:end]:
        raise MessageError("the payload is not one byte string in shortest form")
    return Sign1(kid=data[len(_HEAD) : _PAYLOAD_AT], payload=payload, signature=data[end + 2 :])


def _bstr(data: bytes) -> bytes:
    size = len(data)
    if size < 24:
        return bytes((0x40 | size,)) + data
    if size < 1 << 8:
        return bytes((0x58, size)) + data
    if size < 1 << 16:
        return b"\x59" + size.to_bytes(2, "big") + data
    # Detached payloads (batches, directives) may be larger than any message.
    return b"\x5a" + size.to_bytes(4, "big") + data


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyingKey:
    """A P-256 public key, parsed once, that says whether a signature is its own."""

    spki: bytes
    key_id: bytes
    _key: ec.EllipticCurvePublicKey = field(repr=False, compare=False)

    @classmethod
    def from_spki(cls, spki: bytes) -> Self:
        """Parse a SubjectPublicKeyInfo (DER); raise ``MessageError`` unless it is a key on P-256."""
        if len(spki) > MAX_SPKI_SIZE:
            raise MessageError("a P-256 public key takes 91 bytes")
        try:
            key = load_der_public_key(spki)
        except (ValueError, TypeError, UnsupportedAlgorithm) as err:
            raise MessageError("not a SubjectPublicKeyInfo") from err
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise MessageError("a signing key lies on P-256")
        return cls(spki=spki, key_id=key_id(spki), _key=key)

    def verify(self, kind: Kind, recipient: str, payload: bytes, signature: bytes) -> bool:
        """Whether ``signature`` (64 bytes r ‖ s) is this key's, over ``payload`` as ``kind`` for ``recipient``."""
        if len(signature) != SIGNATURE_SIZE:
            return False
        der = encode_dss_signature(int.from_bytes(signature[:_HALF], "big"), int.from_bytes(signature[_HALF:], "big"))
        try:
            self._key.verify(der, to_be_signed(kind, recipient, payload), _ES256)
        except InvalidSignature:
            return False
        return True


_ES256 = ec.ECDSA(SHA256())
