"""A plan executed any number of times, killed anywhere, beside refunds, disputes and closing windows: once, and never below the right price."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_story import EUR, OP, TERMS
from plan_story import DAY, G1, LATER, MINUTE, RIGHT, S1, SPLIT, Charge, Day, wish

from farthing.clock import Instant
from farthing.tariff import Use, parse, price
from farthing.v1 import ledger_pb2
from farthing_cloud.ledger.core.corrections import Order
from farthing_cloud.ledger.core.differences import left_of
from farthing_cloud.ledger.core.funds import LedgerRefusal
from farthing_cloud.ledger.core.rows import CorrectionKind
from farthing_cloud.ledger.core.uses import parts_of
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.plans import CorrectionPlans
from farthing_cloud.ledger.store.memory import MemoryStore

START = Instant(DAY + 600 * MINUTE)
USES = 4

use = st.integers(0, USES - 1)
#: All that is left, or so much.
amount = st.one_of(st.just(0), st.integers(1, 700_000))
step = st.one_of(
    st.tuples(st.just("refund"), use, amount),
    st.tuples(st.just("dispute"), use, amount),
    st.tuples(st.just("end"), use, st.booleans()),
    st.tuples(st.just("execute"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("close")),
)


class Killed(Exception):
    """The process is gone."""


class MortalStore(MemoryStore):
    """Dies at the nth correction of a plan from now: before it is posted, or once it is; 0: never."""

    nth, after = 0, False

    def post(self, posting):  # type: ignore[no-untyped-def]  # as the store's own
        if posting.correction is None or not posting.correction.plan_id or not self.nth:
            return super().post(posting)
        self.nth -= 1
        if self.nth == 0 and not self.after:
            raise Killed
        posted = super().post(posting)
        if self.nth == 0:
            raise Killed
        return posted


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5_500), min_size=USES, max_size=USES),
    funds=st.sampled_from([10**9, 1_500_000]),
    steps=st.lists(step, max_size=14),
)
def test_any_execution_is_one_execution(lengths: list[int], funds: int, steps: list[tuple[object, ...]]) -> None:
    asyncio.run(play(lengths, funds, steps))


async def play(lengths: list[int], funds: int, steps: list[tuple[object, ...]]) -> None:
    store = MortalStore()
    day = Day(store)
    uses = [Charge(number, START, [(10, max(1, wh // 3)), (30, wh + 1)]) for number, wh in enumerate(lengths)]
    await day.open(uses, funds_micros=funds)
    await day.bill_whole(uses)
    should = {
        each.authorization: price(
            parse(RIGHT),
            Use(unit="Wh", start=0, end=each.records[-1][1], started_at=START, ended_at=START),
            closing=True,
        ).gross_micros
        for each in uses
    }
    plan = await day.plans.make(wish(), person="alice", now=LATER)
    content = ledger_pb2.CorrectionPlanContent.FromString(plan.content)
    await day.plans.approve(plan.plan_id, content_hash=plan.content_hash, person="bob", now=LATER)

    async def left(each: Charge) -> int:
        claim = await store.claimed(each.authorization, G1)
        assert claim is not None
        return left_of(parts_of(store.use(OP, EUR, claim), claim.key)).gross_micros

    async def execute() -> tuple[tuple[int, str], ...]:
        """What waits; what was executed left each use at its right price, or where it was below already."""
        before = {each.authorization: await left(each) for each in uses}
        seen = {each.correction_id for each in await store.plan_corrections(OP, plan.plan_id)}
        try:
            waiting = (
                await CorrectionPlans(Ledger(store, terms=TERMS, receipt_keys=())).execute(
                    plan.plan_id, first_item=0, person="alice", now=LATER
                )
            ).waiting
        except Killed:
            waiting = ()
        done = {c.correction_id: c for c in await store.plan_corrections(OP, plan.plan_id)}
        assert seen <= done.keys()
        moved = {c.authorization_id: c.amount_micros for name, c in done.items() if name not in seen}
        for each in uses:
            was, now = before[each.authorization], await left(each)
            if each.authorization in moved:
                assert now == min(was, should[each.authorization])
            assert was - now == moved.get(each.authorization, 0)
        return waiting

    disputes: dict[int, str] = {}
    window = 1
    for number, action in enumerate(steps):
        match action:
            case ("refund" | "dispute", int(which), int(micros)):
                kind = CorrectionKind(str(action[0]))
                order = Order(
                    operator_id=OP, correction_id=f"c{number}", kind=kind, reason="asked", gateway_id=G1,
                    authorization_id=uses[which].authorization, amount_micros=micros,
                )  # fmt: skip
                if kind is CorrectionKind.DISPUTE and which in disputes:
                    continue
                try:
                    await day.ledger.correct(order, person="carol", now=LATER)
                except LedgerRefusal:
                    continue
                if kind is CorrectionKind.DISPUTE:
                    disputes[which] = order.correction_id
            case ("end", int(which), bool(won)) if which in disputes:
                await end(day, disputes.pop(which), f"e{number}", won=won)
            case ("execute", int(nth), bool(after)):
                store.nth, store.after = nth, after
                waiting = await execute()
                store.nth = 0
                assert all(content.items[item].outcome == "refund" for item, _ in waiting)
            case ("close",):
                await day.ledger.close_window(OP, EUR, f"w{window}", {S1: SPLIT}, now=LATER)
                window += 1
            case _:
                continue
        assert (await store.verify()).fault == ""

    for which, name in disputes.items():
        await end(day, name, f"last-{which}", won=bool(which % 2))
    assert await execute() == ()
    done = await store.plan_corrections(OP, plan.plan_id)
    assert len(done) == plan.refunds == sum(item.outcome == "refund" for item in content.items)
    assert sum(each.amount_micros for each in done) <= plan.back_micros
    if not steps:
        assert sum(each.amount_micros for each in done) == plan.back_micros
    for each in uses:
        # Nobody has paid more than the right price, but who was not to get anything back.
        assert await left(each) <= should[each.authorization]
    transfers = len(await store.transfers(OP))
    assert await execute() == ()
    assert len(await store.transfers(OP)) == transfers
    assert (await store.verify()).fault == ""


async def end(day: Day, dispute_id: str, name: str, *, won: bool) -> None:
    kind = CorrectionKind.DISPUTE_WON if won else CorrectionKind.DISPUTE_LOST
    order = Order(operator_id=OP, correction_id=name, kind=kind, reason="decided", dispute_id=dispute_id)
    await day.ledger.correct(order, person="carol", now=LATER)
