"""Journals that earlier programs wrote: they open, say what they said, and go on."""

import json
import lzma
from contextlib import closing
from pathlib import Path

import pytest
from varied_day import VariedDay, facts_of

from farthing.clock import Instant
from farthing_edge.authorization import commands
from farthing_edge.authorization.applying import apply
from farthing_edge.authorization.deciding import decide
from farthing_edge.authorization.events import KINDS, RollbackSuspected
from farthing_edge.authorization.events import encode as encode_event
from farthing_edge.authorization.state import CoreSettings
from farthing_edge.journal import Entry, Group, Journal, show, verify
from farthing_edge.journal.replaying import recall
from farthing_edge.journal.schema import VERSION
from farthing_edge.journal.snapshotting import write_snapshot
from farthing_edge.journal.store import connect_to_read

JOURNALS = Path(__file__).with_name("journals")
#: Format → kinds of entries that it has.
FORMATS = {
    1: {1, 2, 3, 10, 11, 12, 13, 14, 15, 20, 21, 22, 30, 31, 40},
    2: {1, 2, 3, 10, 11, 12, 13, 14, 15, 20, 21, 22, 30, 31, 40},
    3: {1, 2, 3, 10, 11, 12, 13, 14, 15, 20, 21, 22, 30, 31, 40},
    4: {1, 2, 3, 10, 11, 12, 13, 14, 15, 20, 21, 22, 30, 31, 40},
}
SETTINGS = VariedDay().gateway.settings


def settings() -> CoreSettings:
    return SETTINGS


@pytest.fixture(params=sorted(FORMATS))
def old(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, int]:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(lzma.decompress((JOURNALS / f"format-{request.param}.sqlite.xz").read_bytes()))
    return path, request.param


def missing(expected: object, found: object, where: str = "state") -> list[str]:
    """What was a fact then and is not now; facts that came since are nobody's loss."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return [
            fault
            for name, value in expected.items()
            for fault in (missing(value, found[name], f"{where}.{name}") if name in found else [f"{where}.{name}"])
        ]
    if isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            return [f"{where}: {len(expected)} then, {len(found)} now"]
        return [
            fault
            for number, (then, now) in enumerate(zip(expected, found, strict=True))
            for fault in missing(then, now, f"{where}[{number}]")
        ]
    return [] if expected == found else [f"{where}: {expected!r} then, {found!r} now"]


def test_it_opens_migrates_and_says_what_it_said(old: tuple[Path, int], tmp_path: Path) -> None:
    path, number = old
    with closing(connect_to_read(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (number,)
        kinds = {kind for (kind,) in connection.execute("SELECT DISTINCT kind FROM entries")}
    assert kinds >= FORMATS[number]
    # Looking into it needs no migration.
    assert verify(path, settings()).fault is None
    assert {row["kind"] for row in show(path, limit=10_000)} == {KINDS[kind].__name__ for kind in kinds}

    journal = Journal(path, mark_directory=tmp_path, keep_ballast=False)
    journal.open()
    try:
        with closing(journal.reader()) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
            recalled = recall(path, connection, settings())
    finally:
        journal.close()
    expected = json.loads(lzma.decompress((JOURNALS / f"format-{number}.json.xz").read_bytes()))
    # Through JSON as they were: keys are text there.
    assert missing(expected, json.loads(json.dumps(facts_of(recalled.state)))) == []


def test_it_goes_on(old: tuple[Path, int], tmp_path: Path) -> None:
    """New entries, a snapshot, a start from it: one chain from the first entry to the last."""
    path, _ = old
    journal = Journal(path, mark_directory=tmp_path, keep_ballast=False)
    journal.open()
    with closing(journal.reader()) as connection:
        state = recall(path, connection, settings()).state
    started = commands.Started(start_id=b"n" * 16, boot_id="", clock_epoch_us=0, clock_real_epoch_us=0, clock_rate=1)
    now = Instant(state.head_at)
    group = Group()
    for command in (started, commands.SealDue()):
        for event in decide(state, command, now=now).events:
            assert not isinstance(event, RollbackSuspected)
            apply(state, event)
            group.entries.append(Entry(state.position, now, *encode_event(event)))
    journal.commit(group)
    write_snapshot(path, settings())
    with closing(journal.reader()) as connection:
        recalled = recall(path, connection, settings())
    journal.close()
    assert recalled.from_snapshot == state.position
    assert facts_of(recalled.state) == facts_of(state)
    report = verify(path, settings())
    assert (report.fault, report.snapshots, report.last_position) == (None, 1, state.position)


def test_every_kind_of_its_time_is_still_a_kind() -> None:
    for kinds in FORMATS.values():
        assert kinds <= set(KINDS)
