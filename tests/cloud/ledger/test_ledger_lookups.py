"""A batch reads its own rows, not all there are: its accounts where PostgreSQL has no statistics, as after a first fill, and its claims where it has."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
import pytest
from ledger_story import CHG, EUR, NOW, OP, Story
from typing_extensions import override

from farthing_cloud.database import Pool
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.store.arrays import names, octets
from farthing_cloud.ledger.store.interface import Transaction
from farthing_cloud.ledger.store.loading import READ_CLAIMS
from farthing_cloud.ledger.store.postgres import PostgresStore

pytestmark = pytest.mark.real

T = TypeVar("T")

#: The operator's other payers, each with two accounts, and those that the batch bills. (So many that a look at all of them is never the
#: cheapest plan: how large a table is PostgreSQL knows from its file.)
OTHERS, BILLED = 20_000, 40

FILL = (
    # Nobody looks at them while the test runs.
    b"ALTER TABLE accounts SET (autovacuum_enabled = false)",
    b"ALTER TABLE payers SET (autovacuum_enabled = false)",
    (
        b"INSERT INTO accounts (operator_id, currency, path) SELECT %(operator)s, 'EUR', k || 'n' || n"
        b" FROM generate_series(1, %(others)s) AS n, (VALUES ('payer/'), ('debt/')) AS kinds (k)"
    ),
    (
        b"INSERT INTO payers (operator_id, currency, account_id, status, credit_limit_micros, debt_limit_micros, preload_micros)"
        b" SELECT %(operator)s, 'EUR', 'n' || n, 'active', 0, 1000000, 0 FROM generate_series(1, %(others)s) AS n"
    ),
)
COUNTS = (
    b"SELECT relname, idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables"
    b" WHERE relname IN ('accounts', 'payers') AND schemaname = current_schema()"
)

#: Claims of others, each on a register of its own, and those that a group of batches names.
CLAIMED, NAMED = 20_000, 4_000

FILL_CLAIMS = (
    b"INSERT INTO registers (device_id, register_id, register_epoch) SELECT 'd' || n, 'r', 0 FROM generate_series(1, %(claimed)s) AS n",
    (
        b"INSERT INTO claims (authorization_id, register, register_from, register_to, net_micros, tax_micros, final, aside, operator_id,"
        b" gateway_id, incarnation, sequence) SELECT substring(sha256(n::text::bytea) for 16), r.id, 0, 1, 1, 0, true, false,"
        b" %(operator)s, 'G1', 1, 1 FROM generate_series(1, %(claimed)s) AS n JOIN registers r ON r.device_id = 'd' || n"
    ),
    b"ANALYZE claims",
    b"ANALYZE registers",
)
CLAIMS_COUNTS = COUNTS.replace(b"'accounts', 'payers'", b"'claims', 'registers'")


class Watched(PostgresStore):
    """Knows how many rows of each table its last transaction looked at."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.looked_at: dict[str, int] = {}

    @override
    async def run(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        async def counted(tx: Any) -> T:
            result = await work(tx)
            self.looked_at = dict(await (await tx._connection.execute(COUNTS)).fetchall())
            return result

        return await super().run(counted)


async def test_a_batch_looks_at_its_own_accounts(ledger_pool: Pool) -> None:
    store = Watched(ledger_pool)
    story = Story(store)
    await story.open()
    async with ledger_pool.connection() as connection:
        for query in FILL:
            await connection.execute(query, {"operator": OP, "others": OTHERS} if b"INSERT" in query else None)
        unknown = await connection.execute(b"SELECT bool_and(reltuples = -1) FROM pg_class WHERE relname = 'accounts'")
        assert await unknown.fetchone() == (True,)
    raws = [
        story.seal(
            "G1",
            [
                (f"a{first + n}", f"c{n}", first, first + 1, "0.01", "0.002", [(n, "0.01", "0.002")])
                for n in range(BILLED)
            ],
            [(f"n{n + 1}", "overrun", CHG, "10:00") for n in range(BILLED)],
        )
        for first in (1_000, 2_000, 3_000)
    ]
    outcome = await story.push(raws[0])
    assert outcome.receipt is not None
    assert outcome.receipt.parked == ()
    # A few looks at each of two accounts; and at each payer.
    assert 2 * BILLED < store.looked_at["accounts"] < 20 * BILLED
    assert BILLED <= store.looked_at["payers"] < 5 * BILLED

    # Two that go together: their rows are looked up once, and their accounts written once.
    waiting = [receive(raw, signature=b"", key_id=b"", currency=EUR) for raw in raws[1:]]
    outcomes = await story.ledger.post_batches(waiting, currency=EUR, now=NOW)
    assert len(outcomes) == len(waiting)
    assert 2 * BILLED < store.looked_at["accounts"] < 20 * BILLED
    assert BILLED <= store.looked_at["payers"] < 5 * BILLED


async def test_a_group_looks_up_its_claims_by_their_names(ledger_pool: Pool) -> None:
    async with ledger_pool.connection() as connection:
        for query in FILL_CLAIMS:
            await connection.execute(query, {"operator": OP, "claimed": CLAIMED} if b"INSERT" in query else None)
    # What a session has read is told from its beginning.
    async with await psycopg.AsyncConnection.connect(str(ledger_pool.conninfo)) as connection:
        new = [hashlib.sha256(f"new {n}".encode()).digest()[:16] for n in range(NAMED - 1)]
        known = hashlib.sha256(b"7").digest()[:16]
        named = {"authorizations": octets([*new, known]), "claim_gateways": names(["G1"] * NAMED)}
        (row,) = await (await connection.execute(READ_CLAIMS, named)).fetchall()
        assert row[:4] == (known, "d7", "r", 0)
        looked_at = dict(await (await connection.execute(CLAIMS_COUNTS)).fetchall())
    assert looked_at == {"claims": 1, "registers": 1}
