"""P1, P3, P4, P5 (and P6, batch by batch) over many histories, each from one seed.

A failure names its seed: ``simulate(SEED)`` in a shell of ``tests/sim`` tells the same story again, to the last message.
"""

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from sim_world import PromiseBroken, Protections, Trouble, World, simulate

#: CI runs all of them; ten groups, so that a failure says early where.
SEEDS = 200
GROUPS = 10

seen: Counter[str] = Counter()


@pytest.mark.parametrize("group", range(GROUPS))
def test_promises_hold(group: int) -> None:
    for seed in range(group, SEEDS, GROUPS):
        seen.update(simulate(seed).statistics())


def test_the_histories_are_worth_something() -> None:
    """Everything that can go wrong has gone wrong somewhere above."""
    if seen["histories"] < SEEDS:
        pytest.skip("only counts after all seeds have run in this process")
    for what in ("crashes", "claims", "asides", "overrun", "floor", "risk", "debt", "suspense", "without width"):
        assert seen[what] >= SEEDS // 20, (what, seen)


def test_one_seed_is_one_history() -> None:
    first, again = simulate(7), simulate(7)
    assert first.history == again.history
    assert first.cloud.balances() == again.cloud.balances()
    assert simulate(8).history != first.history


def test_a_calm_world_overruns_and_refuses_nothing_it_should_not() -> None:
    """Without trouble nothing is lost on the way, so no intent needs a second try and no session ends without width."""
    world = World(3, trouble=Trouble(loss=0, doubling=0, crash=0, cuts=0))
    world.live()
    world.rest()
    world.check_end()
    assert not any(line.split(" ", 1)[1].startswith("lost") for line in world.history)
    assert world.statistics()["crashes"] == 0


#: So that what is only dangerous beside a crash meets one.
OFTEN = Trouble(crash=0.08)


@pytest.mark.parametrize(
    ("protections", "promises"),
    [
        (Protections(durable_before_spoken=False), ("P3", "P4", "did not come to rest")),
        (Protections(cumulative_claims=False), ("P3", "P4", "P5")),
        (Protections(crash_forgets_only_the_unwritten=False), ("P1", "P2", "P3", "P4")),
    ],
    ids=["spoken before it is durable", "claims not cumulative", "a disk that loses what it wrote"],
)
def test_what_is_turned_off_is_missed(protections: Protections, promises: tuple[str, ...]) -> None:
    """The checks are worth something: without a protection, some of these seeds break a promise; with it, none does."""
    noticed = []
    for seed in range(12):
        simulate(seed, trouble=OFTEN)
        try:
            simulate(seed, protections=protections, trouble=OFTEN)
        except PromiseBroken as err:
            noticed.append(str(err).partition("\n")[0])
            break
    assert noticed, "nobody noticed"
    assert any(promise in noticed[0] for promise in promises), noticed
