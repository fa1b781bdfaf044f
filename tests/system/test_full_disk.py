"""The gateway's disk is full: new uses hear "later", what goes on goes on, and afterwards nothing is lost. It fails: the gateway ends."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from lying_disk import LyingDisk, compile_library
from small_town import FARE_MICROS, GATEWAY, PARKING, PATIENCE_S, TOLL, Town, call

from farthing.device.messages import AnswerStatus, End, Envelope, encode
from farthing.refusal import Refusal
from farthing.tariff import Use, parse, price
from farthing_edge.journal.recovery import BALLAST_SIZE

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

#: The journal, its reserve, as much again (so that the reserve is set aside again), and something to fill.
DISK_SIZE = 3 * BALLAST_SIZE


@pytest.fixture
def small_disk(town: Town) -> Iterator[Path]:
    """The gateway's state on a small disk of its own, the gateway running on it; moved back afterwards."""
    place, aside = town.folder / GATEWAY, town.folder / f"{GATEWAY}-aside"
    town.gateway.stop()
    shutil.move(place, aside)
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", str(place)], capture_output=True, check=False
    )
    try:
        shutil.copytree(aside, place, dirs_exist_ok=True)
        if mounted.returncode:
            pytest.skip(f"no disk of its own: {mounted.stderr.decode().strip()}")
        shutil.rmtree(aside)
        start(town)
        yield place
    finally:
        if town.gateway.process is not None:
            town.gateway.stop()
        if not mounted.returncode:
            (place / "filler").unlink(missing_ok=True)
            shutil.copytree(place, aside, dirs_exist_ok=True)
            subprocess.run(["umount", str(place)], check=True)
            shutil.copytree(aside, place, dirs_exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        start(town)


@pytest.fixture
def lying_disk(town: Town, tmp_path: Path) -> Iterator[LyingDisk]:
    """The gateway's state on a disk that fails when told to; the gateway runs on an honest one afterwards."""
    disk = LyingDisk(town.folder / GATEWAY, compile_library(tmp_path))
    arguments = town.gateway.arguments
    town.gateway.stop()
    town.gateway.arguments = ["env", *(f"{name}={value}" for name, value in disk.environment.items()), *arguments]
    start(town)
    yield disk
    town.gateway.arguments = arguments
    if town.gateway.process is not None:
        town.gateway.kill()
    disk.say()
    start(town)


def start(town: Town) -> None:
    """Start the gateway; it is ready when its broker is."""
    town.addresses.update(town.gateway.start().ready())
    town.until(lambda: town.status()["broker"]["connected"], "the broker")


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1024 * 1024, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    return filler


def test_a_full_disk_stops_new_uses_and_loses_nothing(town: Town, small_disk: Path) -> None:
    toll = town.speaker(TOLL)
    before = town.assert_books_agree()
    filler = fill(small_disk)
    granted = 0
    # What is written first finds the reserve; from then on it is not for new uses.
    while (answer := toll.ask()).status is AnswerStatus.GRANTED:
        granted += 1
        toll.register += 1
    assert (answer.status, answer.refusal) == (AnswerStatus.LATER, Refusal.STORAGE_FULL)
    assert any(fault.startswith("disk: ") for fault in town.status()["faults"])

    # A start that finds not one byte says so, and says nothing else.
    town.gateway.kill()
    fill(small_disk)
    refused = call("farthing-edge", "run", "--config", town.config(GATEWAY))
    assert (refused.returncode, "is full: free some space" in refused.stderr) == (1, True)

    # With room again the reserve is set aside again; a start that finds the disk full then lives on it: what goes on can end.
    filler.unlink()
    start(town)
    uses = town.speaker(PARKING)
    intent, salt = uses.intent(one_shot=None)
    assert uses.say(uses.envelope(intent, salt)).status is AnswerStatus.GRANTED
    town.until(town.drained, "the backlog to drain")
    town.gateway.stop()
    fill(small_disk)
    start(town)
    answer = toll.ask()
    assert (answer.status, answer.refusal) == (AnswerStatus.LATER, Refusal.STORAGE_FULL)
    end = uses.word(End, intent)
    assert uses.say(encode(Envelope(statement=uses.sign(end)))).status is AnswerStatus.RECORDED

    filler.unlink()
    town.until(lambda: town.status()["faults"] == [], "room to be noticed")
    assert toll.pass_once().status is AnswerStatus.GRANTED
    use = Use(unit="s", start=uses.register, end=uses.register, started_at=intent.at, ended_at=end.at)
    parked = price(parse((town.parties.cloud.folder / "tariff-park.json").read_bytes()), use, closing=True).gross_micros
    assert town.assert_books_agree() == before + (granted + 1) * FARE_MICROS + parked
    assert town.status()["faults"] == []


def test_a_sync_that_fails_ends_the_gateway_before_it_says_another_word(town: Town, lying_disk: LyingDisk) -> None:
    toll = town.speaker(TOLL)
    assert toll.pass_once().status is AnswerStatus.GRANTED
    before = town.assert_books_agree()
    intent, salt = toll.intent()
    envelope, heard = toll.envelope(intent, salt), len(toll.client.came)
    lying_disk.say("eio 1")
    toll.client.publish(f"farthing/{toll.device}/up", envelope)
    process = town.gateway.process
    assert process is not None
    assert process.wait(PATIENCE_S) == 1
    assert "check the disk, then start again" in town.gateway.said()
    assert len(toll.client.came) == heard

    # The disk is well again. What was never said is in the page cache: it is copied before anything rests on it, and decided once.
    lying_disk.say()
    start(town)
    assert len(list(lying_disk.folder.glob("journal.sqlite.suspect-*[0-9]"))) == 1
    assert toll.say(envelope).status is AnswerStatus.GRANTED
    toll.register += 1
    assert town.assert_books_agree() == before + FARE_MICROS
