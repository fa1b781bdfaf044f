"""Batches that wait are posted together: the ledger is the one it would be had each come alone, to the byte of its audit chain."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from billing_story import CREDIT, DEBT_LIMIT, EXPOSURE, Edge, act, seal, use
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_story import EUR, NOW, OP, TERMS

from farthing.clock import Instant
from farthing.ids import AccountId, AuthorizationId, GatewayId, SiteId
from farthing_cloud.database import Pool
from farthing_cloud.ledger.core import several
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.core.received import ReceivedBatch, receive
from farthing_cloud.ledger.core.rows import AccountStatus
from farthing_cloud.ledger.operations import BatchOutcome, Ledger
from farthing_cloud.ledger.store.interface import Cursor, LedgerStore
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_cloud.ledger.store.postgres import PostgresStore

#: Mostly what is ordinary: uses of one gateway that go on; now and then what overlaps, goes beyond, or ends a quota.
sealed = st.tuples(st.lists(use, max_size=4), st.sampled_from([0, 0, 0, 1, 2]))
steps_of = st.lists(
    st.one_of(
        st.tuples(st.just("fund"), st.sampled_from(["A", "B"]), st.integers(1, 1500)),
        st.tuples(st.just("ask"), st.just("G1"), st.sampled_from(["A", "B"]), st.integers(1, 1500)),
        st.tuples(st.just("seals"), st.lists(sealed, min_size=2, max_size=5)),
        st.tuples(st.just("seals"), st.lists(sealed, min_size=2, max_size=5)),
        st.tuples(st.just("prove"), st.just("G1")),
        st.tuples(st.just("recall"), st.sampled_from(["A", "B"])),
        st.tuples(st.just("decide"), st.booleans()),
        st.tuples(st.just("close")),
    ),
    min_size=3,
    max_size=10,
)


#: What every store tells.
TOLD = ("transfers", "balances", "gateway", "chain", "events")


async def opened(store: LedgerStore) -> Ledger:
    ledger = Ledger(store, terms=TERMS, receipt_keys=())
    await ledger.put_gateway(
        gateway_id=GatewayId("G1"),
        operator_id=OP,
        site_id=SiteId("S1"),
        currency=EUR,
        exposure_micros=EXPOSURE,
        batch_key=b"",
        grant_key=b"",
        time_zone="UTC",
        now=NOW,
    )
    for account, credit in CREDIT.items():
        await ledger.put_account(
            operator_id=OP,
            account_id=AccountId(account),
            currency=EUR,
            credit_limit_micros=credit,
            debt_limit_micros=DEBT_LIMIT,
            status=AccountStatus.ACTIVE,
            preload_micros=0,
            now=NOW,
        )
    return ledger


async def post_waiting(
    ledger: Ledger, waiting: Sequence[ReceivedBatch], now: Instant
) -> tuple[list[BatchOutcome], int]:
    """As the door does; and how many went together."""
    outcomes = list(await ledger.post_batches(waiting, currency=EUR, now=now))
    together = len(outcomes)
    for batch in waiting[together:]:
        outcome = await ledger.post_batch(batch, currency=EUR, now=now)
        outcomes.append(outcome)
    return outcomes, together


async def everything(store: LedgerStore) -> dict[str, Any]:
    """What a ledger tells of the operator; in memory all it knows. (``verify`` holds claims and quotas against the batches.)"""
    known: dict[str, Any] = {
        "transfers": await store.transfers(OP),
        "balances": sorted(await store.balances(OP, "")),
        "gateway": await store.gateway(GatewayId("G1")),
        "chain": await store.chain(GatewayId("G1"), 1),
        "events": [(e.kind, e.key, e.at, e.value) for e in await store.events(Cursor(), 10_000, ())],
    }
    if isinstance(store, MemoryStore):
        assert tuple(known) == TOLD
        known["claims"] = sorted(await store.claims(OP))
        known["quotas"] = await store.quotas(OP)
        known["cases"] = await store.cases(OP)
    return known


async def told_twice(one: MemoryStore, other: Any, steps: Sequence[tuple[Any, ...]]) -> int:
    """The same story, batch by batch in ``one``, what waits together in ``other``; how many went together."""
    alone, both = await opened(one), await opened(other)
    edge, same = Edge("G1"), Edge("G1")
    went = 0
    for number, step in enumerate(steps):
        if step[0] == "seals":
            waiting = []
            for uses, ending in step[1]:
                raw = seal(edge, uses, ending)
                batch = receive(raw, signature=b"", key_id=b"", currency=EUR)
                waiting.append(batch)
                for each in (edge, same):
                    each.sent.append(raw)
                    each.head = batch.batch_hash
            outcomes = [await alone.post_batch(batch, currency=EUR, now=NOW) for batch in waiting]
            again, together = await post_waiting(both, waiting, NOW)
            assert again == outcomes
            assert [outcome.step for outcome in again] == [ChainStep.NEXT] * len(waiting)
            went += together
            # What comes again posts nothing, and gets the same receipts.
            repeated, together = await post_waiting(both, waiting, NOW)
            assert ([outcome.receipt for outcome in repeated], together) == ([o.receipt for o in outcomes], 0)
        else:
            await act(alone, one, {"G1": edge}, number, step)
            await act(both, other, {"G1": same}, number, step)
    known = await everything(one)
    assert await everything(other) == (known if isinstance(other, MemoryStore) else {k: known[k] for k in TOLD})
    assert (await other.verify()).fault == ""
    return went


@settings(max_examples=80, deadline=None)
@given(steps=steps_of)
async def test_together_is_as_alone(steps: list[tuple[Any, ...]]) -> None:
    await told_twice(MemoryStore(), MemoryStore(), steps)


def drawn(draw: random.Random) -> list[tuple[Any, ...]]:
    """A long story with much that goes together."""
    steps: list[tuple[Any, ...]] = [("fund", "A", 20_000), ("fund", "B", 9_000), ("ask", "G1", "A", 900)]
    for number in range(24):
        # What goes on goes on within its group; now and then a second authorization begins where the first has gone on to.
        batches = [
            (
                [
                    (
                        draw.choice("AAB"),
                        draw.choice(["quota", "quota", "overrun"]),
                        number * 4 + of,
                        which,
                        1,
                        draw.randrange(6),
                        1,
                    )
                    for of in range(3)
                    for which in [draw.choice([0, 0, 0, 0, 0, 0, 0, 0, 0, 1])]
                ],
                draw.choice([0, 0, 1, 2]) if number % 6 == 5 else 0,
            )
            for _ in range(draw.randint(2, 4))
        ]
        steps.append(("seals", batches))
        if number % 4 == 3:
            steps += [("prove", "G1"), ("ask", "G1", "A", 300)]
    return [*steps, ("close",)]


@pytest.mark.real
async def test_together_in_postgresql_is_as_alone_in_memory(ledger_pool: Pool) -> None:
    went = await told_twice(MemoryStore(), PostgresStore(ledger_pool), drawn(random.Random(7)))
    assert went > 40


@pytest.mark.real
async def test_a_batch_that_cannot_be_written_takes_none_with_it(
    ledger_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PostgresStore(ledger_pool)
    ledger = await opened(store)
    edge = Edge("G1")
    waiting = []
    for number in range(3):
        raw = seal(edge, [("A", "overrun", number, 0, 1, 5, 1)], 0)
        waiting.append(receive(raw, signature=b"", key_id=b"", currency=EUR))
        edge.sent.append(raw)
        edge.head = waiting[-1].batch_hash
    broken = several.batches.plan

    def plan(view: Any, batch: ReceivedBatch, carried: Sequence[Any] = (), *, now: Instant) -> Posting:
        if batch.sequence == 3:
            raise OverflowError("the third cannot be planned")
        return broken(view, batch, carried, now=now)

    monkeypatch.setattr(several.batches, "plan", plan)
    # Its rows were written before the third was planned: they are gone again.
    assert await ledger.post_batches(waiting, currency=EUR, now=NOW) == ()
    assert (await store.chain(GatewayId("G1"), 1)).sequence == 0
    assert await store.transfers(OP) == []
    for batch in waiting[:2]:
        assert (await ledger.post_batch(batch, currency=EUR, now=NOW)).step is ChainStep.NEXT
    with pytest.raises(OverflowError, match="the third"):
        await ledger.post_batch(waiting[2], currency=EUR, now=NOW)
    monkeypatch.undo()
    assert (await ledger.post_batch(waiting[2], currency=EUR, now=NOW)).step is ChainStep.NEXT
    assert (await store.verify()).fault == ""


def test_how_far_others_come_up_a_register() -> None:
    def claim(name: str, start: int, end: int) -> Any:
        return several.Claimed(
            AuthorizationId(name.encode()), several.RegisterKey("d", "1", 0), start, end, 0, 0, False, False,
            GatewayId("G1"), 1, 1,
        )  # fmt: skip

    reached = several._Reached()
    reached.add(claim("a", 0, 5))
    assert (reached.by_others(AuthorizationId(b"a")), reached.by_others(AuthorizationId(b"b"))) == (0, 5)
    reached.add(claim("b", 5, 9))
    reached.add(claim("a", 0, 5))
    assert (reached.by_others(AuthorizationId(b"a")), reached.by_others(AuthorizationId(b"b"))) == (9, 5)
    reached.add(claim("a", 0, 12))
    assert (reached.by_others(AuthorizationId(b"a")), reached.by_others(AuthorizationId(b"b"))) == (9, 12)
