"""The outbox is read below the oldest transaction under way: what commits late is not skipped."""

import pytest
from ledger_story import Story, grants

from farthing_cloud.database import Pool
from farthing_cloud.ledger.store.interface import Cursor
from farthing_cloud.ledger.store.postgres import PostgresStore

pytestmark = pytest.mark.real

ADD = b"INSERT INTO outbox (kind, key, at_us, value, traceparent) VALUES (%s, 'k', 0, '', '')"


async def test_a_late_commit_is_not_skipped(ledger_pool: Pool) -> None:
    store = PostgresStore(ledger_pool)
    async with ledger_pool.connection() as slow, ledger_pool.connection() as fast:
        async with slow.transaction():
            await slow.execute(ADD, ["slow"])
            async with fast.transaction():
                await fast.execute(ADD, ["fast"])
            # The fast one has committed, with the higher position; it waits for the slow one.
            assert await store.events(Cursor(), 10, ()) == []
        rows = await store.events(Cursor(), 10, ())
        assert [row.kind for row in rows] == ["slow", "fast"]
        # A cursor in the middle gives what comes after it, and a page is a page.
        assert [row.kind for row in await store.events(rows[0].cursor, 10, ())] == ["fast"]
        assert [row.kind for row in await store.events(Cursor(), 1, ())] == ["slow"]
        assert [row.kind for row in await store.events(Cursor(), 10, ("fast",))] == ["fast"]


async def test_a_rolled_back_event_never_was(ledger_pool: Pool) -> None:
    store = PostgresStore(ledger_pool)
    async with ledger_pool.connection() as connection, connection.transaction(force_rollback=True):
        await connection.execute(ADD, ["gone"])
    assert await store.events(Cursor(), 10, ()) == []


async def test_events_leave_with_what_caused_them(ledger_pool: Pool) -> None:
    store = PostgresStore(ledger_pool)
    await grants(Story(store))
    kinds = [event.kind for event in await store.events(Cursor(), 100, ())]
    assert kinds == ["account.funded", "account.funded", "quota.granted", "quota.granted", "quota.granted"]
    assert [event.key for event in await store.events(Cursor(), 100, ("account.funded",))] == ["P", "F"]
    assert (await store.verify()).fault == ""
