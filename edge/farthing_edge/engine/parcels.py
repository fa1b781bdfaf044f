"""Signed batches with their detail, out of a journal into a file, beside a running daemon or without one: to be carried by hand."""

import sqlite3
from pathlib import Path
from typing import IO

from farthing.evidence import parcel
from farthing.evidence.batches import compress_leaves
from farthing.evidence.parcel import ParcelBatch
from farthing.ids import GatewayId
from farthing_edge.authorization.events import KIND_OF, Event, Receipted, Sealed, decode
from farthing_edge.journal.errors import JournalError
from farthing_edge.journal.sentences import sentence
from farthing_edge.journal.store import connect_to_read, read_entries, read_entry, read_start_at
from farthing_edge.metering.detail import DetailFault, Placed, billed_by, leaves_of_entries


def export_batches(path: Path, gateway_id: GatewayId, to: IO[bytes], *, everything: bool) -> tuple[int, int]:
    """Write a parcel; how many batches it has, and for how many of them the journal has no detail any more.

    Without ``everything``, those that have a receipt are left out. Raises ``JournalError``.
    """
    connection = connect_to_read(path)
    written = bare = 0
    try:
        parcel.begin(to, gateway_id)
        receipted = {} if everything else _receipted(connection)
        for incarnation, sequence, position, signature, key_id in connection.execute(sentence("all_signed_batches")):
            if sequence <= receipted.get(incarnation, 0):
                continue
            entry = read_entry(connection, position)
            sealed = decode(entry.kind, entry.body)
            if not isinstance(sealed, Sealed):
                raise JournalError(f"position {position} is no sealed batch")
            detail = _detail(connection, gateway_id, sealed)
            bare += detail is None
            parcel.add(
                to,
                ParcelBatch(
                    incarnation=incarnation,
                    sequence=sequence,
                    batch=sealed.batch,
                    signature=signature,
                    key_id=key_id,
                    detail=detail,
                ),
            )
            written += 1
    except OSError as err:
        raise JournalError(f"the export of {path} stopped after {written} batches") from err
    finally:
        connection.close()
    return written, bare


def _receipted(connection: sqlite3.Connection) -> dict[int, int]:
    """The highest receipted sequence of each incarnation that has entries here."""
    found: dict[int, int] = {}
    kind = KIND_OF[Receipted]
    for (body,) in connection.execute(sentence("bodies_of_kind"), (kind,)):
        event = decode(kind, body)
        if isinstance(event, Receipted):
            found[event.incarnation] = max(found.get(event.incarnation, 0), event.sequence)
    return found


def _detail(connection: sqlite3.Connection, gateway_id: GatewayId, sealed: Sealed) -> bytes | None:
    def event_at(position: int) -> Event:
        entry = read_entry(connection, position)
        return decode(entry.kind, entry.body)

    rows = read_entries(connection, sealed.first_position, sealed.last_position)
    try:
        return compress_leaves(
            leaves_of_entries(
                billed_by(sealed.batch, (Placed(entry.position, decode(entry.kind, entry.body)) for entry in rows)),
                gateway_id=gateway_id,
                event_at=event_at,
                start_id_at=lambda position: read_start_at(connection, position),
            )
        )
    except (DetailFault, JournalError):
        # Pruned, or damaged: the batch itself is whole, and posts.
        return None
