"""Entries of the public logs in words."""

from datetime import UTC, datetime, timedelta

from farthing.clock import is_date
from farthing.tlog.entries import BatchEntry, EntryError, decode


def tell(index: int, data: bytes) -> str:
    """One line for a leaf."""
    try:
        entry = decode(data)
    except EntryError:
        return f"{index}  an entry of another kind, {len(data)} bytes"
    if isinstance(entry, BatchEntry):
        return (
            f"{index}  batch {entry.batch_hash.hex()}  receipt {entry.receipt_hash.hex()}"
            f"  ledger epoch {entry.ledger_epoch}"
        )
    at = f"{entry.at_us} µs"
    if is_date(entry.at_us):
        at = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=entry.at_us)).isoformat(timespec="seconds")
    return (
        f"{index}  device {entry.device}  epoch {entry.device_epoch}  of {entry.operator}  {entry.status}"
        f"  key {entry.statement_key_hash.hex()}  certificate {entry.certificate_hash.hex()}  {at}"
    )
