"""A journal on a disk that fails, is full or loses power: what was said to anybody is there afterwards, whole, and nothing is there by half.

The journal is written by a process of its own through a library before it (``disk_that_lies.c``), which fails its syncs, takes its room, or
records all it does to the disk; of the record, every state is made that a power loss could leave. Each test has a second half: without the
protection that it is about, the same test finds the loss.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cbor2
import pytest
from lying_disk import LyingDisk, Op, Platter, compile_library
from varied_day import VariedDay

from farthing.hsm.tmpfs import find_tmpfs
from farthing_edge.authorization.state import CoreSettings
from farthing_edge.journal import Entry, Journal, JournalError, verify

CHILD = Path(__file__).with_name("journal_child.py")
#: Moments at which the power goes, for each run of the journal; ``POWER_CUTS=5000`` is a long run.
CUTS = int(os.environ.get("POWER_CUTS", "80"))
SEEDS = (1, 2)
#: Bytes, so that the log is folded back, and begun again, several times.
WAL_SIZE = 48 * 1024
NAME = "journal.sqlite"


@dataclass
class Day:
    """Entries in order, and what reads them."""

    entries: list[Entry]
    settings: CoreSettings


@pytest.fixture(scope="module")
def day() -> Day:
    played = VariedDay().play(110)
    return Day([entry for _, entry in played.entries()], played.gateway.settings)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(tmp_path_factory.mktemp("library"))


@pytest.fixture
def disk(place: Path, library: Path) -> LyingDisk:
    return LyingDisk(place / "state", library)


@pytest.fixture
def place() -> Iterator[Path]:
    """In memory: what a disk makes of it is this test's own part."""
    with tempfile.TemporaryDirectory(prefix="farthing-disk-", dir=find_tmpfs()) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def nursery(library: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Where writers are begun."""
    with subprocess.Popen(
        [sys.executable, str(CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "LD_PRELOAD": str(library)},
    ) as process:
        yield process
        process.stdin.close()


@dataclass
class Run:
    """One process on the disk, and what it said."""

    fault: str
    said: str
    position: int
    reserve: bool


@pytest.fixture
def write(disk: LyingDisk, day: Day, place: Path, nursery: subprocess.Popen[bytes]) -> Callable[..., Run]:
    """Write what is left of the day in groups of random size, as a process of its own."""
    marks = place / "marks"
    marks.mkdir()

    def run(rng: random.Random, **changes: object) -> Run:
        left, groups = list(day.entries), []
        while left:
            size = rng.choice((1, 1, 2, 5, 30))
            groups.append([list(entry) for entry in left[:size]])
            left = left[size:]
        told = {
            "path": str(disk.folder / NAME), "groups": groups, "most": len(groups), "wal_size": WAL_SIZE, "prune": False, "keep_ballast": False, "pragmas": [],
            "marks": str(marks), **changes,
        }  # fmt: skip
        nursery.stdin.write(cbor2.dumps(told))
        nursery.stdin.flush()
        return Run(**json.loads(nursery.stdout.readline()))

    return run


def spoken_in(ops: list[Op]) -> int:
    """The last position that somebody was told."""
    return max([int(op.data) for op in ops if op.name == "spoken" and op.what == "W"], default=0)


def cuts_of(ops: list[Op], rng: random.Random, count: int) -> list[int]:
    """Moments: half of them anywhere, half right after something was said, when nothing more has been done for it; and after each change of names."""
    told = [number + 1 for number, op in enumerate(ops) if op.name == "spoken"]
    named = [number + 1 for number, op in enumerate(ops) if op.what in "RLU"]
    anywhere = [rng.randrange(len(ops) + 1) for _ in range(count - count // 2)]
    return sorted(anywhere + rng.choices(told, k=count // 2) + named)


def states_after_power_losses(ops: list[Op], rng: random.Random, count: int):
    """(what had been said, the files that are found)."""
    platter, at = Platter(), 0
    for cut in cuts_of(ops, rng, count):
        for op in ops[at:cut]:
            platter.see(op, rng)
        at = cut
        found = Platter({name: bytearray(data) for name, data in platter.files.items()}, list(platter.pending))
        yield spoken_in(ops[:cut]), found.lose_power(rng)


class Lost(AssertionError):
    """What was said is not there, or what is there is not what was written."""


def check_found(files: dict[str, bytes], spoken: int, folder: Path, day: Day) -> int:
    """Put ``files`` on an honest disk and start from them; ``Lost`` says what is wrong. Return the last position."""
    folder.mkdir()
    for name, data in files.items():
        # What maps the log lives in memory.
        if name.startswith(NAME) and not name.endswith("-shm"):
            (folder / name).write_bytes(data)
    if spoken and NAME not in files:
        raise Lost("there is no journal under its name: a start would begin a new one")
    journal = Journal(folder / NAME, mark_directory=folder, keep_ballast=False)
    try:
        journal.open()
        position, found = journal.position, list(journal.entries())
        # It goes on.
        journal.park(0, "after", b"", "the power came back")
    except JournalError as err:
        raise Lost(f"it is damaged: {err}") from err
    finally:
        journal.close()
    if position < spoken:
        raise Lost(f"{spoken} was said, and it ends at {position}")
    if found != day.entries[position - len(found) : position]:
        raise Lost("it is not what was written")
    return position


def check_all(states: Iterable[tuple[int, dict[str, bytes]]], place: Path, day: Day) -> list[int]:
    """Check each state in a folder of its own; the last positions."""
    return [check_found(files, spoken, place / str(number), day) for number, (spoken, files) in enumerate(states)]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_said_survives_a_power_loss(
    disk: LyingDisk, write: Callable[..., Run], day: Day, place: Path, seed: int
) -> None:
    rng = random.Random(seed)
    disk.say("record")
    assert write(rng, prune=seed % 2 == 0) == Run("", "", len(day.entries), True)
    ops = disk.stream()
    assert sum(op.what == "S" and op.name == NAME for op in ops) >= 5, "the log was never folded back"
    ends = check_all(states_after_power_losses(ops, rng, CUTS), place, day)
    assert min(ends) < len(day.entries) // 8
    assert max(ends) > len(day.entries) * 7 // 8
    if seed % 2:
        # Nothing is pruned there: the last one replays from its first entry.
        assert verify(place / str(len(ends) - 1) / NAME, day.settings).fault is None


def test_without_a_sync_a_power_loss_would_be_seen(
    disk: LyingDisk, write: Callable[..., Run], day: Day, place: Path
) -> None:
    rng = random.Random(3)
    disk.say("record")
    write(rng, pragmas=["synchronous = NORMAL"])
    with pytest.raises(Lost):
        check_all(states_after_power_losses(disk.stream(), rng, CUTS), place, day)


def a_failed_sync_then_a_power_loss(
    disk: LyingDisk, write: Callable[..., Run], seed: int, *more: str, **second_start: object
):
    """A commit whose sync fails; a second process goes on, on a disk that works again. States after a power loss during the second."""
    rng = random.Random(seed)
    disk.say("record", f"eio {rng.randrange(12, 40)}", *more)
    first = write(rng)
    assert first.fault == "JournalBroken"
    assert "check the disk, then start again" in first.said
    # Nobody was told of what came with the failure, and nothing was tried after it.
    begun = disk.stream()
    assert spoken_in(begun) == first.position
    disk.say("record")
    assert not write(rng, most=12, **second_start).fault
    ops = disk.stream()
    platter = Platter()
    for op in begun:
        platter.see(op, rng)
    for cut in cuts_of(ops[len(begun) :], rng, CUTS // 8):
        found = Platter({name: bytearray(data) for name, data in platter.files.items()}, list(platter.pending))
        for op in ops[len(begun) : len(begun) + cut]:
            found.see(op, rng)
        yield spoken_in(ops[: len(begun) + cut]), found.lose_power(rng)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_said_after_a_failed_sync_survives_a_power_loss(
    disk: LyingDisk, write: Callable[..., Run], day: Day, place: Path, seed: int
) -> None:
    """The page cache shows a transaction that never reached the disk: what is said next must not rest on it."""
    # A disk that fails once, and then says nothing more, must not be believed either by who closes the journal.
    check_all(a_failed_sync_then_a_power_loss(disk, write, seed, *(["once"] if seed % 2 else [])), place, day)
    assert list(disk.folder.glob(f"{NAME}.suspect-*"))


def test_a_sync_that_fails_in_a_start_is_not_believed(disk: LyingDisk, write: Callable[..., Run], place: Path) -> None:
    rng = random.Random(1)
    for number in (1, 2, 3):
        disk.begin_anew()
        disk.say(f"eio {number}")
        began = write(rng)
        assert (began.fault, began.position) == ("JournalBroken", 0)
        assert list((place / "marks").iterdir()), "the next start must know"
        disk.say()
        assert not write(rng, most=3).fault
        assert not list((place / "marks").iterdir())


def test_without_the_mark_a_failed_sync_would_be_seen(
    disk: LyingDisk, write: Callable[..., Run], day: Day, place: Path
) -> None:
    """Not every failure leaves a hole that matters: a sync while the log is folded back has nothing under way."""

    def is_lost(seed: int) -> bool:
        elsewhere = place / f"elsewhere-{seed}"
        elsewhere.mkdir()
        disk.begin_anew()
        try:
            check_all(a_failed_sync_then_a_power_loss(disk, write, seed, marks=str(elsewhere)), elsewhere, day)
        except Lost:
            return True
        return False

    assert any(is_lost(seed) for seed in range(4))


def test_a_disk_that_is_full_from_the_start_or_in_between(
    disk: LyingDisk, write: Callable[..., Run], day: Day, place: Path
) -> None:
    """The reserve is given up once, then nothing is written and the start says why; with room again all goes on."""
    rng = random.Random(5)
    began = write(rng, most=3, keep_ballast=True)
    assert (began.fault, began.reserve) == ("", True)
    # A start on a disk without a byte left opens, and writes what it has to out of the reserve.
    disk.say(f"room {disk.size()}")
    started = write(rng, most=3, keep_ballast=True)
    assert (started.fault, started.reserve, started.position > began.position) == ("", False, True)
    # In between: what was decided last is refused whole.
    disk.say(f"room {disk.size() + 40_000}")
    full = write(rng, keep_ballast=True)
    assert (full.fault, full.said.endswith("is full: free some space")) == ("JournalFull", True)
    assert full.position < len(day.entries)
    disk.say(f"room {disk.size()}")
    refused = write(rng, keep_ballast=True)
    assert (refused.fault, refused.position in (0, full.position)) == ("JournalFull", True)
    assert "is full: free some space" in refused.said
    disk.say()
    done = write(rng, keep_ballast=True)
    assert done == Run("", "", len(day.entries), True)
    assert verify(disk.folder / NAME, day.settings).fault is None
