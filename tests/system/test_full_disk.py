"""The gateway's disk is full: new uses hear "later", what goes on goes on, and afterwards nothing is lost."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from small_town import FARE_MICROS, GATEWAY, TOLL, Town, call

from farthing.device.messages import AnswerStatus
from farthing.refusal import Refusal
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

    filler.unlink()
    start(town)
    assert toll.pass_once().status is AnswerStatus.GRANTED
    assert town.assert_books_agree() == before + (granted + 1) * FARE_MICROS
    assert town.status()["faults"] == []
