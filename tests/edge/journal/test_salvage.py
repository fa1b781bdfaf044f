"""A damaged journal: what is whole goes on, what comes after is kept, what is lost is named, and nothing is deleted."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from varied_day import VariedDay, facts_of

from farthing.v1 import directive_pb2
from farthing_edge.authorization.events import Salvaged, decode
from farthing_edge.authorization.state import GatewayState
from farthing_edge.journal import Journal, JournalBusy, JournalError, snapshots, verify
from farthing_edge.journal.replaying import recall
from farthing_edge.journal.salvage import salvage
from farthing_edge.journal.snapshotting import write_snapshot
from farthing_edge.journal.store import connect_to_read


class Damaged:
    """A day in a journal, with a snapshot of its end."""

    def __init__(self, folder: Path) -> None:
        self.day = VariedDay().play(40)
        self.settings = self.day.gateway.settings
        self.path = folder / "journal.sqlite"
        self.last = self.day.gateway.state.position
        journal = Journal(self.path, mark_directory=folder, keep_ballast=False)
        journal.open()
        self.day.write(journal)
        journal.close()
        write_snapshot(self.path, self.settings)

    def change(self, sql: str, *arguments: object) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute(sql, arguments)
            connection.commit()

    def entries(self) -> list[tuple[int, int, int, bytes, bytes]]:
        with closing(connect_to_read(self.path)) as connection:
            return connection.execute(
                "SELECT position, at_us, kind, body, chain FROM entries ORDER BY position"
            ).fetchall()

    def state(self) -> GatewayState:
        with closing(connect_to_read(self.path)) as connection:
            return recall(self.path, connection, self.settings).state

    def salvage(self):
        return salvage(self.path, self.settings, at=self.day.gateway.at)


@pytest.fixture
def damaged(tmp_path: Path) -> Damaged:
    return Damaged(tmp_path)


def checked(damaged: Damaged, before: list[tuple[int, int, int, bytes, bytes]], done) -> None:
    """What holds after any salvage."""
    after = damaged.entries()
    assert after[:-1] == before[: done.recovered_to]
    event = decode(after[-1][2], after[-1][3])
    assert isinstance(event, Salvaged)
    assert (event.last_position, event.beyond, event.lost) == (done.recovered_to, done.beyond, done.lost)
    report = verify(damaged.path, damaged.settings)
    assert report.fault is None
    assert report.last_position == done.recovered_to + 1
    state = damaged.state()
    assert "salvaged" in state.not_authorizing_reason
    original = done.aside / damaged.path.name
    assert original.exists()
    assert not (done.aside / "reading").exists()
    # The newest snapshot said more than there is now: it is with the damaged files.
    assert snapshots.found(damaged.path) == []
    assert list(done.aside.glob("*.snapshot"))
    with closing(connect_to_read(damaged.path)) as connection:
        kept = connection.execute("SELECT position, body FROM salvaged ORDER BY position").fetchall()
    lines = [json.loads(line) for line in (done.aside / "beyond.jsonl").read_text().splitlines()]
    assert [(line["position"], bytes.fromhex(line["body"])) for line in lines] == kept
    assert all(
        (row[0], row[3]) in {(position, bytes(body)) for position, body in kept}
        for row in before
        if row[0] in dict(kept)
    )
    assert len(kept) == done.beyond


def test_an_entry_that_was_changed(damaged: Damaged) -> None:
    before = damaged.entries()
    damaged.change("UPDATE entries SET body = zeroblob(20) WHERE position = 100")
    done = damaged.salvage()
    assert (done.recovered_to, done.lost, done.beyond) == (99, ((100, 100),), damaged.last - 100)
    checked(damaged, before, done)


def test_entries_that_are_missing(damaged: Damaged) -> None:
    before = damaged.entries()
    damaged.change("DELETE FROM entries WHERE position BETWEEN 100 AND 120 OR position = 200")
    done = damaged.salvage()
    # The first after a gap stands on a hash that is not there: it is not proven.
    assert (done.recovered_to, done.lost) == (99, ((100, 121), (200, 201)))
    checked(damaged, before, done)


def test_pages_that_cannot_be_read(damaged: Damaged) -> None:
    """Rubbish over some pages in the middle of the file, whatever they hold."""
    before = damaged.entries()
    with closing(connect_to_read(damaged.path)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        (count,) = connection.execute("PRAGMA page_count").fetchone()
    data = bytearray(damaged.path.read_bytes())
    for page in range(count // 2, count // 2 + 3):
        data[page * size : (page + 1) * size] = b"\xff" * size
    damaged.path.write_bytes(data)
    done = damaged.salvage()
    assert 0 < done.recovered_to < damaged.last
    assert (done.aside / damaged.path.name).read_bytes() == bytes(data)
    checked(damaged, before, done)


def test_a_file_that_ends_early(damaged: Damaged) -> None:
    before = damaged.entries()
    data = damaged.path.read_bytes()
    damaged.path.write_bytes(data[: len(data) * 2 // 3 // 4096 * 4096])
    done = damaged.salvage()
    assert done.recovered_to < damaged.last
    checked(damaged, before, done)


def test_a_file_that_is_no_database_leaves_an_empty_journal_and_itself(tmp_path: Path) -> None:
    damaged = Damaged(tmp_path)
    before = damaged.entries()
    damaged.path.write_bytes(b"\xff" * 8192)
    done = damaged.salvage()
    assert (done.recovered_to, done.beyond) == (0, 0)
    checked(damaged, before, done)


def test_signatures_and_what_was_parked_come_along(damaged: Damaged) -> None:
    def rows() -> tuple[list, list]:
        with closing(connect_to_read(damaged.path)) as connection:
            signed = connection.execute("SELECT sequence, signature FROM batches WHERE position < 300").fetchall()
            return signed, connection.execute("SELECT what, body, fault FROM parked").fetchall()

    before = rows()
    assert any(signature for _, signature in before[0])
    damaged.change("DELETE FROM entries WHERE position = 300")
    damaged.salvage()
    assert rows() == before


def test_a_new_incarnation_ends_it(damaged: Damaged) -> None:
    damaged.change("DELETE FROM entries WHERE position = ?", damaged.last)
    damaged.salvage()
    day = damaged.day
    state = damaged.state()
    assert facts_of(state)["quotas"]
    day.gateway.state = state
    day.gateway.policy.version, day.gateway.policy.hash = state.directive_version, state.directive_hash
    day.gateway.told(
        welcome=directive_pb2.Welcome(operator_id="op", site_id="S1", incarnation=2, time_zone="Europe/Berlin")
    )
    assert state.rollback_suspected == ""
    assert state.incarnation == 2


def test_a_pruned_journal_is_salvaged_from_its_anchor(tmp_path: Path) -> None:
    from test_retention import Pruned

    pruned = Pruned(tmp_path)
    may = pruned.may()
    pruned.prune(may)
    pruned.journal.close()
    with closing(sqlite3.connect(pruned.path)) as connection:
        connection.execute("DELETE FROM entries WHERE position = (SELECT max(position) - 1 FROM entries)")
        connection.commit()
    last = pruned.journal.position - 2
    # The older snapshot covers what is pruned, and stays.
    done = salvage(pruned.path, pruned.settings, at=pruned.day.gateway.at)
    assert done.recovered_to == last
    report = verify(pruned.path, pruned.settings)
    assert (report.fault, report.pruned, report.last_position) == (None, may.position, last + 1)


def test_a_journal_in_use_or_not_there_is_not_touched(damaged: Damaged, tmp_path: Path) -> None:
    journal = Journal(damaged.path, mark_directory=tmp_path, keep_ballast=False)
    journal.open()
    with pytest.raises(JournalBusy):
        damaged.salvage()
    journal.close()
    assert not list(tmp_path.glob("*.damaged-*"))
    with pytest.raises(JournalError, match="no journal at"):
        salvage(tmp_path / "none.sqlite", damaged.settings, at=damaged.day.gateway.at)


class Cut(BaseException):
    """The process ends here."""


#: What changes a name, and so what a salvage can be cut off before.
STEPS = ((Path, "rename"), (Path, "unlink"), (os, "link"), (shutil, "rmtree"))


def test_a_salvage_that_is_cut_off_anywhere_leaves_a_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every moment there is either the damaged journal, whole, or the salvaged one: never none, and never a log beside a file that is not its own."""
    made = tmp_path / "made"
    made.mkdir()
    damaged = Damaged(made)
    damaged.change("UPDATE entries SET body = zeroblob(20) WHERE position = 100")
    with closing(sqlite3.connect(damaged.path)) as holding:
        # A log that was not folded back: as a kill leaves it.
        holding.execute("UPDATE entries SET at_us = at_us + 1 WHERE position = 50")
        holding.commit()
        before = holding.execute("SELECT count(*), sum(at_us) FROM entries").fetchone()
        killed = tmp_path / "killed"
        shutil.copytree(made, killed)
    steps = 0
    while True:
        place = tmp_path / f"cut-{steps}"
        shutil.copytree(killed, place)
        damaged.path = place / damaged.path.name
        left = steps
        with monkeypatch.context() as patched:
            for owner, name in STEPS:
                real = getattr(owner, name)

                def step(*arguments: object, _real: object = real, **named: object) -> object:
                    nonlocal left
                    left -= 1
                    if left < 0:
                        raise Cut
                    return _real(*arguments, **named)

                patched.setattr(owner, name, step)
            try:
                damaged.salvage()
            except Cut:
                done = False
            else:
                done = True
        journal = Journal(damaged.path, mark_directory=place, keep_ballast=False)
        journal.open()
        journal.close()
        with closing(sqlite3.connect(damaged.path)) as connection:
            found = connection.execute("SELECT count(*), sum(at_us) FROM entries").fetchone()
        if found != before:
            report = verify(damaged.path, damaged.settings)
            assert (report.fault, report.last_position) == (None, 50), steps
            assert snapshots.found(damaged.path) == []
            (aside,) = place.glob("*.damaged-*")
            with closing(sqlite3.connect(aside / damaged.path.name)) as connection:
                assert connection.execute("SELECT count(*), sum(at_us) FROM entries").fetchone() == before
        else:
            assert not done
            assert snapshots.found(damaged.path)
        if done:
            break
        steps += 1
    assert steps > len(STEPS)
