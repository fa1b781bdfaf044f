"""A gateway that dies at random points, with SIGKILL: everything it said is in its journal, and every use is billed once.

``CRASH_SEEDS`` × ``LIVES`` kills; a seed repeats a run.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from short_lives import CHILD, World

SEEDS = range(int(os.environ.get("CRASH_SEEDS", "3")))
LIVES = 9


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where lives are begun."""
    place = tmp_path_factory.mktemp("nursery") / "socket"
    process = subprocess.Popen(
        [sys.executable, str(CHILD), str(place)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with process:
        assert process.stdout.readline() == b"ready\n"
        yield place
        process.kill()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", SEEDS)
async def test_killed_at_random_points_nothing_is_lost_or_doubled(nursery: Path, tmp_path: Path, seed: int) -> None:
    world = World(nursery, tmp_path / "journal.sqlite", seed)
    for _ in range(LIVES):
        await world.life(deadly=True)
    await world.finish()
    world.check_conservation()
    assert world.kills == LIVES
    assert world.answered
