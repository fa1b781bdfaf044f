"""A snapshot is a replay written down: the same state, the same decisions after it, and never needed while the entries are there."""

import json
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cbor2
import pytest
from varied_day import VariedDay, facts_of

from farthing_edge.authorization import state as state_module
from farthing_edge.authorization.state import CoreSettings, GatewayState
from farthing_edge.journal import Journal, JournalError, graph, snapshots, verify
from farthing_edge.journal.graph import GraphError, state_from_bytes, state_to_bytes
from farthing_edge.journal.replaying import Recalled, recall
from farthing_edge.journal.snapshotting import command, settings_to_json, write_snapshot
from farthing_edge.journal.store import connect_to_read


def again(state: GatewayState) -> GatewayState:
    restored, lacking = state_from_bytes(state_to_bytes(state), state.settings)
    assert not lacking
    return restored


# States ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_what_is_restored_is_the_same_and_decides_the_same(seed: int) -> None:
    """Two gateways live the same day; one is written down and read back every ten rounds."""
    plain, restored = VariedDay(seed), VariedDay(seed)
    for _ in range(5):
        plain.play(10)
        restored.play(10)
        assert restored.gateway.journal == plain.gateway.journal
        before = restored.gateway.state
        restored.gateway.state = again(before)
        assert facts_of(restored.gateway.state) == facts_of(before) == facts_of(plain.gateway.state)
        # One state is one string of bytes, however it came about.
        assert state_to_bytes(restored.gateway.state) == state_to_bytes(before)
        assert state_to_bytes(again(plain.gateway.replayed())) == state_to_bytes(plain.gateway.replayed())


def test_what_was_one_object_is_one_object_again() -> None:
    day = VariedDay().play(20)
    state = again(day.gateway.state)
    assert any(account.quotas for account in state.accounts.values())
    for account in state.accounts.values():
        assert all(state.quotas[quota.id] is quota for quota in account.quotas)
        assert account.request is None or state.requests[account.request.counter] is account.request
    opened = [register.open for device in state.devices.values() for register in device.registers.values()]
    assert any(opened)
    assert all(state.authorizations[each.id] is each for each in opened if each is not None)
    for device in state.devices.values():
        for seen in device.seen.values():
            assert seen.authorization is None or state.authorizations[seen.authorization.id] is seen.authorization
    assert all(state.authorizations[record.authorization.id] is record.authorization for record in state.unsealed)


def change(data: bytes, **changes: object) -> bytes:
    """The same bytes with tables changed: class name → function of its columns."""
    document = cbor2.loads(data)
    for table in document["tables"]:
        if table[0] in changes:
            table[2] = changes[table[0]](table[2])  # type: ignore[operator]  # a function
    return cbor2.dumps(document)


def test_a_field_that_an_older_program_did_not_write_is_as_a_new_object_begins() -> None:
    day = VariedDay().play(20)
    data = state_to_bytes(day.gateway.state)
    older = change(data, Account=lambda columns: [each for each in columns if each[0] != "ahead"])
    state, lacking = state_from_bytes(older, day.gateway.settings)
    assert lacking
    assert all(account.ahead is True for account in state.accounts.values())
    document = cbor2.loads(data)
    del document["root"]["records"]
    state, lacking = state_from_bytes(cbor2.dumps(document), day.gateway.settings)
    assert lacking
    assert state.records == 0


def test_a_field_that_cannot_begin_by_itself_is_refused() -> None:
    day = VariedDay().play(20)
    data = state_to_bytes(day.gateway.state)
    older = change(data, Account=lambda columns: [each for each in columns if each[0] != "currency"])
    with pytest.raises(GraphError, match="currency is not in it"):
        state_from_bytes(older, day.gateway.settings)


def test_what_a_newer_program_wrote_is_refused() -> None:
    day = VariedDay().play(20)
    data = state_to_bytes(day.gateway.state)
    for newer, said in (
        (change(data, Quota=lambda columns: [*columns, ["colour", 0, columns[0][2]]]), "Quota has no {'colour'}"),
        (cbor2.dumps({**cbor2.loads(data), "version": 99}), "version 99"),
        (cbor2.dumps({**cbor2.loads(data), "tables": [["Surprise", 0, []]]}), "no class Surprise"),
        (data[:-1], "not the bytes"),
        (b"", "not the bytes"),
    ):
        with pytest.raises(GraphError, match=said):
            state_from_bytes(newer, day.gateway.settings)
    document = cbor2.loads(data)
    document["root"]["colour"] = 1
    with pytest.raises(GraphError, match="GatewayState has no colour"):
        state_from_bytes(cbor2.dumps(document), day.gateway.settings)


def test_what_no_module_of_the_state_defines_is_refused() -> None:
    @dataclass
    class Stranger:
        name: str

    day = VariedDay().play(2)
    day.gateway.state.low = Stranger("x")  # type: ignore[assignment]  # what a bug would do
    with pytest.raises(GraphError, match="Stranger"):
        state_to_bytes(day.gateway.state)


def test_every_class_of_the_state_can_be_written() -> None:
    """Whoever adds a class to the state finds out here that it needs slots, or to be a dataclass."""
    mine = [each for each in vars(state_module).values() if getattr(each, "__module__", "") == state_module.__name__]
    classes = [each for each in mine if isinstance(each, type) and not issubclass(each, Exception | GatewayState)]
    assert len(classes) > 10
    for each in classes:
        assert graph.field_names(each)


# Files ----------------------------------------------------------------------------------------------------------------


@dataclass
class Kept:
    """A journal with a day in it."""

    path: Path
    day: VariedDay

    @property
    def settings(self) -> CoreSettings:
        return self.day.gateway.settings

    def recalled(self) -> Recalled:
        with closing(connect_to_read(self.path)) as connection:
            return recall(self.path, connection, self.settings)

    def facts(self) -> dict[str, object]:
        return facts_of(self.recalled().state)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """Half of a day, a snapshot, the other half."""
    day = VariedDay().play(20)
    half = day.gateway.state.position
    day.play(10)
    path = tmp_path / "journal.sqlite"
    journal = Journal(path, mark_directory=tmp_path, keep_ballast=False)
    journal.open()
    day.write(journal, until=half)
    write_snapshot(path, day.gateway.settings)
    day.write(journal, after=half)
    journal.close()
    return Kept(path, day)


def test_a_start_is_the_snapshot_and_the_entries_after_it(kept: Kept) -> None:
    recalled = kept.recalled()
    assert recalled.from_snapshot > 0
    assert recalled.replayed == recalled.state.position - recalled.from_snapshot > 0
    assert facts_of(recalled.state) == facts_of(kept.day.gateway.replayed())
    assert recalled.faults == ()
    report = verify(kept.path, kept.settings)
    assert (report.fault, report.snapshots) == (None, 1)


def test_the_process_that_writes_one(kept: Kept) -> None:
    done = subprocess.run(
        command(kept.path), input=settings_to_json(kept.settings), capture_output=True, check=True, timeout=60
    )
    written = json.loads(done.stdout)
    assert written["position"] == kept.recalled().from_snapshot == kept.day.gateway.state.position
    assert written["replayed"] < written["position"]  # it began with the one before
    assert done.stderr == b""
    nowhere = subprocess.run(
        command(kept.path.with_name("none")), input=settings_to_json(kept.settings), capture_output=True, timeout=60
    )
    assert (nowhere.returncode, nowhere.stdout) == (1, b"")
    assert b"no journal at" in nowhere.stderr


def test_two_are_kept_and_nothing_else_is_left(kept: Kept) -> None:
    first = kept.recalled().from_snapshot
    for _ in range(3):
        write_snapshot(kept.path, kept.settings)
    names = sorted(each.name for each in snapshots.folder_of(kept.path).iterdir())
    assert [snapshots.position_of(Path(name)) for name in names] == [first, kept.day.gateway.state.position]
    assert snapshots.covered(kept.path) == first


@pytest.mark.parametrize("spoil", ["cut", "a bit", "empty", "renamed", "a stranger"])
def test_a_damaged_one_is_passed_over(kept: Kept, spoil: str) -> None:
    """Back to the one before it; without one, a replay of everything."""
    facts = kept.facts()
    before = kept.recalled().from_snapshot
    write_snapshot(kept.path, kept.settings)
    newest = snapshots.found(kept.path)[0]
    data = newest.read_bytes()
    if spoil == "cut":
        newest.write_bytes(data[: len(data) // 2])
    elif spoil == "a bit":
        newest.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    elif spoil == "empty":
        newest.write_bytes(b"")
    elif spoil == "renamed":
        newest.rename(newest.with_name(f"{snapshots.position_of(newest) - 1:015d}.snapshot"))
    else:
        newest.rename(newest.with_name("zzz.snapshot"))
    recalled = kept.recalled()
    assert recalled.from_snapshot == before
    assert len(recalled.faults) == 1
    assert facts_of(recalled.state) == facts
    for each in snapshots.found(kept.path):
        each.write_bytes(b"farthing snapshot 1\n")
    recalled = kept.recalled()
    assert recalled.from_snapshot == 0
    assert facts_of(recalled.state) == facts


def test_one_of_another_history_is_passed_over(kept: Kept, tmp_path: Path) -> None:
    """Same position, another journal: the hash there is another one."""
    other = VariedDay(seed=2).play(20)
    path = tmp_path / "other" / "journal.sqlite"
    journal = Journal(path, mark_directory=tmp_path, keep_ballast=False)
    journal.open()
    other.write(journal, until=snapshots.position_of(snapshots.found(kept.path)[0]))
    write_snapshot(path, other.gateway.settings)
    journal.close()
    (mine,), (theirs,) = snapshots.found(kept.path), snapshots.found(path)
    mine.write_bytes(theirs.read_bytes())
    recalled = kept.recalled()
    assert recalled.from_snapshot == 0
    assert "another history" in recalled.faults[0]
    assert verify(kept.path, kept.settings).fault is not None


def test_one_that_is_not_what_the_entries_say_is_named(kept: Kept) -> None:
    (path,) = snapshots.found(kept.path)
    snapshot = snapshots.read(path, kept.settings)
    snapshot.state.records += 1
    snapshots.write(kept.path, snapshot.state, snapshot.chain)
    fault = verify(kept.path, kept.settings).fault
    assert fault is not None
    assert "not what the entries say" in fault.what


def test_one_of_an_older_program_gives_way_to_a_whole_journal(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it did not keep, the entries still tell."""
    monkeypatch.setattr(GatewayState, "__init__", _with_another_field(GatewayState.__init__))
    recalled = kept.recalled()
    assert recalled.from_snapshot == 0
    assert "an older program" in recalled.faults[0]


def _with_another_field(init):
    def grown(self: GatewayState, settings: CoreSettings) -> None:
        init(self, settings)
        self.grown = 7  # type: ignore[attr-defined]  # tomorrow's field

    return grown


def test_a_damaged_entry_after_it_is_named_not_passed_over(kept: Kept) -> None:
    last = kept.day.gateway.state.position
    with closing(sqlite3.connect(kept.path)) as connection:
        connection.execute("UPDATE entries SET at_us = at_us + 1 WHERE position = ?", (last - 1,))
        connection.commit()
    with pytest.raises(JournalError, match=f"damaged at position {last - 1}"):
        kept.recalled()


def test_the_size_is_bounded_by_what_it_says(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "MAX_STATE_SIZE", 10)
    recalled = kept.recalled()
    assert recalled.from_snapshot == 0
    assert "unpacks to" in recalled.faults[0]
