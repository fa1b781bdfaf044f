"""A gateway's disk: entries in order, each with the moment it was written; and what can become of disks.

What was written is there after a crash. A disk can be replaced by an older copy of itself, be lost, and turn up again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from farthing.clock import Instant
from farthing_edge.authorization.events import decode, encode


@dataclass(slots=True)
class Disk:
    """A journal. Events are encoded only when they are read back: what is read is what the real journal would give."""

    entries: list[tuple[Instant, Any]] = field(default_factory=list)
    #: What the gateway's own clock showed at the last entry; 0 of a copy, which says it of none.
    last_at: int = 0

    def __len__(self) -> int:
        return len(self.entries)

    def append(self, at: Instant, event: Any, shown: Instant) -> None:
        """Write one entry, when the gateway's clock shows ``shown``."""
        self.entries.append((at, event))
        self.last_at = shown

    def events(self) -> list[Any]:
        """All that was written, as it reads."""
        return [decode(*encode(event)) for _, event in self.entries]

    def as_of(self, at: Instant) -> Disk:
        """A copy of this disk as it was then."""
        return Disk([entry for entry in self.entries if entry[0] <= at])

    def forget_last(self, count: int) -> None:
        """What a disk does that lied about its flushes."""
        del self.entries[-count:]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMemory:
    """The highest batch that a gateway's token remembers to have been sealed."""

    incarnation: int
    sequence: int
    batch_hash: bytes
