"""What the token remembers: the highest batch that was ever sealed, against a disk that goes back in time (DESIGN 4, witnesses).

Rule 1: journal first, token second, sending third: so a token behind the journal is repaired, and one ahead of it proves a rollback.
Rule 2: a value is a new object before the old one is destroyed; each carries its own checksum, and the highest that is whole counts:
tokens tear what they write when their power goes.
Rule 3: a token counts only where it does not lie on the journal's disk. SoftHSM does, and is restored with it.
"""

import hashlib
from typing import NamedTuple, Protocol

import cbor2

from farthing.hsm import Token

#: The label of the objects; one gateway has one token.
LABEL = "sealed"
_CHECKSUM_SIZE = 8


class Sealed(NamedTuple):
    """A sealed batch by its place in the chains, and its hash."""

    incarnation: int
    sequence: int
    batch_hash: bytes


class SealedWitness(Protocol):
    """Remembers the highest sealed batch where the journal's disk cannot be taken back with it."""

    async def highest(self) -> Sealed | None:
        """What is remembered; ``HsmError``."""
        ...

    async def remember(self, sealed: Sealed) -> None:
        """Return when ``sealed`` is remembered in place of what was; ``HsmError``, ``HsmBusy``."""
        ...


class TokenWitness:
    """The gateway's own token."""

    def __init__(self, token: Token) -> None:
        self._token = token

    async def highest(self) -> Sealed | None:
        """The highest whole value of all that the token holds."""
        return max(filter(None, map(read, await self._token.remembered(LABEL))), default=None)

    async def remember(self, sealed: Sealed) -> None:
        """Write ``sealed``, then destroy what was before."""
        await self._token.remember(LABEL, written(sealed))


def written(sealed: Sealed) -> bytes:
    """The value of an object: CBOR ``[incarnation, sequence, batch hash]`` after the first 8 bytes of its SHA-256."""
    body = cbor2.dumps(list(sealed))
    return hashlib.sha256(body).digest()[:_CHECKSUM_SIZE] + body


def read(value: bytes) -> Sealed | None:
    """What ``value`` says; None for what is torn."""
    checksum, body = value[:_CHECKSUM_SIZE], value[_CHECKSUM_SIZE:]
    if not body or hashlib.sha256(body).digest()[:_CHECKSUM_SIZE] != checksum:
        return None
    return Sealed(*cbor2.loads(body))
