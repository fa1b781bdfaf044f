"""What may leave the journal leaves it in pieces; what is left is still proven, replayed and explained from there."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from varied_day import VariedDay, facts_of

from farthing_edge.authorization.events import KINDS, BaselineTaken, Receipted, StatementParked, decode
from farthing_edge.authorization.state import CoreSettings
from farthing_edge.engine.upkeep import BufferGauge, UpkeepLimits
from farthing_edge.journal import Journal, JournalError, retention, snapshots, verify
from farthing_edge.journal.replaying import recall
from farthing_edge.journal.snapshotting import write_snapshot
from farthing_edge.journal.store import connect_to_read, read_batch_span

FOR_EVER = 2**62


class Pruned:
    """A journal with a day in it and two snapshots, to be pruned."""

    def __init__(self, folder: Path) -> None:
        self.day = VariedDay().play(40)
        self.path = folder / "journal.sqlite"
        self.journal = Journal(self.path, mark_directory=folder, keep_ballast=False)
        self.journal.open()
        half = self.day.gateway.state.position
        self.day.write(self.journal)
        write_snapshot(self.path, self.settings)
        self.day.play(10)
        self.day.write(self.journal, after=half)
        write_snapshot(self.path, self.settings)

    @property
    def settings(self) -> CoreSettings:
        return self.day.gateway.settings

    def may(self, **changes: int) -> retention.Prunable:
        limits = {"proven_position": FOR_EVER, "covered": snapshots.covered(self.path), "at_us": FOR_EVER, **changes}
        return retention.prunable(self.day.gateway.state, **limits)

    def prune(self, may: retention.Prunable) -> int:
        """Piece by piece, to the end; how many pieces."""
        pieces, position = 0, -1
        while (now := self.journal.change(lambda connection: retention.prune(may, connection))) != position:
            pieces, position = pieces + 1, now
        return pieces

    def positions(self) -> list[int]:
        with closing(connect_to_read(self.path)) as connection:
            return [position for (position,) in connection.execute("SELECT position FROM entries ORDER BY position")]


@pytest.fixture
def pruned(tmp_path: Path):
    made = Pruned(tmp_path)
    yield made
    made.journal.close()


def test_what_is_left_is_still_proven_and_says_the_same(pruned: Pruned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention.next_piece, "__defaults__", (50,))
    before = verify(pruned.path, pruned.settings)
    facts = facts_of(pruned.day.gateway.replayed())
    may = pruned.may()
    assert 0 < may.position <= pruned.day.gateway.state.receipted_position < pruned.journal.position
    assert pruned.prune(may) > 3
    report = verify(pruned.path, pruned.settings)
    assert report.fault is None
    assert report.pruned == may.position
    assert report.pruned + report.entries == before.entries
    for name in ("last_position", "batches", "directives", "billed_micros", "open_authorizations", "unsealed_micros"):
        assert getattr(report, name) == getattr(before, name), name
    with closing(connect_to_read(pruned.path)) as connection:
        recalled = recall(pruned.path, connection, pruned.settings)
    assert facts_of(recalled.state) == facts
    # A writer that starts now goes on at the same place.
    pruned.journal.close()
    again = Journal(pruned.path, mark_directory=pruned.path.parent, keep_ballast=False)
    again.open()
    assert again.position == before.last_position
    assert [entry.position for entry in again.entries()] == list(range(may.position + 1, before.last_position + 1))
    again.close()


def test_what_the_living_refer_to_stays_and_so_does_what_was_parked(pruned: Pruned) -> None:
    state = pruned.day.gateway.state
    may = pruned.may()
    pruned.prune(may)
    left = set(pruned.positions())
    for authorization in state.authorizations.values():
        assert authorization.opened_position in left
        assert authorization.told is None or authorization.told.position in left
    below = [position for position in left if position <= may.position]
    with closing(connect_to_read(pruned.path)) as connection:
        kinds = {
            KINDS[connection.execute("SELECT kind FROM entries WHERE position = ?", (position,)).fetchone()[0]]
            for position in below
        }
    assert {BaselineTaken, StatementParked} <= kinds
    # Changed in place, one of them is named.
    with closing(sqlite3.connect(pruned.path)) as connection:
        connection.execute("UPDATE entries SET at_us = at_us + 1 WHERE position = ?", (below[1],))
        connection.commit()
    fault = verify(pruned.path, pruned.settings).fault
    assert fault is not None
    assert fault.position == below[1]


def test_what_nobody_refers_to_any_more_goes_too(pruned: Pruned) -> None:
    may = pruned.may()
    pruned.prune(may)
    kept = [position for position in pruned.positions() if position <= may.position]
    nothing_lives = retention.Prunable(position=may.position, at_us=may.at_us, kept=frozenset())
    gone = pruned.journal.change(lambda connection: retention.let_go(nothing_lives, connection))
    assert gone > 0
    left = [position for position in pruned.positions() if position <= may.position]
    assert len(left) == len(kept) - gone
    assert left  # what was parked
    assert verify(pruned.path, pruned.settings).fault is None


@pytest.mark.parametrize("limit", ["proven_position", "covered", "at_us"])
def test_each_condition_alone_holds_entries_back(pruned: Pruned, limit: str) -> None:
    assert pruned.prune(pruned.may(**{limit: 0})) == 1
    assert pruned.positions()[0] == 1
    assert verify(pruned.path, pruned.settings).pruned == 0


def test_what_is_not_receipted_stays_whoever_asks(pruned: Pruned) -> None:
    pruned.day.gateway.state.receipted_position = 0
    assert pruned.prune(pruned.may()) == 1
    assert pruned.positions()[0] == 1


def test_what_was_receipted_inside_the_backup_horizon_stays_however_old_it_is(pruned: Pruned) -> None:
    with closing(connect_to_read(pruned.path)) as connection:
        receipts = [
            (position, at_us, decode(kind, body))
            for position, at_us, kind, body in connection.execute("SELECT position, at_us, kind, body FROM entries")
            if KINDS[kind] is Receipted
        ]
        spans = [read_batch_span(connection, event.incarnation, event.sequence) for _, _, event in receipts]
        assert len(receipts) > 2
        for (position, at_us, _), span in zip(receipts, spans, strict=True):
            # What a batch takes in was written before its receipt came.
            assert span < position
            assert retention.receipted_by(connection, at_us) >= span
            assert retention.receipted_by(connection, at_us - 1) < span
        assert retention.receipted_by(connection, 0) == 0
        assert retention.receipted_by(connection, FOR_EVER) == max(spans) == pruned.day.gateway.state.receipted_position


def test_without_a_snapshot_a_pruned_journal_does_not_pretend(pruned: Pruned) -> None:
    pruned.prune(pruned.may())
    for each in snapshots.found(pruned.path):
        each.unlink()
    with (
        closing(connect_to_read(pruned.path)) as connection,
        pytest.raises(JournalError, match="no snapshot can be used"),
    ):
        recall(pruned.path, connection, pruned.settings)
    assert verify(pruned.path, pruned.settings).fault is not None


def test_a_piece_that_fails_takes_nothing_away(pruned: Pruned) -> None:
    before = pruned.positions()

    def fails(connection: sqlite3.Connection) -> None:
        assert retention.prune(pruned.may(), connection) > 0
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        pruned.journal.change(fails)
    assert pruned.positions() == before
    assert verify(pruned.path, pruned.settings).pruned == 0


def test_retention_is_never_shorter_than_the_backup_horizon() -> None:
    with pytest.raises(ValueError, match="backup horizon"):
        UpkeepLimits(retention_us=10, backup_horizon_us=11)


def test_the_gauge_says_what_an_hour_writes() -> None:
    now = [0]
    gauge = BufferGauge(lambda: now[0])
    assert gauge.bytes_per_hour() == 0
    for _ in range(30):
        now[0] += 60_000_000_000
        gauge.note(1_000)
    assert gauge.bytes_per_hour() == 60_000
    for _ in range(200):
        now[0] += 60_000_000_000
        gauge.note(2_000)
    assert gauge.bytes_per_hour() == 120_000
    now[0] += 3_600 * 1_000_000_000
    assert gauge.bytes_per_hour() == 0
