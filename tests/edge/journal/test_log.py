"""The write-ahead log is folded back beside the writer, and what the disk says to it is heard."""

import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from farthing_edge.journal import Entry, Group, Journal, JournalBroken, log
from farthing_edge.journal.store import connect_to_read


def group(journal: Journal, entries: int = 3) -> Group:
    first = journal.position + 1
    return Group(entries=[Entry(first + number, 1, 3, os.urandom(400)) for number in range(entries)])


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log, "WAL_SIZE", 64 * 1024)
    journal = Journal(tmp_path / "journal.sqlite", mark_directory=tmp_path, keep_ballast=False)
    journal.open()
    # Its tables are in the database from here on.
    journal.fold()
    yield journal
    journal.close()


def wal_bytes(journal: Journal) -> int:
    return journal.path.with_name(journal.path.name + "-wal").stat().st_size


def in_database_alone(journal: Journal, folder: Path) -> int:
    """Entries that the database file has without its log."""
    copy = folder / "alone.sqlite"
    # By another process: closing a file lets go of all locks that this one holds on it, SQLite's too.
    subprocess.run(["cp", journal.path, copy], check=True)
    with closing(sqlite3.connect(copy)) as connection:
        return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])


def commit_until_long(journal: Journal) -> None:
    while not journal.has_long_log:
        journal.commit(group(journal))


def test_what_is_folded_back_is_in_the_database_and_the_log_begins_anew(journal: Journal, tmp_path: Path) -> None:
    commit_until_long(journal)
    assert in_database_alone(journal, tmp_path) == 0
    beside = journal.fold_beside()
    assert in_database_alone(journal, tmp_path) == journal.position
    # Written meanwhile: the writer folds it.
    journal.commit(group(journal))
    assert in_database_alone(journal, tmp_path) < journal.position
    journal.fold(beside)
    assert in_database_alone(journal, tmp_path) == journal.position
    assert not journal.has_long_log
    size = wal_bytes(journal)
    for _ in range(20):
        commit_until_long(journal)
        beside = journal.fold_beside()
        journal.commit(group(journal))
        journal.fold(beside)
    # Always in the same place, near the size it was given; the first time its length was a guess.
    assert wal_bytes(journal) <= max(size, 2 * log.WAL_SIZE)


def test_nobody_folds_it_and_the_writer_does(journal: Journal, tmp_path: Path) -> None:
    for _ in range(400):
        journal.commit(group(journal))
    assert in_database_alone(journal, tmp_path) > 0
    assert wal_bytes(journal) < 4 * log.WAL_SIZE


def test_a_reader_in_the_way_is_no_fault(journal: Journal, tmp_path: Path) -> None:
    journal.commit(group(journal))
    with closing(connect_to_read(journal.path)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM entries").fetchone() == (3,)
        commit_until_long(journal)
        beside = journal.fold_beside()
        journal.commit(group(journal))
        journal.fold(beside)
        # Not at once again: the reader may stay for long.
        assert not journal.has_long_log
        commit_until_long(journal)
    journal.fold()
    assert in_database_alone(journal, tmp_path) == journal.position


@pytest.mark.parametrize("by", ["fold", "fold_beside"])
def test_a_disk_that_fails_while_it_is_folded_back_is_the_last_thing(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    commit_until_long(journal)

    def failing(connection: sqlite3.Connection) -> tuple[int, int]:
        err = sqlite3.OperationalError("disk I/O error")
        err.sqlite_errorcode = 10 | 4 << 8
        raise err

    monkeypatch.setattr(log, "fold_beside", failing)
    monkeypatch.setattr("farthing_edge.journal.store.fold_beside", failing)
    with pytest.raises(JournalBroken):
        getattr(journal, by)()
    assert list(tmp_path.glob("*.suspect"))
    with pytest.raises(JournalBroken):
        journal.commit(group(journal))
