"""What a gateway that lies, or that comes at the wrong moment, cannot do to money of others."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ledger_story import CHG, EUR, NOW, OP, SPLIT, TOLL, Story, grants, micros

from farthing.ids import AccountId, GatewayId, OperatorId, SiteId
from farthing.money import MAX_AMOUNT_MICROS, Currency
from farthing.v1 import batch_pb2, directive_pb2
from farthing_cloud.database import Pool
from farthing_cloud.ledger.core import cases, windows
from farthing_cloud.ledger.core.received import BatchError, receive
from farthing_cloud.ledger.core.rows import AccountStatus, SiteClearing, Touch, View
from farthing_cloud.ledger.store.interface import LedgerStore, Transaction
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_cloud.ledger.store.postgres import PostgresStore

Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

USE = ("c1", 100, 200, "1.00", "0.20")


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.real)])
def store(request: pytest.FixtureRequest) -> LedgerStore:
    return MemoryStore() if request.param == "memory" else PostgresStore(request.getfixturevalue("ledger_pool"))


async def posted(store: LedgerStore, path: str) -> int:
    """Credits less debits."""
    balances = {at: b for at, _, b in await store.balances(OP, path)}
    return balances[path].credits_posted - balances[path].debits_posted if path in balances else 0


# --- another gateway's authorization ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("register", "start", "end", "net"),
    [
        ("elsewhere", 0, 1, "0"),  # another register: the honest claim would be one about who knows what
        ("c1", 100, 100, "9000"),  # the same, without width, and with no line that anybody could be billed for
        ("c1", 150, 150, "0"),  # another start
    ],
)
async def test_a_claim_under_another_gateways_authorization_takes_nothing_from_it(
    store: LedgerStore, register: str, start: int, end: int, net: str
) -> None:
    story = Story(store)
    await grants(story)
    # The id of an authorization is a hash of names and a counter: any gateway can work out those to come.
    await story.push(story.seal("G2", [("a1", register, start, end, net, "0", [])], []))
    device, begins, ends, honest_net, honest_tax = USE
    await story.push(
        story.seal(
            "G1",
            [("a1", device, begins, ends, honest_net, honest_tax, [(0, honest_net, honest_tax)])],
            [("P", "q1", CHG, "10:00")],
        )
    )
    assert await posted(store, "clearing/S1/w1") == micros("1.00")
    assert await posted(store, "tax/20") == micros("0.20")
    assert (await store.verify()).fault == ""


async def test_a_second_claim_for_one_use_is_set_aside_under_the_same_authorization_too(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    device, begins, ends, net, tax = USE
    for gateway, quota in (("G1", "q1"), ("G2", "q2")):
        await story.push(
            story.seal(gateway, [("a1", device, begins, ends, net, tax, [(0, net, tax)])], [("P", quota, CHG, "10:00")])
        )
    assert await posted(store, "payer/P") == micros("10") - micros("1.20")
    assert await posted(store, "unearned/S2") == micros("1.20")
    assert (await store.verify()).fault == ""


async def test_what_was_claimed_first_and_is_only_said_again_is_not_set_aside() -> None:
    store = MemoryStore()
    story = Story(store)
    await grants(story)
    device, begins, ends, net, tax = USE
    for gateway, quota, name in (("G1", "q1", "a1"), ("G2", "q2", "a2"), ("G1", "q1", "a1")):
        await story.push(
            story.seal(gateway, [(name, device, begins, ends, net, tax, [(0, net, tax)])], [("P", quota, CHG, "10:00")])
        )
    first, second = sorted(await store.claims(OP), key=lambda claim: claim.gateway_id)
    assert (first.sequence, first.aside) == (1, False)
    assert second.aside


async def test_a_gateway_of_another_operator_sets_no_use_aside(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    stranger = OperatorId("stranger")
    await story.ledger.put_gateway(
        gateway_id=GatewayId("G9"),
        operator_id=stranger,
        site_id=SiteId("S9"),
        currency=EUR,
        exposure_micros=0,
        batch_key=b"",
        grant_key=b"",
        time_zone="UTC",
        now=NOW,
    )
    batch = batch_pb2.Batch(
        operator_id=stranger,
        site_id="S9",
        gateway_id="G9",
        incarnation=1,
        start_id=bytes(16),
        sequence=1,
        previous_hash=bytes(32),
        merkle_root=bytes(32),
    )
    batch.claims.add(
        authorization_id=bytes(16), device_id="c1", register_id="1", register_from=0, register_to=2**64 - 1
    )
    await story.push(batch.SerializeToString())
    device, begins, ends, net, tax = USE
    await story.push(
        story.seal("G1", [("a1", device, begins, ends, net, tax, [(0, net, tax)])], [("P", "q1", CHG, "10:00")])
    )
    assert await posted(store, "clearing/S1/w1") == micros("1.00")
    assert (await store.verify()).fault == ""


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("claims", "share", "lines"), [(2, MAX_AMOUNT_MICROS, 1), (300, 0, 0)])
def test_amounts_that_cannot_be_added_up_are_no_batch(claims: int, share: int, lines: int) -> None:
    batch = batch_pb2.Batch(
        operator_id=OP,
        site_id="S1",
        gateway_id="G1",
        incarnation=1,
        start_id=bytes(16),
        sequence=1,
        previous_hash=bytes(32),
        merkle_root=bytes(32),
    )
    for number in range(claims):
        claim = batch.claims.add(
            authorization_id=number.to_bytes(16, "big"),
            device_id=f"d{number}",
            register_id="1",
            register_to=1,
            net_micros=MAX_AMOUNT_MICROS,
        )
        if share:
            claim.shares.add(line=0, net_micros=share)
    for _ in range(lines):
        batch.lines.add(
            account_id="P",
            currency=EUR,
            overrun=True,
            evidence_class=batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED,
            net_micros=claims * share,
        )
    with pytest.raises(BatchError):
        receive(batch.SerializeToString(), signature=b"", key_id=b"", currency=EUR)


@pytest.mark.parametrize("sealed_at", [-1, 253_402_300_800_000_000, 2**63 - 1])
def test_what_was_sealed_on_no_date_is_no_batch(sealed_at: int) -> None:
    batch = batch_pb2.Batch(
        operator_id=OP,
        site_id="S1",
        gateway_id="G1",
        incarnation=1,
        start_id=bytes(16),
        sequence=1,
        previous_hash=bytes(32),
        merkle_root=bytes(32),
        sealed_at_us=sealed_at,
    )
    with pytest.raises(BatchError, match="no date"):
        receive(batch.SerializeToString(), signature=b"", key_id=b"", currency=EUR)


@pytest.mark.parametrize(("count", "size", "fits"), [(64, 768, True), (65, 1, False), (1, 769, False)])
def test_what_a_gateway_could_not_take_is_bounded(count: int, size: int, fits: bool) -> None:
    batch = batch_pb2.Batch(
        operator_id=OP,
        site_id="S1",
        gateway_id="G1",
        incarnation=1,
        start_id=bytes(16),
        sequence=1,
        previous_hash=bytes(32),
        merkle_root=bytes(32),
        parked=[batch_pb2.ParkedStatement(statement=bytes(size), refusal=208)] * count,
    )
    raw = batch.SerializeToString()
    if fits:
        assert receive(raw, signature=b"", key_id=b"", currency=EUR).parked_count == count
        return
    with pytest.raises(BatchError, match="parked statements"):
        receive(raw, signature=b"", key_id=b"", currency=EUR)


def test_a_window_closes_with_more_in_it_than_one_amount_may_be() -> None:
    income = 2 * MAX_AMOUNT_MICROS + 7  # nine thousand million a site: little, in some currencies
    clearing = SiteClearing(site_id=SiteId("S1"), balance_micros=income, unproven_micros=0)
    view = View(operator_id=OP, currency=EUR, window="w1", clearings=(clearing,))
    posting = windows.close(view, {SiteId("S1"): SPLIT}, now=NOW)
    assert sum(transfer.amount_micros for transfer in posting.transfers) == income
    assert posting.changes["clearing/S1/w1"].debits_posted == income


# --- debts ------------------------------------------------------------------------------------------------------------


async def test_a_higher_credit_limit_pays_the_debt_first(store: LedgerStore) -> None:
    story = Story(store)
    await story.open()
    device, begins, ends, net, tax = USE
    await story.push(
        story.seal("G1", [("a1", device, begins, ends, net, tax, [(0, net, tax)])], [("F", "overrun", CHG, "10:00")])
    )
    assert await posted(store, "debt/F") == -micros("1.00")
    await story.ledger.put_account(
        operator_id=OP,
        account_id=AccountId("F"),
        currency=EUR,
        credit_limit_micros=micros("5"),
        debt_limit_micros=micros("1"),
        status=AccountStatus.ACTIVE,
        preload_micros=0,
        now=NOW,
    )
    assert (await store.verify()).fault == ""
    assert await posted(store, "debt/F") == 0
    assert await posted(store, "payer/F") == -micros("1.00")


async def test_what_nobody_paid_gives_no_room_of_the_floor_back(store: LedgerStore) -> None:
    story = Story(store)
    await story.open()
    # F has nothing, and may owe 1.00: the rest of 1.20 is the operator's loss.
    device, begins, ends, net, tax = USE
    raw = story.seal("G1", [("a1", device, begins, ends, net, tax, [(0, net, tax)])], [("F", "floor", CHG, "10:00")])
    await story.push(raw)
    await story.ledger.prove(GatewayId("G1"), 1, 1, events=(), now=NOW)
    await story.fund("F", "5", "pay-1")
    await story.ledger.resolve_floors(now=NOW)
    bodies = [
        directive_pb2.Directive.FromString(row.body) for row in await store.directives(GatewayId("G1"), 0, limit=100)
    ]
    resolved = [body.floor_resolved.amount_micros for body in bodies if body.HasField("floor_resolved")]
    assert resolved == [micros("1.00")]


async def test_who_can_neither_pay_nor_owe_is_let_onto_the_floor_once(store: LedgerStore) -> None:
    story = Story(store)
    await story.open()
    await story.ledger.put_account(
        operator_id=OP,
        account_id=AccountId("F"),
        currency=EUR,
        credit_limit_micros=0,
        debt_limit_micros=0,
        status=AccountStatus.ACTIVE,
        preload_micros=0,
        now=NOW,
    )
    device, begins, ends, net, tax = USE
    raw = story.seal("G1", [("a1", device, begins, ends, net, tax, [(0, net, tax)])], [("F", "floor", CHG, "10:00")])
    await story.push(raw)
    await story.ledger.prove(GatewayId("G1"), 1, 1, events=(), now=NOW)
    bodies = [
        directive_pb2.Directive.FromString(row.body) for row in await store.directives(GatewayId("G1"), 0, limit=100)
    ]
    assert not any(body.HasField("floor_resolved") for body in bodies)


# --- the wrong moment -------------------------------------------------------------------------------------------------


@pytest.mark.real
async def test_what_is_set_aside_while_its_case_is_decided_goes_to_a_case_that_is_open(
    ledger_pool: Pool, until: Until
) -> None:
    store = PostgresStore(ledger_pool)
    story = Story(store)
    await grants(story)
    passage: list[Any] = [(0, "1.00", "0.07")]
    await story.push(story.seal("G1", [("t1", "x1", 41, 42, "1.00", "0.07", passage)], [("P", "q1", TOLL, "10:00")]))
    await story.push(story.seal("G2", [("t3", "x1", 41, 42, "1.00", "0.07", passage)], [("P", "q2", TOLL, "10:00")]))
    more = story.seal("G2", [("t3", "x1", 41, 42, "2.00", "0.14", passage)], [("P", "q2", TOLL, "10:15")])
    ((case_id,),) = await rows(ledger_pool, "SELECT id FROM cases")
    decided, go_on = asyncio.Event(), asyncio.Event()

    async def void(tx: Transaction) -> None:
        view = await tx.load(Touch(operator_id=OP, currency=Currency(EUR), case_id=case_id))
        posting = cases.decide(view, case_id, release=False, now=NOW)
        assert posting is not None
        await tx.post(posting)
        decided.set()
        await go_on.wait()

    deciding = asyncio.create_task(store.run(void))
    await decided.wait()
    pushing = asyncio.create_task(story.push(more))

    async def waits() -> bool:
        return bool(await rows(ledger_pool, "SELECT 1 FROM pg_locks WHERE NOT granted"))

    await until(waits)
    go_on.set()
    await asyncio.gather(deciding, pushing)
    waiting = await rows(
        ledger_pool,
        "SELECT sum(s.net_micros + s.tax_micros)::bigint FROM asides s JOIN cases c ON c.id = s.case_id"
        " WHERE c.status = 'open'",
    )
    assert waiting == [(await posted(store, "unearned/S2"),)] == [(micros("1.07"),)]


async def rows(pool: Pool, query: str) -> list[Any]:
    async with pool.connection() as connection:
        return await (await connection.execute(query.encode())).fetchall()
