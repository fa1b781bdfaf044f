"""Who signs for the gateway: keys stay in the token, the engine knows only how to ask."""

from collections.abc import Awaitable, Sequence
from typing import Protocol

from farthing.device.cose import key_id
from farthing.hsm import Token


class GrantSigner(Protocol):
    """Signs the grants of a group, all in one go: a way to the token and back costs more than a signature."""

    @property
    def kid(self) -> bytes:
        """The first 8 bytes of SHA-256 of its SubjectPublicKeyInfo."""

    def sign_many(self, to_be_signed: Sequence[bytes]) -> Awaitable[list[bytes]]:
        """ES256 of each ``Sig_structure``, 64 bytes r ‖ s, in order: under way before anybody waits; ``HsmError`` when the token cannot,
        ``HsmBusy`` when too much waits, at once or when awaited."""
        ...


class BatchSigner(Protocol):
    """Signs batches: another key, and before everything else that waits for the token."""

    @property
    def kid(self) -> bytes:
        """The first 8 bytes of SHA-256 of its SubjectPublicKeyInfo."""

    async def sign(self, to_be_signed: bytes) -> bytes:
        """ES256 of a ``Sig_structure``; ``HsmError``, ``HsmBusy``."""


class TokenSigner:
    """A key of the gateway's token by its label; ``urgent`` goes before what else waits (batches)."""

    def __init__(self, *, token: Token, label: str, urgent: bool) -> None:
        self._token = token
        self._label = label
        self._urgent = urgent
        self._kid = key_id(token.party.public_key(label))

    @property
    def kid(self) -> bytes:
        """The key's id."""
        return self._kid

    async def sign(self, to_be_signed: bytes) -> bytes:
        """ES256 in the token."""
        return await self._token.sign(self._label, to_be_signed, urgent=self._urgent)

    def sign_many(self, to_be_signed: Sequence[bytes]) -> Awaitable[list[bytes]]:
        """ES256 in the token, in order; never urgent."""
        return self._token.sign_many(self._label, to_be_signed)
