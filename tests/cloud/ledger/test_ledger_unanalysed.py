"""A ledger that PostgreSQL has no statistics of, as after a first fill: a batch reads its own accounts, not all of them."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from ledger_story import CHG, EUR, NOW, OP, Story
from typing_extensions import override

from farthing_cloud.database import Pool
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.store.interface import Transaction
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
