"""What may leave the journal, and how: in small pieces, behind an anchor from which the hash chain goes on.

Rule 1: an entry goes only when everything up to it is receipted by the cloud, its batch's detail is proven, it is older than the
operator's retention and outside the backup horizon, and two proven snapshots have taken it in. So is its receipt: what was receipted
after a backup was taken is not in the backup, however long before it was written.
Rule 2: what something living still refers to stays (where an authorization opened, what its device was told), and so does what was parked:
that waits for a person, however long.
Rule 3: each piece is one transaction: entries gone, anchor moved, sums carried. A start in between finds a whole journal.
"""

import sqlite3
from dataclasses import dataclass
from typing import NamedTuple

from farthing_edge.authorization.events import KIND_OF, DirectiveApplied, Receipted, Sealed, StatementParked, decode
from farthing_edge.authorization.state import GatewayState
from farthing_edge.journal.sentences import sentence
from farthing_edge.journal.store import Anchor, Entry, checked_entries, read_anchor, read_batch_span

#: Entries in one piece: some 5 ms of the journal's thread, so that a group waits no longer for its commit.
PIECE = 256
_PARKED = KIND_OF[StatementParked]
_RECEIPTED = KIND_OF[Receipted]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prunable:
    """Entries up to ``position`` written at or before ``at_us`` may go, but ``kept``."""

    position: int
    at_us: int
    kept: frozenset[int]


class Piece(NamedTuple):
    """What one transaction takes away: everything after the anchor before it up to the anchor after it, but ``kept``."""

    before: Anchor
    after: Anchor
    #: (position, the hash before it): an entry that stays can still be checked alone.
    kept: tuple[tuple[int, bytes], ...]


def prunable(state: GatewayState, *, proven_position: int, covered: int, at_us: int) -> Prunable:
    """What rules 1 and 2 leave. It may run beside the writer: what begins meanwhile begins after all that may go.

    ``proven_position`` is the last that a proven batch takes in, ``covered`` the last of the older snapshot."""
    living = set()
    for authorization in list(state.authorizations.values()):
        living.add(authorization.opened_position)
        if authorization.told is not None:
            living.add(authorization.told.position)
    return Prunable(
        position=min(state.receipted_position, proven_position, covered), at_us=at_us, kept=frozenset(living)
    )


def receipted_by(connection: sqlite3.Connection, at_us: int) -> int:
    """The last position that the cloud had receipted at an instant; 0 for none, or none that is still here.

    Times hardly ever go back in a journal, so the instant is looked for by halves.
    """
    newest = connection.execute(sentence("last_entry")).fetchone()
    low, high = read_anchor(connection).position, newest[0] if newest is not None else 0
    while low < high:
        middle = (low + high + 1) // 2
        position, written_us = connection.execute(sentence("time_at"), (middle,)).fetchone()
        if written_us <= at_us:
            low = middle
        else:
            high = position - 1
    row = connection.execute(sentence("last_of_kind"), (_RECEIPTED, low)).fetchone()
    if row is None:
        return 0
    receipt = decode(row[2], row[3])
    assert isinstance(receipt, Receipted)
    return read_batch_span(connection, receipt.incarnation, receipt.sequence)


def next_piece(connection: sqlite3.Connection, may: Prunable, most: int = PIECE) -> Piece | None:
    """The next piece that may go, or None."""
    before = read_anchor(connection)
    last = min(may.position, before.position + most)
    after = before
    kept = []
    for entry, chain in checked_entries(connection, before.position, before.chain, last):
        if entry.at_us > may.at_us:
            break
        if entry.position in may.kept or entry.kind == _PARKED:
            kept.append((entry.position, after.chain))
        after = _sum_up(after, entry, chain)
    return None if after.position == before.position else Piece(before, after, tuple(kept))


def _sum_up(anchor: Anchor, entry: Entry, chain: bytes) -> Anchor:
    event = decode(entry.kind, entry.body)
    return Anchor(
        position=entry.position,
        chain=chain,
        batches=anchor.batches + isinstance(event, Sealed),
        directives=anchor.directives + isinstance(event, DirectiveApplied),
        billed_micros=anchor.billed_micros + sum(c.net_micros + c.tax_micros for c in getattr(event, "charges", ())),
    )


def take_away(connection: sqlite3.Connection, piece: Piece) -> None:
    """Carry a piece out, inside the transaction that the caller holds."""
    connection.executemany(sentence("keep_entry"), piece.kept)
    span = (piece.before.position + 1, piece.after.position)
    connection.execute(sentence("prune_batches"), span)
    connection.execute(sentence("prune_directives"), span)
    connection.execute(sentence("prune_entries"), span)
    connection.execute(sentence("move_anchor"), piece.after)


def prune(may: Prunable, connection: sqlite3.Connection) -> int:
    """Take the next piece away, inside the transaction that the caller holds; where the chain begins then."""
    piece = next_piece(connection, may)
    if piece is None:
        return read_anchor(connection).position
    take_away(connection, piece)
    return piece.after.position


def let_go(may: Prunable, connection: sqlite3.Connection) -> int:
    """Take away what was kept for something that is gone, inside the transaction that the caller holds; how many that were."""
    gone = [
        (position,)
        for position, kind in connection.execute(sentence("kept_entries"))
        if kind != _PARKED and position not in may.kept
    ]
    connection.executemany(sentence("drop_entry"), gone)
    connection.executemany(sentence("drop_kept"), gone)
    return len(gone)
