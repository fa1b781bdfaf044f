"""Batches that wait are posted together: the ledger is the one it would be had each come alone, to the byte of its audit chain."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_model import MemoryRows, Model, PostgresRows, act, seal, use
from ledger_story import EUR, NOW, OP

from farthing.clock import Instant
from farthing.ids import AuthorizationId, GatewayId
from farthing_cloud.database import Pool
from farthing_cloud.ledger.core import several
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.core.received import ReceivedBatch, receive
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.store.interface import Cursor
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_cloud.ledger.store.postgres import PostgresStore
from farthing_cloud.ledger.together import BatchOutcome

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


async def everything(model: Model) -> dict[str, Any]:
    """All that a ledger knows of the operator, apart from the numbers of its rows."""
    return {
        "transfers": await model.store.transfers(OP),
        "balances": sorted(await model.store.balances(OP, "")),
        "gateway": await model.store.gateway(GatewayId("G1")),
        "chain": await model.store.chain(GatewayId("G1"), 1),
        "events": [(e.kind, e.key, e.at, e.value) for e in await model.store.events(Cursor(), 10_000, ())],
        "claims": sorted(await model.rows.claims(OP)),
        "quotas": sorted(await model.rows.quotas(OP), key=lambda quota: quota.quota_id),
        "cases": await model.rows.cases(OP),
    }


async def told_twice(alone: Model, both: Model, steps: Sequence[tuple[Any, ...]]) -> int:
    """The same story, batch by batch in one ledger, what waits together in another; how many went together."""
    went = 0
    for number, step in enumerate(steps):
        if step[0] != "seals":
            await act(alone, number, step)
            await act(both, number, step)
            continue
        edge, same = alone.edges["G1"], both.edges["G1"]
        raws = [seal(edge, uses, ending) for uses, ending in step[1]]
        same.sent, same.head, same.so_far = list(edge.sent), edge.head, dict(edge.so_far)
        waiting = [receive(raw, signature=b"", key_id=b"", currency=EUR) for raw in raws]
        outcomes = [await alone.ledger.post_batch(batch, currency=EUR, now=NOW) for batch in waiting]
        again, together = await post_waiting(both.ledger, waiting, NOW)
        assert again == outcomes
        assert [outcome.step for outcome in again] == [ChainStep.NEXT] * len(waiting)
        went += together
        # What comes again posts nothing, and gets the same receipts.
        repeated, together = await post_waiting(both.ledger, waiting, NOW)
        assert ([outcome.receipt for outcome in repeated], together) == ([o.receipt for o in outcomes], 0)
    assert await everything(both) == await everything(alone)
    assert (await both.store.verify()).fault == ""
    return went


async def in_memory() -> Model:
    store = MemoryStore()
    return await Model.open(store, MemoryRows(store))


@settings(max_examples=80, deadline=None)
@given(steps=steps_of)
async def test_together_is_as_alone(steps: list[tuple[Any, ...]]) -> None:
    await told_twice(await in_memory(), await in_memory(), steps)


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
    real = await Model.open(PostgresStore(ledger_pool), PostgresRows(ledger_pool))
    went = await told_twice(await in_memory(), real, drawn(random.Random(7)))
    assert went > 40


@pytest.mark.real
async def test_a_batch_that_cannot_be_written_takes_none_with_it(
    ledger_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PostgresStore(ledger_pool)
    model = await Model.open(store, PostgresRows(ledger_pool))
    ledger, edge = model.ledger, model.edges["G1"]
    raws = [seal(edge, [("A", "overrun", number, 0, 1, 5, 1)], 0) for number in range(3)]
    waiting = [receive(raw, signature=b"", key_id=b"", currency=EUR) for raw in raws]
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
    reached = several._Reached(AuthorizationId(b"a"), 5)
    assert (reached.by_others(AuthorizationId(b"a")), reached.by_others(AuthorizationId(b"b"))) == (0, 5)
    reached.add(AuthorizationId(b"b"), 9)
    reached.add(AuthorizationId(b"a"), 5)
    assert (reached.by_others(AuthorizationId(b"a")), reached.by_others(AuthorizationId(b"b"))) == (9, 5)
    reached.add(AuthorizationId(b"a"), 12)
    assert (reached.by_others(AuthorizationId(b"a")), reached.by_others(AuthorizationId(b"b"))) == (9, 12)
