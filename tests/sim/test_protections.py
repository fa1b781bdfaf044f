"""Each protection is turned off once: then the simulation breaks a promise within few seeds; with it none does (``test_simulation``)."""

from concurrent.futures import Executor

import pytest
from simulation import many, protections
from simulation.device import DeviceNode
from simulation.history import PromiseBroken
from simulation.story import draw
from simulation.watch import Watch
from simulation.world import tell

#: A protection that none of so many seeds needs would not be worth its lines.
MOST_SEEDS = 120
CHUNK = 6


@pytest.mark.parametrize("name", protections.PROTECTIONS)
def test_what_is_turned_off_is_missed(name: str, stories_pool: Executor) -> None:
    protection = protections.PROTECTIONS[name]
    noticed: list[str] = []
    # Two chunks at once, and no more seeds than are needed.
    for start in range(0, MOST_SEEDS, 2 * CHUNK):
        chunks = [(range(first, first + CHUNK), name) for first in (start, start + CHUNK)]
        for outcome in stories_pool.map(many.tell_seeds, chunks):
            noticed += outcome.broken.values()
        if any(said.partition(":")[0] in protection.breaks for said in noticed):
            return
    pytest.fail(f"nobody missed it: {noticed}")


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
