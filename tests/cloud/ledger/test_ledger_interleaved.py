"""The same rules over PostgreSQL, and what only a database with several at work can break.

Rule 1: a step begins something in a lane of its own, and its transaction may be held: after its rows are locked, or after it posted. So what
began early commits late, what comes meanwhile goes past it or waits for it, and whoever is held may lose the connection instead.
Rule 2: whoever reads the outbox sees each event once, in its order, whatever committed when.
Rule 3: a posting stands in the clearing of one window, which was open when it was posted.

``make model EXAMPLES=2000`` is the long run.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
import pytest
from cloud_database import emptied
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_model import (
    CREDIT,
    EUR,
    NOW,
    OP,
    MemoryRows,
    Model,
    PostgresRows,
    act,
    check,
    close,
    order_of,
    person_of,
    seal,
    steps_of,
    use,
)

from farthing.ids import AccountId, GatewayId, OperatorId
from farthing_cloud.database import Pool, open_pool
from farthing_cloud.ledger import metrics
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.funds import Funding, LedgerRefusal, UnknownName
from farthing_cloud.ledger.core.quotas import QuotaRequest
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.core.rows import AccountStatus
from farthing_cloud.ledger.store.interface import Cursor, StoredEvent, StoreError
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_cloud.ledger.store.postgres import PostgresStore

pytestmark = pytest.mark.real

T = TypeVar("T")

EXAMPLES = int(os.environ.get("LEDGER_EXAMPLES", "0"))
#: Nobody waits for a thing that cannot come: a schedule is short, and a database that answers, quick.
SETTLES_WITHIN_S = 30.0
#: Held and waiting together; the oldest goes on where there would be more.
LANES = 5
OTHER = OperatorId("other")


def examples(few: int) -> Any:
    """Settings of a run: few examples, or as many as the long run wants."""
    return settings(
        max_examples=EXAMPLES or few,
        deadline=None,
        # Every row is deleted between examples: the pool may stay.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """Room for every lane, for those who read meanwhile, and for who looks at the others' locks."""
    opened = await open_pool(database_url, schema="ledger", max_size=LANES + 5)
    yield opened
    await opened.close()


@examples(6)
@given(steps=steps_of)
async def test_memory_and_postgresql_post_the_same(pool: Pool, steps: list[tuple[object, ...]]) -> None:
    await emptied(pool, "ledger")
    memory, store = MemoryStore(), PostgresStore(pool)
    models = [await Model.open(memory, MemoryRows(memory)), await Model.open(store, PostgresRows(pool))]
    for number, action in enumerate(steps):
        for model in models:
            await act(model, number, action)
    for model in models:
        await check(model)
    assert await store.transfers(OP) == await memory.transfers(OP)
    assert sorted(await store.balances(OP, "")) == sorted(await memory.balances(OP, ""))


# --- several at work --------------------------------------------------------------------------------------------------


@dataclass
class Lane:
    """One who does something, in a task and a transaction of its own."""

    work: Callable[[], Awaitable[None]]
    #: Where its first transaction stops: "loaded", "posted", or "" for nowhere.
    stops: str
    task: "asyncio.Task[None]"
    held: bool = False
    go: asyncio.Event = field(default_factory=asyncio.Event)
    pid: int = 0

    async def reach(self, place: str) -> None:
        """Stop here, if this is the place."""
        if self.stops == place:
            self.stops = ""
            self.held = True
            await self.go.wait()
            self.held = False


LANE: ContextVar[Lane] = ContextVar("LANE")


class Held:
    """A transaction that stops where its lane says."""

    def __init__(self, tx: Any, lane: Lane) -> None:
        self._tx, self._lane = tx, lane

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    async def load(self, touch: Any) -> Any:
        view = await self._tx.load(touch)
        await self._lane.reach("loaded")
        return view

    async def post(self, posting: Any) -> Any:
        posted = await self._tx.post(posting)
        await self._lane.reach("posted")
        return posted


class HeldStore(PostgresStore):
    """PostgreSQL's, with its transactions held as their lanes say; what they meet of each other is remembered."""

    circles = 0

    async def run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        lane = LANE.get(None)
        if lane is None:
            return await super().run(work)

        async def watched(tx: Any) -> T:
            lane.pid = tx._connection.info.backend_pid
            try:
                return await work(Held(tx, lane))
            except psycopg.errors.DeadlockDetected:
                self.circles += 1
                raise
            finally:
                lane.pid = 0

        return await super().run(watched)


class Reader:
    """Follows the outbox, a few rows at a time, and remembers what it was given."""

    def __init__(self, store: PostgresStore, limit: int) -> None:
        self._store, self._limit = store, limit
        self.given: list[StoredEvent] = []

    async def read(self) -> None:
        """Everything there is to read now."""
        while rows := await self._store.events(self.given[-1].cursor if self.given else Cursor(), self._limit, ()):
            self.given += rows


gateway = st.sampled_from(["G1", "G2"])
account = st.sampled_from(["A", "B"])
deed = st.one_of(
    st.tuples(st.just("fund"), account, st.integers(1, 1500) | st.just(20_000)),
    st.tuples(st.just("fund-other"), st.integers(1, 1500)),
    st.tuples(st.just("ask"), gateway, account, st.integers(1, 1500)),
    st.tuples(st.just("seal"), gateway, st.lists(use, max_size=5), st.sampled_from([0, 0, 1, 2])),
    # Any batch sealed so far, whether or not it is its turn, and whether or not it was pushed before.
    st.tuples(st.just("push"), gateway, st.integers(0, 5)),
    st.tuples(st.just("recall"), account),
    st.tuples(st.just("prove"), gateway),
    st.tuples(st.just("close")),
    st.tuples(st.just("decide"), st.booleans()),
    st.tuples(st.sampled_from(["refund", "dispute"]), st.integers(0, 20), st.integers(0, 300)),
    st.tuples(st.just("end"), st.booleans()),
    st.tuples(st.just("chargeback"), st.integers(0, 20), st.integers(0, 900)),
    st.tuples(st.just("goodwill"), account, st.integers(1, 300) | st.just(20_000)),
    st.tuples(st.sampled_from(["payback", "write-off"]), account, st.integers(0, 3)),
    st.tuples(
        st.sampled_from(["payback-approved", "payback-handed", "payback-sent", "payback-failed", "payback-returned"]),
        st.integers(0, 5),
        st.integers(0, 3),
    ),
)
#: Who begins what, where it stops, and whether a second one asks for the same at the same time.
begun = st.tuples(st.just("begin"), deed, st.sampled_from(["", "", "loaded", "posted"]), st.booleans())
turn = st.one_of(
    begun,
    begun,
    begun,
    # One of those held goes on, or loses its connection and does all of it again.
    st.tuples(st.just("go"), st.integers(0, LANES)),
    st.tuples(st.just("cut"), st.integers(0, LANES)),
)


def meeting(first: st.SearchStrategy[Any], second: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """There is money; somebody is held in the middle of the first; the second comes; the first goes on, or begins again."""
    return st.tuples(
        st.tuples(st.just("begin"), st.tuples(st.just("fund"), account, st.just(20_000)), st.just(""), st.just(False)),
        st.tuples(st.just("begin"), first, st.sampled_from(["loaded", "posted"]), st.just(False)),
        st.tuples(st.just("begin"), second, st.sampled_from(["", "loaded"]), st.booleans()),
        st.tuples(st.sampled_from(["go", "go", "cut"]), st.just(0)),
    ).map(list)


# They meet at the open window, at a gateway's exposure, at an account's funds, at what is left of a use.
billing = st.tuples(st.just("seal"), gateway, st.lists(use, min_size=2, max_size=5), st.just(0))
asking = st.tuples(st.just("ask"), gateway, account, st.integers(900, 1500))
taking = st.tuples(st.sampled_from(["payback", "goodwill"]), account, st.just(0) | st.just(1))
refunding = st.tuples(st.sampled_from(["refund", "dispute"]), st.integers(0, 3), st.integers(0, 99))
closing = st.tuples(st.just("close"))
turns = st.lists(
    st.one_of(
        turn.map(lambda one: [one]),
        turn.map(lambda one: [one]),
        meeting(billing, closing),
        meeting(closing, billing | refunding),
        meeting(asking, asking | taking | billing),
        meeting(refunding, refunding | closing),
    ),
    min_size=5,
    max_size=14,
).map(lambda groups: [one for group in groups for one in group])


class Schedule:
    """The model's gateways and people, several at a time."""

    def __init__(self, model: Model, store: HeldStore, pool: Pool) -> None:
        self.model, self._store, self._pool = model, store, pool
        self.lanes: list[Lane] = []
        self.readers = [Reader(store, 1), Reader(store, 100)]
        self._number = 0

    async def play(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("begin", (*what,), str(stops), bool(twice)):
                self._number += 1
                work = await self._work(self._number, tuple(what))
                for _ in range(1 + twice):
                    await self._begin(work, stops)
            case ("go", int(which)):
                held = [lane for lane in self.lanes if lane.held]
                if held:
                    held[which % len(held)].go.set()
            case ("cut", int(which)):
                held = [lane for lane in self.lanes if lane.held]
                if held:
                    lane = held[which % len(held)]
                    await self._sql("SELECT pg_terminate_backend(%s, 10000)", lane.pid)
                    lane.go.set()
        await self._settle()
        for reader in self.readers:
            await reader.read()
        await self._nobody_overspends()

    async def _begin(self, work: Callable[[], Awaitable[None]], stops: str) -> None:
        while len(self.lanes) >= LANES:
            self.lanes[0].go.set()
            await self._settle()
            # The oldest may wait for one that is held.
            for lane in self.lanes[1:]:
                lane.go.set()
            await self._settle()
        lane = Lane(work=work, stops=stops, task=None)  # type: ignore[arg-type]  # the task wants the lane first
        lane.task = asyncio.create_task(self._until_heard(lane))
        self.lanes.append(lane)

    async def _until_heard(self, lane: Lane) -> None:
        """Ask until there is an answer, as whoever lost a connection does."""
        LANE.set(lane)
        while True:
            try:
                await lane.work()
            except (LedgerRefusal, UnknownName):
                return
            except StoreError as err:
                if not isinstance(err.__cause__, psycopg.OperationalError):
                    raise
            else:
                return

    async def _settle(self) -> None:
        """Until everybody is done, held, or waits for a lock."""
        async with asyncio.timeout(SETTLES_WITHIN_S):
            while True:
                for lane in self.lanes:
                    if lane.task.done():
                        lane.task.result()
                self.lanes = [lane for lane in self.lanes if not lane.task.done()]
                busy = [lane for lane in self.lanes if not lane.held or lane.go.is_set()]
                if not busy:
                    return
                waiting = await self._sql(
                    """SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid = ANY (%s)""",
                    [lane.pid for lane in busy],
                )
                if waiting == len(busy):
                    return

    async def _sql(self, query: str, parameter: Any) -> Any:
        async with self._pool.connection() as connection:
            row = await (await connection.execute(query, (parameter,))).fetchone()
        assert row is not None
        return row[0]

    async def end(self) -> None:
        """Everybody goes on, and everything that was sealed arrives."""
        while self.lanes:
            for lane in self.lanes:
                lane.go.set()
            await self._settle()
        for name in self.model.edges:
            for raw in self.model.edges[name].sent:
                await self._push(raw)
        for reader in self.readers:
            await reader.read()

    async def _push(self, raw: bytes) -> ChainStep:
        batch = receive(raw, signature=b"", key_id=b"", currency=EUR)
        return (await self.model.ledger.post_batch(batch, currency=EUR, now=NOW)).step

    async def _work(self, number: int, what: tuple[Any, ...]) -> Callable[[], Awaitable[None]]:
        """What somebody does, with everything decided that he would say again; to be asked for any number of times."""
        model, ledger = self.model, self.model.ledger

        async def nothing() -> None:
            pass

        match what:
            case ("fund", str(account_id), int(amount)):
                return self._fund(number, OP, account_id, amount)
            case ("fund-other", int(amount)):
                return self._fund(number, OTHER, "C", amount)
            case ("ask", str(gateway_id), str(account_id), int(wanted)):

                async def ask() -> None:
                    request = QuotaRequest(
                        operator_id=OP,
                        gateway_id=GatewayId(gateway_id),
                        incarnation=1,
                        counter=number,
                        account_id=AccountId(account_id),
                        currency=EUR,
                        wanted_micros=wanted,
                    )
                    answer = await ledger.request_quota(request, now=NOW)
                    known = model.edges[gateway_id].quotas
                    if answer.quota_id and (account_id, answer.quota_id) not in known:
                        known.append((account_id, answer.quota_id))

                return ask
            case ("seal", str(gateway_id), list(uses), int(ending)):
                raw = seal(model.edges[gateway_id], uses, ending)

                async def push() -> None:
                    assert await self._push(raw) in (ChainStep.NEXT, ChainStep.REPLAY, ChainStep.GAP)

                return push
            case ("push", str(gateway_id), int(which)):
                sent = model.edges[gateway_id].sent
                if not sent:
                    return nothing
                raw = sent[which % len(sent)]

                async def again() -> None:
                    assert await self._push(raw) in (ChainStep.NEXT, ChainStep.REPLAY, ChainStep.GAP)

                return again
            case ("recall", str(account_id)):

                async def recall() -> None:
                    await ledger.recall(OP, gateway_id="", account_id=account_id, reason="asked", now=NOW)

                return recall
            case ("prove", str(gateway_id)):

                async def prove() -> None:
                    chain = await model.store.chain(GatewayId(gateway_id), 1)
                    if chain.proven_sequence < chain.sequence:
                        await ledger.prove(GatewayId(gateway_id), 1, chain.proven_sequence + 1, events=(), now=NOW)

                return prove
            case ("close",):
                window = await self._window()
                return lambda: close(model, window)
            case ("decide", bool(release)):
                waiting = [case for case in await model.rows.cases(OP) if case.asides and case.status == "open"]
                if not waiting:
                    return nothing

                async def decide() -> None:
                    await ledger.decide_case(waiting[0].case_id, release=release, now=NOW)

                return decide
        try:
            order = await order_of(model, number, what)
        except LedgerRefusal:
            order = None
        if order is None:
            return nothing

        async def correct() -> None:
            await ledger.correct(order, person=person_of(what), now=NOW)

        return correct

    def _fund(
        self, number: int, operator_id: OperatorId, account_id: str, amount: int
    ) -> Callable[[], Awaitable[None]]:
        funding = Funding(
            operator_id=operator_id,
            account_id=AccountId(account_id),
            currency=EUR,
            amount_micros=amount,
            payment_id=f"p{number}",
            source="bank/main",
        )

        async def fund() -> None:
            await self.model.ledger.fund(funding, now=NOW)

        return fund

    async def _window(self) -> str:
        """The window as whoever asks sees it: without waiting for who closes it."""
        window: str = await self._sql("SELECT open_window FROM books WHERE operator_id = %s", OP)
        return window

    async def _nobody_overspends(self) -> None:
        """P1, of what has been committed: whoever is still at work has not spent yet."""
        balances = {path: b for path, _, b in await self.model.store.balances(OP, "")}
        for account_id, credit in CREDIT.items():
            if (payer := balances.get(f"payer/{account_id}")) is not None:
                assert payer.debits_posted + payer.debits_pending <= payer.credits_posted + credit


#: Postings that touch a clearing account which was not the open window's when they were posted; closing carries to the next one.
STRAYS = """
SELECT p.position, p.kind, a.path, c.closed
FROM transfers t
JOIN postings p ON p.id = t.posting_id
JOIN accounts a ON a.id IN (t.debit_id, t.credit_id) AND a.path LIKE 'clearing/%%'
CROSS JOIN LATERAL (SELECT split_part(a.path, '/', 3) AS name, substr(split_part(a.path, '/', 3), 2)::int AS number) w
JOIN closings c ON c.operator_id = p.operator_id
JOIN postings x ON x.id = c.posting_id
WHERE p.operator_id = %s AND ((c.closed = w.name AND p.position > x.position)
    OR (c.closed = 'w' || (w.number - 1) AND p.position < x.position))
"""


@examples(6)
@given(steps=turns)
async def test_several_at_work(pool: Pool, steps: list[tuple[Any, ...]]) -> None:
    await emptied(pool, "ledger")
    collided = {kind: count for kind, count in metrics.collisions().items() if kind != "unique"}
    store, rows = HeldStore(pool), PostgresRows(pool)
    model = await Model.open(store, rows)
    await model.ledger.put_account(
        operator_id=OTHER,
        account_id=AccountId("C"),
        currency=EUR,
        credit_limit_micros=0,
        debt_limit_micros=0,
        status=AccountStatus.ACTIVE,
        preload_micros=0,
        now=NOW,
    )
    schedule = Schedule(model, store, pool)
    for step in steps:
        await schedule.play(step)
    await schedule.end()
    await check(model)
    assert store.circles == 0
    # Who makes the same new name at the same time may meet; nobody else does.
    met = metrics.collisions()
    assert {kind: met[kind] for kind in met if kind != "unique"} == collided
    async with pool.connection() as connection:
        assert await (await connection.execute(STRAYS, (OP,))).fetchall() == []
        everything = await (
            await connection.execute("SELECT transaction_id::text::bigint, sequence FROM outbox ORDER BY 1, 2")
        ).fetchall()
    for reader in schedule.readers:
        assert [(event.cursor.transaction_id, event.cursor.sequence) for event in reader.given] == everything
