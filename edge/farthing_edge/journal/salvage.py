"""Put together what a damaged journal still says. The damaged files are moved aside as they are, never written to, never deleted.

Rule 1: up to the first entry that is missing or not what its hash says, the journal goes on as it was.
Rule 2: what comes after the damage is kept where its hash stands on the entry before it, and is not decided on: what happened in between is
not known. It lies in the table ``salvaged`` and, as lines of JSON, beside the damaged files.
Rule 3: the gap is an entry of its own (``Salvaged``): no new authorization until the cloud has named a new incarnation.
Rule 4: one rename decides: before it there is the damaged journal, whole; after it the new one takes its place, now or with the next start
(``recovery.finish_salvage``), whatever cuts it off.
"""

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from farthing.clock import Instant
from farthing.evidence.batches import batch_hash
from farthing.v1 import directive_pb2
from farthing_edge.authorization import events
from farthing_edge.authorization.applying import apply
from farthing_edge.authorization.state import CoreSettings, GatewayState, StateError
from farthing_edge.journal import recovery, snapshots
from farthing_edge.journal.errors import JournalError
from farthing_edge.journal.sentences import sentence
from farthing_edge.journal.store import GENESIS, Anchor, Entry, Group, Journal, next_chain, read_anchor

#: Entries in one transaction of the new file, and in one read of the old.
_AT_ONCE = 1_024
#: No row is smaller: what bounds the search for a last position where the file does not say it.
_LEAST_ROW_SIZE = 40
_SUFFIXES = ("", "-wal", "-shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Salvage:
    """What was recovered. ``lost`` are ranges of positions (first, last) between two that could be read."""

    recovered_to: int
    beyond: int
    lost: tuple[tuple[int, int], ...]
    aside: Path


def salvage(path: Path, settings: CoreSettings, *, at: Instant) -> Salvage:
    """Replace the journal at ``path`` by what can be recovered of it. ``JournalError`` when it is in use, not there, or not damaged."""
    if not path.is_file():
        raise JournalError(f"no journal at {path}")
    lock = Journal(path)
    lock.take_lock()
    try:
        if recovery.finish_salvage(path, snapshots.folder_of(path)):
            raise JournalError(
                f"a salvage of {path} that was cut off is finished now: look with `farthing-edge journal verify`, and start"
            )
        return _salvage(path, settings, at)
    finally:
        lock.close()


def _salvage(path: Path, settings: CoreSettings, at: Instant) -> Salvage:
    stamp = time.time_ns()
    aside = recovery.damaged_place(path, stamp)
    aside.mkdir()
    # A database is changed by being opened: what is read is a copy.
    reading = aside / "reading"
    reading.mkdir()
    for each in _files(path):
        shutil.copy2(each, reading / each.name)
    fresh = path.with_name(path.name + ".salvaged")
    for leftover in _files(fresh):
        leftover.unlink()
    try:
        found = _Found(reading / path.name)
        last, beyond, lost = _write(found, fresh, settings, at)
    except BaseException:
        shutil.rmtree(aside)
        for leftover in _files(fresh):
            leftover.unlink()
        raise
    shutil.rmtree(reading)
    with (aside / "beyond.jsonl").open("w", encoding="utf-8") as opened:
        for entry, chain in beyond:
            line = {**entry._asdict(), "body": entry.body.hex(), "chain": chain.hex()}
            opened.write(json.dumps(line) + "\n")
        opened.flush()
        os.fsync(opened.fileno())
    for each in _files(path):
        recovery.second_name(each, aside / each.name)
    for snapshot in snapshots.found(path):
        with suppress(snapshots.SnapshotError):
            if snapshots.position_of(snapshot) > last:
                recovery.second_name(snapshot, aside / snapshot.name)
    recovery.fsync(fresh)
    recovery.fsync(aside)
    recovery.fsync(path.parent)
    fresh.rename(recovery.salvaged_name(path, stamp))
    recovery.fsync(path.parent)
    recovery.finish_salvage(path, snapshots.folder_of(path))
    return Salvage(recovered_to=last, beyond=len(beyond), lost=lost, aside=aside)


def _files(path: Path) -> list[Path]:
    return [each for suffix in _SUFFIXES if (each := path.with_name(path.name + suffix)).exists()]


class _Found:
    """What can be read of a damaged file, however much that is."""

    def __init__(self, path: Path) -> None:
        self.entries: dict[int, tuple[Entry, bytes]] = {}
        self.anchor = Anchor(0, GENESIS)
        self.kept: list[tuple[int, bytes]] = []
        self.signatures: list[tuple[bytes, bytes, int, int]] = []
        self.parked: list[tuple[int, str, bytes, str]] = []
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            with suppress(sqlite3.Error):
                self.anchor = read_anchor(connection)
                self.kept = connection.execute(sentence("all_kept")).fetchall() if self.anchor.position else []
            with suppress(sqlite3.Error):
                self.signatures = connection.execute(sentence("all_signatures")).fetchall()
            with suppress(sqlite3.Error):
                self.parked = connection.execute(sentence("all_parked")).fetchall()
            for row in _rows(connection, 1, _last_position(connection, path)):
                with suppress(TypeError, ValueError, OverflowError):
                    # Damage may have made anything of a row; what is no entry has no hash either.
                    entry = Entry(*row[:4])
                    next_chain(GENESIS, entry)
                    self.entries[entry.position] = entry, row[4]

    def whole(self) -> Iterator[tuple[Entry, bytes]]:
        """From the anchor on, as long as each is there and is what its hash says."""
        position, chain = self.anchor.position, self.anchor.chain
        while (found := self.entries.get(position + 1)) is not None:
            position, chain = position + 1, next_chain(chain, found[0])
            if chain != found[1]:
                return
            yield found

    def beyond(self, last: int) -> list[tuple[Entry, bytes]]:
        """After the damage: each whose hash stands on the one before it."""
        return [
            (entry, chain)
            for position, (entry, chain) in sorted(self.entries.items())
            if position > last + 1
            and position - 1 in self.entries
            and next_chain(self.entries[position - 1][1], entry) == chain
        ]


def _last_position(connection: sqlite3.Connection, path: Path) -> int:
    with suppress(sqlite3.Error):
        row = connection.execute(sentence("last_entry")).fetchone()
        return 0 if row is None else int(row[0])
    return sum(each.stat().st_size for each in _files(path)) // _LEAST_ROW_SIZE


def _rows(connection: sqlite3.Connection, first: int, last: int) -> Iterator[tuple[int, int, int, bytes, bytes]]:
    """Rows between two positions, around whatever cannot be read: a range that fails is halved."""
    ranges = [(start, min(start + _AT_ONCE - 1, last)) for start in range(first, last + 1, _AT_ONCE)]
    ranges.reverse()
    while ranges:
        start, end = ranges.pop()
        try:
            yield from connection.execute(sentence("entries_between"), (start, end, _AT_ONCE)).fetchall()
        except sqlite3.Error:
            if start < end:
                middle = (start + end) // 2
                ranges += [(middle + 1, end), (start, middle)]


def _write(
    found: _Found, fresh: Path, settings: CoreSettings, at: Instant
) -> tuple[int, list[tuple[Entry, bytes]], tuple[tuple[int, int], ...]]:
    """The new file; where it goes on, what lies beyond, and what is lost."""
    journal = Journal(fresh, keep_ballast=False)
    journal.open()
    try:
        if found.anchor.position:
            journal.change(lambda connection: _take_over_pruned(connection, found))
            journal.close()
            journal.open()
        last = _copy(found, journal, None if found.anchor.position else GatewayState(settings))
        beyond = found.beyond(last)
        lost = _gaps(last, [entry.position for entry, _ in beyond])
        salvaged = events.Salvaged(last_position=last, beyond=len(beyond), lost=lost, at=at)
        journal.commit(Group(entries=[Entry(last + 1, at, *events.encode(salvaged))]))
        journal.change(lambda connection: _take_over_rest(connection, found, beyond))
    finally:
        journal.close()
        fresh.with_name(fresh.name + ".lock").unlink(missing_ok=True)
    return last, beyond, lost


def _copy(found: _Found, journal: Journal, state: GatewayState | None) -> int:
    """Entries as they were, with what is known by them; where a rule breaks, the journal was damaged before. Return the last."""
    group, incarnation, last = Group(), 0, found.anchor.position
    for entry, _ in found.whole():
        try:
            event = events.decode(entry.kind, entry.body)
            if state is not None:
                apply(state, event)
        except (events.EventError, StateError, KeyError, ValueError):
            break
        incarnation = _index(group, entry, event, incarnation)
        group.entries.append(entry)
        last = entry.position
        if len(group.entries) >= _AT_ONCE:
            journal.commit(group)
            group = Group()
    journal.commit(group)
    return last


def _index(group: Group, entry: Entry, event: events.Event, incarnation: int) -> int:
    """The index rows that follow from an entry; the incarnation after it."""
    if isinstance(event, events.Sealed):
        group.batches.append((event.incarnation, event.sequence, entry.position, event.batch_hash))
    elif isinstance(event, events.Started):
        group.starts.append((entry.position, event.start_id, incarnation))
    elif isinstance(event, events.DirectiveApplied):
        directive = directive_pb2.Directive.FromString(event.raw)
        group.directives.append((event.version, entry.position, batch_hash(event.raw)))
        body = directive.WhichOneof("body")
        if body == "device":
            group.devices.append((directive.device.device_id, entry.position, directive.device.status))
        elif body == "welcome":
            return directive.welcome.incarnation
    return incarnation


def _take_over_pruned(connection: sqlite3.Connection, found: _Found) -> None:
    connection.execute(sentence("move_anchor"), found.anchor)
    for position, before in found.kept:
        row = found.entries.get(position)
        if row is not None and next_chain(before, row[0]) == row[1]:
            connection.execute(sentence("append_entry"), (*row[0], row[1]))
            connection.execute(sentence("keep_entry"), (position, before))


def _take_over_rest(connection: sqlite3.Connection, found: _Found, beyond: Iterable[tuple[Entry, bytes]]) -> None:
    connection.executemany(sentence("keep_salvaged"), [(*entry, chain) for entry, chain in beyond])
    connection.executemany(sentence("sign_batch"), found.signatures)
    for at_us, what, body, fault in found.parked:
        connection.execute(sentence("park_command"), (at_us, what, body, fault, len(found.parked)))


def _gaps(last: int, positions: Iterable[int]) -> tuple[tuple[int, int], ...]:
    gaps = []
    for position in positions:
        if position > last + 1:
            gaps.append((last + 1, position - 1))
        last = position
    return tuple(gaps)
