"""Parts of the cloud die while devices go on: authorizing does not stop, and afterwards nothing is lost or doubled."""

import os
import signal

import pytest
from small_town import FARE_MICROS, SPARE, Town, postmaster

from farthing.device.messages import AnswerStatus

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


def pass_often(town: Town, times: int) -> None:
    """Passages, each granted."""
    spare = town.speaker(SPARE)
    assert {spare.pass_once().status for _ in range(times)} == {AnswerStatus.GRANTED}


def test_postgresql_gone_costs_nothing(town: Town) -> None:
    before = town.assert_books_agree()
    pass_often(town, 20)
    dead = postmaster(town.data_dir)
    os.kill(dead, signal.SIGKILL)
    pass_often(town, 20)
    done = town.try_admin("operators", "list")
    assert done.returncode == 0 or "database is out of reach" in done.stderr
    assert town.assert_books_agree() == before + 40 * FARE_MICROS
    assert postmaster(town.data_dir) != dead


@pytest.mark.parametrize("database_too", [False, True], ids=["its database left running", "with its database"])
def test_a_killed_cloud_takes_up_where_it_was(town: Town, database_too: bool) -> None:
    before = town.assert_books_agree()
    pass_often(town, 5)
    left = postmaster(town.data_dir)
    town.cloud.kill()
    if database_too:
        os.kill(left, signal.SIGKILL)
    done = town.try_admin("operators", "list")
    assert (done.returncode, "the back office does not answer: start it" in done.stderr) == (1, True)
    pass_often(town, 5)
    town.cloud.start()
    pass_often(town, 5)
    town.cloud.ready()
    assert (postmaster(town.data_dir) == left) is not database_too
    assert town.assert_books_agree() == before + 15 * FARE_MICROS
