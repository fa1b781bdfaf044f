"""Batches that brought statements which their gateways could not take, in PostgreSQL."""

import asyncio
from collections.abc import Iterable
from typing import Final

import psycopg
from psycopg.rows import TupleRow

from farthing.clock import Instant
from farthing.ids import GatewayId
from farthing.v1 import batch_pb2
from farthing_cloud.database import sentence
from farthing_cloud.ledger.store.interface import BatchWithParked, Read

_PACKAGE: Final = "farthing_cloud.ledger"
LIST_BATCHES_WITH_PARKED: Final = sentence(_PACKAGE, "list_batches_with_parked")
_COUNTS: Final = sentence(_PACKAGE, "list_parked_counts")
#: Batches read from the server at once: each is decoded and forgotten.
_COUNTS_PAGE: Final = 20


def batch_of(row: TupleRow) -> BatchWithParked:
    """A row of ``list_batches_with_parked``."""
    return BatchWithParked(
        place=row[0],
        gateway_id=GatewayId(row[1]),
        incarnation=row[2],
        sequence=row[3],
        posted_at=Instant(row[4]),
        batch=row[5],
        present_incarnation=row[6],
    )


async def count_fault(connection: psycopg.AsyncConnection[TupleRow], read: Read) -> str:
    """Part of ``verify``: a batch that people would not find, or find for nothing; empty for none."""
    async with connection.cursor(name="parked_counts") as counts:
        await counts.execute(_COUNTS)
        while rows := await counts.fetchmany(_COUNTS_PAGE):
            # Each batch is decoded: not on the loop that serves the gateways' door meanwhile.
            if fault := await asyncio.to_thread(_first_count_fault, rows):
                return fault
            await read(len(rows))
    return ""


def _first_count_fault(rows: Iterable[TupleRow]) -> str:
    for gateway_id, incarnation, sequence, raw, said in rows:
        brought = len(batch_pb2.Batch.FromString(raw).parked)
        if brought != said:
            return (
                f"batch {sequence} of {gateway_id}, incarnation {incarnation}: "
                f"brings {brought} parked statements, it says {said}"
            )
    return ""
