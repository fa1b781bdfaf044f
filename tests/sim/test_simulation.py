"""P1, P3, P4, P5 (and P6, batch by batch) over many histories, each from one seed.

A failure names its seed, shrinks it and prints what happened; ``make sim SEED=…`` tells the same story again, to the last message.
``SIM_SEEDS`` says how many.
"""

import os
from collections import Counter
from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path

import pytest
from simulation import many, protections
from simulation.cast import EUR
from simulation.history import PromiseBroken
from simulation.lots import Lots
from simulation.shrinking import shrink
from simulation.story import draw, read, write
from simulation.watch import Watch
from simulation.world import World, recorded, tell

from farthing.ids import AccountId
from farthing_cloud.ledger.core.posting import Cause, Posting, Transfer
from farthing_edge.authorization.state import QuotaRequest

SEEDS = int(os.environ.get("SIM_SEEDS", "1000"))
#: So that a failure says early where.
GROUPS = 10

seen: Counter[str] = Counter()


@pytest.mark.parametrize("group", range(GROUPS))
def test_promises_hold(group: int, stories_pool: Executor) -> None:
    seeds = range(group, SEEDS, GROUPS)
    chunks = [(seeds[start : start + 10], "") for start in range(0, len(seeds), 10)]
    for outcome in stories_pool.map(many.tell_seeds, chunks):
        seen.update(outcome.seen)
        for seed in sorted(outcome.broken):
            pytest.fail(many.report(seed))


#: A thing happens at least once in so many stories.
ONCE_IN = 100


@pytest.mark.parametrize(
    "what",
    [
        "gateway crashes",
        "device crashes",
        "CrashLedger",
        "JumpClock",
        "Suspend",
        "Deny",
        "Freeze",
        "copies",
        "set aside",
        "messages lost",
        "messages doubled",
        "messages late",
        "cancelled uses",
        "refused intents",
        "stories with floor",
        "stories with overrun",
        "stories with debt",
        "stories with risk",
        "stories with suspense",
        "disk faults",
        "gateways gone",
        "ledgers restored",
        "quotas held again",
        "gateways given up",
        "disks that went wrong beside a restored ledger",
        "uses that only a database and a journal had, and both are lost",
        "incarnation posted",
        "Adopted journaled",
        "EndCarried journaled",
        "Disclaimed journaled",
        "carried: session",
        "carried: one-shot",
        "carried: standing",
        "registers that came round",
        "ends handed over",
        "carried ends beyond their holds: floor",
        "carried ends beyond their holds: late",
        "carried ends beyond their holds: overrun",
        "claims under a limit",
        "days that ended under limits",
        "decisions under the limit of a token's day",
        "decisions under the limit of a device's day",
        "uses under the count of a token's day",
        "uses under the count of a device's day",
        "uses begun offline under limits",
        "refused: LIMIT_PER_AUTHORIZATION",
        "refused: LIMIT_PER_DAY",
        "refused: LIMIT_SINCE_CONTACT",
        "claims on an entitlement: Wh",
        "claims on an entitlement: ml",
        "claims on an entitlement: passage",
        "beyond an entitlement's holds: overrun",
        "registers replaced: session",
        "registers replaced: one-shot",
        "registers replaced: standing",
        "uses of a replaced register that are parked for people",
        "passages left",
        "yeses that lapsed on their way",
        "Lapsed journaled",
        "ticks",
        "holds ended by silence",
        "holds ended by forced",
    ],
)
def test_the_histories_are_worth_something(what: str) -> None:
    """Everything that can go wrong has gone wrong somewhere above."""
    if seen["stories"] < SEEDS:
        pytest.skip("only counts after all seeds have been told by this process")
    assert seen[what] >= SEEDS // ONCE_IN, seen


def test_one_seed_is_one_history_in_every_process(stories_pool: Executor) -> None:
    """Not even the order of sets differs: their hashes are salted by process."""
    assert stories_pool.submit(many.fingerprint, 7).result() == many.fingerprint(7)
    assert many.fingerprint(8) != many.fingerprint(7)


def test_a_story_that_was_written_down_is_told_again_as_it_was(tmp_path: Path) -> None:
    first = tell(draw(11), keep_history=True)
    write(recorded(draw(11), first), tmp_path / "story.json")
    again = tell(read(tmp_path / "story.json"), keep_history=True)
    assert again.history.lines() == first.history.lines()
    assert again.ledger.balances() == first.ledger.balances()


def test_lots_do_not_depend_on_each_other() -> None:
    lots = Lots(1)
    first = [lots.draw(name) for name in ("a", "b")]
    assert [Lots(1).draw(name) for name in ("b", "a")] == first[::-1]
    assert Lots(2).draw("a") != first[0]


@pytest.mark.parametrize("went_back", [True, False])
def test_people_are_asked_about_a_request_that_tells_another_story(went_back: bool) -> None:
    """Its hello agrees, and nothing is posted twice: the case alone says so, and without people it authorizes no more."""
    world = World(draw(0), keep_history=True)
    name, gateway = min(world.gateways.items())
    gateway.disk_faults = int(went_back)
    one, other = (
        QuotaRequest(counter=1, account_id=AccountId(account), currency=EUR, wanted_micros=1_000_000)
        for account in sorted(world.accounts)[:2]
    )
    for _ in range(2):
        world.ledger.ask(gateway, 1, one)
    with nullcontext() if went_back else pytest.raises(PromiseBroken, match=r"^P3: quota request 1/1"):
        world.ledger.ask(gateway, 1, other)
    world.ledger.ask(gateway, 1, other)
    asked = f"people are asked about {name}: quota request 1/1 tells another story"
    assert [asked in line for line in world.history.lines()].count(True) == went_back


def test_a_failing_story_is_shrunk_to_what_breaks_it() -> None:
    with protections.turned_off("overlap check") as players:
        for seed in range(100):
            story = draw(seed)
            promise = many.broken_by(story, players)
            if promise:
                break
        else:
            pytest.fail("no seed in a hundred had a copied device that was billed twice")
        small = shrink(story, players=players, most_tries=60)
        with pytest.raises(PromiseBroken, match=f"^{promise}:") as broken:
            tell(small, players=players, keep_history=True)
    assert len(small.actions) < len(story.actions) // 2
    assert any("is copied" in line for line in broken.value.told().history.lines(chatter=False))


def test_what_carried_ends_bill_counts_once_in_each_database_of_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restored ledger posts once more what came after its backup; in one database the same money twice is beyond the bound."""
    beyond: list[tuple[Watch, Posting, Transfer]] = []
    counted = Watch.carried_end_beyond

    def seen_by(watch: Watch, posting: Posting, transfer: Transfer) -> None:
        counted(watch, posting, transfer)
        if transfer.cause is not Cause.OVERRUN:
            beyond.append((watch, posting, transfer))

    monkeypatch.setattr(Watch, "carried_end_beyond", seen_by)
    for seed in range(100):
        tell(draw(seed))
        if beyond:
            break
    else:
        pytest.fail("no seed in a hundred had a carried end that was billed beyond holds")
    watch, posting, transfer = beyond[0]
    faults = max(gateway.disk_faults for gateway in watch.world.gateways.values())
    most = (1 + faults) * watch.world.story.cast.terms.floor_total_micros + sum(watch.resolved.values())
    most += sum(watch.ended.values()) + faults * sum(quota.amount_micros for quota in watch.granted.values())
    times = 1 + most // transfer.amount_micros

    def posted(*, after_restores: bool) -> None:
        for _ in range(times):
            if after_restores:
                watch.ledger_went_back((), batches=())
            counted(watch, posting, transfer)

    posted(after_restores=True)
    with pytest.raises(PromiseBroken, match=r"^P1: carried ends of"):
        posted(after_restores=False)


@pytest.mark.parametrize(
    "seed",
    [
        # The floor of one gateway has taken what another had yet to show a restored ledger.
        pytest.param(200_895, id="short by a floor"),
        # A carried passage was set aside, and its gateway had spent it on another of its quotas.
        pytest.param(201_183, id="set aside from another quota"),
        # A meter's last reading was refused by a gateway that had yet to hear that it is active again.
        pytest.param(203_661, id="refused while suspended"),
        # A carried end is priced by its first statement and its last; its gateway had heard of a reading that makes it cheaper.
        pytest.param(210_241, id="priced above its gateway's own"),
    ],
)
def test_what_the_watch_took_for_a_broken_promise(seed: int) -> None:
    tell(draw(seed))
