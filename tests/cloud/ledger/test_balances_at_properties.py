"""Balances at an instant, back from the present ones or from the first posting on: the same, whatever the postings are dated."""

import asyncio
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_story import OP, Story, afterwards, close_and_pay, grants, seal_all
from psycopg import sql
from psycopg.conninfo import make_conninfo

from farthing.clock import Instant
from farthing_cloud.database import open_pool
from farthing_cloud.ledger.store import partitions
from farthing_cloud.ledger.store.interface import LedgerStore
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_cloud.ledger.store.postgres import PostgresStore
from farthing_cloud.ledger.store.reading import balances_of

pytestmark = pytest.mark.real


async def play(store: LedgerStore) -> None:
    """Holds, uses in and beyond them, debts and risk, cases, a closed window, payouts and corrections."""
    story = Story(store)
    await grants(story)
    for raw in seal_all(story).values():
        await story.push(raw)
    await close_and_pay(story)
    await afterwards(story)


@pytest.fixture(scope="module")
def memory() -> MemoryStore:
    store = MemoryStore()
    asyncio.run(play(store))
    return store


@pytest.fixture(scope="module")
def ledger_url(database_server: str, ledger_template: str) -> str:
    name = "balances_at"
    with psycopg.connect(database_server, autocommit=True) as connection:
        made = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(made.format(sql.Identifier(name), sql.Identifier(ledger_template)))
    url = make_conninfo(database_server, dbname=name, options="-c search_path=ledger")

    async def fill() -> None:
        pool = await open_pool(url, schema="ledger")
        await play(PostgresStore(pool))
        await pool.close()

    asyncio.run(fill())
    return url


@settings(max_examples=60, deadline=None)
@given(data=st.data())
async def test_from_either_end_it_is_what_a_replay_gives(ledger_url: str, memory: MemoryStore, data: Any) -> None:
    instants = st.integers(-1, 4)
    count = len(memory._dates)
    dates = data.draw(st.lists(st.tuples(instants, instants), min_size=count, max_size=count))
    at, by_business, prefix = data.draw(st.tuples(instants, st.booleans(), st.sampled_from(("", "payer/", "agency/"))))
    memory._dates = [(Instant(posted), Instant(business)) for posted, business in dates]
    expected = await memory.balances_at(OP, prefix, Instant(at), by_business=by_business)
    named = {"operator_id": OP, "path_prefix": prefix, "at_us": at, "by_business": by_business}
    async with await psycopg.AsyncConnection.connect(ledger_url) as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(
            """UPDATE postings p SET posted_at_us = d.posted, business_at_us = d.business
            FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM postings) n
            JOIN unnest(%s::bigint[], %s::bigint[]) WITH ORDINALITY AS d (posted, business, place) USING (place)
            WHERE n.id = p.id""",
            ([posted for posted, _ in dates], [business for _, business in dates]),
        )
        for sums in (partitions.LIST_BALANCES_AT, partitions.LIST_BALANCES_BACK_AT):
            rows = await (await connection.execute(sums, named)).fetchall()
            assert [(row[0], row[1], balances_of(row[2:])) for row in rows] == expected
        nearer = await partitions.balances_at(connection, named)
        assert [(row[0], row[1], balances_of(row[2:])) for row in nearer] == expected
        await connection.rollback()
