"""The network: it loses, doubles, delays and so reorders. What becomes of a message is drawn by its name.

A name says who speaks to whom, what, and the how manieth time: ``toll-1>gw-2 intent 4#3``. Fates other than prompt delivery are recorded;
a story that carries fates uses those and delivers all other messages promptly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulation.world import World

#: A message without a fate of its own, seconds.
PROMPT_S = 0.03
_PROMPT = (PROMPT_S,)
BAR = " | "
_LOST: tuple[float, ...] = ()


class Network:
    """All links."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.air = world.story.cast.air
        self.told = world.story.fates
        #: What this run drew.
        self.fates: dict[str, tuple[float, ...]] = {}
        self._times: Counter[str] = Counter()
        self._cuts: Counter[tuple[str, str]] = Counter()
        self.lost = self.doubled = self.late = 0

    def cut(self, one: str, other: str) -> None:
        """Nothing passes between them from now on; cuts are counted."""
        self._cuts[one, other] += 1
        self._cuts[other, one] += 1

    def mend(self, one: str, other: str) -> None:
        """One cut less."""
        self._cuts[one, other] -= 1
        self._cuts[other, one] -= 1

    def is_cut(self, one: str, other: str) -> bool:
        """Whether anything passes. In the end everything does."""
        return self._cuts[one, other] > 0 and not self.world.calm

    def send(self, source: str, target: str, what: str, deliver: Callable[..., None], *arguments: Any) -> None:
        """Bring ``what`` from ``source`` to ``target``, or not. Its name ends at the bar: what follows is for readers only."""
        world = self.world
        if world.calm:
            world.note("{} to {}: {}", source, target, what)
            world.after(0.01, deliver, *arguments)
            return
        if self._cuts[source, target] > 0:
            world.note("{} to {}: {} (cut)", source, target, what)
            return
        said = f"{source}>{target} {what.partition(BAR)[0]}"
        self._times[said] += 1
        name = f"{said}#{self._times[said]}"
        delays = self._drawn(name) if self.told is None else self.told.get(name, _PROMPT)
        if delays is not _PROMPT:
            self.fates[name] = delays
            if not delays:
                self.lost += 1
                world.note("{} to {}: {} (lost)", source, target, what)
                return
            self.doubled += len(delays) > 1
            self.late += max(delays) > 1
            world.note("{} to {}: {} (arrives {})", source, target, what, _when(delays))
        else:
            world.note("{} to {}: {}", source, target, what)
        for delay in delays:
            world.after(delay, deliver, *arguments)

    def _drawn(self, name: str) -> tuple[float, ...]:
        air, lot = self.air, self.world.lots.draw(name)
        if lot < air.loss:
            return _LOST
        lot -= air.loss
        if lot < air.doubling:
            # Half of the copies come late: what was said long ago comes again.
            return PROMPT_S, self._delay(name)
        lot -= air.doubling
        return (self._delay(name),) if lot < air.late else _PROMPT

    def _delay(self, name: str) -> float:
        lots = self.world.lots
        most = self.air.late_s if lots.draw(f"{name} late") < 0.5 else 1
        return round(lots.between(f"{name} delay", 0.05, most), 3)


def _when(delays: tuple[float, ...]) -> str:
    return " and ".join(f"after {delay:g} s" for delay in delays)
