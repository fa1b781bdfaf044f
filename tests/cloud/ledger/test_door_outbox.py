"""Readers of the outbox at the back office: each is who its certificate names, and none reads past what was pruned."""

import grpc
import pytest
from door_parties import Cloud, Gateway, opened, refused

from farthing.clock import real_clock
from farthing.v1 import ledger_pb2
from farthing_cloud.ledger.store.interface import Cursor

pytestmark = pytest.mark.real


async def kinds(cloud: Cloud, after: Cursor) -> list[str]:
    request = ledger_pb2.FollowEventsRequest(after=place(after))
    return [event.kind async for event in cloud.back_office.FollowEvents(request)]


def place(cursor: Cursor) -> ledger_pb2.EventCursor:
    return ledger_pb2.EventCursor(transaction_id=cursor.transaction_id, sequence=cursor.sequence)


@pytest.mark.timeout(20)
async def test_who_follows_knows_that_it_is_heard_also_while_nothing_happens(cloud: Cloud) -> None:
    await opened(cloud, Gateway())
    *_, last = await cloud.store.events(Cursor(), 10, ())
    for after in (Cursor(), last.cursor):
        request = ledger_pb2.FollowEventsRequest(after=place(after), follow=True, kinds=("nothing.like.it",))
        call = cloud.back_office.FollowEvents(request)
        await call.wait_for_connection()
        call.cancel()


async def test_who_goes_back_behind_what_was_pruned_is_told(cloud: Cloud) -> None:
    await opened(cloud, Gateway())
    rows = await cloud.store.events(Cursor(), 10, ())
    later = real_clock().now() + 1
    for reader, passed in (("fraud", rows[-1]), ("documents", rows[1])):
        cloud.calls("service", reader)
        await cloud.back_office.AcknowledgeEvents(ledger_pb2.AcknowledgeEventsRequest(up_to=place(passed.cursor)))
    assert await cloud.store.prune_events(("fraud", "documents"), later, 10) == 2
    every = [row.kind for row in rows]
    # Who passed all that is gone reads on; so does who begins anew, with what is kept.
    assert await kinds(cloud, rows[1].cursor) == await kinds(cloud, Cursor()) == every[2:]
    code, why = await refused(kinds(cloud, rows[0].cursor))
    assert (code, why.endswith("were pruned, and this reader has not passed them")) == (
        grpc.StatusCode.OUT_OF_RANGE,
        True,
    )
    code, _ = await refused(kinds(cloud, Cursor(transaction_id=2**63)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
