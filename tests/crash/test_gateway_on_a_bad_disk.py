"""The engine on a disk that fails at a random sync, and on one that fills up in between: nothing said is lost, nothing is billed twice.

After a failed sync nobody knows what is on the disk: the process ends without another word, and the next one reads again. On a full disk
nothing was written: who asked hears "later", and is heard when there is room.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lying_disk import LyingDisk, compile_library
from short_lives import CHILD, World

SEEDS = range(int(os.environ.get("CRASH_SEEDS", "2")))
LIVES = 2


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def nursery(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("nursery") / "socket"
    process = subprocess.Popen(
        [sys.executable, str(CHILD), str(place)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "LD_PRELOAD": str(library)},
    )
    with process:
        assert process.stdout.readline() == b"ready\n"
        yield place
        process.kill()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_sync_that_fails_and_a_disk_that_fills_up(
    nursery: Path, library: Path, tmp_path: Path, seed: int
) -> None:
    disk = LyingDisk(tmp_path / "state", library)
    world = World(nursery, disk.folder / "journal.sqlite", 100 + seed)
    await world.life(deadly=False)
    for _ in range(LIVES):
        # The shortest life has some sixteen.
        disk.say(f"eio {world.rng.randrange(1, 13)}")
        await world.life(deadly=False)
        assert list(disk.folder.glob("*.suspect")), "it went on after a sync that failed"
        disk.say()
        # The copy that this begins with leaves the old one aside.
        heard = len(world.answered)
        await world.life(deadly=False)
        assert len(world.answered) > heard
    assert len(list(disk.folder.glob("journal.sqlite.suspect-*[0-9]"))) == LIVES
    for _ in range(LIVES):
        disk.say(f"room {disk.size() + world.rng.randrange(120_000)}")
        await world.life(deadly=False)
        disk.say()
    assert world.turned_away
    await world.finish()
    world.check_conservation()
