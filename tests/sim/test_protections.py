"""Each protection is turned off once: then the simulation breaks a promise within few seeds; with it none does (``test_simulation``)."""

from concurrent.futures import Executor, Future

import pytest
from simulation import many, protections
from simulation.device import DeviceNode
from simulation.history import PromiseBroken
from simulation.story import draw
from simulation.watch import Watch
from simulation.world import tell

#: A protection that none of so many seeds needs would not be worth its lines.
MOST_SEEDS = 120


@pytest.fixture(scope="module")
def told(request: pytest.FixtureRequest, stories_pool: Executor) -> dict[str, Future[list[str]]]:
    """Protection → what broke without it, of all that are asked for: a process takes the next when it is done with one, and no more seeds than are needed."""
    asked = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    names = dict.fromkeys(params["protection"] for params in asked if "protection" in params)
    return {name: stories_pool.submit(many.told_until_missed, name, range(MOST_SEEDS)) for name in names}


@pytest.mark.parametrize("protection", protections.PROTECTIONS)
def test_what_is_turned_off_is_missed(protection: str, told: dict[str, Future[list[str]]]) -> None:
    broken = told[protection].result()
    assert many.is_missed(protection, broken), f"nobody missed it: {broken}"


def test_who_begins_after_the_lapse_breaks_no_other_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that does not know that a yes lapses: its late use is billed, once and within what is held, like any other."""
    late: list[str] = []
    began = Watch.began

    def noticed(watch: Watch, device: DeviceNode, intent_counter: int) -> None:
        try:
            began(watch, device, intent_counter)
        except PromiseBroken as err:
            late.append(err.promise)

    monkeypatch.setattr(Watch, "began", noticed)
    with protections.turned_off("lapse") as players:
        for seed in range(6):
            tell(protections.provoked("lapse", draw(seed)), players=players)
    assert set(late) == {"lapse"}
