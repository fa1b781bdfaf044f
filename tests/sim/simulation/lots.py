"""Chance by name: the same name draws the same lot, whatever else was drawn before."""

from __future__ import annotations

from hashlib import blake2b
from random import Random


class Lots:
    """All chance of one seed."""

    __slots__ = ("_key",)

    def __init__(self, seed: int) -> None:
        self._key = blake2b(str(seed).encode(), digest_size=16).digest()

    def draw(self, name: str) -> float:
        """In [0, 1)."""
        return int.from_bytes(blake2b(name.encode(), digest_size=7, key=self._key).digest(), "big") / (1 << 56)

    def between(self, name: str, low: float, high: float) -> float:
        """In [low, high)."""
        return low + (high - low) * self.draw(name)

    def raw(self, name: str, size: int) -> bytes:
        """That many bytes."""
        return blake2b(name.encode(), digest_size=size, key=self._key).digest()

    def stream(self, name: str) -> Random:
        """Chance in order, for what is drawn all at once."""
        return Random(int.from_bytes(self.raw(name, 16), "big"))
