"""What gateways could not take is found again in the ledger: which batch brought it, what it says, and whether its journal is still there."""

from dataclasses import replace
from pathlib import Path

import pytest
from ledger_story import EUR, NOW, OP, Story

import farthing_cloud.ledger
from farthing.clock import Instant
from farthing.device import messages as m
from farthing.device.cose import encode_sign1
from farthing.ids import AuthorizationId, DeviceId, GatewayId, OperatorId, authorization_id, standing_authorization_id
from farthing.refusal import Refusal
from farthing.v1 import batch_pb2, ledger_pb2
from farthing_cloud.database import Pool
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.core.rows import DecisionKind
from farthing_cloud.ledger.parked import parked_in
from farthing_cloud.ledger.store.interface import LedgerStore
from farthing_cloud.ledger.store.postgres import PostgresStore

G1, G2 = GatewayId("G1"), GatewayId("G2")
USE = AuthorizationId(b"a use of chg-1  ")
REGISTER = m.RegisterValue(register_id="c1", register_epoch=2, value=812_345)
END = m.End(
    recipient=G1,
    device=DeviceId("chg-1"),
    device_epoch=3,
    counter=41,
    at=Instant(1_700_000_000_000_000),
    register=REGISTER,
    commitment=bytes(32),
    authorization=USE,
)
STANDING = m.Reading(
    recipient=G1,
    device=DeviceId("met-1"),
    device_epoch=1,
    counter=7,
    at=Instant(1_700_000_000_000_001),
    register=REGISTER,
    tariff=m.TariffVersion(tariff_id="chg-3", version=1),
)
INTENT = m.Intent(
    recipient=G1,
    device=DeviceId("toll-1"),
    device_epoch=1,
    counter=9,
    at=Instant(1_700_000_000_000_002),
    register=REGISTER,
    commitment=bytes(32),
    incarnation=1,
    one_shot=1,
)


def parked(
    *statements: m.Statement, refusal: Refusal = Refusal.REGISTER_WENT_BACK
) -> tuple[batch_pb2.ParkedStatement, ...]:
    return tuple(
        batch_pb2.ParkedStatement(statement=encode_sign1(bytes(8), m.encode(each), bytes(64)), refusal=refusal)
        for each in statements
    )


async def listed(
    store: LedgerStore, gateway: str = "", *, before: int = 0, limit: int = 10, operator: OperatorId = OP
) -> list[ledger_pb2.ParkedSummary]:
    found = await store.batches_with_parked(operator, gateway, before=before, limit=limit)
    assert [batch.place for batch in found] == sorted((batch.place for batch in found), reverse=True)
    return [each for batch in found for each in parked_in(batch)]


async def opened(store: LedgerStore) -> Story:
    story = Story(store)
    await story.open()
    return story


async def test_what_a_batch_brought_is_listed_with_what_it_says(store: LedgerStore) -> None:
    story = await opened(store)
    assert (await story.push(story.seal("G1", [], []))).step is ChainStep.NEXT
    raw = story.seal("G1", [], [], parked=parked(END, STANDING, INTENT))
    # Once, whatever is sent again.
    for _ in range(2):
        await story.push_at(raw, 77)
    end, standing, intent = await listed(store)
    assert end == ledger_pb2.ParkedSummary(
        gateway_id="G1",
        incarnation=1,
        sequence=2,
        posted_at_us=77,
        refusal=Refusal.REGISTER_WENT_BACK,
        statement=parked(END)[0].statement,
        journal_is_present=True,
        kind="end",
        device_id="chg-1",
        device_epoch=3,
        counter=41,
        at_us=END.at,
        register_id="c1",
        register_epoch=2,
        register_value=812_345,
        authorization_id=USE,
    )
    assert (standing.kind, standing.authorization_id) == (
        "reading",
        standing_authorization_id(STANDING.device, 1, "c1", 2, G1),
    )
    assert (intent.kind, intent.authorization_id) == ("intent", authorization_id(INTENT.device, 1, 9, G1))
    assert (await store.verify()).fault == ""


async def test_what_cannot_be_read_is_listed_by_its_bytes(store: LedgerStore) -> None:
    story = await opened(store)
    rubbish = batch_pb2.ParkedStatement(statement=b"\xff" * 9, refusal=4_000_000_000)
    await story.push(story.seal("G1", [], [], parked=(rubbish, *parked(END))))
    first, second = await listed(store)
    assert (first.statement, first.refusal, first.kind, first.device_id, first.counter) == (
        rubbish.statement, rubbish.refusal, "", "", 0,
    )  # fmt: skip
    assert second.kind == "end"


async def test_a_journal_that_is_gone_leaves_it_to_the_ledger(store: LedgerStore) -> None:
    story = await opened(store)
    await story.push(story.seal("G1", [], [], parked=parked(END)))
    await story.push(story.seal("G2", [], [], parked=parked(replace(END, recipient=G2))))
    decision = await story.ledger.propose(DecisionKind.INCARNATION, G1, reason="a new disk", person="ann", now=NOW)
    await story.ledger.approve(decision.decision_id, content_hash=decision.content_hash, person="ben", now=NOW)
    assert [(each.gateway_id, each.journal_is_present) for each in await listed(store)] == [("G2", True), ("G1", False)]
    # Its device says it again to the journal that began anew.
    story.begins("G1")
    assert (await story.push(story.seal("G1", [], [], parked=parked(END)))).step is ChainStep.NEXT
    assert [(each.incarnation, each.journal_is_present) for each in await listed(store, "G1")] == [
        (2, True),
        (1, False),
    ]


async def test_batches_that_came_together_and_pages_of_them(store: LedgerStore) -> None:
    story = await opened(store)
    counters = range(1, 6)
    sealed = [story.seal("G1", [], [], parked=parked(replace(END, counter=counter))) for counter in counters]
    waiting = [receive(raw, signature=b"", key_id=b"", currency=EUR) for raw in sealed]
    assert len(await story.ledger.post_batches(waiting, currency=EUR, now=NOW)) == len(waiting)
    assert [each.counter for each in await listed(store)] == [5, 4, 3, 2, 1]
    page = await store.batches_with_parked(OP, "G1", before=0, limit=2)
    assert [batch.sequence for batch in page] == [5, 4]
    assert [each.counter for each in await listed(store, before=page[-1].place)] == [3, 2, 1]
    assert await listed(store, "G2") == []
    assert await listed(store, operator=OperatorId("another")) == []


@pytest.mark.real
async def test_batches_from_before_the_step_are_counted_from_their_bytes(ledger_pool: Pool) -> None:
    """Those whose bytes only look like it (here: in an id of a device) are not."""
    store = PostgresStore(ledger_pool)
    story = await opened(store)
    await story.push(story.seal("G1", [], []))
    await story.push(story.seal("G1", [], [], parked=parked(*(replace(END, counter=n) for n in range(1, 65)))))
    await story.push(story.seal("G1", [], [], parked=parked(END)))
    looks = batch_pb2.Batch.FromString(story.seal("G1", [], []))
    looks.start_id, looks.first_position = b"\xd2\x01" * 8, 2**63
    await story.push(looks.SerializeToString(deterministic=True))
    step = Path(farthing_cloud.ledger.__file__).parent / "schema" / "pre_0017_parked_statements.sql"
    counts = b"SELECT array_agg(parked_statements ORDER BY sequence) FROM batches"
    async with ledger_pool.connection() as connection, connection.transaction(force_rollback=True):
        expected = await (await connection.execute(counts)).fetchone()
        assert expected == ([0, 64, 1, 0],)
        await connection.execute(b"ALTER TABLE batches DROP COLUMN parked_statements")
        await connection.execute(step.read_bytes())
        assert await (await connection.execute(counts)).fetchone() == expected
