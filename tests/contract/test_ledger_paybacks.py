"""Paybacks over both stores: set aside when ordered, moved on by the bank's word alone, paid once."""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_story import EUR, NOW, OP, TERMS, Story, micros, order

from farthing.ids import AccountId
from farthing.money import format_micros
from farthing_cloud.ledger.core.corrections import correct as decide
from farthing_cloud.ledger.core.funds import LedgerRefusal, OtherContent, UnknownName
from farthing_cloud.ledger.core.rows import AccountStatus, Touch
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.store.interface import LedgerStore, Transaction
from farthing_cloud.ledger.store.memory import MemoryStore


async def ordered(store: LedgerStore) -> Story:
    """F had 0.80, all of it paid back."""
    story = Story(store)
    await story.open()
    await story.fund("F", "0.80", "pay-2")
    assert await said(story, "payback", "b1", account_id="F", path="bank/main") == micros("0.80")
    return story


async def said(story: Story, kind: str, correction_id: str, **names: str) -> int:
    """The amount it moved; the same again moves nothing."""
    asked = order(kind, correction_id, **names)
    changed, _, correction = await story.ledger.correct(asked, person="alice", now=NOW)
    again, _, _ = await story.ledger.correct(asked, person="bob", now=NOW)
    assert (changed, again) == (True, False)
    assert (await story.store.verify()).fault == ""
    return correction.amount_micros


async def standing(story: Story) -> Mapping[str, str]:
    found = {p: format_micros(b.credits_posted - b.debits_posted) for p, _, b in await story.store.balances(OP, "")}
    return {path: found[path] for path in ("payer/F", "transit/b1", "bank/main")}


async def test_only_the_banks_word_moves_it_to_the_bank(store: LedgerStore) -> None:
    story = await ordered(store)
    assert await standing(story) == {"payer/F": "0.00", "transit/b1": "0.80", "bank/main": "-0.80"}
    assert await said(story, "payback-handed", "h1", payback_id="b1") == 0
    assert await standing(story) == {"payer/F": "0.00", "transit/b1": "0.80", "bank/main": "-0.80"}
    assert await said(story, "payback-sent", "s1", payback_id="b1", payment_id="camt-1") == micros("0.80")
    assert await standing(story) == {"payer/F": "0.00", "transit/b1": "0.00", "bank/main": "0.00"}


async def test_nobody_pays_what_somebody_else_has_paid(store: LedgerStore) -> None:
    story = await ordered(store)
    await said(story, "payback-handed", "h1", payback_id="b1")
    with pytest.raises(LedgerRefusal, match=r"handed to the bank before \(h1, by alice\): do not pay it again"):
        await said(story, "payback-handed", "h2", payback_id="b1")
    await said(story, "payback-sent", "s1", payback_id="b1", payment_id="camt-1")
    for kind, names in (
        ("payback-handed", {}),
        ("payback-sent", {"payment_id": "camt-2"}),
        ("payback-failed", {}),
    ):
        with pytest.raises(LedgerRefusal, match=r"has left before \(s1, by alice\)"):
            await said(story, kind, "s2", payback_id="b1", **names)
    with pytest.raises(LedgerRefusal, match=r"0\.00 EUR of its own"):
        await said(story, "payback", "b2", account_id="F", path="bank/main")


async def test_what_failed_is_the_payers_again_and_can_be_ordered_again(store: LedgerStore) -> None:
    story = await ordered(store)
    await said(story, "payback-handed", "h1", payback_id="b1")
    assert await said(story, "payback-failed", "f1", payback_id="b1") == micros("0.80")
    assert await standing(story) == {"payer/F": "0.80", "transit/b1": "0.00", "bank/main": "-0.80"}
    with pytest.raises(LedgerRefusal, match="never left"):
        await said(story, "payback-returned", "r1", payback_id="b1", payment_id="camt-3")
    with pytest.raises(LedgerRefusal, match="failed before"):
        await said(story, "payback-sent", "s1", payback_id="b1", payment_id="camt-1")
    with pytest.raises(OtherContent):
        await said(story, "payback", "b1", account_id="F", path="psp/other")
    assert await said(story, "payback", "b2", account_id="F", path="bank/main") == micros("0.80")


async def test_what_comes_back_stands_on_a_closed_account_until_it_is_paid_again(store: LedgerStore) -> None:
    story = await ordered(store)
    with pytest.raises(LedgerRefusal, match="has not said that payback b1 left"):
        await said(story, "payback-returned", "r1", payback_id="b1", payment_id="camt-2")
    await said(story, "closing", "x1", account_id="F")
    await said(story, "payback-sent", "s1", payback_id="b1", payment_id="camt-1")
    assert await said(story, "payback-returned", "r1", payback_id="b1", payment_id="camt-2") == micros("0.80")
    assert await standing(story) == {"payer/F": "0.80", "transit/b1": "0.00", "bank/main": "-0.80"}
    with pytest.raises(LedgerRefusal, match="has come back before"):
        await said(story, "payback-returned", "r2", payback_id="b1", payment_id="camt-4")
    await said(story, "payback", "b2", account_id="F", path="bank/main")
    # The statement's line of the first one, read a second time.
    with pytest.raises(LedgerRefusal, match=r"camt-1 of the bank stands already for payback b1 \(s1, by alice\)"):
        await said(story, "payback-sent", "s2", payback_id="b2", payment_id="camt-1")
    # A reference of the bank takes back nothing of a payment that has the same name.
    await story.fund("P", "1.00", "camt-1")
    assert await said(story, "chargeback", "c1", account_id="P", payment_id="camt-1") == micros("1.00")


async def test_what_comes_back_pays_a_debt_first(store: LedgerStore) -> None:
    story = await ordered(store)
    await said(story, "payback-sent", "s1", payback_id="b1", payment_id="camt-1")
    await said(story, "chargeback", "c1", account_id="F", payment_id="pay-2")
    await said(story, "payback-returned", "r1", payback_id="b1", payment_id="camt-2")
    balances = {p: b.credits_posted - b.debits_posted for p, _, b in await store.balances(OP, "")}
    assert (balances["payer/F"], balances["debt/F"]) == (0, 0)


async def test_a_payback_that_an_earlier_program_booked_as_left_is_not_sent_again(store: LedgerStore) -> None:
    story = Story(store)
    await story.open()
    await story.fund("F", "0.80", "pay-2")

    async def as_before(tx: Transaction) -> None:
        touch = Touch(operator_id=OP, currency=EUR, account_ids=(AccountId("F"),), correction_id="b1")
        view = await tx.load(touch)
        asked = order("payback", "b1", account_id="F", path="bank/main")
        posting = decide(view, asked, (), told=(), person="alice", now=NOW)
        assert posting is not None
        straight = tuple(transfer._replace(credit="bank/main") for transfer in posting.transfers)
        changes = {"bank/main" if path == "transit/b1" else path: c for path, c in posting.changes.items()}
        await tx.post(replace(posting, transfers=straight, changes=changes))

    await story.store.run(as_before)
    for kind, names in (("payback-handed", {}), ("payback-sent", {"payment_id": "camt-1"}), ("payback-failed", {})):
        with pytest.raises(LedgerRefusal, match="an earlier program did so"):
            await said(story, kind, "s1", payback_id="b1", **names)
    # But the bank may send it back.
    assert await said(story, "payback-returned", "r1", payback_id="b1", payment_id="camt-2") == micros("0.80")


async def test_a_large_payback_wants_a_second_person(store: LedgerStore) -> None:
    story = await ordered(store)
    # What one may pay back alone: a micro less than this one.
    story.ledger = Ledger(store, terms=TERMS, receipt_keys=(), payback_alone_micros=micros("0.80") - 1)
    asked = await store.correction(OP, "b1")
    assert asked is not None
    seen = hashlib.sha256(asked[1].content).digest()

    async def approves(person: str, correction_id: str, approved_hash: bytes) -> bool:
        approval = order("payback-approved", correction_id, payback_id="b1", approved_hash=approved_hash)
        return (await story.ledger.correct(approval, person=person, now=NOW))[0]

    for kind, names in (("payback-handed", {}), ("payback-sent", {"payment_id": "camt-1"})):
        with pytest.raises(
            LedgerRefusal, match=r"more than the 0\.799999 that alice may alone: another person approves it"
        ):
            await said(story, kind, "x1", payback_id="b1", **names)
    with pytest.raises(LedgerRefusal, match="alice ordered payback b1: another person has to approve it"):
        await approves("alice", "a1", seen)
    with pytest.raises(LedgerRefusal, match="was ordered with the content"):
        await approves("bob", "a1", bytes(32))
    assert [await approves("bob", "a1", seen) for _ in range(2)] == [True, False]
    with pytest.raises(LedgerRefusal, match=r"was approved before \(a1, by bob\)"):
        await approves("cleo", "a2", seen)
    assert await standing(story) == {"payer/F": "0.00", "transit/b1": "0.80", "bank/main": "-0.80"}
    assert await said(story, "payback-handed", "h1", payback_id="b1") == 0
    assert await said(story, "payback-sent", "s1", payback_id="b1", payment_id="camt-1") == micros("0.80")
    # Whoever wants it stopped needs nobody.
    await story.fund("F", "1.00", "pay-5")
    await said(story, "payback", "b2", account_id="F", path="bank/main", amount="0.90")
    assert await said(story, "payback-failed", "f2", payback_id="b2") == micros("0.90")
    # And up to the limit nobody is asked.
    await said(story, "payback", "b3", account_id="F", path="bank/main", amount="0.79")
    assert await said(story, "payback-handed", "h3", payback_id="b3") == 0


async def test_an_approval_of_nothing_that_was_seen_cannot_be_meant(store: LedgerStore) -> None:
    await ordered(store)
    with pytest.raises(LedgerRefusal, match="names its approved_hash"):
        order("payback-approved", "a1", payback_id="b1")


async def test_what_is_not_there_is_not_paid(store: LedgerStore) -> None:
    story = await ordered(store)
    with pytest.raises(UnknownName, match="no payback b9"):
        await said(story, "payback-sent", "s1", payback_id="b9", payment_id="camt-1")
    await said(story, "goodwill", "g1", account_id="P", amount="1.00")
    with pytest.raises(UnknownName, match="no payback g1"):
        await said(story, "payback-sent", "s1", payback_id="g1", payment_id="camt-1")


async def limit(story: Story, account: str, credit_micros: int) -> None:
    await story.ledger.put_account(
        operator_id=OP,
        account_id=AccountId(account),
        currency=EUR,
        credit_limit_micros=credit_micros,
        debt_limit_micros=0,
        status=AccountStatus.ACTIVE,
        preload_micros=0,
        now=NOW,
    )


async def spend(story: Story, account: str, amount: str) -> None:
    claim = (f"s{len(story.sealed['G1'])}", "x", len(story.sealed["G1"]), len(story.sealed["G1"]) + 1)
    lines = [(account, "overrun", ("c", 0), "10:00")]
    await story.push(story.seal("G1", [(*claim, amount, "0", [(0, amount, "0")])], lines))


async def test_a_limit_is_nobodys_money_and_is_never_paid_out(store: LedgerStore) -> None:
    story = Story(store)
    await story.open()
    await limit(story, "F", micros("5.00"))
    with pytest.raises(LedgerRefusal, match=r"has 0\.00 EUR of its own"):
        await said(story, "payback", "b1", account_id="F", path="bank/main")
    await story.fund("F", "0.80", "pay-2")
    with pytest.raises(LedgerRefusal, match=r"has 0\.80 EUR of its own"):
        await said(story, "payback", "b1", account_id="F", path="bank/main", amount="0.81")
    assert await said(story, "payback", "b1", account_id="F", path="bank/main") == micros("0.80")
    await said(story, "payback-sent", "s1", payback_id="b1", payment_id="camt-1")
    # Of what was spent on the limit, a part is paid: none of it is the payer's to have back.
    await spend(story, "F", "3.00")
    await story.fund("F", "2.99", "pay-3")
    with pytest.raises(LedgerRefusal, match=r"has 0\.00 EUR of its own"):
        await said(story, "payback", "b2", account_id="F", path="bank/main")
    with pytest.raises(LedgerRefusal, match=r"owes 0\.01 EUR"):
        await said(story, "closing", "c1", account_id="F")
    await story.fund("F", "0.01", "pay-4")
    await said(story, "closing", "c1", account_id="F")


@given(funds=st.integers(0, 5), credit=st.integers(0, 50), used=st.integers(0, 60), asked=st.integers(0, 60))
def test_a_payback_is_what_was_paid_in_and_not_used(funds: int, credit: int, used: int, asked: int) -> None:
    """In units of half a cent, so that the smallest coin matters."""

    async def play() -> None:
        story = Story(MemoryStore())
        await story.open()
        await limit(story, "F", credit * 5_000)
        if funds:
            await story.fund("F", f"{funds * 5 / 1000:.6f}", "pay-2")
        if used:
            await spend(story, "F", f"{used * 5 / 1000:.6f}")
        own = max(0, funds - used) // 2 * 2
        wish = {"amount": f"{asked * 5 / 1000:.6f}"} if asked else {}
        if (asked % 2 or asked > own) if asked else not own:
            with pytest.raises(LedgerRefusal):
                await said(story, "payback", "b1", account_id="F", path="bank/main", **wish)
        else:
            assert (
                await said(story, "payback", "b1", account_id="F", path="bank/main", **wish) == (asked or own) * 5_000
            )

    asyncio.run(play())
