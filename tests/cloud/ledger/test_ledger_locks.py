"""Rows that a posting has to lock: whoever decides by them meanwhile waits for it, and sees what it made of them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
from ledger_story import CHG, EUR, NOW, OP, SPLIT, TOLL, Story, grants, micros
from plan_story import G1, wish

from farthing.clock import Instant
from farthing.ids import AccountId, AuthorizationId, SiteId
from farthing.v1 import events_pb2
from farthing_cloud.database import Pool
from farthing_cloud.ledger.core import plans, reviews
from farthing_cloud.ledger.core.funds import LedgerRefusal
from farthing_cloud.ledger.core.posting import Cause
from farthing_cloud.ledger.core.rows import AccountStatus, DecisionKind, ImportReview, Touch
from farthing_cloud.ledger.plans import CorrectionPlans
from farthing_cloud.ledger.store.interface import Cursor, Transaction
from farthing_cloud.ledger.store.postgres import PostgresStore

pytestmark = pytest.mark.real

T = TypeVar("T")
#: Nobody waits for a thing that cannot come.
SETTLES_WITHIN_S = 30.0


@dataclass
class Held:
    """A transaction of one task: whether it has loaded its rows, and whether it may go on from there."""

    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    pid: int = 0
    #: How often it was begun: twice where two collided.
    attempts: int = 0


HELD: ContextVar[Held | None] = ContextVar("HELD", default=None)


class _Stops:
    """A transaction that stops once it has loaded."""

    def __init__(self, tx: Any, held: Held) -> None:
        self._tx, self._held = tx, held

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    async def load(self, touch: Any) -> Any:
        view = await self._tx.load(touch)
        self._held.loaded.set()
        await self._held.go.wait()
        return view


class HeldStore(PostgresStore):
    """PostgreSQL's, with the transactions of some tasks held."""

    async def run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        held = HELD.get()
        if held is None:
            return await super().run(work)

        async def watched(tx: Any) -> T:
            held.attempts += 1
            held.pid = tx._connection.info.backend_pid
            return await work(_Stops(tx, held))

        return await super().run(watched)


def begin(held: Held, work: Awaitable[T]) -> "asyncio.Task[T]":
    """``work`` in a task whose transactions go as ``held`` says."""

    async def run() -> T:
        HELD.set(held)
        return await work

    return asyncio.create_task(run())


async def waits(pool: Pool, who: Iterable[Held]) -> bool:
    """Whether each of these transactions waits for another one's lock."""
    query = b"SELECT bool_and(cardinality(pg_blocking_pids(pid)) > 0) FROM unnest(%s::integer[]) AS n (pid)"
    pids = [held.pid for held in who]
    async with pool.connection() as connection:
        row = await (await connection.execute(query, (pids,))).fetchone()
    assert row is not None
    # Without a pid it has not begun yet.
    return bool(row[0]) and 0 not in pids


async def in_turn(pool: Pool, first: Awaitable[Any], second: Awaitable[Any]) -> tuple[Any, Any]:
    """The first loads and is held; the second comes and waits for it, or passes it; then the first goes on. What each says, or why not."""
    held, other = Held(), Held()
    other.go.set()
    one = begin(held, first)
    async with asyncio.timeout(SETTLES_WITHIN_S):
        await held.loaded.wait()
        two = begin(other, second)
        while not two.done() and not await waits(pool, [other]):
            pass
        held.go.set()
        said = await asyncio.gather(one, two, return_exceptions=True)
    for each in said:
        if isinstance(each, BaseException) and not isinstance(each, LedgerRefusal):
            raise each
    return said[0], said[1]


async def test_who_claims_on_a_register_waits_for_who_does_so_already(ledger_pool: Pool) -> None:
    """Two gateways bill the same use of a device at once, for two payers: one of them is paid."""
    store = HeldStore(ledger_pool)
    story = Story(store)
    await grants(story)
    await story.push(
        story.seal("G1", [("before", "x1", 0, 10, "0.10", "0", [(0, "0.10", "0")])], [("P", "q1", CHG, "10:00")])
    )
    first = story.seal("G1", [("one", "x1", 10, 20, "1.00", "0", [(0, "1.00", "0")])], [("P", "q1", CHG, "10:00")])
    second = story.seal("G2", [("two", "x1", 15, 25, "0.50", "0", [(0, "0.50", "0")])], [("F", "floor", TOLL, "10:00")])
    await in_turn(ledger_pool, story.push(first), story.push(second))
    aside = [transfer for transfer in await store.transfers(OP) if transfer.cause is Cause.SECOND_CLAIM]
    assert [transfer.amount_micros for transfer in aside] == [micros("0.50")]
    assert (await store.verify()).fault == ""


async def test_a_window_closes_after_what_is_being_posted_into_it(ledger_pool: Pool) -> None:
    store = HeldStore(ledger_pool)
    story = Story(store)
    await grants(story)
    batch = story.seal(
        "G1", [("one", "x1", 10, 20, "1.00", "0.20", [(0, "1.00", "0.20")])], [("P", "q1", CHG, "10:00")]
    )
    closing = story.ledger.close_window(OP, EUR, "w1", {SiteId("S1"): SPLIT}, now=NOW)
    await in_turn(ledger_pool, story.push(batch), closing)
    assert (await store.verify()).fault == ""


async def test_links_of_two_postings_that_share_nothing_else_follow_each_other(ledger_pool: Pool) -> None:
    """Both are ready to write their link while somebody else has the head: each is done once, and follows the one before it."""
    store = HeldStore(ledger_pool)
    story = Story(store)
    await story.open()

    def account(name: str) -> Awaitable[bool]:
        return story.ledger.put_account(
            operator_id=OP, account_id=AccountId(name), currency=EUR, credit_limit_micros=0, debt_limit_micros=0,
            status=AccountStatus.ACTIVE, preload_micros=0, now=NOW,
        )  # fmt: skip

    both = Held(), Held()
    async with asyncio.timeout(SETTLES_WITHIN_S):
        async with ledger_pool.connection() as connection, connection.transaction():
            await connection.execute("SELECT FROM audit_heads FOR NO KEY UPDATE")
            tasks = []
            for held, name in zip(both, ("A", "B"), strict=True):
                held.go.set()
                tasks.append(begin(held, account(name)))
            while not await waits(ledger_pool, both):
                pass
        assert await asyncio.gather(*tasks) == [True, True]
    assert [held.attempts for held in both] == [1, 1]
    assert (await store.verify()).fault == ""


async def set_aside(store: HeldStore) -> tuple[Story, int]:
    """A use of G2's that overlaps one of G1's: 0.50 of it waits in a case."""
    story = Story(store)
    await grants(story)
    await story.push(
        story.seal("G1", [("one", "x1", 10, 20, "1.00", "0", [(0, "1.00", "0")])], [("P", "q1", CHG, "10:00")])
    )
    await story.push(
        story.seal("G2", [("two", "x1", 15, 25, "0.50", "0", [(0, "0.50", "0")])], [("F", "floor", TOLL, "10:00")])
    )
    (event,) = await store.events(Cursor(), 10, ("case.opened",))
    return story, events_pb2.CaseOpened.FromString(event.value).case_id


def goes_on(story: Story) -> bytes:
    """G2's next batch: 0.30 more of the use that waits in a case."""
    return story.seal("G2", [("two", "x1", 15, 30, "0.80", "0", [(0, "0.30", "0")])], [("F", "floor", TOLL, "10:15")])


async def reversed_micros(store: PostgresStore) -> int:
    return sum(t.amount_micros for t in await store.transfers(OP) if t.cause is Cause.REVERSED)


async def test_a_case_is_decided_once(ledger_pool: Pool) -> None:
    store = HeldStore(ledger_pool)
    story, case_id = await set_aside(store)
    release = story.ledger.decide_case(case_id, release=True, now=NOW)
    void = story.ledger.decide_case(case_id, release=False, now=NOW)
    done, refused = await in_turn(ledger_pool, release, void)
    assert (done, type(refused)) == (True, LedgerRefusal)
    assert await reversed_micros(store) == micros("0.50")
    assert (await store.verify()).fault == ""


async def test_who_decides_a_case_sees_what_is_being_added_to_it(ledger_pool: Pool) -> None:
    store = HeldStore(ledger_pool)
    story, case_id = await set_aside(store)
    decide = story.ledger.decide_case(case_id, release=False, now=NOW)
    await in_turn(ledger_pool, story.push(goes_on(story)), decide)
    assert await reversed_micros(store) == micros("0.80")
    assert (await store.verify()).fault == ""


async def test_nothing_is_added_to_a_case_that_is_being_decided(ledger_pool: Pool) -> None:
    store = HeldStore(ledger_pool)
    story, case_id = await set_aside(store)
    decide = story.ledger.decide_case(case_id, release=False, now=NOW)
    await in_turn(ledger_pool, decide, story.push(goes_on(story)))
    assert await reversed_micros(store) == micros("0.50")
    # What follows waits in a case of its own.
    opened = await store.events(Cursor(), 10, ("case.opened",))
    assert [events_pb2.CaseOpened.FromString(event.value).case_id != case_id for event in opened] == [False, True]
    assert (await store.verify()).fault == ""


async def test_a_plan_is_approved_by_one_person(ledger_pool: Pool) -> None:
    store = HeldStore(ledger_pool)
    await Story(store).open()
    item = plans.Item(
        authorization_id=AuthorizationId(bytes(16)), gateway_id=G1, tariff_version=1, outcome=plans.Outcome.LEFT_OUT
    )
    content = plans.content_of(wish(), EUR, [item], person="alice", now=NOW)

    async def propose(tx: Transaction) -> str:
        plan, posting = plans.propose(await tx.load(Touch(operator_id=OP, currency=EUR)), content)
        await tx.post(posting)
        return plan.plan_id

    plan_id = await store.run(propose)
    made = CorrectionPlans(Story(store).ledger)
    plan = await made.of(plan_id)
    bob, carol = (
        made.approve(plan_id, content_hash=plan.content_hash, person=person, now=NOW) for person in ("bob", "carol")
    )
    done, refused = await in_turn(ledger_pool, bob, carol)
    assert (done, type(refused)) == (True, LedgerRefusal)
    assert (await made.of(plan_id)).approved_by == "bob"
    assert (await store.verify()).fault == ""


async def test_a_review_is_approved_by_one_person(ledger_pool: Pool) -> None:
    store = HeldStore(ledger_pool)
    await Story(store).open()
    gateway = await store.gateway(G1)
    assert gateway is not None
    touch = Touch(operator_id=OP, currency=EUR)

    async def propose(tx: Transaction) -> ImportReview:
        view = await tx.load(touch)
        review, posting = reviews.propose(
            view, gateway, [bytes(32)], proven_micros=5, unproven_micros=2, reason="found", person="alice", now=NOW
        )
        await tx.post(posting)
        return review

    review = await store.run(propose)

    async def approve(tx: Transaction, person: str) -> bool:
        view = await tx.load(replace(touch, review_id=review.review_id))
        posting = reviews.approve(
            view, review.review_id, content_hash=review.content_hash, person=person, now=Instant(1)
        )
        assert posting is not None
        await tx.post(posting)
        return True

    bob, carol = (store.run(lambda tx, who=person: approve(tx, who)) for person in ("bob", "carol"))
    done, refused = await in_turn(ledger_pool, bob, carol)
    assert (done, type(refused)) == (True, LedgerRefusal)
    assert [stored.approved_by for stored in await store.reviews(OP)] == ["bob"]
    assert (await store.verify()).fault == ""


@pytest.mark.parametrize("restored", [False, True])
async def test_a_decision_is_approved_by_one_person(ledger_pool: Pool, restored: bool) -> None:
    """Of a gateway, whose row is locked before the decision is read; and of the ledger, whose books all are."""
    store = HeldStore(ledger_pool)
    story = Story(store)
    await story.open()
    decision = (
        await story.ledger.restored.propose(OP, reason="the disk died", person="alice", now=NOW)
        if restored
        else await story.ledger.propose(DecisionKind.INCARNATION, G1, reason="a new disk", person="alice", now=NOW)
    )
    bob, carol = (
        story.ledger.approve(decision.decision_id, content_hash=decision.content_hash, person=person, now=NOW)
        for person in ("bob", "carol")
    )
    done, refused = await in_turn(ledger_pool, bob, carol)
    assert (done, type(refused)) == (True, LedgerRefusal)
    assert [made.approved_by for made in await store.decisions(OP)] == ["bob"]
    assert (await store.verify()).fault == ""
