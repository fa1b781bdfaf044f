"""Where a device finds itself again: one SQLite file per process, one row per device.

Rule 1: ``commit`` returns when state, counters and new statements are on the disk (``synchronous=FULL``), or raises.
Rule 2: a counter belongs to one content for one recipient for ever: the table refuses a second.
Rule 3: rows for the run's record are durable with the state that caused them, appended to the file, then forgotten here; the
file holds each once.
"""

import fcntl
import json
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

#: Older statements than this many per device leave the table (their counters stay used: the device's row has passed them).
MAX_STATEMENTS = 4_096

_SCHEMA = """
CREATE TABLE IF NOT EXISTS devices (
    device TEXT PRIMARY KEY,
    device_epoch INTEGER NOT NULL,
    next_counter INTEGER NOT NULL,
    state BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS statements (
    device TEXT NOT NULL,
    device_epoch INTEGER NOT NULL,
    counter INTEGER NOT NULL,
    recipient TEXT NOT NULL,
    payload BLOB NOT NULL,
    cose BLOB,
    PRIMARY KEY (device, device_epoch, counter)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rows (id TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
"""


class StoreError(Exception):
    """The device's memory cannot be used, or refuses what no device may do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsigned:
    """A statement about to be signed."""

    counter: int
    recipient: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of ``sessions.jsonl``; ``id`` names what happened, once."""

    id: str
    body: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDevice:
    """A device's row."""

    device_epoch: int
    next_counter: int
    state: bytes


class Store:
    """The memory of all devices of a process. Blocking: call it on one thread of its own."""

    def __init__(self, *, folder: Path, sessions_file: Path) -> None:
        self._folder = folder
        self._sessions_file = sessions_file
        self._lock: int | None = None
        self._database: sqlite3.Connection | None = None
        self._sessions: int | None = None
        self._written: list[str] = []

    def open(self) -> None:
        """Lock, open, bring ``sessions.jsonl`` up to date; ``StoreError`` if another process has the devices."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sessions_file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = take_lock(self._folder)
        try:
            database = sqlite3.connect(
                self._folder / DATABASE, isolation_level=None, check_same_thread=False, cached_statements=32
            )
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.executescript(_SCHEMA)
        except sqlite3.Error as err:
            self.close()
            raise StoreError(f"cannot use {self._folder / DATABASE}: move it away if it is damaged") from err
        self._database = database
        self._sessions, known = _open_sessions(self._sessions_file)
        waiting = [
            Row(id=name, body=json.loads(body))
            for name, body in database.execute("SELECT id, body FROM rows ORDER BY rowid")
        ]
        self._append([row for row in waiting if row.id not in known])
        self._written = [row.id for row in waiting]

    def close(self) -> None:
        """Close everything and let others have the devices."""
        if self._database is not None:
            self._database.close()
            self._database = None
        for handle in (self._sessions, self._lock):
            if handle is not None:
                os.close(handle)
        self._sessions = self._lock = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def device(self, device: str) -> StoredDevice | None:
        """The device's row, or None if it was never here."""
        found = self._db.execute(
            "SELECT device_epoch, next_counter, state FROM devices WHERE device = ?", (device,)
        ).fetchone()
        if found is None:
            return None
        return StoredDevice(device_epoch=found[0], next_counter=found[1], state=found[2])

    def signed(self, device: str, device_epoch: int, counter: int) -> bytes | None:
        """The COSE_Sign1 made earlier for this counter, if there is one."""
        found = self._db.execute(
            "SELECT cose FROM statements WHERE device = ? AND device_epoch = ? AND counter = ?",
            (device, device_epoch, counter),
        ).fetchone()
        return None if found is None else found[0]

    def commit(
        self,
        device: str,
        *,
        device_epoch: int,
        next_counter: int,
        state: bytes,
        unsigned: Sequence[Unsigned] = (),
        rows: Sequence[Row] = (),
    ) -> None:
        """Write a device's new state with the statements it is about to sign and the rows it causes, all or nothing."""
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            try:
                db.execute(
                    "INSERT INTO devices (device, device_epoch, next_counter, state) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (device) DO UPDATE SET device_epoch = excluded.device_epoch,"
                    " next_counter = excluded.next_counter, state = excluded.state",
                    (device, device_epoch, next_counter, state),
                )
                for each in unsigned:
                    self._reserve(device, device_epoch, next_counter, each)
                db.execute(
                    "DELETE FROM statements WHERE device = ? AND device_epoch = ? AND counter < ?",
                    (device, device_epoch, next_counter - MAX_STATEMENTS),
                )
                db.executemany("DELETE FROM rows WHERE id = ?", [(name,) for name in self._written])
                db.executemany(
                    "INSERT INTO rows (id, body) VALUES (?, ?) ON CONFLICT (id) DO NOTHING",
                    [(row.id, json.dumps(row.body)) for row in rows],
                )
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
        except sqlite3.Error as err:
            raise StoreError(f"cannot write {self._folder / DATABASE}: {device} says nothing it could forget") from err
        self._append(rows)
        self._written = [row.id for row in rows]

    def keep_signature(self, device: str, device_epoch: int, counter: int, cose: bytes) -> None:
        """Keep what was signed, so that it is sent again with the same bytes after a power cut too."""
        try:
            self._db.execute(
                "UPDATE statements SET cose = ? WHERE device = ? AND device_epoch = ? AND counter = ? AND cose IS NULL",
                (cose, device, device_epoch, counter),
            )
        except sqlite3.Error as err:
            raise StoreError(f"cannot write {self._folder / DATABASE}") from err

    def _reserve(self, device: str, device_epoch: int, next_counter: int, statement: Unsigned) -> None:
        if statement.counter >= next_counter:
            raise StoreError(f"{device} would sign counter {statement.counter} before it is passed")
        found = self._db.execute(
            "SELECT recipient, payload FROM statements WHERE device = ? AND device_epoch = ? AND counter = ?",
            (device, device_epoch, statement.counter),
        ).fetchone()
        if found is None:
            self._db.execute(
                "INSERT INTO statements (device, device_epoch, counter, recipient, payload) VALUES (?, ?, ?, ?, ?)",
                (device, device_epoch, statement.counter, statement.recipient, statement.payload),
            )
        elif found != (statement.recipient, statement.payload):
            raise StoreError(f"{device} would use counter {statement.counter} again for something else")

    def _append(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        assert self._sessions is not None
        data = b"".join(json.dumps({"id": row.id, **row.body}).encode() + b"\n" for row in rows)
        try:
            while data:
                data = data[os.write(self._sessions, data) :]
            os.fdatasync(self._sessions)
        except OSError as err:
            raise StoreError(f"cannot append to {self._sessions_file}") from err

    @property
    def _db(self) -> sqlite3.Connection:
        assert self._database is not None
        return self._database


DATABASE = "devices.sqlite"


def read_device(folder: Path, device: str) -> StoredDevice:
    """The row of ``device`` in a store that may be in use; ``StoreError`` if there is none."""
    file = folder / DATABASE
    try:
        database = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        try:
            found = database.execute(
                "SELECT device_epoch, next_counter, state FROM devices WHERE device = ?", (device,)
            ).fetchone()
        finally:
            database.close()
    except sqlite3.Error as err:
        raise StoreError(f"cannot read {file}") from err
    if found is None:
        raise StoreError(f"{file} knows no device {device}")
    return StoredDevice(device_epoch=found[0], next_counter=found[1], state=found[2])


def take_lock(folder: Path) -> int:
    """Hold the devices of ``folder`` for this process; ``StoreError`` if another does. Returns the handle to close."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        os.close(handle)
        raise StoreInUse(f"another process runs the devices in {folder}: two would use one counter twice") from err
    return handle


class StoreInUse(StoreError):
    """Another process has these devices."""


def _open_sessions(file: Path) -> tuple[int, set[str]]:
    """Open the record for appending, cut off a torn last line, and return what it has."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    known = set()
    whole = 0
    with file.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            known.add(str(json.loads(line)["id"]))
    os.ftruncate(handle, whole)
    os.lseek(handle, 0, os.SEEK_END)
    return handle, known
