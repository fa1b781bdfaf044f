"""Credentials by name: a CWT Claims Set that says whose key this is (RFC 8392; RFC 9528, section 3.5.2)."""

from dataclasses import dataclass

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

#: Longest key identifier we take or give. Ceremonies give 1 to 8 bytes.
MAX_KID_SIZE = 8
COORDINATE_SIZE = 32


class CredentialError(ValueError):
    """A key or key identifier that makes no credential."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One party's credential: ``cred`` is the CCS as both sides hash it, ``x`` its static Diffie-Hellman key's x-coordinate."""

    subject: str
    kid: bytes
    x: bytes
    cred: bytes


def ccs(subject: str, kid: bytes, x: bytes, y: bytes) -> bytes:
    """``{2: subject, 8: {1: {1: 2, 2: kid, -1: 1, -2: x, -3: y}}}`` in deterministic CBOR (RFC 8949, section 4.2.1)."""
    return cbor2.dumps({2: subject, 8: {1: {1: 2, 2: kid, -1: 1, -2: x, -3: y}}})


def credential(subject: str, kid: bytes, public_key: bytes) -> Credential:
    """The credential of ``subject``, whose static key has this SubjectPublicKeyInfo (DER); raise ``CredentialError``."""
    if not 1 <= len(kid) <= MAX_KID_SIZE:
        raise CredentialError(f"a key identifier has 1 to {MAX_KID_SIZE} bytes, not {len(kid)}")
    try:
        key = load_der_public_key(public_key)
    except ValueError as err:
        raise CredentialError(f"{subject}: not a SubjectPublicKeyInfo") from err
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CredentialError(f"{subject}: static Diffie-Hellman keys are on P-256")
    numbers = key.public_numbers()
    x = numbers.x.to_bytes(COORDINATE_SIZE, "big")
    y = numbers.y.to_bytes(COORDINATE_SIZE, "big")
    return Credential(subject=subject, kid=kid, x=x, cred=ccs(subject, kid, x, y))
