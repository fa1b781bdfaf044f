"""Become what the journal says: the newest snapshot that fits, and the entries after it.

A snapshot fits when its hash is the journal's own at its position. What is passed over, and why, is told; a snapshot of a position that
the journal does not reach is proof that the journal has lost entries.
"""

import gc
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from farthing.clock import Instant
from farthing_edge.authorization.applying import apply
from farthing_edge.authorization.events import EventError, decode
from farthing_edge.authorization.state import CoreSettings, GatewayState, StateError
from farthing_edge.journal import snapshots
from farthing_edge.journal.errors import JournalError
from farthing_edge.journal.sentences import sentence
from farthing_edge.journal.snapshots import Snapshot, SnapshotError
from farthing_edge.journal.store import checked_entries, read_anchor


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """What the journal says, and how it was found out."""

    state: GatewayState
    #: The hash at the state's position.
    chain: bytes
    #: The snapshot's position; 0 when everything was replayed.
    from_snapshot: int
    replayed: int
    #: Entries up to here are not there any more.
    pruned: int
    #: Snapshots passed over, and why.
    faults: tuple[str, ...]
    #: A snapshot of more than the journal has: entries are lost.
    beyond: Path | None
    #: When the last entry was written, by the clock of then; 0 for none.
    last_at: Instant


def recall(path: Path, connection: sqlite3.Connection, settings: CoreSettings) -> Recalled:
    """The state behind the journal at ``path``, read through ``connection``; ``JournalError`` names what is damaged."""
    with _collecting_later():
        return _recall(path, connection, settings)


def _recall(path: Path, connection: sqlite3.Connection, settings: CoreSettings) -> Recalled:
    anchor = read_anchor(connection)
    row = connection.execute(sentence("last_entry")).fetchone()
    last = anchor.position if row is None else row[0]
    written = connection.execute(sentence("time_at"), (last,)).fetchone()
    last_at = Instant(0 if written is None else written[1])
    faults: list[str] = []
    beyond: Path | None = None
    for each in snapshots.found(path):
        try:
            snapshot = snapshots.read(each, settings)
            if snapshot.position > last:
                beyond = beyond or each
                faults.append(f"{each.name} is of more than the journal has, which ends at {last}")
                continue
            _check_fit(connection, snapshot, whole=anchor.position == 0)
            chain = replay(connection, snapshot.state, snapshot.chain, last)
        except (SnapshotError, StateError, EventError, KeyError, ValueError) as err:
            faults.append(f"{type(err).__name__}: {err}" if not isinstance(err, SnapshotError) else str(err))
            continue
        return Recalled(
            state=snapshot.state,
            chain=chain,
            from_snapshot=snapshot.position,
            replayed=last - snapshot.position,
            pruned=anchor.position,
            faults=tuple(faults),
            beyond=beyond,
            last_at=last_at,
        )
    if anchor.position:
        said = "; ".join(faults) or "there is none"
        raise JournalError(
            f"the entries of {path} up to position {anchor.position} are pruned, and no snapshot can be used ({said}): "
            f"put back the folder {snapshots.folder_of(path).name}, never delete the journal"
        )
    state = GatewayState(settings)
    try:
        chain = replay(connection, state, anchor.chain, last)
    except (StateError, EventError, KeyError, ValueError) as err:
        raise JournalError(
            f"the journal {path} cannot be replayed at position {state.position}: keep it, and salvage it"
        ) from err
    return Recalled(
        state=state,
        chain=chain,
        from_snapshot=0,
        replayed=last,
        pruned=0,
        faults=tuple(faults),
        beyond=beyond,
        last_at=last_at,
    )


def _check_fit(connection: sqlite3.Connection, snapshot: Snapshot, *, whole: bool) -> None:
    anchor = read_anchor(connection)
    if snapshot.position == anchor.position:
        chain = anchor.chain
    else:
        row = connection.execute(sentence("entry_at"), (snapshot.position,)).fetchone()
        chain = b"" if row is None else row[4]
    if chain != snapshot.chain:
        raise SnapshotError(f"{snapshot.path.name} is of another history than this journal")
    if snapshot.lacking and whole:
        # What an older program did not keep, the entries still tell.
        raise SnapshotError(f"{snapshot.path.name} is of an older program, and every entry is there")


def replay(connection: sqlite3.Connection, state: GatewayState, chain: bytes, last: int) -> bytes:
    """Apply the entries after ``state.position`` up to ``last``, each checked against the chain; return the chain there."""
    for entry, after in checked_entries(connection, state.position, chain, last):
        apply(state, decode(entry.kind, entry.body))
        chain = after
    return chain


@contextmanager
def _collecting_later() -> Iterator[None]:
    # A hundred thousand objects that all stay: walking them again and again is a third of the time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
