"""The ledger in memory and the ledger in PostgreSQL keep one contract: same requests, same rows, same receipts."""

import asyncio
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from ledger_story import (
    EUR,
    NOW,
    OP,
    ORDER,
    SPLIT,
    TERMS,
    TOLL,
    Story,
    afterwards,
    close_and_pay,
    grants,
    micros,
    seal_all,
)

from farthing.clock import Instant
from farthing.ids import AccountId, AuthorizationId, GatewayId, OperatorId, SiteId
from farthing.v1 import batch_pb2, directive_pb2, events_pb2, gateway_sync_pb2
from farthing_cloud.database import Pool
from farthing_cloud.ledger import metrics
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.funds import Funding, LedgerRefusal, OtherContent, UnknownName
from farthing_cloud.ledger.core.posting import Cause
from farthing_cloud.ledger.core.quotas import QuotaRequest
from farthing_cloud.ledger.core.rows import AccountStatus
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.store.interface import Cursor, Detail, LedgerStore, Signed, StoreError, Transaction
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_cloud.ledger.store.postgres import PostgresStore


@pytest.fixture
def both(ledger_pool: Pool) -> tuple[LedgerStore, LedgerStore]:
    return MemoryStore(), PostgresStore(ledger_pool)


async def everything(store: LedgerStore) -> list[object]:
    """All that a store says from outside, but for its own transaction ids."""
    out: list[object] = [await store.balances(OP, ""), await store.transfers(OP)]
    for gateway in ("G1", "G2"):
        out.append(await store.gateway(GatewayId(gateway)))
        out.append(await store.chain(GatewayId(gateway), 1))
        out.append(await store.directives(GatewayId(gateway), 0, 100))
        out += [await store.batch(GatewayId(gateway), 1, sequence) for sequence in (1, 2, 3, 4)]
    named = [(GatewayId(gateway), 1, sequence) for sequence in (3, 1, 9, 2) for gateway in ("G2", "G1")]
    receipts = await store.receipts(named)
    assert [(each.gateway_id, 1, each.sequence) for each in receipts] == [
        name for name in named if await store.batch(*name) is not None
    ]
    out += receipts
    out += [replace(event, cursor=Cursor()) for event in await store.events(Cursor(), 1000, ())]
    out += [await store.open_quotas(OP, "", ""), await store.verify()]
    return out


async def case_id(store: LedgerStore) -> int:
    (event,) = await store.events(Cursor(), 10, ("case.opened",))
    return events_pb2.CaseOpened.FromString(event.value).case_id


async def play(store: LedgerStore) -> list[object]:
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    said: list[object] = [await story.push(sealed[name]) for name in ORDER]
    said += [await story.push(sealed[name]) for name in ORDER]
    said += [await story.ledger.decide_case(await case_id(store), release=True, now=NOW)]
    for gateway, sequence in (("G1", 1), ("G1", 3), ("G2", 1), ("G1", 2)):
        said += [await story.ledger.prove(GatewayId(gateway), 1, sequence, events=(), now=NOW)]
        said += [await store.chain(GatewayId(gateway), 1)]
    rules = {SiteId("S1"): SPLIT, SiteId("S2"): SPLIT}
    said += [await story.ledger.close_window(OP, EUR, "w1", rules, now=NOW) for _ in range(2)]
    return said


@pytest.mark.real
async def test_the_worked_example_is_the_same_in_both(both: tuple[LedgerStore, LedgerStore]) -> None:
    memory, postgres = both
    assert await play(memory) == await play(postgres)
    for mine, other in zip(await everything(memory), await everything(postgres), strict=True):
        assert mine == other
    assert (await postgres.verify()).fault == ""


async def tell_on(store: LedgerStore) -> list[object]:
    """The page's second half, and what was kept of its corrections."""
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    for name in ORDER:
        await story.push(sealed[name])
    await close_and_pay(story)
    said: list[object] = [*await afterwards(story)]
    said += [await store.corrections(OP, "", 10), await store.corrections(OP, "refund-t4", 10)]
    said += [await store.correction(OP, "refund-t4"), await store.correction(OP, "nothing")]
    return said


@pytest.mark.real
async def test_refund_and_chargeback_are_the_same_in_both(both: tuple[LedgerStore, LedgerStore]) -> None:
    memory, postgres = both
    assert await tell_on(memory) == await tell_on(postgres)
    for mine, other in zip(await everything(memory), await everything(postgres), strict=True):
        assert mine == other
    assert (await postgres.verify()).fault == ""


async def test_nothing_is_written_when_the_work_fails(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    before = await everything(store)
    funding = Funding(
        operator_id=OP,
        account_id=AccountId("P"),
        currency=EUR,
        amount_micros=1,
        payment_id="pay-9",
        source="bank/main",
    )

    async def work(tx: Transaction) -> None:
        await tx.load(funding.touch())
        raise LedgerRefusal("no")

    with pytest.raises(LedgerRefusal):
        await store.run(work)
    assert await everything(store) == before


async def test_refusals_change_nothing(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    before = await everything(store)
    pay = Funding(
        operator_id=OP,
        account_id=AccountId("P"),
        currency=EUR,
        amount_micros=micros("9"),
        payment_id="pay-1",
        source="bank/main",
    )
    with pytest.raises(OtherContent):
        await story.ledger.fund(pay, now=NOW)
    with pytest.raises(UnknownName):
        await story.ledger.fund(replace(pay, account_id=AccountId("Q")), now=NOW)
    with pytest.raises(LedgerRefusal):
        await story.ledger.fund(replace(pay, payment_id="pay-9", source="payer/P"), now=NOW)
    with pytest.raises(UnknownName):
        await story.ledger.decide_case(99, release=True, now=NOW)
    with pytest.raises(UnknownName):
        await story.ledger.close_window(OP, EUR, "w2", {}, now=NOW)
    assert await everything(store) == before


async def test_a_gap_changes_nothing_and_a_fork_is_kept(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    assert (await story.push(sealed["G1#2"])).step is ChainStep.GAP
    assert (await story.push(sealed["G1#1"])).step is ChainStep.NEXT
    before = await store.transfers(OP)
    other = batch_pb2.Batch.FromString(sealed["G1#1"])
    other.sealed_at_us += 1
    assert (await story.push(other.SerializeToString(deterministic=True))).step is ChainStep.FORK
    follows_other = batch_pb2.Batch.FromString(sealed["G1#2"])
    follows_other.previous_hash = bytes(range(32))
    assert (await story.push(follows_other.SerializeToString(deterministic=True))).step is ChainStep.FORK
    assert await store.transfers(OP) == before
    gateway = await store.gateway(GatewayId("G1"))
    assert gateway is not None
    assert gateway.quarantined
    # Posting goes on; new quotas do not.
    assert (await story.push(sealed["G1#2"])).step is ChainStep.NEXT
    request = quota_request(counter=50)
    answer = await story.ledger.request_quota(request, now=NOW)
    assert (answer.quota_id, answer.amount_micros) == ("", 0)


def quota_request(*, counter: int, account: str = "F", wanted: str = "0.80", incarnation: int = 1) -> QuotaRequest:
    return QuotaRequest(
        operator_id=OP,
        gateway_id=GatewayId("G1"),
        incarnation=incarnation,
        counter=counter,
        account_id=AccountId(account),
        currency=EUR,
        wanted_micros=micros(wanted),
    )


@pytest.mark.parametrize(
    ("wanted", "account", "terms", "incarnation", "exposure", "answer"),
    [
        # One row per answer in precedence order, each breaking later rules too where it can.
        ("9", "Q", {"most_open_per_account": 0}, 2, "0", "INCARNATION_DIFFERS"),
        ("9", "Q", {"most_open_per_account": 0}, 1, "0", "ACCOUNT_UNKNOWN"),
        ("9", "S", {"most_open_per_account": 0}, 1, "0", "ACCOUNT_SUSPENDED"),
        ("9", "E", {"most_open_per_account": 0}, 1, "0", "TOO_MANY_OPEN"),
        ("9", "E", {}, 1, "0", "EXPOSURE_REACHED"),
        ("9", "E", {}, 1, "10", "NOTHING_AVAILABLE"),
        ("9", "F", {}, 1, "10", "GRANTED"),
    ],
)
async def test_the_first_broken_rule_names_the_quota_answer(
    store: LedgerStore, wanted: str, account: str, terms: dict[str, int], incarnation: int, exposure: str, answer: str
) -> None:
    story = Story(store)
    await story.open()
    await story.fund("F", "0.80", "pay-1")
    for name, status in (("E", AccountStatus.ACTIVE), ("S", AccountStatus.SUSPENDED)):
        await story.ledger.put_account(
            operator_id=OP,
            account_id=AccountId(name),
            currency=EUR,
            credit_limit_micros=0,
            debt_limit_micros=0,
            status=status,
            preload_micros=0,
            now=NOW,
        )
    await story.ledger.put_gateway(
        gateway_id=GatewayId("G1"),
        operator_id=OP,
        site_id=SiteId("S1"),
        currency=EUR,
        exposure_micros=micros(exposure),
        batch_key=b"",
        grant_key=b"",
        time_zone="Europe/Berlin",
        now=NOW,
    )
    ledger = Ledger(store, terms=replace(TERMS, **terms), receipt_keys=())
    request = quota_request(counter=1, account=account, wanted=wanted, incarnation=incarnation)
    answered = await ledger.request_quota(request, now=NOW)
    assert gateway_sync_pb2.QuotaAnswer.Name(answered.answer) == f"QUOTA_ANSWER_{answer}"
    assert answered.amount_micros == (micros("0.80") if answer == "GRANTED" else 0)
    assert await ledger.request_quota(request, now=NOW) == answered


async def test_a_quota_is_a_share_of_what_is_available(store: LedgerStore) -> None:
    story = Story(store)
    await story.open()
    await story.fund("P", "10", "pay-1")
    terms = replace(TERMS, share_ppm=250_000, smallest_micros=micros("1"), most_open_per_account=10)
    ledger = Ledger(store, terms=terms, receipt_keys=())
    got = [
        (await ledger.request_quota(quota_request(counter=counter, account="P", wanted="4"), now=NOW)).amount_micros
        for counter in range(1, 9)
    ]
    # 10 → 2.5, 7.5 → 1.875, 5.625 → 1.40625, 4.21875 → 1.0546875 (…6875 cut), then a unit as long as there is one.
    assert got[:4] == [2_500_000, 1_875_000, 1_406_250, 1_054_687]
    assert got[4:7] == [1_000_000, 1_000_000, 1_000_000]
    assert got[7] == 10_000_000 - sum(got[:7])


async def test_recall_asks_and_moves_nothing(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    before = await store.balances(OP, "")
    recalled = await story.ledger.recall(OP, gateway_id="G1", account_id="", reason="test", now=NOW)
    assert sorted(recalled) == sorted([story.quotas["q1"], story.quotas["q3"]])
    assert await story.ledger.recall(OP, gateway_id="G1", account_id="", reason="test", now=NOW) == ()
    assert await store.balances(OP, "") == before
    bodies = [directive_pb2.Directive.FromString(row.body) for row in await store.directives(GatewayId("G1"), 0, 100)]
    assert [body.WhichOneof("body") for body in bodies] == [
        "welcome",
        "quota_granted",
        "quota_granted",
        "quota_recalled",
        "quota_recalled",
    ]
    assert [body.version for body in bodies] == [1, 2, 3, 4, 5]


async def test_a_wish_becomes_one_directive_and_its_account_is_told_once(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    ledger, gateway = story.ledger, GatewayId("G2")
    first = directive_pb2.TokenRecord(token_ref=bytes(32), key_epoch=1, token_id="t1", account_id="P")
    second = directive_pb2.TokenRecord(token_ref=bytes(32), key_epoch=1, token_id="t2", account_id="P")
    # Welcome, the quota, then the account and the token that names it.
    assert await ledger.issue_directive(OP, gateway, first, idempotency_key="t1", now=NOW) == 4
    assert await ledger.issue_directive(OP, gateway, first, idempotency_key="t1", now=NOW) == 4
    assert await ledger.issue_directive(OP, gateway, second, idempotency_key="t2", now=NOW) == 5
    kinds = [
        directive_pb2.Directive.FromString(row.body).WhichOneof("body") for row in await store.directives(gateway, 0, 9)
    ]
    assert kinds == ["welcome", "quota_granted", "account", "token", "token"]
    assert await store.told(OP, AccountId("P")) == [gateway]
    with pytest.raises(UnknownName):
        await ledger.issue_directive(
            OP, gateway, directive_pb2.TokenRecord(account_id="nobody"), idempotency_key="t3", now=NOW
        )
    # A change of what the gateway was told is told again.
    terms = {"operator_id": OP, "account_id": AccountId("P"), "currency": EUR, "credit_limit_micros": 0}
    changed = {"debt_limit_micros": micros("1"), "status": AccountStatus.SUSPENDED, "preload_micros": 0}
    assert await ledger.put_account(**terms, **changed, now=NOW)  # type: ignore[arg-type]  # two dicts of one call
    assert not await ledger.put_account(**terms, **changed, now=NOW)  # type: ignore[arg-type]  # two dicts of one call
    last = (await store.directives(gateway, 5, 9))[-1]
    assert directive_pb2.Directive.FromString(last.body).account.status == directive_pb2.ACCOUNT_STATUS_SUSPENDED
    assert (await store.verify()).fault == ""


async def test_signatures_and_receipts_kept_first_win(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    outcome = await story.push(sealed["G1#1"])
    assert outcome.receipt is not None
    first = Signed(body=outcome.receipt.encode(), signature=b"1" * 64, key_id=b"k" * 8)
    batch_hash = outcome.receipt.batch_hash
    assert await store.kept_receipt(batch_hash) is None
    assert await store.keep_receipts([(batch_hash, first)]) == [first]
    assert await store.keep_receipts([(batch_hash, replace(first, signature=b"2" * 64))]) == [first]
    assert await store.kept_receipt(batch_hash) == first
    unsigned = await store.unsigned(100)
    assert [(row.gateway_id, row.version) for row in unsigned] == [
        ("G1", 1),
        ("G1", 2),
        ("G1", 3),
        ("G2", 1),
        ("G2", 2),
    ]
    for signature in (b"1" * 64, b"2" * 64):
        await store.keep_signatures([replace(unsigned[0], signature=signature, key_id=b"k" * 8)])
    assert (await store.directives(GatewayId("G1"), 0, 1))[0].signature == b"1" * 64
    assert len(await store.unsigned(100)) == 4


async def test_a_line_that_makes_no_sense_is_parked_and_the_rest_posted(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    batch = batch_pb2.Batch.FromString(sealed["G1#1"])
    batch.lines[0].quota_id = story.quotas["q2"]
    outcome = await story.push(batch.SerializeToString(deterministic=True))
    assert outcome.receipt is not None
    assert outcome.receipt.parked == ((0, "its quota belongs to another gateway"),)
    assert len(await store.transfers(OP)) == 5 + 2 + 1
    stored = await store.batch(GatewayId("G1"), 1, 1)
    assert stored is not None
    assert stored.receipt == outcome.receipt
    assert (await store.verify()).fault == ""
    (aside,) = [row for row in await story.rows() if row.endswith("unknown-name")]
    amount = aside.split()[5]
    # What it names is no quota of this gateway: people bill its account, late.
    await story.ledger.decide_case(await case_id(store), release=True, now=NOW)
    released = (await story.rows())[8:]
    assert released[0] == f"post | unearned/S1 | suspense/S1 {amount} | reversed"
    assert {row.split(" | ")[-1] for row in released[1:]} == {"late"}
    assert sum(micros(row.split()[5]) for row in released[1:]) == micros(amount)
    assert (await store.verify()).fault == ""


async def test_above_the_exposure_is_set_aside_and_a_case_decides(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    gateway = await store.gateway(GatewayId("G1"))
    assert gateway is not None
    # Room for 1.00 beyond what is held.
    await story.ledger.put_gateway(
        gateway_id=GatewayId("G1"),
        operator_id=OP,
        site_id=SiteId("S1"),
        currency=EUR,
        exposure_micros=micros("1.00"),
        batch_key=b"",
        grant_key=b"",
        time_zone="Europe/Berlin",
        now=NOW,
    )
    for name in ("G1#1", "G1#2", "G1#3"):
        await story.push(sealed[name])
    last = (await story.rows())[-5:]
    # 2.55 of overrun, q3 is used up: 1.00 (available) is inside, 1.55 above.
    assert last == [
        "post q3 | payer/P | clr/S1 0.36225 | use",
        "post q3 | payer/P | tax/20 0.07245 | use",
        "post | payer/P | clr/S1 0.833333 | overrun",
        "post | payer/P | tax/20 0.166667 | overrun",
        "post | suspense/S1 | unearned/S1 1.55 | exposure",
    ]
    assert (await store.verify()).fault == ""
    await story.ledger.decide_case(await case_id(store), release=True, now=NOW)
    assert (await story.rows())[-5:] == [
        "post | unearned/S1 | suspense/S1 1.55 | reversed",
        "post | debt/P | clr/S1 0.833333 | late",
        "post | debt/P | tax/20 0.166667 | late",
        "post | risk | clr/S1 0.458334 | late",
        "post | risk | tax/20 0.091666 | late",
    ]
    assert (await store.verify()).fault == ""


@pytest.mark.parametrize("least", [1, 2, 3])
@pytest.mark.parametrize("evidence_class", [1, 2, 3])
async def test_below_the_least_class_of_its_site_a_line_waits_for_people(
    store: LedgerStore, least: int, evidence_class: int
) -> None:
    story = Story(store)
    await story.open()
    await story.fund("P", "10", "pay-1")
    await story.grant("q1", "G1", "3.00")
    await story.ledger.put_gateway(
        gateway_id=GatewayId("G1"), operator_id=OP, site_id=SiteId("S1"), currency=EUR, exposure_micros=micros("10"),
        batch_key=b"", grant_key=b"", time_zone="Europe/Berlin", now=NOW, least_class=least,
    )  # fmt: skip
    gateway = await store.gateway(GatewayId("G1"))
    assert gateway is not None
    assert gateway.least_class == least
    raw = story.seal(
        "G1",
        [("a", "c1", 0, 5, "1.00", "0.20", [(0, "1.00", "0.20")]), ("b", "c2", 0, 5, "0.50", "0.10", [(1, "0.50", "0.10")])],
        [("P", "q1", ("t", 200_000), "10:00"), ("P", "q1", ("t", 200_000), "10:00")],
    )  # fmt: skip
    batch = batch_pb2.Batch.FromString(raw)
    batch.lines[1].evidence_class = evidence_class  # type: ignore[assignment]  # a number of the enum
    raw = batch.SerializeToString(deterministic=True)
    await story.push(raw)
    await story.push(raw)
    below = evidence_class > least
    used = ["post q1 | payer/P | clr/S1 1.00 | use", "post q1 | payer/P | tax/20 0.20 | use"]
    # The other line of the same batch is posted as ever.
    assert [row for row in await story.rows() if row in used] == used
    assert ("post | suspense/S1 | unearned/S1 0.60 | evidence-class" in await story.rows()) is below
    assert (await store.verify()).fault == ""
    balances = {path: found for path, _, found in await store.balances(OP, "payer/P")}
    assert balances["payer/P"].debits_posted == micros("1.20" if below else "1.80")
    # What it would have cost is held for nobody: 3.00 less what was used, and what people look at.
    assert balances["payer/P"].debits_pending == micros("1.20")
    cases = await store.events(Cursor(), 10, ("case.opened",))
    assert len(cases) == below
    if not below:
        return
    await story.ledger.decide_case(await case_id(store), release=True, now=NOW)
    assert (await story.rows())[-3:] == [
        "post | unearned/S1 | suspense/S1 0.60 | reversed",
        "post | payer/P | clr/S1 0.50 | late",
        "post | payer/P | tax/20 0.10 | late",
    ]
    assert (await store.verify()).fault == ""


async def test_room_of_the_floor_returns_when_it_is_proven_and_nothing_is_owed(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    await story.push(sealed["G2#1"])
    gateway = await store.gateway(GatewayId("G2"))
    assert gateway is not None
    assert gateway.beyond_micros == micros("1.20")

    async def resolved() -> list[tuple[str, int]]:
        bodies = [directive_pb2.Directive.FromString(d.body) for d in await store.directives(GatewayId("G2"), 0, 99)]
        return [
            (body.floor_resolved.account_id, body.floor_resolved.amount_micros)
            for body in bodies
            if body.HasField("floor_resolved")
        ]

    # Proven, but F owes 0.40: the exposure is free again, the floor's room is not.
    assert await story.ledger.prove(GatewayId("G2"), 1, 1, events=(), now=NOW)
    gateway = await store.gateway(GatewayId("G2"))
    assert gateway is not None
    assert (gateway.beyond_micros, await resolved()) == (0, [])
    assert await story.ledger.resolve_floors(now=NOW) == 0
    await story.fund("F", "0.39", "pay-3")
    assert await story.ledger.resolve_floors(now=NOW) == 0
    await story.fund("F", "5.00", "pay-4")
    assert await story.ledger.resolve_floors(now=NOW) == 1
    assert await resolved() == [("F", micros("1.20"))]
    assert await story.ledger.resolve_floors(now=NOW) == 0
    assert (await store.verify()).fault == ""


async def test_a_use_between_two_others_overlaps_neither(store: LedgerStore) -> None:
    """One begins where another ended, and ends where a third begins."""
    story = Story(store)
    await grants(story)

    def claim(name: str, start: int, end: int) -> tuple[Any, ...]:
        return (name, "x1", start, end, "0.10", "0", [(0, "0.10", "0")])

    for name, start, end in (("low", 5, 10), ("high", 20, 30)):
        await story.push(story.seal("G1", [claim(name, start, end)], [("P", "q1", TOLL, "10:00")]))
    await story.push(story.seal("G2", [claim("between", 10, 20)], [("P", "q2", TOLL, "10:00")]))
    assert {transfer.cause for transfer in (await store.transfers(OP))[5:]} == {Cause.USE}
    # One more to either side, and it is claimed twice.
    await story.push(story.seal("G2", [claim("wider", 9, 10)], [("P", "q2", TOLL, "10:00")]))
    await story.push(story.seal("G2", [claim("later", 20, 21)], [("P", "q2", TOLL, "10:00")]))
    aside = [transfer for transfer in await store.transfers(OP) if transfer.debit == "suspense/S2"]
    assert [transfer.cause for transfer in aside] == [Cause.SECOND_CLAIM, Cause.SECOND_CLAIM]


@pytest.mark.real
async def test_two_gateways_at_once_collide_and_nothing_is_lost(ledger_pool: Pool) -> None:
    store = PostgresStore(ledger_pool)
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)

    async def push(gateway: str) -> None:
        for sequence in (1, 2, 3):
            outcome = await story.push(sealed[f"{gateway}#{sequence}"])
            assert outcome.step in (ChainStep.NEXT, ChainStep.REPLAY)

    collided = metrics.collisions()
    # Each batch twice, both gateways at once, with fundings in between.
    await asyncio.gather(push("G1"), push("G2"), *(story.fund("P", "0.01", f"more-{number}") for number in range(10)))
    await asyncio.gather(push("G1"), push("G2"))
    # They wait for each other; none was undone for another.
    assert metrics.collisions() == collided
    assert (await store.verify()).fault == ""
    total = {path: b for path, _, b in await store.balances(OP, "")}
    paid = sum(b.debits_posted for path, b in total.items() if path in ("payer/P", "payer/F", "risk"))
    debts = [b for path, b in total.items() if path.startswith("debt/")]
    aside = sum(b.debits_posted for path, b in total.items() if path.startswith("suspense/"))
    # What a payer pays of a debt is a debit of his own, and was one of the debt's before.
    assert paid - sum(b.credits_posted for b in debts) + sum(b.debits_posted for b in debts) + aside == micros("12.06")


@pytest.mark.real
async def test_what_collided_is_done_again_and_counted(ledger_pool: Pool) -> None:
    store, before = PostgresStore(ledger_pool), metrics.collisions()
    faults: list[Exception] = [
        psycopg.errors.DeadlockDetected("one"),
        psycopg.errors.SerializationFailure("two"),
        psycopg.errors.UniqueViolation("three"),
        psycopg.errors.DeadlockDetected("four"),
    ]

    async def work(tx: Transaction) -> str:
        if faults:
            raise faults.pop(0)
        return "done"

    assert await store.run(work) == "done"
    after = metrics.collisions()
    counted = {kind: after[kind] - before.get(kind, 0) for kind in after}
    assert counted == {"deadlock": 2, "serialization": 1, "unique": 1}
    faults += [psycopg.errors.DeadlockDetected("again")] * 5
    with pytest.raises(StoreError, match="collided 5 times"):
        await store.run(work)


async def test_detail_is_kept_with_its_proof_found_by_authorization_and_forgotten(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    for name in ORDER:
        await story.push(sealed[name])
    a1, t1 = (AuthorizationId(name.ljust(16)) for name in (b"a1", b"t1"))

    async def prove(sequence: int, leaves: bytes, at: int) -> bool:
        claims = batch_pb2.Batch.FromString(sealed[f"G1#{sequence}"]).claims
        mine = Detail(authorizations=tuple(AuthorizationId(c.authorization_id) for c in claims), leaves=leaves)
        return await story.ledger.prove(GatewayId("G1"), 1, sequence, events=(), now=Instant(at), detail=mine)

    async def found(authorization: AuthorizationId, **more: Any) -> list[tuple[int, bytes | None]]:
        asked: dict[str, Any] = {"last": (1, 3), "before": None, "limit": 10} | more
        return [
            (batch.sequence, batch.leaves)
            for batch in await store.detailed_batches(GatewayId("G1"), authorization, **asked)
        ]

    # The batch of the last claim is there in any case, without a detail.
    assert await found(a1) == [(3, None)]
    assert await prove(1, b"one", 10)
    assert not await prove(1, b"another", 11)
    assert await prove(2, b"two", 20)
    assert await found(a1) == [(3, None), (2, b"two"), (1, b"one")]
    assert await found(t1, last=(1, 1)) == [(1, b"one")]
    assert await found(a1, limit=2) == [(3, None), (2, b"two")]
    assert await found(a1, before=(1, 2)) == [(1, b"one")]
    (second,) = await store.detailed_batches(GatewayId("G1"), a1, (1, 2), (1, 3), 1)
    assert (second.batch.body, second.proven, second.receipt) == (sealed["G1#2"], True, None)

    (claim,) = await store.claims_of(OP, a1)
    assert (claim.gateway_id, claim.incarnation, claim.sequence) == ("G1", 1, 3)
    assert await store.claims_of(OperatorId("another"), a1) == []
    assert await store.claims_of(OP, AuthorizationId(bytes(16))) == []

    assert await store.forget_details(Instant(10), 5) == 0
    assert await store.forget_details(Instant(21), 1) == 1
    assert await found(a1) == [(3, None), (2, b"two")]
    assert await store.forget_details(Instant(21), 5) == 1


async def test_batch_keys_are_kept_alike(both: tuple[LedgerStore, LedgerStore]) -> None:
    async def play_keys(store: LedgerStore) -> list[object]:
        said: list[object] = []
        ledger = Ledger(store, terms=TERMS, receipt_keys=())
        steps: list[tuple[bytes, tuple[bytes, ...]]] = [
            (b"a", ()), (b"a", ()), (b"b", ()), (b"a", ()), (b"a", (b"a",)), (b"a", ()), (b"c", (b"a", b"d")), (b"d", ()),
        ]  # fmt: skip
        for step, (key, revoked) in enumerate(steps):
            changed = await ledger.put_gateway(
                gateway_id=GatewayId("G1"),
                operator_id=OP,
                site_id=SiteId("S1"),
                currency=EUR,
                exposure_micros=1,
                batch_key=key,
                grant_key=b"g",
                time_zone="Europe/Berlin",
                now=Instant(NOW + step),
                revoked_keys=revoked,
            )
            gateway = await store.gateway(GatewayId("G1"))
            assert gateway is not None
            said += [changed, gateway.batch_key, await store.batch_keys(GatewayId("G1"))]
        said.append(await store.verify())
        return said

    memory, postgres = [await play_keys(store) for store in both]
    assert memory == postgres
    assert memory[:-1:3] == [True, False, True, True, True, False, True, True]
    assert memory[1:-1:3] == [b"a", b"a", b"b", b"a", b"", b"", b"c", b""]
