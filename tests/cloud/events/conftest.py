"""An outbox served over gRPC, and a schema with a consumer's tables."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import psycopg
import pytest

from farthing.v1 import ledger_pb2, ledger_pb2_grpc
from farthing_cloud.database import Pool, migrate, open_pool

_numbers = itertools.count()


class Outbox(ledger_pb2_grpc.LedgerServicer):
    """What a ledger publishes, in memory: rows in the order in which they became visible."""

    def __init__(self) -> None:
        self.rows: list[ledger_pb2.FollowEventsResponse] = []
        #: Send everything from the first row on, whatever the cursor says.
        self.forgetful = False
        self.asked_after: list[tuple[int, int]] = []
        #: How far a consumer said that it has come.
        self.passed: list[tuple[int, int]] = []
        #: It does not take that in.
        self.deaf = False
        self._changed = asyncio.Condition()

    async def publish(self, *rows: ledger_pb2.FollowEventsResponse) -> None:
        async with self._changed:
            self.rows += rows
            self._changed.notify_all()

    async def AcknowledgeEvents(  # noqa: N802 - the name of the RPC
        self,
        request: ledger_pb2.AcknowledgeEventsRequest,
        context: Any,
    ) -> ledger_pb2.AcknowledgeEventsResponse:
        self.passed.append((request.up_to.transaction_id, request.up_to.sequence))
        if self.deaf:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED)
        return ledger_pb2.AcknowledgeEventsResponse()

    async def FollowEvents(  # noqa: N802 - the name of the RPC
        self,
        request: ledger_pb2.FollowEventsRequest,
        context: Any,
    ) -> AsyncIterator[Any]:
        after = (request.after.transaction_id, request.after.sequence)
        self.asked_after.append(after)
        await context.send_initial_metadata(())
        sent = 0
        while True:
            # Row by row: more may be published while one is being written.
            while sent < len(self.rows):
                row, sent = self.rows[sent], sent + 1
                if self.forgetful or (row.cursor.transaction_id, row.cursor.sequence) > after:
                    yield row
            async with self._changed:
                await self._changed.wait_for(lambda: len(self.rows) > sent)  # noqa: B023 - waited for at once


class LedgerServer:
    """A ledger that can be stopped and started on one port."""

    def __init__(self, servicer: ledger_pb2_grpc.LedgerServicer) -> None:
        self._servicer = servicer
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        ledger_pb2_grpc.add_LedgerServicer_to_server(self._servicer, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
async def ledger_server(outbox: Outbox) -> AsyncIterator[LedgerServer]:
    server = LedgerServer(outbox)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def ledger_channel(ledger_server: LedgerServer) -> AsyncIterator[grpc.aio.Channel]:
    options = (
        ("grpc.initial_reconnect_backoff_ms", 20),
        ("grpc.min_reconnect_backoff_ms", 20),
        ("grpc.max_reconnect_backoff_ms", 50),
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ledger_server.port}", options=options) as channel:
        yield channel


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """A schema of this test's own, with a consumer's tables and one that a handler writes to."""
    schema = f"events_test_{next(_numbers)}"
    await migrate(database_url, "farthing_cloud.fraud.schema", schema)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(f"CREATE TABLE {schema}.effect (id bigint GENERATED ALWAYS AS IDENTITY, key text)")
    pool = await open_pool(database_url, schema=schema)
    yield pool
    await pool.close()
