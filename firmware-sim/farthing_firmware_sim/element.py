"""The device's secure element, and what it checks: statements signed inside, grants verified with the gateway's public key."""

from pathlib import Path
from typing import Protocol

from farthing.device.cose import VerifyingKey, decode_sign1, encode_sign1, key_id, to_be_signed
from farthing.device.messages import Grant, MessageError, decode_grant
from farthing.hsm import Party, Token
from farthing.ids import DeviceId
from farthing_firmware_sim.device.values import Kind

STATEMENT_KEY = "statement"


class Element(Protocol):
    """Signs statements with a key nobody else has."""

    async def sign(self, kind: Kind, recipient: str, payload: bytes) -> bytes:
        """The COSE_Sign1 of ``payload`` as ``kind`` for ``recipient``."""


class TokenElement:
    """An element behind PKCS#11."""

    def __init__(self, *, token: Token, party: Party) -> None:
        self._token = token
        self._key_id = key_id(party.public_key(STATEMENT_KEY))

    async def sign(self, kind: Kind, recipient: str, payload: bytes) -> bytes:
        """The COSE_Sign1 of ``payload``; ``HsmError`` if the token cannot."""
        signature = await self._token.sign(STATEMENT_KEY, to_be_signed(kind, recipient, payload))
        return encode_sign1(self._key_id, payload, signature)


class GrantError(ValueError):
    """A grant that its gateway did not sign for this device."""


def load_grant_key(file: Path) -> VerifyingKey:
    """The public key by which a gateway's grants are known; ``GrantError`` says what is wrong with the file."""
    try:
        return VerifyingKey.from_spki(file.read_bytes())
    except (OSError, MessageError) as err:
        raise GrantError(
            f"{file} is not a gateway's grant key: a SubjectPublicKeyInfo (DER) on P-256 is needed"
        ) from err


def open_grant(data: bytes, *, key: VerifyingKey, device: DeviceId) -> Grant:
    """The grant in ``data``; raise ``GrantError`` unless ``key`` signed it, as a grant, for ``device``."""
    try:
        signed = decode_sign1(data)
        if signed.kid != key.key_id:
            raise GrantError("is signed by another key")
        if not key.verify("grant", device, signed.payload, signed.signature):
            raise GrantError("its signature does not verify")
        return decode_grant(signed.payload)
    except MessageError as err:
        raise GrantError("is not well-formed") from err
