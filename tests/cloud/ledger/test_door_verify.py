"""Verify at the back office: who waits hears how far it is, and one at a time takes a connection from those that post."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import psycopg
import pytest
from door_parties import Cloud, Gateway, opened, refused
from ledger_story import OP
from psycopg.rows import TupleRow

from farthing.ids import GatewayId
from farthing.v1 import ledger_pb2
from farthing_cloud.database import Pool
from farthing_cloud.ledger.store import verification

pytestmark = pytest.mark.real
FOLLOW, ASK = ledger_pb2.FollowVerifyRequest(), ledger_pb2.VerifyRequest()


async def test_who_follows_verify_hears_every_step_and_the_verdict(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_ROWS_A_WORD", 1)
    gateway = Gateway()
    await opened(cloud, gateway)
    *progress, last = [said async for said in cloud.back_office.FollowVerify(FOLLOW)]
    begun = [said.progress for said in progress if not said.progress.rows]
    assert [said.step for said in begun] == list(range(1, begun[0].steps + 1))
    assert (begun[0].what, begun[-1].what) == ("partitions", "heard")
    # What is read row by row says how many were.
    (told,) = {said.progress.rows for said in progress if said.progress.what == "what gateways were told"} - {0}
    assert told == len(await cloud.store.directives(GatewayId(gateway.name), 0, 100))
    assert last.verdict == await cloud.back_office.Verify(ASK)
    assert last.verdict.ok


async def test_one_verify_at_a_time_while_posting_goes_on(
    cloud: Cloud, ledger_pool: Pool, until: Callable[..., Any]
) -> None:
    gateway = Gateway()
    await opened(cloud, gateway)
    async with ledger_pool.connection() as connection, connection.transaction():
        # Something that verify reads, and who posts does not: the first one stands still there.
        await connection.execute("LOCK TABLE correction_plans IN ACCESS EXCLUSIVE MODE")
        standing = cloud.back_office.FollowVerify(FOLLOW)
        while (await standing.read()).progress.what != "plans":
            pass
        for _ in range(ledger_pool.max_size):
            code, why = await refused(cloud.back_office.Verify(ASK))
            assert (code, "is being verified already" in why) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
        code, _ = await refused(anext(aiter(cloud.back_office.FollowVerify(FOLLOW))))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        account = ledger_pb2.FundAccountRequest(
            operator_id=OP, account_id="P", currency="EUR", amount_micros=1, payment_id="meanwhile", source="bank/main"
        )
        assert (await cloud.back_office.FundAccount(account)).changed
        # Who waits no longer makes room at once, though what was asked for stood still.
        (first,) = await stand_still(connection)
        standing.cancel()
        following = asyncio.create_task(accepted(cloud))

        async def another_stands_there() -> bool:
            return first not in (pids := await stand_still(connection)) and len(pids) == 1

        await until(another_stands_there)
    assert (await following).ok


async def stand_still(connection: psycopg.AsyncConnection[TupleRow]) -> list[int]:
    """Servers of this database that wait for a lock."""
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return [row[0] for row in await (await connection.execute(waiting)).fetchall()]


async def accepted(cloud: Cloud) -> ledger_pb2.VerifyResponse:
    """Asks until nobody else verifies."""
    while True:
        try:
            return await cloud.back_office.Verify(ASK)
        except grpc.aio.AioRpcError as err:
            if err.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
