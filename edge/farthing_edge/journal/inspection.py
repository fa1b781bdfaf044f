"""Look into a journal, beside a running daemon or without one: verify, show, export. Nothing is ever written to it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from farthing.evidence.batches import ZERO_HASH, batch_hash
from farthing.refusal import Refusal
from farthing_edge.authorization.applying import apply
from farthing_edge.authorization.events import DirectiveApplied, EventError, Sealed, decode
from farthing_edge.authorization.state import CoreSettings, GatewayState, StateError
from farthing_edge.journal.errors import JournalError
from farthing_edge.journal.sentences import sentence
from farthing_edge.journal.store import GENESIS, Entry, connect_to_read, next_chain

#: What one look shows unless told otherwise: a screenful.
DEFAULT_SHOWN = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The first thing that is wrong, and where."""

    position: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a verification found. ``delivered_micros`` is everything billed since the first entry, net and tax."""

    entries: int
    last_position: int
    batches: int
    directives: int
    billed_micros: int
    unsealed_micros: int
    open_authorizations: int
    fault: Fault | None


def verify(path: Path, settings: CoreSettings) -> Report:
    """Check the hash chain, the chains of batches and directives, and that replaying every entry breaks no rule."""
    connection = connect_to_read(path)
    state = GatewayState(settings)
    chain, expected = GENESIS, 1
    batches = directives = 0
    batch_chain: dict[int, bytes] = {}
    directive_chain = ZERO_HASH
    fault: Fault | None = None
    billed = 0
    try:
        connection.execute("BEGIN")
        for position, at_us, kind, body, stored in connection.execute(sentence("entries_from"), (1,)):
            entry = Entry(position, at_us, kind, body)
            chain = next_chain(chain, entry)
            if position != expected or chain != stored:
                fault = Fault(position=expected, what="the hash chain is broken here")
                break
            try:
                event = decode(kind, body)
                apply(state, event)
            except (EventError, StateError, KeyError, ValueError) as err:
                fault = Fault(position=position, what=f"{type(err).__name__}: {err}")
                break
            if isinstance(event, Sealed):
                batches += 1
                if batch_hash(event.batch) != event.batch_hash:
                    fault = Fault(position=position, what=f"batch {event.sequence} is not what its hash says")
                    break
                batch_chain[event.incarnation] = event.batch_hash
            elif isinstance(event, DirectiveApplied):
                directives += 1
                directive_chain = batch_hash(event.raw)
            else:
                billed += sum(c.net_micros + c.tax_micros for c in getattr(event, "charges", ()))
            expected += 1
    finally:
        connection.close()
    if fault is None and directives and directive_chain != state.directive_hash:
        fault = Fault(position=expected - 1, what="the chain of directives does not end where the state says")
    return Report(
        entries=expected - 1,
        last_position=state.position,
        batches=batches,
        directives=directives,
        billed_micros=billed,
        unsealed_micros=state.unsealed_micros,
        open_authorizations=state.open_authorizations,
        fault=fault,
    )


def parked(path: Path, settings: CoreSettings) -> Iterator[dict[str, Any]]:
    """What waits for people: statements that were parked and not decided, uses set aside, commands that nobody could decide.

    Replays the whole journal; raise ``JournalError`` where it cannot be read.
    """
    connection = connect_to_read(path)
    state = GatewayState(settings)
    try:
        connection.execute("BEGIN")
        for position, _, kind, body, _ in connection.execute(sentence("entries_from"), (1,)):
            try:
                apply(state, decode(kind, body))
            except (EventError, StateError, KeyError, ValueError) as err:
                raise JournalError(f"position {position} cannot be replayed: verify the journal") from err
        commands = connection.execute(sentence("show_parked")).fetchall()
    finally:
        connection.close()
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


def show(
    path: Path, *, from_position: int = 1, kind: int | None = None, limit: int = DEFAULT_SHOWN
) -> Iterator[dict[str, Any]]:
    """Entries as plain values: position, at_us, kind (name), then the event's own fields; bytes in hex."""
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
                **{name: _plain(value) for name, value in fields.items()},
            }
    finally:
        connection.close()


def export(path: Path, to: IO[str]) -> int:
    """Write every entry as one line of JSON (position, at_us, kind, body, chain in hex): enough to import it by hand."""
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
