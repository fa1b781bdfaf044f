"""Rows that a posting has to lock: whoever decides by them meanwhile waits for it, and sees what it made of them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import psycopg
import pytest
from ledger_story import CHG, EUR, NOW, OP, SPLIT, TOLL, Story, grants, micros, order
from plan_story import G1, wish

from farthing.clock import Instant
from farthing.ids import AccountId, AuthorizationId, GatewayId, SiteId
from farthing.v1 import events_pb2
from farthing_cloud.database import Pool
from farthing_cloud.ledger.core import plans, reviews
from farthing_cloud.ledger.core.funds import LedgerRefusal
from farthing_cloud.ledger.core.posting import Cause
from farthing_cloud.ledger.core.quotas import QuotaRequest
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


# --- what each lock keeps ---------------------------------------------------------------------------------------------


def wants(counter: int, gateway: str, amount: str) -> QuotaRequest:
    return QuotaRequest(
        operator_id=OP,
        gateway_id=GatewayId(gateway),
        incarnation=1,
        counter=counter,
        account_id=AccountId("P"),
        currency=EUR,
        wanted_micros=micros(amount),
    )


async def test_what_an_account_has_is_granted_to_one_of_two_gateways(ledger_pool: Pool) -> None:
    """Their rows are two: what makes the second wait is the account."""
    store = HeldStore(ledger_pool)
    story = Story(store)
    await story.open()
    await story.fund("P", "4.00", "pay-1")
    one, two = (story.ledger.request_quota(wants(number, f"G{number}", "4.00"), now=NOW) for number in (1, 2))
    granted = await in_turn(ledger_pool, one, two)
    assert [answer.amount_micros for answer in granted] == [micros("4.00"), 0]
    assert (await store.verify()).fault == ""


async def test_what_stands_against_a_gateway_is_added_to_what_is_being_taken_off_it(ledger_pool: Pool) -> None:
    """A batch of it is proven while the next one is posted: both say what is left beyond its holds."""
    store = HeldStore(ledger_pool)
    story = Story(store)
    await grants(story)
    first = story.seal("G1", [("one", "x1", 10, 20, "1.00", "0", [(0, "1.00", "0")])], [("P", "overrun", CHG, "10:00")])
    second = story.seal(
        "G1", [("two", "x9", 10, 20, "2.00", "0", [(0, "2.00", "0")])], [("P", "overrun", CHG, "10:00")]
    )
    await story.push(first)
    proven = story.ledger.prove(G1, 1, 1, events=(), now=NOW)
    await in_turn(ledger_pool, story.push(second), proven)
    gateway = await store.gateway(G1)
    assert gateway is not None
    assert gateway.beyond_micros == micros("2.00")
    assert (await store.verify()).fault == ""


async def test_no_quota_is_granted_to_an_incarnation_that_is_being_ended(ledger_pool: Pool) -> None:
    """Who decides looks at the quotas once nobody can add one: what was granted just before is frozen with the others."""
    store = HeldStore(ledger_pool)
    story = Story(store)
    await story.open()
    await story.fund("P", "10.00", "pay-1")
    await story.grant("q1", "G1", "4.00")
    await story.grant("q2", "G2", "3.00")
    decision = await story.ledger.propose(DecisionKind.INCARNATION, G1, reason="a new disk", person="alice", now=NOW)
    approved = story.ledger.approve(decision.decision_id, content_hash=decision.content_hash, person="bob", now=NOW)
    answer, done = await in_turn(ledger_pool, story.ledger.request_quota(wants(9, "G1", "0.50"), now=NOW), approved)
    assert (answer.amount_micros, done) == (micros("0.50"), True)
    assert [gateway for gateway, _, _ in await store.open_quotas(OP, "", "")] == ["G2"]
    assert (await store.verify()).fault == ""


async def test_who_stops_the_ledger_waits_for_who_is_posting(ledger_pool: Pool) -> None:
    """Stopped means that nothing is posted any more: what had begun is there by then."""
    store = HeldStore(ledger_pool)
    story = Story(store)
    await grants(story)
    held, other = Held(), Held()
    other.go.set()
    batch = story.seal("G1", [("one", "x1", 10, 20, "1.00", "0", [(0, "1.00", "0")])], [("P", "q1", CHG, "10:00")])
    posting = begin(held, story.push(batch))
    async with asyncio.timeout(SETTLES_WITHIN_S):
        await held.loaded.wait()
        stopping = begin(other, story.ledger.restored.stop("a person says so", now=NOW))
        while not await waits(ledger_pool, [other]):
            assert not stopping.done()
        held.go.set()
        await asyncio.gather(posting, stopping)
    assert (await store.verify()).fault == ""


# --- in which order ---------------------------------------------------------------------------------------------------


def row(table: str, column: str, name: str) -> str:
    return f"SELECT FROM {table} WHERE {column} = '{name}' FOR NO KEY UPDATE"


def new_account(path: str) -> str:
    return f"INSERT INTO accounts (operator_id, path, currency) VALUES ('op', '{path}', 'EUR')"


def new_register(device_id: str) -> str:
    return f"INSERT INTO registers (device_id, register_id, register_epoch) VALUES ('{device_id}', '1', 0)"


def of_two(story: Story, start: int = 41, tariff: tuple[str, int] = TOLL) -> Awaitable[Any]:
    """A batch of G2 that bills two payers for two registers."""
    uses = [
        (f"{name}{start}", register, start, start + 1, "0.10", "0.02", [(line, "0.10", "0.02")])
        for line, (name, register) in enumerate((("p", "x1"), ("f", "x9")))
    ]
    return story.push(story.seal("G2", uses, [("P", "q2", tariff, "10:00"), ("F", "floor", tariff, "10:00")]))


def taken_back(story: Story) -> Awaitable[Any]:
    """A payment goes back to its bank: who has quotas of the account at both gateways is asked for them."""
    chargeback = order("chargeback", "back-1", account_id="P", payment_id="pay-1")
    return story.ledger.correct(chargeback, person="alice", now=NOW)


#: What is locked first, what after it, who does so, and whether rows that it would make are there already.
ORDERS = {
    "gateways": (row("gateways", "gateway_id", "G1"), row("gateways", "gateway_id", "G2"), taken_back, True),
    "registers": (row("registers", "device_id", "x1"), row("registers", "device_id", "x9"), of_two, True),
    "payers": (row("accounts", "path", "payer/P"), row("accounts", "path", "payer/F"), of_two, True),
    # Of what a posting adds to and does not look at: the tax's account is older, and its name is the later one.
    "accounts": (row("accounts", "path", "tax/7"), row("accounts", "path", "clearing/S2/w1"), of_two, True),
    "new registers": (new_register("x1"), new_register("x9"), of_two, False),
    "new accounts": (new_account("clearing/S2/w1"), new_account("tax/7"), of_two, False),
}


@pytest.mark.parametrize("first_is_held", [True, False])
@pytest.mark.parametrize("rows", ORDERS)
async def test_rows_are_locked_in_one_order(ledger_pool: Pool, rows: str, first_is_held: bool) -> None:
    """Somebody has one of two: who wants both has the first of them by then, and never the second before the first."""
    first, second, work, there = ORDERS[rows]
    store = PostgresStore(ledger_pool)
    story = Story(store)
    await grants(story)
    if there:
        # Over G1's site: its tax has an account before the other one's clearing has, and was written to last. Neither is the order of locks.
        toll = [("P", "q1", TOLL, "10:00")]
        await story.push(story.seal("G1", [("b", "x0", 1, 2, "0.10", "0.02", [(0, "0.10", "0.02")])], toll))
        await of_two(story, 1, CHG)
        await story.push(story.seal("G1", [("c", "x0", 2, 3, "0.10", "0.02", [(0, "0.10", "0.02")])], toll))
    async with ledger_pool.connection() as holding, ledger_pool.connection() as looking:
        async with asyncio.timeout(SETTLES_WITHIN_S):
            async with holding.transaction(force_rollback=True):
                await holding.execute((first if first_is_held else second).encode())
                task = asyncio.ensure_future(work(story))
                while not await blocks(looking, holding.info.backend_pid):
                    assert not task.done()
                assert await is_free(looking, second if first_is_held else first) == first_is_held
            await task
    assert (await store.verify()).fault == ""


async def blocks(connection: psycopg.AsyncConnection[Any], pid: int) -> bool:
    """Whether somebody waits for this server's transaction."""
    query = "SELECT count(*) FROM pg_locks l WHERE NOT l.granted AND %s = ANY (pg_blocking_pids(l.pid))"
    found = await (await connection.execute(query, (pid,))).fetchone()
    assert found is not None
    return bool(found[0])


async def is_free(connection: psycopg.AsyncConnection[Any], lock: str) -> bool:
    """Whether nobody has it: what is free is had without waiting."""
    try:
        async with connection.transaction(force_rollback=True):
            await connection.execute("SET LOCAL lock_timeout = '1ms'")
            await connection.execute(lock.encode())
    except psycopg.errors.LockNotAvailable:
        return False
    return True
