"""Write the journal: one transaction for each group, fsynced before :meth:`Journal.commit` returns.

Rule 1: entries are only ever appended; each carries a hash chained over all before it.
Rule 2: a commit that failed for I/O leaves a mark and is the last (see ``recovery``); one that failed otherwise wrote nothing.
Rule 3: one daemon at a time, held by a lock on a file beside it; any number of readers.
"""

import ctypes
import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from farthing_edge.authorization.events import Sealed, decode
from farthing_edge.journal import recovery
from farthing_edge.journal.errors import JournalBroken, JournalBusy, JournalError, JournalFull, JournalRejected
from farthing_edge.journal.log import WriteAheadLog, fold_beside
from farthing_edge.journal.schema import migrate
from farthing_edge.journal.sentences import sentence

T = TypeVar("T")

CHAIN_SIZE = 16
GENESIS = bytes(CHAIN_SIZE)
#: Parked commands kept for people to read: a fault repeats, and a thousand examples say no more than ten.
MAX_PARKED = 1_000
#: A reader that holds the database longer than this is a bug; a writer waits no longer.
BUSY_TIMEOUT_MS = 5_000
#: Of a new file; what is there keeps its own. A commit writes whole pages, and most commits hold a few hundred bytes: SQLite's usual 4 KiB
#: writes a third more to flash in groups of sixteen.
PAGE_SIZE = 1_024
#: After the journal's name: the folder of its snapshots.
SNAPSHOTS = ".snapshots"
#: Entries read at once: a reader that goes on for long would keep the write-ahead log from being folded back.
READ_AT_ONCE = 4_096

#: Entries written by one statement. Each statement lets the interpreter's lock go and waits for it again, behind whatever the event loop does.
ROWS_AT_ONCE = 32

#: What changing a row of any kind writes to the log, for want of knowing: half a page.
ROW_SIZE = PAGE_SIZE // 2

# SQLite's primary result codes (sqlite3.h).
_FULL = 13
_IO_ERROR = 10
_IO_FAULTS = frozenset({8, _IO_ERROR, 11, 14, 26})  # READONLY, IOERR, CORRUPT, CANTOPEN, NOTADB


class Entry(NamedTuple):
    """One thing that happened: position from 1, business time, kind number, CBOR body."""

    position: int
    at_us: int
    kind: int
    body: bytes


class Anchor(NamedTuple):
    """Where the hash chain begins: what stood before it is pruned. These are what verifying it had summed up."""

    position: int
    chain: bytes
    batches: int = 0
    directives: int = 0
    billed_micros: int = 0


class StoredBatch(NamedTuple):
    """A batch as the journal has it; signature and key id are empty until it is signed."""

    incarnation: int
    sequence: int
    batch: bytes
    signature: bytes
    key_id: bytes


@dataclass(slots=True)
class Group:
    """What one commit writes: entries in order, and the index rows that follow from them."""

    entries: list[Entry] = field(default_factory=list)
    #: (incarnation, sequence, position, hash)
    batches: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    #: (version, position, hash)
    directives: list[tuple[int, int, bytes]] = field(default_factory=list)
    #: (device id, position, status)
    devices: list[tuple[str, int, int]] = field(default_factory=list)
    #: (first position, start id, incarnation)
    starts: list[tuple[int, bytes, int]] = field(default_factory=list)
    #: (signature, key id, incarnation, sequence) of batches sealed before; the first one stays.
    signatures: list[tuple[bytes, bytes, int, int]] = field(default_factory=list)

    @property
    def is_entries_alone(self) -> bool:
        """Whether no other row is written with them, as nearly always."""
        return not (self.batches or self.directives or self.devices or self.starts or self.signatures)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self.entries and self.is_entries_alone


def _never_close(connection: sqlite3.Connection) -> None:
    """SQLite would fold the log back as it closes, and trust the page cache: it ends with the process instead, and not before."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _code(err: sqlite3.Error) -> int:
    return int(getattr(err, "sqlite_errorcode", 0)) & 0xFF


@cache
def _append_entries(count: int) -> str:
    return sentence("append_entry") + ", (?, ?, ?, ?, ?)" * (count - 1)


def next_chain(chain: bytes, entry: Entry) -> bytes:
    """The hash of everything up to ``entry``: SHA-256 of the one before, the entry's numbers and its body, cut to 16 bytes."""
    head = chain + entry.position.to_bytes(8, "big") + entry.at_us.to_bytes(8, "big", signed=True)
    return hashlib.sha256(head + entry.kind.to_bytes(2, "big") + entry.body).digest()[:CHAIN_SIZE]


class Journal:
    """The journal at ``path``. Nothing is opened before :meth:`open`; one thread at a time uses it."""

    def __init__(self, path: Path, *, mark_directory: Path | None = None, keep_ballast: bool = True) -> None:
        self.path = path
        self._mark_directory = mark_directory
        self._keep_ballast = keep_ballast
        self._ballast = path.with_name(path.name + ".ballast")
        self._lock: IO[str] | None = None
        self._connection: sqlite3.Connection | None = None
        self._log: WriteAheadLog | None = None
        self._position = 0
        self._chain = GENESIS
        #: Why nothing is written any more; the writer may come upon what the disk said to another thread.
        self._broken = ""
        self._has_reserve = not keep_ballast
        #: Where a marked journal went at this start.
        self.moved_aside: Path | None = None

    # Opening ----------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take the lock, deal with a mark, open or make the tables. ``JournalError`` says what is wrong and what to do.

        On a disk that is full the reserve is given up first: what goes on must be able to end. ``has_reserve`` then says so.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise JournalError(f"cannot make {self.path.parent}: set state_dir to a directory we may write") from err
        self.take_lock()
        try:
            was_full = self._keep_ballast and recovery.room(self.path.parent) < recovery.LEAST_ROOM
            if was_full:
                recovery.release(self._ballast)
            recovery.finish_salvage(self.path, self.path.with_name(self.path.name + SNAPSHOTS))
            marks = [mark for mark in self._marks() if mark.exists()]
            if marks and self.path.exists():
                self.moved_aside = recovery.copy_suspect(self.path, marks)
            self._connection = self._connect()
            row = self._connection.execute(sentence("last_entry")).fetchone()
            anchor = read_anchor(self._connection)
            self._position, self._chain = (anchor.position, anchor.chain) if row is None else row
            # What is kept of the pruned lies below the anchor.
            if self._position < anchor.position:
                self._position, self._chain = anchor.position, anchor.chain
            if self._keep_ballast and not was_full:
                self._has_reserve = recovery.reserve(self._ballast)
        except sqlite3.Error as err:
            # What the migration did not have to look at may be damaged too.
            fault = self._named(err, _IO_ERROR) if _code(err) == _IO_ERROR else self._unusable(err)
            self.close()
            raise fault from err
        except BaseException:
            self.close()
            raise

    def take_lock(self) -> None:
        """Keep every other daemon and tool from writing it; ``JournalBusy`` when one does. Let go with :meth:`close`."""
        lock_path = self.path.with_name(self.path.name + ".lock")
        try:
            lock = lock_path.open("a+", encoding="ascii")
        except OSError as err:
            raise JournalError(f"cannot write {lock_path}: set state_dir to a directory we may write") from err
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise JournalBusy(
                f"another farthing-edge (pid {owner}) uses the journal {self.path}: stop it, or give this one its own state_dir"
            ) from err
        self._lock = lock
        # The number is for people; the lock holds without it, and so it may be missing where the disk is full.
        with suppress(OSError):
            os.ftruncate(lock.fileno(), 0)
            os.pwrite(lock.fileno(), str(os.getpid()).encode(), 0)

    def _marks(self) -> list[Path]:
        """Where a mark may be: on a tmpfs, if there is one, and beside the journal."""
        directory = self._mark_directory or recovery.default_mark_directory()
        beside = recovery.mark_beside(self.path)
        return [beside] if directory is None else [recovery.mark_path(self.path, directory), beside]

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=64)
        except sqlite3.Error as err:
            raise JournalError(f"cannot open the journal {self.path}: is its disk there?") from err
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            (page_size,) = connection.execute("PRAGMA page_size").fetchone()
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            migrate(connection)
            self._log = WriteAheadLog(self.path, page_size=page_size)
        except (sqlite3.Error, ValueError) as err:
            if isinstance(err, sqlite3.Error) and _code(err) == _IO_ERROR:
                _never_close(connection)
                raise self._named(err, _IO_ERROR) from err
            connection.close()
            if recovery.room(self.path.parent) < recovery.LEAST_ROOM:
                raise JournalFull(f"the disk of {self.path} is full: free some space") from err
            raise self._unusable(err) from err
        return connection

    def _unusable(self, err: Exception) -> JournalError:
        return JournalError(
            f"the journal {self.path} cannot be used ({err}); "
            "look with `farthing-edge journal verify`, move it aside, never delete it"
        )

    def close(self) -> None:
        """Let go of file and lock."""
        if self._connection is not None:
            if self._broken:
                _never_close(self._connection)
            else:
                self._connection.close()
            self._connection = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def position(self) -> int:
        """Of the last entry; 0 for none."""
        return self._position

    @property
    def chain(self) -> bytes:
        """The hash of everything up to the last entry."""
        return self._chain

    @property
    def has_reserve(self) -> bool:
        """Whether the reserved extent is there, or was never wanted."""
        return self._has_reserve

    def _open_connection(self) -> sqlite3.Connection:
        if self._broken:
            raise JournalBroken(self._broken)
        if self._connection is None:
            raise JournalBroken("the journal is not open for writing")
        return self._connection

    # Writing ----------------------------------------------------------------------------------------------------------

    def commit(self, group: Group) -> None:
        """Write ``group`` and fsync. ``JournalBroken``: stop. ``JournalFull``, ``JournalRejected``: nothing was written.

        When the disk is full the reserve is given up and the commit tried again: ``has_reserve`` then says so.
        """
        try:
            self._commit(group)
        except JournalFull:
            if not (self._keep_ballast and recovery.release(self._ballast)):
                raise
            self._has_reserve = False
            self._commit(group)

    def _commit(self, group: Group) -> None:
        connection = self._open_connection()
        chain = self._chain
        rows = []
        size = 0
        for entry in group.entries:
            chain = next_chain(chain, entry)
            size += len(entry.body)
            rows.append((*entry, chain))
        if self._written.is_forgotten:
            # A disk that is full or a reader in the way changes nothing for this commit: the log grows on.
            with suppress(JournalFull, JournalRejected):
                self.fold()
        try:
            if group.is_entries_alone and len(rows) <= ROWS_AT_ONCE:
                # A sentence alone is a transaction: two ways to the database and back less, each of which waits for the interpreter's lock.
                if rows:
                    connection.execute(_append_entries(len(rows)), [value for row in rows for value in row])
            else:
                self._write_rows(connection, group, rows)
        except sqlite3.Error as err:
            raise self._failed(err) from err
        self._written.wrote(size)
        if group.entries:
            self._position, self._chain = group.entries[-1].position, chain

    @staticmethod
    def _write_rows(connection: sqlite3.Connection, group: Group, rows: Sequence[tuple[object, ...]]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        if group.starts:
            connection.execute(sentence("close_starts"), (group.starts[0][0] - 1,))
            connection.executemany(sentence("add_start"), group.starts)
        for first in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[first : first + ROWS_AT_ONCE]
            connection.execute(_append_entries(len(some)), [value for row in some for value in row])
        if group.batches:
            connection.executemany(sentence("add_batch"), group.batches)
        if group.directives:
            connection.executemany(sentence("add_directive"), group.directives)
        if group.devices:
            connection.executemany(sentence("put_device"), group.devices)
        if group.signatures:
            connection.executemany(sentence("sign_batch"), group.signatures)
        connection.execute("COMMIT")

    def park(self, at_us: int, what: str, body: bytes, fault: str) -> None:
        """Keep a command that nobody could decide, for people to read; at most ``MAX_PARKED``."""
        connection = self._open_connection()
        try:
            connection.execute(sentence("park_command"), (at_us, what, body, fault, MAX_PARKED))
        except sqlite3.Error as err:
            raise self._failed(err) from err
        self._written.wrote(len(body))

    def change(self, sentences: Callable[[sqlite3.Connection], T]) -> T:
        """One transaction of upkeep (see ``retention``); fails like :meth:`commit`, and then nothing of it was written."""
        connection = self._open_connection()
        before = connection.total_changes
        try:
            connection.execute("BEGIN IMMEDIATE")
            done = sentences(connection)
            connection.execute("COMMIT")
        except sqlite3.Error as err:
            raise self._failed(err) from err
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        self._written.wrote((connection.total_changes - before) * ROW_SIZE)
        return done

    @property
    def _written(self) -> WriteAheadLog:
        assert self._log is not None  # _connect
        return self._log

    @property
    def has_long_log(self) -> bool:
        """Whether it is time to fold the write-ahead log back: ``fold_beside`` in another thread, then ``fold``."""
        return self._log is not None and self._log.is_long

    def fold_beside(self) -> int:
        """Fold back what is in the write-ahead log, while others write; how many pages it had.

        For a thread of its own, one at a time; fails like :meth:`commit`.
        """
        try:
            connection = sqlite3.connect(self.path, isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                return fold_beside(connection)[0]
            finally:
                connection.close()
        except sqlite3.Error as err:
            raise self._named(err, _code(err)) from err

    def fold(self, beside: int = 0) -> None:
        """Fold back what was written meanwhile, so that the log begins anew; ``beside`` is what ``fold_beside`` said.

        For the writer's thread; fails like :meth:`commit`.
        """
        connection = self._open_connection()
        try:
            self._written.fold(connection, beside=beside)
        except sqlite3.Error as err:
            raise self._failed(err) from err

    def room(self) -> int:
        """Free bytes on the journal's disk; the reserve is not counted."""
        return recovery.room(self.path.parent)

    def _failed(self, err: sqlite3.Error) -> JournalError:
        code = _code(err)
        connection = self._connection
        assert connection is not None  # _open_connection
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            code = code if code in _IO_FAULTS else _IO_ERROR
        return self._named(err, code)

    def _named(self, err: sqlite3.Error, code: int) -> JournalError:
        if code == _FULL:
            return JournalFull(f"the disk of {self.path} is full: free some space")
        if code in _IO_FAULTS:
            # At once: the writer may be at work while another thread hears this.
            failed, so = f"writing the journal {self.path} failed ({err}): ", "check the disk, then start again"
            self._broken = failed + so
            # Whoever starts next must know; where nothing can be written any more, people must.
            marks = self._marks()
            if not recovery.leave_mark(marks, str(err)):
                self._broken = f"{failed}leave the mark that could not be written (touch {marks[-1]}), {so}"
            return JournalBroken(self._broken)
        return JournalRejected(f"the journal refused a group: {err}")

    def try_to_reserve(self) -> bool:
        """Set the reserve aside again when the disk has room; whether it is there."""
        if self.has_reserve:
            return True
        self._has_reserve = recovery.room_to_reserve(self._ballast) and recovery.reserve(self._ballast)
        return self._has_reserve

    # Reading ----------------------------------------------------------------------------------------------------------

    def entries(self) -> Iterator[Entry]:
        """Every entry that is not pruned, checked against the chain; ``JournalError`` names the first that differs."""
        connection = self._open_connection()
        anchor = read_anchor(connection)
        for entry, _ in checked_entries(connection, anchor.position, anchor.chain, self._position):
            yield entry

    def reader(self) -> sqlite3.Connection:
        """A connection of its own for another thread, read only."""
        return connect_to_read(self.path)


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open the journal beside whoever writes it; ``JournalError`` when there is none."""
    if not path.is_file():
        raise JournalError(f"no journal at {path}")
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    except sqlite3.Error as err:
        raise JournalError(f"cannot read the journal {path}: {err}") from err
    return connection


def read_anchor(connection: sqlite3.Connection) -> Anchor:
    """Where the chain begins: at the beginning when nothing was pruned, or the journal's format knows no pruning."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    row = connection.execute(sentence("anchor")).fetchone() if version >= 2 else None
    return Anchor(0, GENESIS) if row is None else Anchor(*row)


def checked_entries(
    connection: sqlite3.Connection, position: int, chain: bytes, last: int
) -> Iterator[tuple[Entry, bytes]]:
    """Entries after ``position``, where the hash is ``chain``, with the hash after each; ``JournalError`` names the first that differs."""
    while position < last:
        rows = connection.execute(sentence("entries_between"), (position + 1, last, READ_AT_ONCE)).fetchall()
        for number, at_us, kind, body, stored in rows:
            entry = Entry(number, at_us, kind, body)
            chain = next_chain(chain, entry)
            if number != position + 1 or chain != stored:
                raise _damaged(position + 1)
            position = number
            yield entry, chain
        if not rows:
            raise _damaged(position + 1)


def _damaged(position: int) -> JournalError:
    return JournalError(
        f"the journal is damaged at position {position}: keep it, and salvage it with `farthing-edge journal salvage`"
    )


def read_entry(connection: sqlite3.Connection, position: int) -> Entry:
    """One entry by its position."""
    row = connection.execute(sentence("entry_at"), (position,)).fetchone()
    if row is None:
        raise JournalError(f"the journal has no position {position}")
    return Entry(*row[:4])


def read_entries(connection: sqlite3.Connection, first: int, last: int) -> list[Entry]:
    """The entries that may bill (granted, metered) in a range of positions."""
    return [Entry(*row[:4]) for row in connection.execute(sentence("entries_of_kinds"), (first, last))]


def read_start_at(connection: sqlite3.Connection, position: int) -> bytes:
    """The start id under which a position was written."""
    row = connection.execute(sentence("start_at"), (position,)).fetchone()
    return b"" if row is None else bytes(row[0])


def read_batch_position(connection: sqlite3.Connection, incarnation: int, sequence: int) -> int:
    """Where a batch was sealed."""
    row = connection.execute(sentence("batch_position"), (incarnation, sequence)).fetchone()
    if row is None:
        raise JournalError(f"the journal has no batch {sequence} of incarnation {incarnation}")
    return int(row[0])


def read_batch_span(connection: sqlite3.Connection, incarnation: int, sequence: int) -> int:
    """The last position that a batch takes in; 0 when there is no such batch (any more)."""
    row = connection.execute(sentence("batch_position"), (incarnation, sequence)).fetchone()
    if row is None:
        return 0
    entry = read_entry(connection, int(row[0]))
    event = decode(entry.kind, entry.body)
    return event.last_position if isinstance(event, Sealed) else 0


def read_signed_batches(
    connection: sqlite3.Connection, incarnation: int, after_sequence: int, limit: int
) -> Sequence[tuple[int, int, int, bytes, bytes]]:
    """(incarnation, sequence, position, signature, key id) of signed batches, ascending."""
    return connection.execute(sentence("signed_batches"), (incarnation, after_sequence, limit)).fetchall()


def read_directive_positions(connection: sqlite3.Connection, after_version: int, limit: int) -> list[int]:
    """Where the directives after a version stand, ascending, at most ``limit``."""
    return [row[0] for row in connection.execute(sentence("directive_positions"), (after_version, limit))]


def read_directive_links(connection: sqlite3.Connection) -> Iterator[tuple[int, bytes]]:
    """(version, hash) of the directives that are not pruned, the newest first."""
    yield from connection.execute(sentence("directive_links"))


def read_earlier_incarnations(connection: sqlite3.Connection, incarnation: int) -> list[int]:
    """The incarnations before ``incarnation`` of which there are batches."""
    return [row[0] for row in connection.execute(sentence("earlier_incarnations"), (incarnation,))]


def read_unsigned_batches(connection: sqlite3.Connection) -> Sequence[tuple[int, int, int]]:
    """(incarnation, sequence, position) of batches still to be signed, ascending."""
    return connection.execute(sentence("unsigned_batches")).fetchall()
