"""Many seeds over all cores, and what to print of them."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from simulation import protections
from simulation.history import PromiseBroken
from simulation.shrinking import shrink
from simulation.story import Story, draw, write
from simulation.world import BEGINS, Players, tell

#: Seeds that a process takes at once.
CHUNK = 20
#: Failing seeds that are shrunk and printed; the rest are named.
SHRUNK = 2
#: Lines of a history that are printed of its beginning and of its end; all of it is one command away.
FIRST_LINES, LAST_LINES = 150, 50


@dataclass(slots=True)
class Outcome:
    """What some seeds have seen."""

    seen: Counter[str] = field(default_factory=Counter)
    #: Seed → what it broke.
    broken: dict[int, str] = field(default_factory=dict)

    def add(self, other: Outcome) -> None:
        """And what others have."""
        self.seen.update(other.seen)
        self.broken.update(other.broken)


def tell_seeds(work: tuple[Sequence[int], str]) -> Outcome:
    """Every seed of a chunk, with the named protection turned off if one is named."""
    seeds, without = work
    # Stories are full of cycles, and nothing in one is garbage before its end.
    gc.set_threshold(200_000, 50, 50)
    outcome = Outcome()
    with protections.turned_off(without) as players:
        for seed in seeds:
            try:
                outcome.seen.update(tell(protections.provoked(without, draw(seed)), players=players).statistics())
            except PromiseBroken as err:
                outcome.broken[seed] = str(err)
                outcome.seen["stories"] += 1
    return outcome


def told_until_missed(name: str, seeds: Sequence[int]) -> list[str]:
    """What the seeds break with a protection turned off, no further than the first that breaks what the protection is there for."""
    broken: list[str] = []
    for seed in seeds:
        broken += tell_seeds(([seed], name)).broken.values()
        if is_missed(name, broken[-1:]):
            break
    return broken


def is_missed(name: str, broken: Sequence[str]) -> bool:
    """Whether something broke that the protection is there for."""
    return any(said.partition(":")[0] in protections.PROTECTIONS[name].breaks for said in broken)


def tell_many(
    seeds: Sequence[int],
    *,
    without: str = "",
    processes: int | None = None,
    progress: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """All seeds over ``processes`` (as many as there are cores)."""
    chunks = [(seeds[start : start + CHUNK], without) for start in range(0, len(seeds), CHUNK)]
    processes = min(processes or os.cpu_count() or 1, len(chunks))
    total = Outcome()
    # Spawned, not forked: a test's process has threads.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for outcome in pool.imap_unordered(tell_seeds, chunks):
            total.add(outcome)
            if progress is not None:
                progress(total)
    return total


def report(seed: int, *, without: str = "", folder: Path | None = None) -> str:
    """A failing seed, shrunk: what broke, its history, and how to tell it again."""
    with protections.turned_off(without) as players:
        story = shrink(protections.provoked(without, draw(seed)), players=players)
        lines, broke = history_of(story, without=without, chatter=False)
    begins = next((number for number, line in enumerate(lines) if line.endswith(BEGINS)), 0)
    lines = lines[begins:]
    more = len(lines) - FIRST_LINES - LAST_LINES
    if more > 0:
        lines = [*lines[:FIRST_LINES], f"... {more} lines more ...", *lines[-LAST_LINES:]]
    said = [f"seed {seed}: {broke}", *lines]
    if folder is not None:
        path = folder / f"seed-{seed}.json"
        write(story, path)
        off = f' WITHOUT="{without}"' if without else ""
        said.append(f"\nmake sim SEED={seed}{off}    tells it whole, make sim STORY={path}{off} as shrunk")
    return "\n".join(said)


def history_of(story: Story, *, without: str = "", chatter: bool = True) -> tuple[list[str], str]:
    """The lines of a story, and what it broke (empty: nothing)."""
    with protections.turned_off(without) as players:
        try:
            world = tell(story, players=players, keep_history=True)
        except PromiseBroken as err:
            return err.told().history.lines(chatter=chatter), str(err)
    return world.history.lines(chatter=chatter), ""


def fingerprint(seed: int) -> str:
    """Of a whole history, to the last message."""
    lines, _ = history_of(draw(seed))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def broken_by(story: Story, players: Players | None) -> str:
    """The promise that a story breaks; empty: none."""
    try:
        tell(story, players=players)
    except PromiseBroken as err:
        return err.promise
    return ""


def table(outcome: Outcome, seconds: float) -> str:
    """What happened in all stories together."""
    stories = outcome.seen["stories"]
    rows = [(what, count) for what, count in sorted(outcome.seen.items()) if count and what != "stories"]
    width = max(len(what) for what, _ in rows) if rows else 0
    lines = [f"{what:<{width}}  {count:>12,}" for what, count in rows]
    lines.append(f"{stories:,} stories in {seconds:.0f} s, {len(outcome.broken)} broke a promise")
    return "\n".join(lines)


def clock_s() -> float:
    """For progress only."""
    return time.monotonic()
