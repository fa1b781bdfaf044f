"""The one thing a handshake needs of our static Diffie-Hellman key; behind it is a token, or memory in tests."""

from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from farthing.hsm import BadPoint, Token
from farthing.hsm.token import point_of_x


class StaticKey(Protocol):
    """A static Diffie-Hellman key on P-256."""

    async def ecdh(self, peer_x: bytes) -> bytes:
        """x-coordinate (32 bytes) of the key times the point with ``peer_x``; ``BadPoint`` if there is none."""
        ...


class TokenKey:
    """The key ``label`` of a token: the ECDH happens there."""

    __slots__ = ("_label", "_token")

    def __init__(self, token: Token, label: str) -> None:
        self._token = token
        self._label = label

    async def ecdh(self, peer_x: bytes) -> bytes:
        """See :class:`StaticKey`."""
        return await self._token.ecdh(self._label, peer_x)


class MemoryKey:
    """A key in memory: ephemeral keys of a handshake, and published test vectors. Never a gateway's static key."""

    __slots__ = ("_private",)

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        self._private = private

    @property
    def x(self) -> bytes:
        """x-coordinate of the public key."""
        return self._private.public_key().public_numbers().x.to_bytes(32, "big")

    async def ecdh(self, peer_x: bytes) -> bytes:
        """See :class:`StaticKey`."""
        return self.agree(peer_x)

    def agree(self, peer_x: bytes) -> bytes:
        """``ecdh`` without waiting: nothing here needs a token."""
        peer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point_of_x(peer_x))
        return self._private.exchange(ec.ECDH(), peer)


__all__ = ["BadPoint", "MemoryKey", "StaticKey", "TokenKey"]
