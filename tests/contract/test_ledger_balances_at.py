"""What stood on every ledger account at an instant, by the date of posting and by business date; the same in both stores."""

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_story import EUR, OP, Story, grants, seal_all

from farthing.clock import Instant
from farthing.ids import AccountId
from farthing.v1 import batch_pb2
from farthing_cloud.database import Pool
from farthing_cloud.ledger.core.funds import Funding
from farthing_cloud.ledger.core.rows import Balances
from farthing_cloud.ledger.reports import Reports
from farthing_cloud.ledger.store.interface import LedgerStore
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_cloud.ledger.store.postgres import PostgresStore

Standing = Mapping[str, Balances]
NOTHING = Balances()


async def now(store: LedgerStore, prefix: str = "") -> Standing:
    return {path: b for path, _, b in await store.balances(OP, prefix) if b != NOTHING}


async def at(store: LedgerStore, at_us: int, prefix: str = "", *, by_business: bool = False) -> Standing:
    rows = await store.balances_at(OP, prefix, Instant(at_us), by_business=by_business)
    assert [row[:2] for row in rows] == sorted(row[:2] for row in rows)
    return {path: b for path, _, b in rows if b != NOTHING}


async def fund(story: Story, number: int, at_us: int) -> None:
    funding = Funding(
        operator_id=OP,
        account_id=AccountId("P"),
        currency=EUR,
        amount_micros=10_000 + number,
        payment_id=f"more-{number}",
        source="bank/main",
    )
    await story.ledger.fund(funding, now=Instant(at_us))


def sealed_at(raw: bytes, at_us: int) -> bytes:
    batch = batch_pb2.Batch.FromString(raw)
    batch.sealed_at_us = at_us
    return batch.SerializeToString(deterministic=True)


async def test_each_instant_stands_as_it_stood_then(store: LedgerStore) -> None:
    """Holds, uses beyond them, debt, risk, clearing and tax: all of them, after each posting."""
    story = Story(store)
    await grants(story)
    seen = {0: await now(store)}
    sealed = seal_all(story)
    for number, name in enumerate(("G1#1", "G1#2", "G1#3", "G2#1"), start=1):
        await story.push_at(sealed[name], 10 * number)
        seen[10 * number] = await now(store)
    assert {"payer/P", "debt/F", "clearing/S1/w1", "tax/20", "suspense/S2", "quota/G2"} <= seen[40].keys()
    for at_us, stood in seen.items():
        assert await at(store, at_us) == stood
        # Until the next one nothing changes, and what is dated to an instant is there at it.
        assert await at(store, at_us + 9) == stood
    assert await at(store, -1) == {}
    assert await at(store, 25, "clearing/") == {p: b for p, b in seen[20].items() if p.startswith("clearing/")}


async def test_a_batch_counts_by_business_when_it_was_sealed_and_by_posting_when_it_came(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    late = sealed_at(seal_all(story)["G1#1"], 500)
    before = await now(store)
    await story.push_at(late, 2_000)
    after = await now(store)
    assert before != after
    assert [await at(store, us) == after for us in (499, 500, 1_999, 2_000)] == [False, False, False, True]
    by_business = [await at(store, us, by_business=True) == after for us in (499, 500, 1_999, 2_000)]
    assert by_business == [False, True, True, True]
    assert await at(store, 499, by_business=True) == before


@given(dates=st.lists(st.integers(0, 50), max_size=8), asked=st.integers(-1, 51))
def test_it_is_the_sum_of_what_was_dated_up_to_then(dates: list[int], asked: int) -> None:
    async def play() -> None:
        story = Story(MemoryStore())
        await story.open()
        for number, date in enumerate(dates):
            await fund(story, number, date)
        paid = sum(10_000 + number for number, date in enumerate(dates) if date <= asked)
        found = await at(story.store, asked)
        assert found.get("payer/P", NOTHING).credits_posted == found.get("bank/main", NOTHING).debits_posted == paid

    asyncio.run(play())


@pytest.mark.real
async def test_the_back_office_reads_the_same(ledger_pool: Pool) -> None:
    store = PostgresStore(ledger_pool)
    story = Story(store)
    await grants(story)
    await story.push_at(sealed_at(seal_all(story)["G1#1"], 500), 2_000)
    for at_us, by_business in ((499, True), (500, True), (500, False), (2_000, False)):
        told = await Reports(ledger_pool).balances(OP, "", at_us=at_us, by_business=by_business)
        rows = await store.balances_at(OP, "", Instant(at_us), by_business=by_business)
        assert [(row.path, row.currency, int(row.credits_posted), int(row.debits_pending)) for row in told] == [
            (path, currency, b.credits_posted, b.debits_pending) for path, currency, b in rows
        ]
