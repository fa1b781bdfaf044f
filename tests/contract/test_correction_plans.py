"""Mass corrections over both stores: planned from proven detail, approved by another, executed once whatever happens in between."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ledger_story import EUR, OP, TERMS
from plan_story import DAY, G1, LATER, MINUTE, NEXT_DAY, RIGHT, S1, SPLIT, WRONG, Charge, Day, tariff, wish

from farthing.clock import Instant
from farthing.money import format_micros
from farthing.tariff import Use, parse, price
from farthing.v1 import ledger_pb2
from farthing_cloud.ledger.core.corrections import Order
from farthing_cloud.ledger.core.funds import LedgerRefusal, UnknownName
from farthing_cloud.ledger.core.rows import CorrectionKind
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.plans import CorrectionPlans
from farthing_cloud.ledger.store.interface import Cursor, LedgerStore, Transaction

START = Instant(DAY + 600 * MINUTE)


def charge(number: int, wh: int, **more: Any) -> Charge:
    return Charge(number, START, [(12, wh // 2), (30, wh)], **more)


def gross(by: bytes, wh: int) -> int:
    return price(
        parse(by), Use(unit="Wh", start=0, end=wh, started_at=START, ended_at=START), closing=True
    ).gross_micros


async def refund(day: Day, use: Charge, name: str, micros: int = 0, kind: str = "refund", **more: str) -> int:
    named = {} if more else {"authorization_id": use.authorization, "gateway_id": G1, "amount_micros": micros}
    order = Order(
        operator_id=OP, correction_id=name, kind=CorrectionKind(kind), reason="asked", **named, **more
    )  # fmt: skip
    return (await day.ledger.correct(order, person="carol", now=LATER))[2].amount_micros


async def planned(day: Day, **changes: Any) -> tuple[str, ledger_pb2.CorrectionPlanContent]:
    plan = await day.plans.make(wish(**changes), person="alice", now=LATER)
    stored = await day.plans.of(plan.plan_id)
    assert stored.content == plan.content
    return plan.plan_id, ledger_pb2.CorrectionPlanContent.FromString(plan.content)


async def approved(day: Day, plan_id: str) -> None:
    plan = await day.plans.of(plan_id)
    assert await day.plans.approve(plan_id, content_hash=plan.content_hash, person="bob", now=LATER)


async def execute(day: Day, plan_id: str) -> tuple[int, dict[int, str]]:
    """How many were posted, and what waits."""
    done = await day.plans.execute(plan_id, first_item=0, person="alice", now=LATER)
    assert (await day.store.verify()).fault == ""
    return done.posted, dict(done.waiting)


async def balances(day: Day) -> dict[str, int]:
    return {p: b.credits_posted - b.debits_posted for p, _, b in await day.store.balances(OP, "")}


async def test_every_affected_use_is_judged_and_the_refunds_come_from_whom_they_went_to(store: LedgerStore) -> None:
    day = Day(store)
    refunds, even, under = charge(1, 2_000), charge(2, 6_000), charge(3, 9_000)
    before, settled, elsewhere = charge(4, 3_000), charge(5, 4_000), charge(6, 1_000, tariff_id="other")
    open_one, other_version = charge(7, 1_000, over=False), charge(8, 1_000, version=2)
    unproven, poor = charge(9, 1_000), charge(10, 1_500, account="Q")
    early = Charge(11, Instant(DAY - 60 * MINUTE), [(5, 900)])
    every = [refunds, even, under, before, settled, elsewhere, open_one, other_version, unproven, poor, early]
    await day.open(every, funds_micros=50_000_000)
    await day.bill_whole([use for use in every if use is not unproven])
    await day.bill_whole([unproven], prove=False)
    await day.ledger.close_window(OP, EUR, "w1", {S1: SPLIT}, now=NEXT_DAY)
    await refund(day, before, "r1", 100_000)
    await refund(day, settled, "r2", gross(WRONG, 4_000))

    plan_id, content = await planned(day)
    said = {item.authorization_id: item for item in content.items}
    found = {use.number: said[use.authorization].outcome for use in every if use.authorization in said}
    assert found == {
        1: "refund", 2: "even", 3: "undercharged", 4: "refund", 5: "settled", 7: "left-out", 9: "left-out", 10: "refund",
    }  # fmt: skip
    assert said[open_one.authorization].why == "it goes on: more may be billed"
    assert said[unproven.authorization].why == "its detail is missing"
    # 0.80 + 0.30 a kWh was billed, 0.20 + 0.40 was meant; 20 % on both.
    assert said[refunds.authorization].back == ledger_pb2.NetAndTaxes(
        net_micros=400_000, taxes=[ledger_pb2.TaxAmount(path="tax/20", amount_micros=80_000)]
    )
    back = said[before.authorization].back
    assert back.net_micros + back.taxes[0].amount_micros == gross(WRONG, 3_000) - gross(RIGHT, 3_000) - 100_000
    total = 480_000 + (360_000 - 100_000) + 540_000
    assert (await day.plans.of(plan_id)).back_micros == total

    start = await balances(day)
    with pytest.raises(LedgerRefusal, match="waits for its approval"):
        await execute(day, plan_id)
    plan = await day.plans.of(plan_id)
    with pytest.raises(LedgerRefusal, match="another person"):
        await day.plans.approve(plan_id, content_hash=plan.content_hash, person="alice", now=LATER)
    with pytest.raises(LedgerRefusal, match="not this one"):
        await day.plans.approve(plan_id, content_hash=bytes(32), person="bob", now=LATER)
    await approved(day, plan_id)
    assert not await day.plans.approve(plan_id, content_hash=plan.content_hash, person="bob", now=LATER)
    assert await execute(day, plan_id) == (3, {})
    end = await balances(day)
    assert end["payer/P"] + end["payer/Q"] - start["payer/P"] - start["payer/Q"] == total
    assert start["tax/20"] - end["tax/20"] == sum(
        item.back.taxes[0].amount_micros for item in content.items if item.back.taxes
    )
    # 60 % and 40 % of each net, as the window was split then; what came through the open clearing has left it.
    nets = [item.back.net_micros for item in content.items if item.outcome == "refund"]
    fee = sum(net * 400_000 // 1_000_000 for net in nets)
    assert (start["fee/op"] - end["fee/op"], start["agency/A"] - end["agency/A"]) == (fee, sum(nets) - fee)
    assert start["clearing/S1/w2"] == end["clearing/S1/w2"]

    assert await execute(day, plan_id) == (0, {})
    assert await balances(day) == end
    again, content = await planned(day, reason="once more")
    assert Counter(item.outcome for item in content.items)["refund"] == 0
    assert [each.plan_id for each in await day.plans.of_operator(OP)] == [plan_id, again]
    _, done = await day.plans.shown(plan_id)
    assert sum(correction.amount_micros for correction in done) == total
    with pytest.raises(UnknownName):
        await day.plans.of("p-0")


async def test_what_went_back_meanwhile_counts_and_what_is_disputed_waits(store: LedgerStore) -> None:
    day = Day(store)
    partly, wholly, disputed, plain = (charge(number, 2_000) for number in range(1, 5))
    await day.open([partly, wholly, disputed, plain])
    await day.bill_whole([partly, wholly, disputed, plain])
    plan_id, content = await planned(day)
    await approved(day, plan_id)
    places = {item.authorization_id: index for index, item in enumerate(content.items)}
    assert {item.outcome for item in content.items} == {"refund"}
    await refund(day, partly, "r1", 200_000)
    await refund(day, wholly, "r2")
    await refund(day, disputed, "d1", 480_000, kind="dispute")
    posted, waiting = await execute(day, plan_id)
    assert (posted, list(waiting)) == (3, [places[disputed.authorization]])
    assert "the dispute ends first" in waiting[places[disputed.authorization]]
    await refund(day, disputed, "e1", kind="dispute-lost", dispute_id="d1")
    assert await execute(day, plan_id) == (1, {})
    _, done = await day.plans.shown(plan_id)
    amounts = {correction.authorization_id: correction.amount_micros for correction in done}
    assert amounts == {
        partly.authorization: 280_000,
        wholly.authorization: 0,
        disputed.authorization: 0,
        plain.authorization: 480_000,
    }
    # What moved nothing is told to nobody.
    told = await store.events(Cursor(), 100, ("correction.posted",))
    assert len(told) == 4 + 2


class Killed(Exception):
    """The process is gone."""


class Dying:
    """A store whose process dies at the nth posting: before it is written, or right after it is committed."""

    def __init__(self, store: LedgerStore, nth: int, *, after: bool) -> None:
        self._store, self._left, self._after = store, nth, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def run(self, work: Callable[[Transaction], Awaitable[Any]]) -> Any:
        posted: list[object] = []

        async def posting(tx: Transaction) -> Any:
            return await work(Watched(tx, self._post(tx, posted)))  # type: ignore[arg-type]  # it has all that tx has

        answer = await self._store.run(posting)
        if posted and self._left == 0:
            raise Killed
        return answer

    def _post(self, tx: Transaction, posted: list[object]) -> Callable[[Any], Awaitable[Any]]:
        async def post(posting: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise Killed
            posted.append(posting)
            return await tx.post(posting)

        return post


class Watched:
    """A transaction whose postings go through another hand."""

    def __init__(self, tx: Transaction, post: Callable[[Any], Awaitable[Any]]) -> None:
        self._tx, self.post = tx, post

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)


@pytest.mark.parametrize("after", [False, True])
async def test_an_execution_that_dies_anywhere_goes_on_where_it_was(store: LedgerStore, after: bool) -> None:
    day = Day(store)
    uses = [charge(number, 500 * number) for number in range(1, 6)]
    await day.open(uses)
    await day.bill_whole(uses)
    plan_id, _ = await planned(day)
    await approved(day, plan_id)
    for nth in (1, 2, 2):
        dying = Ledger(Dying(store, nth, after=after), terms=TERMS, receipt_keys=())
        with pytest.raises(Killed):
            await CorrectionPlans(dying).execute(plan_id, first_item=0, person="alice", now=LATER)
        assert (await store.verify()).fault == ""
    await execute(day, plan_id)
    _, done = await day.plans.shown(plan_id)
    assert (len(done), sum(each.amount_micros for each in done)) == (5, (await day.plans.of(plan_id)).back_micros)


async def test_executions_and_single_refunds_at_once(store: LedgerStore) -> None:
    day = Day(store)
    uses = [charge(number, 2_000) for number in range(1, 7)]
    await day.open(uses)
    await day.bill_whole(uses)
    plan_id, _ = await planned(day)
    await approved(day, plan_id)
    runs = [day.plans.execute(plan_id, first_item=0, person=person, now=LATER) for person in ("alice", "bob", "carol")]
    singles = [refund(day, use, f"r{use.number}", 300_000) for use in uses]
    outcomes = await asyncio.gather(*runs, *singles)
    assert sum(outcome.posted for outcome in outcomes[:3]) == 6
    assert (await store.verify()).fault == ""
    # Refunded before its item: 0.48 in all went back; after it: 0.30 more.
    _, done = await day.plans.shown(plan_id)
    assert {each.amount_micros for each in done} <= {480_000, 180_000}
    given = (await balances(day))["payer/P"] - (10**9 - 6 * gross(WRONG, 2_000))
    assert given == 6 * 300_000 + sum(each.amount_micros for each in done)


async def test_time_is_priced_from_the_records_and_what_cannot_be_is_named(store: LedgerStore) -> None:
    day = Day(store)
    use, part = charge(1, 2_000), charge(2, 2_000)
    await day.open([use, part])
    await day.bill_whole([use])
    part.leaves = part.priced(parse(WRONG))
    await day.bill([(part, part.leaves[0], False)], prove=False)
    await day.bill([(part, part.leaves[1], True)])
    # 30 minutes at 0.60 an hour, and 0.10 a kWh.
    _, content = await planned(day, by=tariff("", "0.10", minute="0.60"))
    said = {item.authorization_id: item for item in content.items}
    assert said[use.authorization].should.net_micros == 500_000
    assert said[part.authorization].why == "of what it billed only 0.36 was found posted and proven"
    _, content = await planned(day, by=tariff("", "0.10", vat=7))
    assert said[use.authorization].outcome == "refund"
    assert {item.why for item in content.items if item.authorization_id == use.authorization} == {
        "tax/7 should have been more, other parts less"
    }
    with pytest.raises(LedgerRefusal, match="no use of chg"):
        await planned(day, from_at=NEXT_DAY, to_at=Instant(NEXT_DAY + (NEXT_DAY - DAY)))
    with pytest.raises(LedgerRefusal, match="cannot be read"):
        await planned(day, by=b"{}")
    with pytest.raises(LedgerRefusal, match="quarter of an hour"):
        wish(from_at=Instant(DAY + 1))
    assert format_micros(said[use.authorization].billed_net_micros) == "1.40"
