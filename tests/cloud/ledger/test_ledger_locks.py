"""Rows that a posting has to lock: whoever decides by them meanwhile waits for it, and sees what it made of them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from ledger_story import CHG, EUR, NOW, OP, SPLIT, TOLL, Story, grants, micros

from farthing.ids import SiteId
from farthing_cloud.database import Pool
from farthing_cloud.ledger.core.posting import Cause
from farthing_cloud.ledger.store.postgres import PostgresStore

pytestmark = pytest.mark.real

T = TypeVar("T")
#: Nobody waits for a thing that cannot come.
SETTLES_WITHIN_S = 30.0


@dataclass
class Held:
    """A transaction of one task: whether it has loaded its rows, and whether it may go on from there."""

    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    pid: int = 0


HELD: ContextVar[Held | None] = ContextVar("HELD", default=None)


class _Stops:
    """A transaction that stops once it has loaded."""

    def __init__(self, tx: Any, held: Held) -> None:
        self._tx, self._held = tx, held

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    async def load(self, touch: Any) -> Any:
        view = await self._tx.load(touch)
        self._held.loaded.set()
        await self._held.go.wait()
        return view


class HeldStore(PostgresStore):
    """PostgreSQL's, with the transactions of some tasks held."""

    async def run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        held = HELD.get()
        if held is None:
            return await super().run(work)

        async def watched(tx: Any) -> T:
            held.pid = tx._connection.info.backend_pid
            return await work(_Stops(tx, held))

        return await super().run(watched)


def begin(held: Held, work: Awaitable[T]) -> "asyncio.Task[T]":
    """``work`` in a task whose transactions go as ``held`` says."""

    async def run() -> T:
        HELD.set(held)
        return await work

    return asyncio.create_task(run())


async def in_turn(pool: Pool, first: Awaitable[Any], second: Awaitable[Any]) -> None:
    """The first loads and is held; the second comes and waits for it, or passes it; then the first goes on."""
    held, other = Held(), Held()
    other.go.set()
    one = begin(held, first)
    async with asyncio.timeout(SETTLES_WITHIN_S):
        await held.loaded.wait()
        two = begin(other, second)
        async with pool.connection() as connection:
            waits = False
            while not waits and not two.done():
                query = b"SELECT cardinality(pg_blocking_pids(%s)) > 0"
                row = await (await connection.execute(query, (other.pid,))).fetchone()
                assert row is not None
                # Without a pid it has not begun yet.
                waits = bool(row[0]) and other.pid != 0
        held.go.set()
        await one
        await two


async def test_who_claims_on_a_register_waits_for_who_does_so_already(ledger_pool: Pool) -> None:
    """Two gateways bill the same use of a device at once, for two payers: one of them is paid."""
    store = HeldStore(ledger_pool)
    story = Story(store)
    await grants(story)
    await story.push(
        story.seal("G1", [("before", "x1", 0, 10, "0.10", "0", [(0, "0.10", "0")])], [("P", "q1", CHG, "10:00")])
    )
    first = story.seal("G1", [("one", "x1", 10, 20, "1.00", "0", [(0, "1.00", "0")])], [("P", "q1", CHG, "10:00")])
    second = story.seal("G2", [("two", "x1", 15, 25, "0.50", "0", [(0, "0.50", "0")])], [("F", "floor", TOLL, "10:00")])
    await in_turn(ledger_pool, story.push(first), story.push(second))
    aside = [transfer for transfer in await store.transfers(OP) if transfer.cause is Cause.SECOND_CLAIM]
    assert [transfer.amount_micros for transfer in aside] == [micros("0.50")]
    assert (await store.verify()).fault == ""


async def test_a_window_closes_after_what_is_being_posted_into_it(ledger_pool: Pool) -> None:
    store = HeldStore(ledger_pool)
    story = Story(store)
    await grants(story)
    batch = story.seal(
        "G1", [("one", "x1", 10, 20, "1.00", "0.20", [(0, "1.00", "0.20")])], [("P", "q1", CHG, "10:00")]
    )
    closing = story.ledger.close_window(OP, EUR, "w1", {SiteId("S1"): SPLIT}, now=NOW)
    await in_turn(ledger_pool, story.push(batch), closing)
    assert (await store.verify()).fault == ""
