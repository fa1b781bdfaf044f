"""The journal: what was committed is there, what is damaged is named, what failed left no trace but a mark."""

import errno
import io
import json
import sqlite3
from pathlib import Path

import pytest
from edge_playbook import DAY, FailingConnection, Gateway, M, Meter, Policy, clock, fund

from farthing.device.messages import encode
from farthing_edge.authorization.events import KIND_OF, Sealed, Started
from farthing_edge.authorization.events import encode as encode_event
from farthing_edge.journal import (
    Entry,
    Group,
    Journal,
    JournalBroken,
    JournalBusy,
    JournalError,
    JournalFull,
    JournalRejected,
    export,
    recovery,
    show,
    verify,
)
from farthing_edge.journal.inspection import parked
from farthing_edge.journal.store import ROWS_AT_ONCE


def entries(count: int, first: int = 1) -> list[Entry]:
    return [
        Entry(position, DAY, *encode_event(Started(bytes(16), "boot", 0, 0, 1)))
        for position in range(first, first + count)
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite"


@pytest.fixture
def journal(path: Path, tmp_path: Path):
    journal = Journal(path, mark_directory=tmp_path)
    journal.open()
    yield journal
    journal.close()


def day_in(journal: Journal) -> Gateway:
    """A played day, committed entry by entry group of five."""
    gateway = Gateway("G1", "S1")
    gateway.told(tariff=Policy.tariff("chg-3"))
    fund(gateway, "P", "card")
    gateway.told(device=Policy.device("c1"))
    gateway.told(quota_granted=Policy.quota("q1", "P", 50 * M, clock("20:00")))
    gateway.at = clock("10:00")
    meter = Meter("c1", 0)
    meter.authorization = gateway.say(meter.intent(gateway), "card").grant_of
    gateway.say(meter.reading(gateway, 1_000))
    gateway.seal()
    gateway.say(meter.end(gateway, 1_500))
    gateway.seal()
    group = Group()
    for position, event in enumerate((e for e in gateway.journal if e.__class__ in KIND_OF), start=1):
        group.entries.append(Entry(position, clock("10:00"), *encode_event(event)))
        if isinstance(event, Sealed):
            group.batches.append((event.incarnation, event.sequence, position, event.batch_hash))
        if len(group.entries) == 5:
            journal.commit(group)
            group = Group()
    journal.commit(group)
    return gateway


def test_what_was_committed_is_there_after_a_reopen(journal: Journal, path: Path) -> None:
    journal.commit(Group(entries=entries(3)))
    journal.commit(Group(entries=entries(2, first=4)))
    journal.close()
    journal.open()
    assert journal.position == 5
    assert [entry.position for entry in journal.entries()] == [1, 2, 3, 4, 5]
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    tables = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    assert all(sql.rstrip().endswith("STRICT") for (sql,) in tables)
    connection.close()


def test_what_is_shown_of_an_entry_says_where_it_stands(journal: Journal, path: Path) -> None:
    day_in(journal)
    shown = list(show(path))
    assert [entry["position"] for entry in shown] == list(range(1, len(shown) + 1))
    (granted,) = (entry for entry in shown if entry["kind"] == "Granted")
    # Its device did not say where that was.
    assert (granted["place"], granted["device"]) == (None, "c1")
    assert not {name for event in KIND_OF for name in event._fields} & {"kind", "at_us", "place"}


def test_one_writer_any_number_of_readers(journal: Journal, path: Path) -> None:
    gateway = day_in(journal)
    with pytest.raises(JournalBusy, match="another farthing-edge"):
        Journal(path).open()
    report = verify(path, gateway.settings)
    assert report.fault is None
    assert (report.entries, report.batches, report.open_authorizations) == (journal.position, 2, 0)
    assert report.billed_micros == (500_000 + 1_500 * 250) * 12 // 10
    assert report.unsealed_micros == 0
    kinds = [row["kind"] for row in show(path, limit=1_000)]
    assert kinds.count("Metered") == 2
    out = io.StringIO()
    assert export(path, out) == journal.position
    assert json.loads(out.getvalue().splitlines()[0])["position"] == 1


def test_a_changed_entry_is_named(journal: Journal, path: Path) -> None:
    gateway = day_in(journal)
    journal.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE entries SET at_us = at_us + 1 WHERE position = 4")
    connection.commit()
    connection.close()
    assert verify(path, gateway.settings).fault.position == 4
    journal.open()
    with pytest.raises(JournalError, match="damaged at position 4"):
        list(journal.entries())


def test_a_missing_entry_is_named(journal: Journal, path: Path) -> None:
    gateway = day_in(journal)
    journal.close()
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM entries WHERE position = 6")
    connection.commit()
    connection.close()
    assert verify(path, gateway.settings).fault.position == 6


def test_a_group_that_the_database_refuses_leaves_nothing(journal: Journal) -> None:
    journal.commit(Group(entries=entries(2)))
    with pytest.raises(JournalRejected):
        journal.commit(Group(entries=entries(2, first=2)))
    assert journal.position == 2
    journal.commit(Group(entries=entries(1, first=3)))
    assert [entry.position for entry in journal.entries()] == [1, 2, 3]


def test_entries_alone_are_one_sentence_and_all_else_one_transaction(journal: Journal) -> None:
    said: list[str] = []
    journal._connection.set_trace_callback(said.append)
    journal.commit(Group(entries=entries(3)))
    (sentence,) = said
    assert sentence.startswith("INSERT")
    said.clear()
    many = 2 * ROWS_AT_ONCE + 1
    journal.commit(Group(entries=entries(many, first=4), signatures=[(bytes(64), bytes(8), 1, 1)]))
    assert [each.split()[0] for each in said] == ["BEGIN", "INSERT", "INSERT", "INSERT", "UPDATE", "COMMIT"]
    assert journal.position == 3 + many


def test_a_commit_that_fails_for_io_leaves_a_mark_and_the_next_start_copies(
    journal: Journal, path: Path, tmp_path: Path
) -> None:
    journal.commit(Group(entries=entries(2)))
    journal._connection = FailingConnection(journal._connection, 10)
    with pytest.raises(JournalBroken, match="check the disk"):
        journal.commit(Group(entries=entries(1, first=3)))
    mark = recovery.mark_path(path, tmp_path)
    assert mark.exists()
    with pytest.raises(JournalBroken):
        journal.commit(Group(entries=entries(1, first=3)))
    journal.close()
    again = Journal(path, mark_directory=tmp_path)
    again.open()
    assert not mark.exists()
    assert again.moved_aside is not None
    assert again.moved_aside.exists()
    assert [entry.position for entry in again.entries()] == [1, 2]
    again.commit(Group(entries=entries(1, first=3)))
    again.close()


@pytest.mark.parametrize("has_tmpfs", [True, False])
def test_where_the_tmpfs_takes_no_mark_it_lies_beside_the_journal(
    path: Path, tmp_path: Path, has_tmpfs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/run may be full, or there may be none: the next start must know all the same."""
    monkeypatch.setattr(recovery, "default_mark_directory", lambda: tmp_path / "not there" if has_tmpfs else None)
    journal = Journal(path)
    journal.open()
    journal.commit(Group(entries=entries(2)))
    journal._connection = FailingConnection(journal._connection, 10)
    with pytest.raises(JournalBroken, match=r"failed \(.*\): check the disk"):
        journal.commit(Group(entries=entries(1, first=3)))
    journal.close()
    again = Journal(path)
    again.open()
    assert again.moved_aside is not None
    assert [entry.position for entry in again.entries()] == [1, 2]
    again.close()
    again.open()
    # One stopped, whatever of its log could be folded back: with it, or beside it.
    assert len(list(path.parent.glob("*.suspect-*[0-9]"))) == 1
    again.close()


def test_where_no_mark_can_be_left_people_are_told(
    journal: Journal, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "mark_path", lambda *_: tmp_path / "not there" / "mark")
    monkeypatch.setattr(recovery, "mark_beside", lambda _: tmp_path / "not there" / "mark", raising=False)
    journal._connection = FailingConnection(journal._connection, 10)
    with pytest.raises(JournalBroken, match=r"touch .*mark"):
        journal.commit(Group(entries=entries(1)))
    with pytest.raises(JournalBroken, match="check the disk, then start again"):
        journal.commit(Group(entries=entries(1)))


def test_a_full_disk_gives_up_the_reserve_once(journal: Journal) -> None:
    journal.commit(Group(entries=entries(1)))
    real = journal._connection
    assert journal.has_reserve
    journal._connection = FailingConnection(real, 13)
    journal.commit(Group(entries=entries(1, first=2)))
    assert not journal.has_reserve
    journal._connection = FailingConnection(real, 13)
    with pytest.raises(JournalFull, match="free some space"):
        journal.commit(Group(entries=entries(1, first=3)))
    journal._connection = real
    assert journal.position == 2
    assert journal.try_to_reserve()
    assert journal.has_reserve


def test_a_newer_format_is_not_touched(journal: Journal, path: Path) -> None:
    journal.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(JournalError, match="install the newer program"):
        journal.open()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(JournalError, match="never delete it"):
        Journal(path, mark_directory=tmp_path).open()
    assert path.read_bytes().startswith(b"not a database")


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(JournalError, match="state_dir") as caught:
        Journal(tmp_path / "file" / "journal.sqlite").open()
    assert caught.value.__cause__.errno in {errno.ENOTDIR, errno.EEXIST}


def test_verify_names_a_batch_whose_bytes_changed_with_its_chain(journal: Journal, path: Path) -> None:
    gateway = day_in(journal)
    report = verify(path, gateway.settings)
    assert report.last_position == journal.position
    assert report.directives == gateway.state.directive_version


def test_what_waits_for_people_is_read_beside_a_running_gateway(journal: Journal, path: Path) -> None:
    gateway = day_in(journal)
    first = gateway.state.position + 1
    before = len(gateway.journal)
    gateway.told(account=Policy.account("Q"))
    meter = Meter("c1", 1_500, counter=50)
    gateway.at = clock("11:00")
    meter.authorization = gateway.say(meter.intent(gateway), "card").grant_of
    odd = meter.reading(gateway, 90_000)
    gateway.say(odd)
    group = Group()
    happened = [event for event in gateway.journal[before:] if event.__class__ in KIND_OF]
    for position, event in enumerate(happened, start=first):
        group.entries.append(Entry(position, clock("11:00"), *encode_event(event)))
    journal.commit(group)
    journal.park(clock("11:01"), "DirectiveArrived", b"body", "ValueError: nobody could decide it")
    statement, command = parked(path, gateway.settings)
    assert (statement["device"], statement["counter"], statement["reason"]) == ("c1", odd.counter, "REGISTER_TOO_FAST")
    assert (statement["value"], statement["is_end"]) == (90_000, False)
    assert bytes.fromhex(statement["statement"]).endswith(encode(odd))
    assert (command["what"], command["reason"]) == ("command DirectiveArrived", "ValueError: nobody could decide it")


def test_a_damage_that_only_reading_finds_is_said_with_what_to_do(journal: Journal, path: Path) -> None:
    day_in(journal)
    journal.close()
    with sqlite3.connect(path) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entries'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    data = bytearray(path.read_bytes())
    data[(page - 1) * size : page * size] = bytes(size)
    path.write_bytes(data)
    with pytest.raises(JournalError, match="journal verify"):
        journal.open()
