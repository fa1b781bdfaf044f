"""Every SQL sentence of the public log, typed. Each call runs in the caller's transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import psycopg

from farthing.tlog.entries import LogName
from farthing_cloud.database import sentence

Connection: TypeAlias = psycopg.AsyncConnection[Any]


def _sql(name: str) -> bytes:
    return sentence("farthing_cloud.publiclog", name)


_LOCK_LOG = _sql("lock_log")
_READ_LOG = _sql("read_log")
_GROW_LOG = _sql("grow_log")
_SET_EPOCH = _sql("set_epoch")
_ADVANCE_SOURCE = _sql("advance_source")
_ADD_LEAVES = _sql("add_leaves")
_KNOWN_ENTRIES = _sql("known_entries")
_LIST_LEAVES = _sql("list_leaves")
_FIND_LEAVES = _sql("find_leaves")
_READ_CHECKPOINT = _sql("read_checkpoint")
_ADD_CHECKPOINT = _sql("add_checkpoint")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRow:
    """A log: how many leaves it has, whose they are, and how far its source was read."""

    size: int
    ledger_epoch: int
    source: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCheckpoint:
    """A checkpoint that was signed; ``note`` is the whole signed note."""

    size: int
    root: bytes
    note: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """An entry and what it is about: a batch's hash, or a device's id."""

    subject: bytes
    entry: bytes


async def lock_log(connection: Connection, log: LogName) -> LogRow:
    """The log's row, locked until the transaction ends."""
    return _log(await (await connection.execute(_LOCK_LOG, {"log": log})).fetchone())


async def read_log(connection: Connection, log: LogName) -> LogRow:
    """The log's row as committed last."""
    return _log(await (await connection.execute(_READ_LOG, {"log": log})).fetchone())


def _log(row: Any) -> LogRow:
    assert row is not None, "the schema's first step writes it"
    return LogRow(size=row[0], ledger_epoch=row[1], source=(row[2], row[3]))


async def add_leaves(connection: Connection, log: LogName, first: int, leaves: Sequence[Leaf]) -> None:
    """Append to a locked log that has ``first`` leaves."""
    await connection.execute(
        _ADD_LEAVES,
        {
            "log": log,
            "first": first,
            "subjects": [leaf.subject for leaf in leaves],
            "entries": [leaf.entry for leaf in leaves],
        },
    )
    await connection.execute(_GROW_LOG, {"log": log, "size": first + len(leaves)})


async def known_entries(connection: Connection, log: LogName, subjects: Sequence[bytes]) -> Mapping[bytes, list[bytes]]:
    """What was said of each subject, oldest first; a subject that is new is not in it."""
    found: dict[bytes, list[bytes]] = {}
    rows = await connection.execute(_KNOWN_ENTRIES, {"log": log, "subjects": list(subjects)})
    for subject, entry in await rows.fetchall():
        found.setdefault(bytes(subject), []).append(bytes(entry))
    return found


async def list_leaves(connection: Connection, log: LogName, start: int, limit: int) -> list[bytes]:
    """Entries from ``start`` on."""
    rows = await connection.execute(_LIST_LEAVES, {"log": log, "start": start, "limit": limit})
    return [bytes(row[0]) for row in await rows.fetchall()]


async def find_leaves(
    connection: Connection, log: LogName, subjects: Sequence[bytes], *, size: int, limit: int
) -> list[tuple[int, bytes]]:
    """(index, entry) of the newest ``limit`` of each subject below ``size``, in the log's order."""
    rows = await connection.execute(
        _FIND_LEAVES, {"log": log, "subjects": list(subjects), "size": size, "limit": limit}
    )
    return [(row[0], bytes(row[1])) for row in await rows.fetchall()]


async def set_epoch(connection: Connection, log: LogName, ledger_epoch: int) -> None:
    """Take entries from a ledger of this epoch only; 0: of the next one that is asked."""
    await connection.execute(_SET_EPOCH, {"log": log, "ledger_epoch": ledger_epoch})


async def advance_source(connection: Connection, log: LogName, place: tuple[int, int]) -> None:
    """Remember how far the registry's changes were read."""
    await connection.execute(_ADVANCE_SOURCE, {"log": log, "transaction_id": place[0], "sequence": place[1]})


async def newest_checkpoint(connection: Connection, log: LogName) -> StoredCheckpoint | None:
    """The largest that was signed."""
    row = await (await connection.execute(_READ_CHECKPOINT, {"log": log})).fetchone()
    return None if row is None else StoredCheckpoint(size=row[0], root=bytes(row[1]), note=bytes(row[2]))


async def add_checkpoint(connection: Connection, log: LogName, checkpoint: StoredCheckpoint) -> None:
    """Keep a checkpoint before anybody sees it."""
    await connection.execute(
        _ADD_CHECKPOINT,
        {"log": log, "size": checkpoint.size, "root": checkpoint.root, "note": checkpoint.note},
    )
