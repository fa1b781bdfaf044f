"""Bounds of the core, each at the place where one micro, one instant or one name more would decide otherwise."""

import pytest
from ledger_story import CHG, EUR, NOW, OP, TERMS, TOLL, Story, grants, micros, order

from farthing.clock import Instant
from farthing.ids import AccountId, GatewayId, QuotaId, SiteId
from farthing.money import Currency
from farthing.v1 import directive_pb2
from farthing_cloud.ledger.core import reviews, silence
from farthing_cloud.ledger.core.funds import LedgerRefusal
from farthing_cloud.ledger.core.posting import Cause
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.core.rows import Gateway, Quota, QuotaStatus, Touch
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.store.interface import Transaction
from farthing_cloud.ledger.store.memory import MemoryStore

G1, G2, P, F = GatewayId("G1"), GatewayId("G2"), AccountId("P"), AccountId("F")


async def opened() -> Story:
    story = Story(MemoryStore())
    await story.open()
    await story.fund("P", "10.00", "pay-1")
    return story


async def expose(story: Story, exposure: str) -> None:
    await story.ledger.put_gateway(
        gateway_id=G1,
        operator_id=OP,
        site_id=SiteId("S1"),
        currency=EUR,
        exposure_micros=micros(exposure),
        batch_key=b"",
        grant_key=b"",
        time_zone="Europe/Berlin",
        now=NOW,
    )


async def statuses(story: Story) -> list[QuotaStatus]:
    return [quota.status for quota in await story.store.account_quotas(OP, P)]


async def test_an_interval_without_width_overlaps_nothing_of_its_batch() -> None:
    """A session that began inside another's interval and used nothing yet: no second claim."""
    story = await opened()
    await story.grant("q1", "G1", "4.00")
    claims = [
        ("long", "c1", 100, 200, "1.00", "0.20", [(0, "1.00", "0.20")]),
        ("empty", "c1", 150, 150, "0.50", "0.10", [(0, "0.50", "0.10")]),
    ]
    await story.push(story.seal("G1", claims, [("P", "q1", CHG, "10:00")]))
    assert {transfer.cause for transfer in (await story.store.transfers(OP))[2:]} == {Cause.USE}


async def test_a_quota_pays_for_no_other_account() -> None:
    story = await opened()
    await story.grant("q1", "G1", "4.00")
    claims = [("t1", "x1", 0, 1, "1.00", "0.20", [(0, "1.00", "0.20")])]
    outcome = await story.push(story.seal("G1", claims, [("F", "q1", CHG, "10:00")]))
    assert outcome.receipt is not None
    assert outcome.receipt.parked == ((0, "its quota belongs to another account"),)
    assert [transfer.cause for transfer in (await story.store.transfers(OP))[2:]] == [Cause.UNKNOWN_NAME]


async def test_what_a_hold_has_paid_makes_room_for_what_is_beyond_it() -> None:
    """Its exposure is used up by what is held; the hold's own posting frees as much as it posts."""
    story = await opened()
    await expose(story, "4.00")
    await story.grant("q1", "G1", "4.00")
    claims = [("t1", "x1", 0, 1, "5.00", "0", [(0, "5.00", "0")])]
    await story.push(story.seal("G1", claims, [("P", "q1", TOLL, "10:00")]))
    assert [(transfer.amount_micros, transfer.cause) for transfer in (await story.store.transfers(OP))[2:]] == [
        (micros("4.00"), Cause.USE),
        (micros("1.00"), Cause.LATE),
    ]


async def test_risk_gives_no_room_of_the_floor_back() -> None:
    """Of 3.00 on the floor F had 0.80, owes 1.00, and the operator bears the rest: 1.80 come back once F has paid."""
    story = Story(MemoryStore())
    await grants(story)
    claims = [("t1", "x1", 0, 1, "3.00", "0", [(0, "3.00", "0")])]
    await story.push(story.seal("G2", claims, [("F", "floor", TOLL, "10:00")]))
    assert await story.ledger.prove(G2, 1, 1, events=(), now=NOW)
    await story.fund("F", "5.00", "pay-3")
    assert await story.ledger.resolve_floors(now=NOW) == 1
    bodies = [directive_pb2.Directive.FromString(row.body) for row in await story.store.directives(G2, 0, 99)]
    resolved = [body.floor_resolved for body in bodies if body.HasField("floor_resolved")]
    assert [(each.account_id, each.amount_micros) for each in resolved] == [("F", micros("1.80"))]


@pytest.mark.parametrize(("exposure", "recalled"), [("4.00", 1), ("3.999999", 2), ("6.00", 0), ("5.999999", 1)])
async def test_a_lower_exposure_recalls_as_much_as_is_above_it_and_no_more(exposure: str, recalled: int) -> None:
    story = await opened()
    for name in ("q1", "q2", "q3"):
        await story.grant(name, "G1", "2.00")
    await expose(story, exposure)
    assert (await statuses(story)).count(QuotaStatus.RECALLED) == recalled


def test_a_hold_stands_at_the_instant_when_it_should_have_been_reported() -> None:
    quota = Quota(
        quota_id=QuotaId("q"),
        gateway_id=G1,
        incarnation=1,
        account_id=P,
        amount_micros=1,
        spend_until=Instant(50),
        report_until=Instant(100),
        request_counter=1,
    )
    gateway = Gateway(
        gateway_id=G1,
        operator_id=OP,
        site_id=SiteId("S1"),
        currency=Currency("EUR"),
        exposure_micros=1,
        beyond_micros=0,
        floor_micros=0,
        incarnation=1,
        adopted=True,
        quarantined=False,
        directive_version=1,
        directive_hash=bytes(32),
        time_zone="Europe/Berlin",
        batch_key=b"",
        grant_key=b"",
        witness_start_id=b"",
        witness_position=0,
        contact_at=Instant(90),
    )

    def stands(now: int, **changes: Instant) -> bool:
        return silence.outlives(
            quota._replace(**changes), gateway, posted_sequence=0, outage_us=40, now=Instant(now)
        )  # fmt: skip

    assert [stands(100), stands(101)] == [True, False]
    # In use, it stands as long as its gateway is heard: 40 after it was last.
    assert [stands(130, in_use_at=Instant(90)), stands(131, in_use_at=Instant(90))] == [True, False]


async def test_what_a_forced_void_frees_pays_the_debt_at_once() -> None:
    story = await opened()
    await story.grant("q1", "G1", "10.00")
    claims = [("t1", "x1", 0, 1, "1.00", "0", [(0, "1.00", "0")])]
    await story.push(story.seal("G2", claims, [("P", "overrun", TOLL, "10:00")]))

    async def force(tx: Transaction) -> None:
        view = await tx.load(Touch(operator_id=OP, currency=EUR, gateway_ids=(G1,), incarnations=True))
        await tx.post(silence.force(view, G1, now=NOW))

    await story.store.run(force)
    assert [(transfer.amount_micros, transfer.cause) for transfer in (await story.store.transfers(OP))[-2:]] == [
        (micros("10.00"), Cause.FORCED),
        (micros("1.00"), Cause.DEBT),
    ]


@pytest.mark.parametrize(("amount", "alone"), [("1.00", True), ("1.01", False)])
async def test_what_one_person_may_pay_back_alone_is_the_limit_itself(amount: str, alone: bool) -> None:
    story = await opened()
    story.ledger = Ledger(story.store, terms=TERMS, receipt_keys=(), payback_alone_micros=micros("1.00"))
    payback = order("payback", "b1", account_id="P", path="bank/main", amount=amount)
    await story.ledger.correct(payback, person="alice", now=NOW)
    handed = order("payback-handed", "h1", payback_id="b1")
    if alone:
        await story.ledger.correct(handed, person="alice", now=NOW)
    else:
        with pytest.raises(LedgerRefusal, match="another person approves it"):
            await story.ledger.correct(handed, person="alice", now=NOW)


async def test_a_review_lets_no_word_of_a_revoked_gateway_end_its_holds() -> None:
    story = await opened()
    await story.grant("q1", "G1", "4.00")
    await story.grant("q2", "G1", "2.00")
    claims = [("t1", "x1", 0, 1, "1.00", "0", [(0, "1.00", "0")])]
    raw = story.seal("G1", claims, [("P", "q1", TOLL, "10:00")], stopped={"q2": "0"}, closed=("q1",))
    batch = reviews.only(receive(raw, signature=b"", key_id=b"", currency=EUR), frozenset())
    await story.ledger.post_batch(batch, currency=EUR, now=NOW)
    assert await statuses(story) == [QuotaStatus.OPEN, QuotaStatus.OPEN]
    # Three transfers before: what was paid in, and the two holds.
    assert len(await story.store.transfers(OP)) == 3
