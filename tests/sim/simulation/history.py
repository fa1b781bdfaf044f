"""What happened, readable: written only when it is wanted, formatted only when it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from farthing.clock import SECOND_US
from simulation.cast import START

if TYPE_CHECKING:
    from simulation.world import World


class PromiseBroken(AssertionError):
    """A promise of the design does not hold; the message begins with its number (or with what else went wrong)."""

    #: Where it happened; set by who tells the story.
    world: World | None = None

    @property
    def promise(self) -> str:
        """The number alone."""
        return str(self).partition(":")[0]

    def told(self) -> World:
        """The world as it was then."""
        assert self.world is not None
        return self.world


#: What is said all the time and seldom matters.
CHATTER = ("hello", "incarnation is", "directives after", "head ")


class History:
    """Lines with their time."""

    def __init__(self, *, keep: bool) -> None:
        self.keep = keep
        self._lines: list[tuple[int, str, tuple[Any, ...]]] = []

    def note(self, at_us: int, what: str, *parts: Any) -> None:
        """``what`` has a ``{}`` for each part."""
        if self.keep:
            self._lines.append((at_us, what, parts))

    def lines(self, *, chatter: bool = True) -> list[str]:
        """All of it, or what is worth reading."""
        return [
            f"{(at_us - START) / SECOND_US:10.3f}  {what.format(*parts)}"
            for at_us, what, parts in self._lines
            if chatter or len(parts) < 3 or not str(parts[2]).startswith(CHATTER)
        ]
