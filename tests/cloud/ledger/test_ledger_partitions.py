"""Transfers in partitions: a ledger from before moves into them, every part of it works over several, and one can be taken out."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg
import pytest
from ledger_story import EUR, NOW, OP, ORDER, Story, afterwards, close_and_pay, grants, order, seal_all
from psycopg import sql
from psycopg.conninfo import make_conninfo

from farthing.clock import Instant
from farthing.ids import AccountId, GatewayId
from farthing.v1 import movements_pb2
from farthing_cloud import database
from farthing_cloud.database import Pool, SchemaStep, migrate, open_pool
from farthing_cloud.ledger.core.funds import Funding, LedgerRefusal
from farthing_cloud.ledger.core.rows import Balances
from farthing_cloud.ledger.movements import Movements
from farthing_cloud.ledger.reports import Reports
from farthing_cloud.ledger.store.interface import LedgerStore, StoreError
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_cloud.ledger.store.partitions import Partitions
from farthing_cloud.ledger.store.postgres import PostgresStore

pytestmark = pytest.mark.real

SCHEMA = "farthing_cloud.ledger.schema"
#: Postings of one partition here: the day goes over several.
POSTINGS = 6
#: The first one ends before this posting, as the step makes it.
FIRST_END = 1_000_001
#: One batch arrives after the other, so much later.
APART_US = 1_000


async def play(story: Story, pool: Pool | None) -> None:
    """The example's day, the batches one after the other; the later ones over several partitions."""
    await grants(story)
    sealed = seal_all(story)
    for number, name in enumerate(ORDER, 1):
        if pool is not None and number == 3:
            await widen(pool)
        await story.push_at(sealed[name], number * APART_US)
    await close_and_pay(story)
    await afterwards(story)


async def widen(pool: Pool) -> None:
    """What has come so far moves into partitions; what comes next soon fills the first, and finds the next ones ready."""
    before = await everything(pool)
    assert before["transfers"]
    async with pool.connection() as connection:
        url = connection.info.dsn
    assert await migrate(url, SCHEMA, "ledger") == (
        "pre_0015_partitions.sql",
        "pre_0016_rights.sql",
        "always_partitions.sql",
    )
    assert await everything(pool) == before
    assert (await PostgresStore(pool).verify()).fault == ""
    async with pool.connection() as connection:
        await connection.execute(f"SELECT setval('postings_id_seq', {FIRST_END + 8 * POSTINGS})".encode())
        assert await made(pool) == (10, 6)
        await connection.execute(f"SELECT setval('postings_id_seq', {FIRST_END - 3})".encode())


async def made(pool: Pool) -> tuple[int, int]:
    """How many were made now, and how many hold a whole range of postings that nobody has taken yet."""
    count, _ = await Partitions(pool, postings=POSTINGS).make_ahead()
    async with pool.connection() as connection:
        row = await (
            await connection.execute(
                b"SELECT count(*) FROM transfer_partitions WHERE end_posting - first_posting = %s AND first_posting > %s",
                (POSTINGS, FIRST_END + 3 * POSTINGS),
            )
        ).fetchone()
    assert row is not None
    return count, row[0]


async def everything(pool: Pool) -> dict[str, Any]:
    """Transfers and links as rows, where they stand in their files too: nothing was written anew."""
    async with pool.connection() as connection:
        (transfers,) = await _row(connection, b"SELECT json_agg(t ORDER BY t.id) FROM transfers t")
        (places,) = await _row(connection, b"SELECT json_agg(t.ctid::text ORDER BY t.id) FROM transfers t")
        (postings,) = await _row(connection, b"SELECT json_agg(p ORDER BY p.id) FROM postings p")
        (file,) = await _row(
            connection,
            b"SELECT min(oid) FROM pg_class WHERE relname IN ('transfers', 'transfers_from_1') AND relkind = 'r'",
        )
    return {"transfers": transfers, "places": places, "postings": postings, "file": file}


async def _row(connection: psycopg.AsyncConnection[Any], query: bytes, named: Any = None) -> Any:
    row = await (await connection.execute(query, named)).fetchone()
    assert row is not None
    return row


@pytest.fixture(scope="module")
def ledger_url(database_server: str) -> str:
    """URL of a ledger with the whole day, begun before there were partitions."""
    name = "partitions"
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = make_conninfo(database_server, dbname=name)

    def before(package: str) -> tuple[SchemaStep, ...]:
        return tuple(
            step for step in every(package) if step.number not in (15, 16) and step.name != "always_partitions.sql"
        )

    async def fill() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(database, "read_steps", before)
            await migrate(url, SCHEMA, "ledger")
        pool = await open_pool(url, schema="ledger")
        await play(Story(PostgresStore(pool)), pool)
        await pool.close()

    every = database.read_steps
    asyncio.run(fill())
    return url


@pytest.fixture
async def pool(ledger_url: str) -> AsyncIterator[Pool]:
    pool = await open_pool(ledger_url, schema="ledger")
    yield pool
    await pool.close()


async def partitions(connection: psycopg.AsyncConnection[Any]) -> Sequence[tuple[str, int, int]]:
    rows = await connection.execute(
        b"SELECT name, first_posting, end_posting FROM transfer_partitions ORDER BY first_posting"
    )
    return await rows.fetchall()


async def test_a_day_over_several_partitions_is_the_same_day(pool: Pool) -> None:
    store = PostgresStore(pool)
    memory = MemoryStore()
    await play(Story(memory), None)
    assert await store.transfers(OP) == await memory.transfers(OP)
    for gateway in ("G1", "G2"):
        for sequence in (1, 2, 3):
            there, here = [await each.batch(GatewayId(gateway), 1, sequence) for each in (memory, store)]
            assert there is not None
            assert here is not None
            assert here.receipt == there.receipt
    assert (await store.verify()).fault == ""

    async def standing(store: LedgerStore, at: int) -> dict[str, Balances]:
        rows = await store.balances_at(OP, "", Instant(at), by_business=False)
        return {path: balances for path, _, balances in rows if balances != Balances()}

    for number in range(len(ORDER) + 1):
        assert await standing(store, number * APART_US) == await standing(memory, number * APART_US)
    async with pool.connection() as connection:
        (filled,) = await _row(connection, b"SELECT count(DISTINCT tableoid) FROM transfers")
    assert filled > 3


async def test_a_listing_goes_on_after_each_page(pool: Pool) -> None:
    reports = Reports(pool)
    whole = await reports.transfers(OP, "", 0, 1_000)
    pages, after = list[int](), 0
    while page := await reports.transfers(OP, "", after, 5):
        pages += [each.id for each in page]
        after = page[-1].id
    assert pages == [each.id for each in whole]
    assert len(set(pages)) == len(await PostgresStore(pool).transfers(OP))


def window(name: str) -> bytes:
    # EXPLAIN stands before everything.
    return re.sub(rb"\A(--.*\n)*", b"", database.sentence("farthing_cloud.ledger", name))


async def looked_at(pool: Pool, name: str, **named: Any) -> set[str]:
    """Names of the partitions that this sentence reads rows of."""
    async with pool.connection() as connection:
        (plan,) = await _row(
            connection, b"EXPLAIN (ANALYZE, FORMAT JSON) " + window(name), {"operator_id": OP, **named}
        )
        every = {each[0] for each in await partitions(connection)}
    assert len(every) > 2
    read: set[str] = set()

    def walk(node: dict[str, Any]) -> None:
        if node.get("Relation Name") in every and node["Actual Loops"]:
            read.add(node["Relation Name"])
        for child in node.get("Plans", ()):
            walk(child)

    walk(plan[0]["Plan"])
    return read


async def test_partitions_outside_a_window_are_not_looked_at(pool: Pool) -> None:
    payer = {"payer_id": 1, "debt_id": 2}
    first, last = "transfers_from_1", f"transfers_from_{FIRST_END}"
    assert await looked_at(pool, "list_moving_postings", **payer, after=2, to=4) == {first}
    assert await looked_at(pool, "list_posting_transfers", posting_ids="{3,4}") == {first}
    assert await looked_at(pool, "read_use_transfers", posting_ids=f"{{3,{FIRST_END}}}") == {first, last}
    head = len((await everything(pool))["postings"])
    assert first not in await looked_at(pool, "sum_movements_after", **payer, position=head - 2)


async def test_no_partition_can_be_changed_and_who_serves_reaches_none_directly(pool: Pool) -> None:
    async with pool.connection() as connection:
        for name, *_ in await partitions(connection):
            for change in ("UPDATE {} SET amount_micros = 1", "DELETE FROM {}", "TRUNCATE {}"):
                with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
                    async with connection.transaction():
                        await connection.execute(sql.SQL(change).format(sql.Identifier(name)))
            for act in ("SELECT FROM {}", "UPDATE {} SET amount_micros = 1", "INSERT INTO {} DEFAULT VALUES"):
                async with connection.transaction(force_rollback=True):
                    await connection.execute("SET LOCAL ROLE farthing_ledger")
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        await connection.execute(sql.SQL(act).format(sql.Identifier(name)))
        async with connection.transaction(force_rollback=True):
            await connection.execute("SET LOCAL ROLE farthing_ledger")
            # Through the table that has them all, and ranges ahead by the one call.
            await connection.execute("SELECT FROM transfers")
            for _, first, _ in await partitions(connection):
                await connection.execute(
                    "INSERT INTO transfers (posting_id, debit_id, credit_id, amount_micros, quota, kind, cause)"
                    " VALUES (%s, 1, 2, 1, 0, 'post', 'use')",
                    (first,),
                )
            await connection.execute("SELECT make_transfer_partitions(100)")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute("CREATE TABLE transfers_mine (LIKE transfers)")


async def test_a_posting_that_no_partition_takes_is_refused_whole(database_url: str) -> None:
    pool = await open_pool(database_url, schema="ledger")
    story = Story(PostgresStore(pool))
    await grants(story)
    async with pool.connection() as connection:
        await connection.execute(f"SELECT setval('postings_id_seq', {FIRST_END + 1})".encode())
    with pytest.raises(StoreError, match="no partition takes"):
        await story.fund("P", "1.00", "pay-9")
    # One made ahead is enough, and what was refused comes again.
    assert (await Partitions(pool, postings=POSTINGS).make_ahead())[0] == 2
    funding = Funding(
        operator_id=OP, account_id=AccountId("P"), currency=EUR, amount_micros=1, payment_id="pay-9", source="bank/main"
    )
    assert await story.ledger.fund(funding, now=Instant(APART_US))
    assert (await story.store.verify()).fault == ""
    # How it stood before is read from where that stands.
    then = {"path_prefix": "", "at_us": NOW, "by_business": False}
    assert await looked_at(pool, "list_balances_at", **then) == {"transfers_from_1"}
    assert len(await looked_at(pool, "list_balances_at", **then | {"at_us": APART_US})) == 2
    # And back from the present, from what was posted since.
    assert await looked_at(pool, "list_balances_back_at", **then) == {f"transfers_from_{FIRST_END}"}
    assert await looked_at(pool, "list_balances_back_at", **then | {"at_us": APART_US}) == set()
    # Of two ranges three numbers were skipped or refused, and one was taken.
    assert await Partitions(pool, postings=POSTINGS).make_ahead() == (0, 2 * POSTINGS - 4)
    await pool.close()


async def test_what_was_taken_out_is_never_taken_for_nothing(pool: Pool) -> None:
    """``verify`` names the gap; what would be reckoned from it is refused; attached again, all is as it was."""
    store, reports = PostgresStore(pool), Reports(pool)
    story = Story(store)
    movements = movements_pb2.ListMovementsRequest(operator_id=OP, account_id="P")

    async def told() -> list[movements_pb2.ListMovementsResponse]:
        return [each async for each in Movements(pool, store).of_account(movements)]

    before = await told()
    last = Instant(len(ORDER) * APART_US)
    stood = await store.balances_at(OP, "", last, by_business=False)
    async with pool.connection() as connection:
        await connection.execute("ALTER TABLE transfers DETACH PARTITION transfers_from_1")
    gap = "postings 1 to 1000000"
    assert (await store.verify()).fault == (
        "the transfers of postings 1 to 1000000 are not here: their partition was taken out; attach it again to verify"
    )
    with pytest.raises(LedgerRefusal, match=gap):
        await told()
    with pytest.raises(LedgerRefusal, match=gap):
        await reports.balances(OP, "", at_us=NOW)
    with pytest.raises(LedgerRefusal, match=gap):
        await store.balances_at(OP, "", NOW, by_business=False)
    # Back from the present balances nothing of it is needed.
    assert await store.balances_at(OP, "", last, by_business=False) == stood
    # A use that was billed in it, and one that was not.
    with pytest.raises(LedgerRefusal, match=gap):
        await story.ledger.correct(
            order("refund", "refund-t1", use="t1", gateway_id="G1", amount="0.10"), person="alice", now=NOW
        )
    # Money goes on meanwhile.
    await story.fund("F", "0.10", "pay-7")
    async with pool.connection() as connection:
        await connection.execute(
            "ALTER TABLE transfers ATTACH PARTITION transfers_from_1 FOR VALUES FROM (1) TO (1000001)"
        )
    assert (await store.verify()).fault == ""
    assert (await told())[1:] == before[1:]


async def test_what_accounts_lacked_after_a_restore_is_not_left_out_of_an_operators_sums(pool: Pool) -> None:
    """A shortfall that was archived would look like a payment; without one an operator's sums need no transfers. (The last one here: nothing verifies after it.)"""
    reports = Reports(pool)
    async with pool.connection() as connection:
        await connection.execute("ALTER TABLE transfers DETACH PARTITION transfers_from_1")
    assert (await reports.reconcile(OP, now=NOW, silent_us=1)).claimed_micros > 0
    async with pool.connection() as connection:
        await connection.execute(
            """INSERT INTO postings (id, operator_id, currency, position, kind, subject, posted_at_us, business_at_us, digest, head)
            OVERRIDING SYSTEM VALUE VALUES (900000, %s, 'EUR', 1000000, 'short', '', 0, 0, '', '')""",
            (OP,),
        )
    with pytest.raises(LedgerRefusal, match="postings 1 to 1000000 were archived"):
        await reports.reconcile(OP, now=NOW, silent_us=1)
