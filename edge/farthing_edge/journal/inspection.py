"""Look into a journal, beside a running daemon or without one: verify, show, export. Nothing is ever written to it."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from farthing.evidence.batches import batch_hash
from farthing.refusal import Refusal
from farthing_edge.authorization.applying import apply
from farthing_edge.authorization.events import DirectiveApplied, EventError, Sealed, decode
from farthing_edge.authorization.state import CoreSettings, GatewayState, StateError
from farthing_edge.journal import snapshots
from farthing_edge.journal.errors import JournalError
from farthing_edge.journal.graph import state_to_bytes
from farthing_edge.journal.replaying import recall
from farthing_edge.journal.sentences import sentence
from farthing_edge.journal.snapshots import Snapshot, SnapshotError
from farthing_edge.journal.store import Entry, connect_to_read, next_chain, read_anchor

#: What one look shows unless told otherwise: a screenful.
DEFAULT_SHOWN = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The first thing that is wrong, and where."""

    position: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a verification found. ``billed_micros`` is everything billed since the first entry, net and tax.

    ``entries`` are those that are there, ``pruned`` those that went before; batches, directives and money count both. ``snapshots`` are those
    that say what the replay says.
    """

    entries: int
    pruned: int
    last_position: int
    batches: int
    directives: int
    billed_micros: int
    unsealed_micros: int
    open_authorizations: int
    snapshots: int
    fault: Fault | None


class _Found(Exception):
    """The first fault."""

    def __init__(self, position: int, what: str) -> None:
        super().__init__(what)
        self.fault = Fault(position=position, what=what)


def verify(path: Path, settings: CoreSettings) -> Report:
    """Check the hash chain, the chains of batches and directives, that replaying every entry breaks no rule, and that snapshots agree."""
    with closing(connect_to_read(path)) as connection:
        connection.execute("BEGIN")
        return _Verification(path, settings, connection).run()


class _Verification:
    def __init__(self, path: Path, settings: CoreSettings, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._anchor = read_anchor(connection)
        self._position, self._chain = self._anchor.position, self._anchor.chain
        self._batches, self._directives = self._anchor.batches, self._anchor.directives
        self._billed = self._anchor.billed_micros
        self._directive_chain: bytes | None = None
        self._snapshots = _readable(path, settings)
        self._agreeing = 0
        #: Where entries are pruned the replay begins with the oldest snapshot.
        self._state: GatewayState | None = None if self._anchor.position else GatewayState(settings)

    def run(self) -> Report:
        fault: Fault | None = None
        try:
            self._check_kept()
            self._compare()
            for position, at_us, kind, body, stored in self._connection.execute(
                sentence("entries_from"), (self._anchor.position + 1,)
            ):
                self._check(Entry(position, at_us, kind, body), stored)
                self._compare()
            self._check_end()
        except _Found as found:
            fault = found.fault
        state = self._state
        return Report(
            entries=self._position - self._anchor.position,
            pruned=self._anchor.position,
            last_position=self._position,
            batches=self._batches,
            directives=self._directives,
            billed_micros=self._billed,
            unsealed_micros=0 if state is None else state.unsealed_micros,
            open_authorizations=0 if state is None else state.open_authorizations,
            snapshots=self._agreeing,
            fault=fault,
        )

    def _check_kept(self) -> None:
        """What was pruned around is checked alone: its hash stands on the one before it."""
        if not self._anchor.position:
            return
        for position, at_us, kind, body, stored, before in self._connection.execute(sentence("kept_to_check")):
            if next_chain(before, Entry(position, at_us, kind, body)) != stored:
                raise _Found(position, "an entry kept from pruning is not what its hash says")

    def _check(self, entry: Entry, stored: bytes) -> None:
        expected = self._position + 1
        self._chain = next_chain(self._chain, entry)
        if entry.position != expected or self._chain != stored:
            raise _Found(expected, "the hash chain is broken here")
        try:
            event = decode(entry.kind, entry.body)
            if self._state is not None:
                apply(self._state, event)
        except (EventError, StateError, KeyError, ValueError) as err:
            raise _Found(expected, f"{type(err).__name__}: {err}") from err
        if isinstance(event, Sealed):
            if batch_hash(event.batch) != event.batch_hash:
                raise _Found(expected, f"batch {event.sequence} is not what its hash says")
            self._batches += 1
        elif isinstance(event, DirectiveApplied):
            self._directives += 1
            self._directive_chain = batch_hash(event.raw)
        else:
            self._billed += sum(c.net_micros + c.tax_micros for c in getattr(event, "charges", ()))
        self._position = expected

    def _compare(self) -> None:
        """Hold a snapshot of this position against the replay, or begin the replay with it."""
        snapshot = self._snapshots.get(self._position)
        if snapshot is None:
            return
        if snapshot.chain != self._chain:
            raise _Found(self._position, f"{snapshot.path.name} is of another history")
        if self._state is None:
            self._state = snapshot.state
        elif not snapshot.lacking and state_to_bytes(self._state) != state_to_bytes(snapshot.state):
            raise _Found(self._position, f"{snapshot.path.name} is not what the entries say")
        self._agreeing += 1

    def _check_end(self) -> None:
        if self._state is None:
            raise _Found(self._position, "entries are pruned, and no snapshot can be read")
        if self._directive_chain not in (None, self._state.directive_hash):
            raise _Found(self._position, "the chain of directives does not end where the state says")


def _readable(path: Path, settings: CoreSettings) -> dict[int, Snapshot]:
    """Snapshots that can be read, by position; one that cannot is no fault of the journal."""
    readable = {}
    for each in snapshots.found(path):
        try:
            snapshot = snapshots.read(each, settings)
        except SnapshotError:
            continue
        readable[snapshot.position] = snapshot
    return readable


def parked(path: Path, settings: CoreSettings) -> Iterator[dict[str, Any]]:
    """What waits for people: statements that were parked and not decided, uses set aside, commands that nobody could decide.

    Becomes what the journal says, as a start does; raise ``JournalError`` where it cannot be read.
    """
    with closing(connect_to_read(path)) as connection:
        state = recall(path, connection, settings).state
        commands = connection.execute(sentence("show_parked")).fetchall()
    for (device, device_epoch, counter), each in state.parked_statements.items():
        yield {
            "what": "statement",
            "position": each.position,
            "device": device,
            "device_epoch": device_epoch,
            "counter": counter,
            "reason": Refusal(each.refusal).name,
            "authorization": each.authorization.hex(),
            "value": each.value,
            "said_at_us": each.said_at,
            "is_end": each.closing,
            "statement": each.statement.hex(),
        }
    for authorization, reason in state.set_aside.items():
        yield {"what": "use set aside", "authorization": authorization.hex(), "reason": reason}
    for at_us, what, body, fault in commands:
        yield {"what": f"command {what}", "at_us": at_us, "reason": fault, "body": bytes(body).hex()}


#: What would be taken for the entry's own.
_SHOWN_AS = {"position": "place"}


def show(
    path: Path, *, from_position: int = 1, kind: int | None = None, limit: int = DEFAULT_SHOWN
) -> Iterator[dict[str, Any]]:
    """Entries as plain values: position, at_us, kind (name), then the event's own fields (where a use was granted as ``place``); bytes in hex."""
    connection = connect_to_read(path)
    try:
        rows = connection.execute(sentence("show_entries"), (from_position, kind, kind, limit))
        for position, at_us, number, body, _ in rows:
            try:
                event = decode(number, body)
            except EventError as err:
                yield {"position": position, "at_us": at_us, "kind": number, "fault": str(err)}
                continue
            fields = event._asdict()
            yield {
                "position": position,
                "at_us": at_us,
                "kind": type(event).__name__,
                **{_SHOWN_AS.get(name, name): _plain(value) for name, value in fields.items()},
            }
    finally:
        connection.close()


def export(path: Path, to: IO[str]) -> int:
    """Write every entry as one line of JSON (position, at_us, kind, body, chain in hex)."""
    connection = connect_to_read(path)
    written = 0
    try:
        for position, at_us, kind, body, chain in connection.execute(sentence("entries_from"), (1,)):
            line = {"position": position, "at_us": at_us, "kind": kind, "body": body.hex(), "chain": chain.hex()}
            to.write(json.dumps(line) + "\n")
            written += 1
    except OSError as err:
        raise JournalError(f"the export of {path} stopped after {written} entries") from err
    finally:
        connection.close()
    return written


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
