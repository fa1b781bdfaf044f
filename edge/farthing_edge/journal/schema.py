"""The journal's tables, by version. A version is only ever added.

STRICT, because SQLite turns an integer that overflows into a float elsewhere. ``entries`` is the truth; every other table is an
index into it, save a batch's signature (ES256 is randomized: it is stored, not recomputed), what was parked, and what stands for entries
that are not there any more: ``anchor`` and ``kept`` for pruned ones (see ``retention``), ``salvaged`` for those beyond damage.
"""

import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

#: 3 and 4 have the tables of 2: bodies of entries may be packed, since 4 by Zstandard too, which an older program would take for damage.
VERSION = 4


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database up to ``VERSION``; raise ``ValueError`` when it is newer than this program."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise ValueError(f"the journal has format {version}, this program knows {VERSION}: install the newer program")
    if version == VERSION:
        return
    # Imported here: a start that finds its tables does not pay for the tool that makes them.
    from sqlite_utils import Database

    connection.execute("BEGIN IMMEDIATE")
    try:
        if version < 1:
            _first(Database(connection))
        if version < 2:
            _second(Database(connection))
        connection.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _first(database: "Database") -> None:
    database.table("entries").create(
        {"position": int, "at_us": int, "kind": int, "body": bytes, "chain": bytes},
        pk="position",
        not_null={"at_us", "kind", "body", "chain"},
        strict=True,
    )
    database.table("batches").create(
        {
            "incarnation": int,
            "sequence": int,
            "position": int,
            "batch_hash": bytes,
            "signature": bytes,
            "key_id": bytes,
        },
        pk=("incarnation", "sequence"),
        not_null={"incarnation", "sequence", "position", "batch_hash"},
        strict=True,
    )
    database.table("directives").create(
        {"version": int, "position": int, "directive_hash": bytes},
        pk="version",
        not_null={"position", "directive_hash"},
        strict=True,
    )
    database.table("devices").create(
        {"device_id": str, "position": int, "status": int},
        pk="device_id",
        not_null={"position", "status"},
        strict=True,
    )
    database.table("starts").create(
        {"first_position": int, "start_id": bytes, "incarnation": int, "last_position": int},
        pk="first_position",
        not_null={"start_id", "incarnation"},
        strict=True,
    )
    database.table("parked").create(
        {"id": int, "at_us": int, "what": str, "body": bytes, "fault": str},
        pk="id",
        not_null={"at_us", "what", "body", "fault"},
        strict=True,
    )


def _second(database: "Database") -> None:
    """Entries may go: where the hash chain begins then, what was said of those that went, and those that had to stay."""
    database.table("anchor").create(
        {
            "id": int,
            "position": int,
            "chain": bytes,
            "batches": int,
            "directives": int,
            "billed_micros": int,
        },
        pk="id",
        not_null={"position", "chain", "batches", "directives", "billed_micros"},
        strict=True,
    )
    database.table("kept").create(
        {"position": int, "previous_chain": bytes},
        pk="position",
        not_null={"previous_chain"},
        strict=True,
    )
    database.table("salvaged").create(
        {"position": int, "at_us": int, "kind": int, "body": bytes, "chain": bytes},
        pk="position",
        not_null={"at_us", "kind", "body", "chain"},
        strict=True,
    )
