"""Clocks: everybody has one, and one can jump. The world's own time only orders what happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farthing.clock import SECOND_US, Instant

if TYPE_CHECKING:
    from simulation.world import World


class Clock:
    """A business clock."""

    __slots__ = ("_offset_us", "_world", "jumps")

    def __init__(self, world: World) -> None:
        self._world = world
        self._offset_us = 0
        self.jumps = 0

    def now(self) -> Instant:
        """What it shows."""
        return Instant(self._world.now + self._offset_us)

    @property
    def offset_us(self) -> int:
        """What it shows more than the time since the world began: the same until it jumps."""
        return self._offset_us

    def jump(self, by_s: float) -> None:
        """From now on it shows this much more."""
        self._offset_us += int(by_s * SECOND_US)
        self.jumps += 1
