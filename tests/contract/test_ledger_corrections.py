"""Corrections over both stores: at most what is left, once, and back to whom it came from."""

from collections.abc import Mapping

import pytest
from ledger_story import EUR, NOW, OP, ORDER, SPLIT, Story, close_and_pay, grants, micros, order, seal_all

from farthing.ids import AccountId, GatewayId, SiteId
from farthing.money import format_micros
from farthing.v1 import events_pb2
from farthing_cloud.ledger.core.funds import Funding, LedgerRefusal, OtherContent, UnknownName
from farthing_cloud.ledger.core.rows import AccountStatus
from farthing_cloud.ledger.store.interface import Cursor, LedgerStore


async def told(store: LedgerStore) -> Story:
    """The worked example up to row 38; every batch but G2#3 is proven."""
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    for name in ORDER:
        await story.push(sealed[name])
    return story


async def correct(story: Story, kind: str, correction_id: str, **names: str) -> int:
    """The amount it moved."""
    changed, _, correction = await story.ledger.correct(order(kind, correction_id, **names), person="alice", now=NOW)
    assert changed
    assert (await story.store.verify()).fault == ""
    return correction.amount_micros


async def balances(story: Story) -> Mapping[str, str]:
    return {p: format_micros(b.credits_posted - b.debits_posted) for p, _, b in await story.store.balances(OP, "")}


async def test_a_use_of_the_open_window_leaves_its_clearing_and_has_no_split_to_reverse(store: LedgerStore) -> None:
    story = await told(store)
    start = len(await store.transfers(OP))
    assert await correct(story, "refund", "r1", use="t1", gateway_id="G1") == micros("1.20")
    assert await story.rows(start) == [
        "post | clr/S1 | payer/P 1.121495 | refund",
        "post | tax/7 | payer/P 0.078505 | refund",
    ]


async def test_risk_gets_back_first_what_it_bore_and_the_part_billed_last_goes_first(store: LedgerStore) -> None:
    story = await told(store)
    start = len(await store.transfers(OP))
    assert await correct(story, "refund", "r1", use="a1", gateway_id="G1", amount="0.60") == micros("0.60")
    # L7: 2.125 + 0.425, of which risk bore 0.55.
    assert await story.rows(start) == [
        "post | clr/S1 | risk 0.458333 | refund",
        "post | tax/20 | risk 0.091667 | refund",
        "post | clr/S1 | payer/P 0.041667 | refund",
        "post | tax/20 | payer/P 0.008333 | refund",
    ]
    assert (await balances(story))["risk"] == "0.00"
    assert await correct(story, "refund", "r2", use="a1", gateway_id="G1") == micros("6.75")
    assert (await balances(story))["risk"] == "0.00"
    assert (await balances(story))["clearing/S1/w1"] == "1.121495"
    with pytest.raises(LedgerRefusal, match="nothing is left of"):
        await correct(story, "refund", "r3", use="a1", gateway_id="G1")


async def test_what_is_not_left_is_not_given_and_an_id_counts_once(store: LedgerStore) -> None:
    story = await told(store)
    before = await store.transfers(OP)
    with pytest.raises(LedgerRefusal, match=r"1\.20 EUR is left"):
        await correct(story, "refund", "r1", use="t1", gateway_id="G1", amount="1.200001")
    with pytest.raises(UnknownName):
        await correct(story, "refund", "r1", use="t9", gateway_id="G1")
    # t1 belongs to G1: another gateway's authorization of this name is another one.
    with pytest.raises(UnknownName):
        await correct(story, "refund", "r1", use="t1", gateway_id="G2")
    # Nothing of t3 was billed: it was set aside.
    with pytest.raises(LedgerRefusal, match="nothing is left of"):
        await correct(story, "refund", "r1", use="t3", gateway_id="G2")
    trial = await story.ledger.correct(
        order("refund", "r1", use="t1", gateway_id="G1"), person="alice", now=NOW, dry_run=True
    )
    assert (trial[0], trial[2].amount_micros) == (True, micros("1.20"))
    assert await store.transfers(OP) == before
    await correct(story, "refund", "r1", use="t1", gateway_id="G1")
    after = await store.transfers(OP)
    again = await story.ledger.correct(order("refund", "r1", use="t1", gateway_id="G1"), person="bob", now=NOW)
    assert (again[0], again[2].person) == (False, "alice")
    with pytest.raises(OtherContent):
        await correct(story, "refund", "r1", use="t1", gateway_id="G1", amount="0.10")
    assert await store.transfers(OP) == after


async def test_a_released_case_can_be_refunded(store: LedgerStore) -> None:
    story = await told(store)
    (event,) = await store.events(Cursor(), 10, ("case.opened",))
    case_id = events_pb2.CaseOpened.FromString(event.value).case_id
    await story.ledger.decide_case(case_id, release=True, now=NOW)
    start = len(await store.transfers(OP))
    assert await correct(story, "refund", "r1", use="t3", gateway_id="G2", amount="0.70") == micros("0.70")
    assert await correct(story, "refund", "r2", use="t3", gateway_id="G2") == micros("0.50")
    assert sum(t.amount_micros for t in (await store.transfers(OP))[start:] if t.cause == "refund") == micros("1.20")


async def test_what_is_not_proven_has_no_split_yet(store: LedgerStore) -> None:
    story = await told(store)
    await close_and_pay(story)
    start = len(await store.transfers(OP))
    # a3 is L10 and L11 (split) and L12, which was carried over.
    assert await correct(story, "refund", "r1", use="a3", gateway_id="G2") == micros("1.11")
    rows = [row.replace("/w2", "") for row in await story.rows(start)]
    assert [row for row in rows if "split-back" in row] == [
        "post | agency/A | clr/S2 0.114 | split-back",
        "post | agency/B | clr/S2 0.057 | split-back",
        "post | fee/op | clr/S2 0.019 | split-back",
        "post | agency/A | clr/S2 0.432 | split-back",
        "post | agency/B | clr/S2 0.216 | split-back",
        "post | fee/op | clr/S2 0.072 | split-back",
    ]
    assert (await balances(story))["clearing/S2/w2"] == "0.00"
    # And the window closes: nothing is left to carry.
    await story.ledger.close_window(OP, EUR, "w2", {SiteId("S2"): SPLIT}, now=NOW)
    assert (await store.verify()).fault == ""


@pytest.mark.parametrize("won", [True, False])
async def test_a_dispute_is_set_aside_from_the_agencies_and_ends_either_way(store: LedgerStore, won: bool) -> None:
    story = await told(store)
    await close_and_pay(story)
    before = await balances(story)
    assert await correct(story, "dispute", "d1", use="t4", gateway_id="G2") == micros("1.20")
    during = await balances(story)
    assert during["dispute/d1"] == "1.121495"
    assert (during["agency/A"], during["payer/F"]) == ("-0.666102", before["payer/F"])
    with pytest.raises(LedgerRefusal, match="nothing is left of"):
        await correct(story, "refund", "r1", use="t4", gateway_id="G2")
    assert await correct(story, "dispute-won" if won else "dispute-lost", "e1", dispute_id="d1") == micros("1.20")
    after = await balances(story)
    assert after["dispute/d1"] == "0.00"
    if won:
        assert {**after, "dispute/d1": None} == {**before, "dispute/d1": None}
        assert await correct(story, "refund", "r1", use="t4", gateway_id="G2") == micros("1.20")
    else:
        # The payer owed 0.40: that is paid first.
        assert (after["payer/F"], after["debt/F"], after["tax/7"]) == ("0.80", "0.00", "0.078505")
        assert after["agency/A"] == during["agency/A"]
        with pytest.raises(LedgerRefusal, match="nothing is left of"):
            await correct(story, "refund", "r1", use="t4", gateway_id="G2")
    with pytest.raises(LedgerRefusal, match="has ended before"):
        await correct(story, "dispute-lost", "e2", dispute_id="d1")
    with pytest.raises(UnknownName):
        await correct(story, "dispute-lost", "e2", dispute_id="d9")


async def test_a_chargeback_recalls_and_takes_no_more_than_was_paid(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    with pytest.raises(UnknownName):
        await correct(story, "chargeback", "c1", account_id="P", payment_id="pay-2")
    assert await correct(story, "chargeback", "c1", account_id="P", payment_id="pay-1", amount="4.00") == micros("4")
    after = await balances(story)
    # 1.00 was available, the rest is held; the debt limit of 1.00 is not asked.
    assert (after["payer/P"], after["debt/P"], after["bank/main"]) == ("9.00", "-3.00", "-6.80")
    assert {quota.status for quota in await store.account_quotas(OP, AccountId("P"))} == {"recalled"}
    assert await store.open_quotas(OP, "", "P") == []
    with pytest.raises(LedgerRefusal, match=r"6\.00 EUR is left"):
        await correct(story, "chargeback", "c2", account_id="P", payment_id="pay-1", amount="6.01")
    await story.fund("P", "5.00", "pay-9")
    assert (await balances(story))["debt/P"] == "0.00"


async def test_a_balance_goes_back_when_no_quota_is_open_and_then_the_account_is_closed(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    with pytest.raises(LedgerRefusal, match="all its quotas are closed"):
        await correct(story, "payback", "b1", account_id="P", path="bank/main")
    with pytest.raises(LedgerRefusal, match=r"0\.80 EUR of its own, not"):
        await correct(story, "payback", "b1", account_id="F", path="bank/main", amount="0.81")
    with pytest.raises(LedgerRefusal, match=r"a bank cannot pay 0\.001 EUR"):
        await correct(story, "payback", "b1", account_id="F", path="bank/main", amount="0.001")
    assert await correct(story, "goodwill", "g1", account_id="F", amount="0.0175") == 17_500
    with pytest.raises(LedgerRefusal, match="pay that back first"):
        await correct(story, "closing", "x1", account_id="F")
    assert await correct(story, "payback", "b1", account_id="F", path="bank/main") == micros("0.81")
    assert await correct(story, "closing", "x1", account_id="F") == 7_500
    after = await balances(story)
    # It has left when the bank says so.
    assert (after["payer/F"], after["operator/own"], after["bank/main"]) == ("0.00", "-0.01", "-10.80")
    assert after["transit/b1"] == "0.81"
    assert await correct(story, "payback-sent", "s1", payback_id="b1", payment_id="camt-1") == micros("0.81")
    after = await balances(story)
    assert (after["transit/b1"], after["bank/main"]) == ("0.00", "-9.99")
    funding = Funding(
        operator_id=OP, account_id=AccountId("F"), currency=EUR, amount_micros=1, payment_id="p", source="bank/main"
    )
    with pytest.raises(LedgerRefusal, match="is closed"):
        await story.ledger.fund(funding, now=NOW)
    with pytest.raises(LedgerRefusal, match="closed for good"):
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


async def test_what_is_written_off_is_borne_by_risk_and_gives_no_room_back(store: LedgerStore) -> None:
    story = await told(store)
    # F spent 1.20 on G2's floor and owes 0.40 of it.
    await story.ledger.prove(GatewayId("G2"), 1, 1, events=(), now=NOW)
    with pytest.raises(LedgerRefusal, match=r"owes 0\.40 EUR"):
        await correct(story, "closing", "x1", account_id="F")
    with pytest.raises(LedgerRefusal, match=r"owes 0\.40 EUR"):
        await correct(story, "write-off", "w1", account_id="F", amount="0.41")
    risk = (await balances(story))["risk"]
    assert await correct(story, "write-off", "w1", account_id="F") == micros("0.40")
    after = await balances(story)
    assert (risk, after["risk"], after["debt/F"]) == ("-0.55", "-0.95", "0.00")
    directives = len(await store.directives(GatewayId("G2"), 0, 100))
    await story.ledger.resolve_floors(now=NOW)
    assert len(await store.directives(GatewayId("G2"), 0, 100)) == directives
    assert await correct(story, "closing", "x1", account_id="F") == 0


async def test_what_comes_back_to_a_closed_account_can_still_be_paid_out(store: LedgerStore) -> None:
    story = await told(store)
    await story.fund("F", "0.40", "pay-3")
    assert await correct(story, "closing", "x1", account_id="F") == 0
    with pytest.raises(LedgerRefusal, match="is closed"):
        await correct(story, "goodwill", "g1", account_id="F", amount="1.00")
    assert await correct(story, "refund", "r1", use="t4", gateway_id="G2") == micros("1.20")
    assert (await balances(story))["payer/F"] == "1.20"
    assert await correct(story, "payback", "b1", account_id="F", path="bank/main") == micros("1.20")
    assert (await balances(story))["payer/F"] == "0.00"


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("refund", {"account_id": "P"}),
        ("refund", {"use": "t1"}),
        ("goodwill", {"account_id": "P"}),
        ("goodwill", {"account_id": "P", "amount": "1", "payment_id": "pay-1"}),
        ("payback", {"account_id": "P", "path": "payer/F"}),
        ("payback-sent", {"payback_id": "b1"}),
        ("payback-handed", {"payback_id": "b1", "payment_id": "camt-1"}),
        ("payback-failed", {}),
        ("chargeback", {"account_id": "P"}),
        ("dispute-won", {"account_id": "P", "dispute_id": "d"}),
    ],
)
def test_an_order_that_cannot_be_meant_does_not_exist(kind: str, names: dict[str, str]) -> None:
    with pytest.raises(LedgerRefusal):
        order(kind, "c1", **names)
