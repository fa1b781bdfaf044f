"""Over the ledger's real outbox table: what commits late is neither skipped nor handled twice."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import grpc.aio
import pytest

from farthing.v1 import ledger_pb2, ledger_pb2_grpc
from farthing_cloud.events.consumer import Consumer, ConsumerLimits, Event
from farthing_cloud.ledger.store.interface import Cursor
from farthing_cloud.ledger.store.postgres import PostgresStore

pytestmark = pytest.mark.real

PUBLISH = "INSERT INTO outbox (kind, key, at_us, value, traceparent) VALUES ('batch.posted', %s, 1, '', '')"


class Served(ledger_pb2_grpc.LedgerServicer):
    """The store's outbox, looked at again and again."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self.looks = 0

    async def FollowEvents(  # noqa: N802 - the name of the RPC
        self,
        request: ledger_pb2.FollowEventsRequest,
        context: Any,  # noqa: ARG002 - the RPC's signature
    ) -> AsyncIterator[Any]:
        after = Cursor(transaction_id=request.after.transaction_id, sequence=request.after.sequence)
        while True:
            for row in await self._store.events(after, 7, tuple(request.kinds)):
                after = row.cursor
                yield ledger_pb2.FollowEventsResponse(
                    cursor=ledger_pb2.EventCursor(transaction_id=after.transaction_id, sequence=after.sequence),
                    kind=row.kind,
                    key=row.key,
                    at_us=row.at,
                    value=row.value,
                )
            self.looks += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(0.005):
                    await asyncio.Event().wait()


class Keys:
    """Writes each event's key."""

    async def prepare(self, events: Sequence[Event]) -> None:
        pass

    async def handle(self, connection: Any, events: Sequence[Event]) -> None:
        for event in events:
            await connection.execute("INSERT INTO effect (key) VALUES (%s)", (event.key,))

    def committed(self) -> None:
        pass


@pytest.fixture
async def served(ledger_pool: Any) -> Served:
    return Served(PostgresStore(ledger_pool))


@pytest.fixture
async def consumer(pool: Any, served: Served) -> AsyncIterator[Consumer]:
    server = grpc.aio.server()
    ledger_pb2_grpc.add_LedgerServicer_to_server(served, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        made = Consumer(
            name="late",
            kinds=("batch.posted",),
            pool=pool,
            ledger=channel,
            handler=Keys(),
            limits=ConsumerLimits(first_pause_s=0.01, longest_pause_s=0.05),
        )
        task = asyncio.create_task(made.run())
        yield made
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await server.stop(None)


async def effects(pool: Any) -> list[str]:
    async with pool.connection() as connection:
        rows = await connection.execute("SELECT key FROM effect ORDER BY id")
        return [key for (key,) in await rows.fetchall()]


async def test_what_began_first_and_commits_last(consumer, served, pool, ledger_pool, until):
    async with ledger_pool.connection() as slow, ledger_pool.connection() as quick:
        async with slow.transaction():
            await slow.execute(PUBLISH, ("slow",))
            async with quick.transaction():
                await quick.execute(PUBLISH, ("quick",))
            looks = served.looks
            await until(lambda: served.looks > looks + 3)
            assert await effects(pool) == []
        await until(lambda: consumer.state.handled == 2)
    assert await effects(pool) == ["slow", "quick"]


async def test_many_that_overlap_and_some_that_never_commit(consumer, pool, ledger_pool, until):
    seeded = random.Random(7)
    expected: set[str] = set()

    async with AsyncExitStack() as stack:
        lanes = [await stack.enter_async_context(ledger_pool.connection()) for _ in range(5)]
        open_keys: dict[int, list[str]] = {}
        for step in range(300):
            lane = seeded.randrange(len(lanes))
            if lane not in open_keys:
                await lanes[lane].execute("BEGIN")
                open_keys[lane] = []
            elif seeded.random() < 0.4:
                commits = seeded.random() < 0.8
                await lanes[lane].execute("COMMIT" if commits else "ROLLBACK")
                expected |= set(open_keys.pop(lane)) if commits else set()
                if not commits:
                    open_keys.pop(lane, None)
                continue
            await lanes[lane].execute(PUBLISH, (f"k{step}",))
            open_keys[lane].append(f"k{step}")
        for lane in open_keys:
            await lanes[lane].execute("ROLLBACK")
    await until(lambda: consumer.state.handled >= len(expected))
    done = await effects(pool)
    assert len(done) == len(set(done))
    assert set(done) == expected
