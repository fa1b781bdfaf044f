"""What only putting a gateway changes, in PostgreSQL: its keys over its life, and the least evidence class of its site."""

from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg.rows import TupleRow

from farthing.clock import Instant
from farthing.ids import GatewayId
from farthing_cloud.database import sentence
from farthing_cloud.ledger.core.keys import BatchKey
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.store.arrays import numbers, octets

_PACKAGE: Final = "farthing_cloud.ledger"
LIST_BATCH_KEYS: Final = sentence(_PACKAGE, "list_batch_keys")
_KEEP_BATCH_KEY: Final = sentence(_PACKAGE, "keep_batch_key")
_SET_PUT: Final = sentence(_PACKAGE, "set_put_gateway")

Connection = psycopg.AsyncConnection[TupleRow]


def key_of(row: TupleRow) -> BatchKey:
    """A row of ``list_batch_keys``."""
    number, key, since_us, until_us, revoked_us = row
    return BatchKey(
        number=number,
        key=key,
        since=Instant(since_us),
        until=Instant(until_us) if until_us is not None else None,
        revoked_at=Instant(revoked_us) if revoked_us is not None else None,
    )


async def of(connection: Connection, gateway_id: GatewayId) -> Sequence[BatchKey]:
    """A gateway's keys, by number."""
    rows = await (await connection.execute(LIST_BATCH_KEYS, {"gateway_id": gateway_id})).fetchall()
    return [key_of(row) for row in rows]


async def keep(connection: Connection, posting: Posting) -> None:
    """Write what a posting has of keys, and of what a site takes; nothing for almost all."""
    if posting.put is not None:
        put = {
            "gateway_id": posting.put.gateway_id,
            "least_class": posting.put.least_class,
            "earlier_keys": octets(each.key for each in posting.put.earlier_grant_keys),
            "earlier_untils_us": numbers(each.until for each in posting.put.earlier_grant_keys),
        }
        await connection.execute(_SET_PUT, put)
    for gateway_id, key in posting.batch_keys:
        named = {
            "gateway_id": gateway_id,
            "number": key.number,
            "batch_key": key.key,
            "since_us": key.since,
            "until_us": key.until,
            "revoked_us": key.revoked_at,
        }
        await connection.execute(_KEEP_BATCH_KEY, named)
