"""Say that the ledger's database was restored before anything serves it: from its first moment on it grants and pays nothing (ADR 22)."""

from farthing.clock import Instant
from farthing_cloud.database import migrate, open_pool
from farthing_cloud.ledger.core.rows import Epoch
from farthing_cloud.ledger.restored import RestoredLedger
from farthing_cloud.ledger.store.postgres import PostgresStore


async def stop_restored(url: str, *, why: str, now: Instant) -> Epoch:
    """Stop the ledger in the database at ``url``, its tables brought up to this program first; the epoch that it is in.

    A ledger that was stopped before keeps its reason. Raises ``DatabaseError`` or ``StoreError`` where the database cannot be used.
    """
    await migrate(url, "farthing_cloud.ledger.schema", "ledger")
    pool = await open_pool(url, schema="ledger")
    try:
        return await RestoredLedger(PostgresStore(pool)).stop(why, now=now)
    finally:
        await pool.close()
