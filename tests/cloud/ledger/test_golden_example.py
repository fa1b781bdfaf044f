"""The worked example (shared/example/EXAMPLE.md), table T4, transfer by transfer, through the ledger's core.

The batches are built from the example's table of batches. What a row says is written here as the page writes it.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ledger_story import EUR, NOW, OP, ORDER, SPLIT, Story, afterwards, close_and_pay, grants, seal_all

from farthing.ids import GatewayId, QuotaId, SiteId
from farthing.money import format_micros
from farthing.v1 import batch_pb2
from farthing_cloud.ledger.core import paths
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.store.memory import MemoryStore

T4 = """
post | bank/main | payer/P 10.00 | fund
post | bank/main | payer/F 0.80 | fund
hold q1 | payer/P | quota/G1 4.00 | grant
hold q2 | payer/P | quota/G2 3.00 | grant
hold q3 | payer/P | quota/G1 2.00 | grant
post q1 | payer/P | clr/S1 1.121495 | use
post q1 | payer/P | tax/7 0.078505 | use
post q1 | payer/P | clr/S1 1.53425 | use
post q1 | payer/P | tax/20 0.30685 | use
post q1 | payer/P | clr/S1 0.799083 | use
post q1 | payer/P | tax/20 0.159817 | use
post q3 | payer/P | clr/S1 0.242417 | use
post q3 | payer/P | tax/20 0.048483 | use
post q3 | payer/P | clr/S1 1.062 | use
post q3 | payer/P | tax/20 0.2124 | use
post q3 | payer/P | clr/S1 0.36225 | use
post q3 | payer/P | tax/20 0.07245 | use
post | payer/P | clr/S1 0.833333 | overrun
post | payer/P | tax/20 0.166667 | overrun
post | debt/P | clr/S1 0.833333 | overrun
post | debt/P | tax/20 0.166667 | overrun
post | risk | clr/S1 0.458334 | overrun
post | risk | tax/20 0.091666 | overrun
post | suspense/S2 | unearned/S2 1.20 | second-claim
void q2 | payer/P | quota/G2 1.20 | second-claim
post | payer/F | clr/S2 0.747663 | floor
post | payer/F | tax/7 0.052337 | floor
post | debt/F | clr/S2 0.373832 | floor
post | debt/F | tax/7 0.026168 | floor
post q2 | payer/P | clr/S2 0.72 | use
post q2 | payer/P | tax/20 0.144 | use
post | payer/P | debt/P 1.00 | debt
post q2 | payer/P | clr/S2 0.19 | use
post q2 | payer/P | tax/20 0.038 | use
void q2 | payer/P | quota/G2 0.63 | above-held
post q2 | payer/P | clr/S2 0.015 | use
post q2 | payer/P | tax/20 0.003 | use
void q2 | payer/P | quota/G2 0.06 | closed
""".strip().splitlines()

RELEASED = """
post | unearned/S2 | suspense/S2 1.20 | reversed
post | payer/P | clr/S2 0.831775 | late
post | payer/P | tax/7 0.058225 | late
post | debt/P | clr/S2 0.28972 | late
post | debt/P | tax/7 0.02028 | late
""".strip().splitlines()

CLOSED = """
post | clr/S1 | agency/A 4.347898 | split
post | clr/S1 | agency/B 2.173948 | split
post | clr/S1 | fee/op 0.724649 | split
post | clr/S2 | clr/S2/w2 0.015 | carried
post | clr/S2 | agency/A 1.218898 | split
post | clr/S2 | agency/B 0.609448 | split
post | clr/S2 | fee/op 0.203149 | split
""".strip().splitlines()

AFTER = {
    "grants": "0|4.00 3.00 2.00|1.00|0|0|0|0|0|0|0|0",
    "G1#1": "3.0411|0.9589 3.00 2.00|1.00|0|0|0|2.655745|0|0.30685|0.078505|0",
    "G1#2": "5.5653|0 3.00 0.4347|1.00|0|0|0|4.759245|0|0.72755|0.078505|0",
    "G1#3": "7.00|0 3.00 0|0|1.00|0|0.55|7.246495|0|1.225|0.078505|0",
    "G2#1": "8.864|0 0.936 0|0.20|0|0.40|0.55|7.246495|1.841495|1.369|0.15701|1.20",
    "G2#2": "9.092|0 0.078 0|0.83|0|0.40|0.55|7.246495|2.031495|1.407|0.15701|1.20",
    "G2#3": "9.11|0 0 0|0.89|0|0.40|0.55|7.246495|2.046495|1.41|0.15701|1.20",
}


async def state_of(story: Story, store: MemoryStore) -> str:
    """A row of the page's table "after each batch"."""
    all_of = {path: b for path, _, b in await store.balances(OP, "")}

    def net(path: str) -> int:
        b = all_of.get(path)
        return 0 if b is None else b.credits_posted - b.debits_posted

    def text(amount: int) -> str:
        return format_micros(amount) if amount else "0"

    payer = all_of["payer/P"]
    held = {q.quota_id: q.held_micros for q in await store.quotas(OP)}
    quotas = " ".join(text(held[QuotaId(story.quotas[q])]) for q in ("q1", "q2", "q3"))
    figures = [
        text(payer.debits_posted),
        quotas,
        text(net("payer/P") - payer.debits_pending),
        text(-net("debt/P")),
        text(-net("debt/F")),
        text(-net("risk")),
        *(text(net(path)) for path in ("clearing/S1/w1", "clearing/S2/w1", "tax/20", "tax/7", "unearned/S2")),
    ]
    return "|".join(figures)


async def told() -> tuple[Story, MemoryStore, dict[str, bytes]]:
    store = MemoryStore()
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    for name in ORDER:
        assert (await story.push(sealed[name])).step is ChainStep.NEXT
    return story, store, sealed


async def test_rows_1_to_38() -> None:
    store = MemoryStore()
    story = Story(store)
    await grants(story)
    assert await state_of(story, store) == AFTER["grants"]
    sealed = seal_all(story)
    for name in ORDER:
        outcome = await story.push(sealed[name])
        assert outcome.step is ChainStep.NEXT
        assert await state_of(story, store) == AFTER[name], name
        assert (await store.verify()).fault == ""
    assert await story.rows() == T4


def test_the_rows_here_are_those_of_the_page(shared_data: Callable[[str], Path]) -> None:
    """Amount by amount, so that a change of the page is noticed here."""
    page = shared_data("example/EXAMPLE.md").read_text(encoding="utf-8")
    for row in (*T4, *RELEASED, *CLOSED, *PAID_OUT, *AFTERWARDS):
        assert row.split(" | ")[2].split(" ")[-1] in page, row
    for after, figures in AFTER.items():
        assert f"|{after}|{figures}|" in page


async def test_a_replay_gives_the_same_receipts_and_posts_nothing() -> None:
    store = MemoryStore()
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    receipts = {}
    for name in ORDER:
        outcome = await story.push(sealed[name])
        assert outcome.receipt is not None
        receipts[name] = outcome.receipt.encode()
    for name in ORDER:
        outcome = await story.push(sealed[name])
        assert outcome.step is ChainStep.REPLAY
        assert outcome.receipt is not None
        assert outcome.receipt.encode() == receipts[name]
    assert await story.rows() == T4


@pytest.mark.parametrize("order", [ORDER, tuple(reversed(ORDER))])
async def test_the_same_claims_in_another_chain_bill_nothing(order: tuple[str, ...]) -> None:
    story, store, sealed = await told()
    for gateway in ("G1", "G2"):
        known = await store.gateway(GatewayId(gateway))
        assert known is not None
        store._gateways[GatewayId(gateway)] = replace(known, incarnation=2)
    heads = {"G1": (0, bytes(32)), "G2": (0, bytes(32))}
    for name in order:
        gateway = name[:2]
        again = batch_pb2.Batch.FromString(sealed[name])
        sequence, head = heads[gateway]
        again.incarnation, again.sequence, again.previous_hash = 2, sequence + 1, head
        raw = again.SerializeToString(deterministic=True)
        assert (await story.push(raw)).step is ChainStep.NEXT
        heads[gateway] = (sequence + 1, receive(raw, signature=b"", key_id=b"", currency=EUR).batch_hash)
    assert await story.rows() == T4
    assert (await store.verify()).fault == ""


async def test_the_second_claim_released() -> None:
    story, store, _ = await told()
    (case,) = await store.cases(OP)
    assert (case.authorization_id, case.other_authorization_id) == (b"t3".ljust(16), b"t1".ljust(16))
    assert await story.ledger.decide_case(case.case_id, release=True, now=NOW)
    assert not await story.ledger.decide_case(case.case_id, release=True, now=NOW)
    assert await story.rows(38) == RELEASED
    assert (await store.verify()).fault == ""


async def test_the_second_claim_voided_then_the_window_closed() -> None:
    story, store, _ = await told()
    (case,) = await store.cases(OP)
    assert await story.ledger.decide_case(case.case_id, release=False, now=NOW)
    assert await story.rows(38) == RELEASED[:1]
    for gateway in ("G1", "G2"):
        for sequence in (1, 2, 3):
            if (gateway, sequence) != ("G2", 3):  # L12 is not proven yet
                assert await story.ledger.prove(GatewayId(gateway), 1, sequence, events=(), now=NOW)
    rules = {SiteId("S1"): SPLIT, SiteId("S2"): SPLIT}
    answer = await story.ledger.close_window(OP, EUR, "w1", rules, now=NOW)
    assert await story.ledger.close_window(OP, EUR, "w1", rules, now=NOW) == answer
    assert await story.rows(39) == CLOSED
    assert [(site.site_id, site.split_micros, site.carried_micros) for site in answer.sites] == [
        ("S1", 7_246_495, 0),
        ("S2", 2_031_495, 15_000),
    ]
    balances = {path: b.credits_posted - b.debits_posted for path, _, b in await store.balances(OP, "")}
    owed = {"agency/A": 5_566_796, "agency/B": 2_783_396, "fee/op": 927_798}
    assert {path: balances[path] for path in owed} == owed
    assert balances[paths.clearing("S1", "w1")] == balances[paths.clearing("S2", "w1")] == 0
    assert (await store.verify()).fault == ""


PAID_OUT = """
post | agency/A | bank/main 5.56 | split
post | agency/B | bank/main 2.78 | split
post | fee/op | bank/main 0.92 | split
""".strip().splitlines()

AFTERWARDS = """
post | bank/main | payer/F 5.00 | fund
post | payer/F | debt/F 0.40 | debt
post | clr/S2 | payer/F 1.121495 | refund
post | tax/7 | payer/F 0.078505 | refund
post | agency/A | clr/S2 0.672898 | split-back
post | agency/B | clr/S2 0.336448 | split-back
post | fee/op | clr/S2 0.112149 | split-back
hold q4 | payer/P | quota/G1 0.50 | grant
post | payer/P | bank/main 0.39 | chargeback
post | debt/P | bank/main 9.61 | chargeback
void q4 | payer/P | quota/G1 0.50 | closed
post | payer/P | debt/P 0.50 | debt
post | clr/S2 | agency/A 0.009 | split
post | clr/S2 | agency/B 0.0045 | split
post | clr/S2 | fee/op 0.0015 | split
""".strip().splitlines()


async def test_afterwards_a_refund_and_a_chargeback() -> None:
    story, store, _ = await told()
    await close_and_pay(story)
    assert await story.rows(46) == PAID_OUT
    assert [changed for changed, _, _ in await afterwards(story)] == [True, False, True, False]
    assert [row.replace("/w2", "") for row in await story.rows(49)] == AFTERWARDS
    assert (await store.verify()).fault == ""
    balances = {path: b.credits_posted - b.debits_posted for path, _, b in await store.balances(OP, "")}
    end = "agency/A -0.657102 agency/B -0.328552 fee/op -0.102851 debt/P -9.11 payer/F 5.80 tax/20 1.41 tax/7 0.078505"
    figures = end.split(" ")
    for path, figure in zip(figures[::2], figures[1::2], strict=True):
        assert format_micros(balances[path]) == figure, path
