"""Entries into the database, each once and in order; then tiles, then a signed checkpoint, then the world.

Rule 1: an index is given in the transaction that remembers where its entry came from, and never again.
Rule 2: a checkpoint is signed over leaves that are committed, kept in the database, and shown last: tiles are synced before it.
Rule 3: a crash between any two of these steps is made good by the next round; what was published is never contradicted.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Protocol

import structlog

from farthing.tlog.entries import BatchEntry, EntryError, LogName, decode
from farthing.tlog.note import NoteKey, SignedNote, note_signature
from farthing.tlog.tiles import Edge, TileError, TileReader
from farthing_cloud.database import Pool
from farthing_cloud.publiclog import store
from farthing_cloud.publiclog.files import Contradiction, LogFiles, text_of
from farthing_cloud.publiclog.store import Connection, Leaf, StoredCheckpoint

#: Leaves of one checkpoint: a backlog of a million goes in some sixty, each a second's work, and others may append in between.
LEAVES_AT_ONCE = 16_384
#: Leaves written in one transaction of a reconciliation.
_PAGE = 4_096
LOG_KEY = "log"

_log = structlog.stdlib.get_logger(__name__)


class NoteSigner(Protocol):
    """A token, as far as it is needed here."""

    async def sign_ed25519(self, label: str, data: bytes) -> bytes:
        """Ed25519 over ``data`` with the key ``label``: 64 bytes."""


class Sequencer:
    """One log: the only one that gives indexes and signs checkpoints."""

    def __init__(self, *, log: LogName, pool: Pool, files: LogFiles, signer: NoteSigner) -> None:
        self.log = log
        self.files = files
        self._pool = pool
        self._signer = signer
        self._edge: Edge | None = None
        self._waits: dict[str, str] = {}

    @property
    def key(self) -> NoteKey:
        """The log's verifier key."""
        return self.files.key

    @property
    def waits_for(self) -> str:
        """Why it waits for people; empty while it goes on."""
        return next(iter(self._waits.values()), "")

    @contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        try:
            yield
        except (Contradiction, TileError) as err:
            if self._waits.get(what) != str(err):
                _log.warning("a public log waits for people", log=self.log, to=what, cause=str(err))
            self._waits[what] = str(err)
            raise
        self._waits.pop(what, None)

    # --- entries ------------------------------------------------------------------------------------------------------

    async def append(
        self,
        connection: Connection,
        leaves: Sequence[Leaf],
        *,
        ledger_epoch: int,
        same: Callable[[bytes, bytes], bool],
    ) -> int:
        """Append what the log does not say yet, in the caller's transaction; how many.

        ``same`` tells whether the last entry about a subject (or, for batches, any) says what a new one would. Raises
        ``Contradiction`` where the database or the ledger behind it was restored, and nobody has reconciled it.
        """
        with self._watched("append"):
            return await self._append(connection, leaves, ledger_epoch=ledger_epoch, same=same)

    async def _append(
        self,
        connection: Connection,
        leaves: Sequence[Leaf],
        *,
        ledger_epoch: int,
        same: Callable[[bytes, bytes], bool],
    ) -> int:
        row = await store.lock_log(connection, self.log)
        newest = await store.newest_checkpoint(connection, self.log)
        await asyncio.to_thread(self.files.check, size=row.size, newest=newest)
        if row.ledger_epoch != ledger_epoch:
            if row.ledger_epoch:
                raise Contradiction(
                    f"the ledger is in epoch {ledger_epoch}, the log knows {row.ledger_epoch}: it was restored."
                    " `farthing-admin log reconcile` says that the log goes on"
                )
            await store.set_epoch(connection, self.log, ledger_epoch)
        known = await store.known_entries(connection, self.log, list({leaf.subject for leaf in leaves}))
        said = {subject: list(entries) for subject, entries in known.items()}
        fresh: list[Leaf] = []
        for leaf in leaves:
            before = said.setdefault(leaf.subject, [])
            if not any(same(entry, leaf.entry) for entry in self._relevant(before)):
                before.append(leaf.entry)
                fresh.append(leaf)
        if fresh:
            await store.add_leaves(connection, self.log, row.size, fresh)
        return len(fresh)

    def _relevant(self, before: list[bytes]) -> list[bytes]:
        # A device may become again what it was; a batch is said once for ever.
        return before if self.log == "batches" else before[-1:]

    # --- checkpoints --------------------------------------------------------------------------------------------------

    async def publish(self) -> int:
        """Publish what is there, at most ``LEAVES_AT_ONCE``; how many leaves that were new.

        Raises ``Contradiction``, ``TileError`` where the files are damaged, and whatever token and database raise.
        """
        with self._watched("publish"):
            return await self._publish()

    async def _publish(self) -> int:
        async with self._pool.connection() as connection, connection.transaction():
            row = await store.lock_log(connection, self.log)
            newest = await store.newest_checkpoint(connection, self.log)
            await asyncio.to_thread(self.files.check, size=row.size, newest=newest)
            # We may have been stopped after the database knew it and before the world did; its tiles are there.
            await self._show(newest)
            if newest is not None and newest.size == row.size:
                return 0
            edge = deepcopy(await self._present_edge(newest))
            before = edge.size
            # The first is of an empty tree: from then on, a file that is not there is one that was lost.
            at_once = 0 if newest is None else LEAVES_AT_ONCE
            entries = await store.list_leaves(connection, self.log, before, at_once)
            full = await asyncio.to_thread(self._write, edge, entries)
            text = text_of(self.key, edge.size, edge.root())
            signature = note_signature(self.key, await self._signer.sign_ed25519(LOG_KEY, text.encode()))
            checkpoint = StoredCheckpoint(
                size=edge.size, root=edge.root(), note=SignedNote(text=text, signatures=(signature,)).encode()
            )
            await store.add_checkpoint(connection, self.log, checkpoint)
        # Committed: from here on it may be shown. Under the lock again, so that nobody puts an older one in place of a newer one.
        async with self._pool.connection() as connection, connection.transaction():
            await store.lock_log(connection, self.log)
            await self._show(await store.newest_checkpoint(connection, self.log))
        await asyncio.to_thread(self.files.tidy, full)
        self._edge = edge
        return await self._publish() if newest is None else edge.size - before

    async def _show(self, newest: StoredCheckpoint | None) -> None:
        """Show the newest checkpoint that is committed, unless it is shown; the log is locked."""
        held = await asyncio.to_thread(self.files.published)
        if newest is not None and (held is None or held.size < newest.size):
            await asyncio.to_thread(self.files.reader, newest)
            await asyncio.to_thread(self.files.publish, newest)

    def _write(self, edge: Edge, entries: Sequence[bytes]) -> list[str]:
        full: list[str] = []
        for entry in entries:
            files = edge.append(entry)
            self.files.write(files)
            full += [path for path, _ in files]
        self.files.write(edge.partials())
        return full

    async def _present_edge(self, newest: StoredCheckpoint | None) -> Edge:
        if newest is None:
            return Edge()
        if self._edge is not None and (self._edge.size, self._edge.root()) == (newest.size, newest.root):
            return self._edge
        return await asyncio.to_thread(lambda: Edge.read(self.files.reader(newest)))

    # --- after a restore ----------------------------------------------------------------------------------------------

    async def reconcile(self, given: bytes | None) -> tuple[int, int]:
        """A person's word that the log goes on: (leaves taken back from the files, files written anew from the database).

        ``given`` is the newest checkpoint that somebody else holds. Raises ``Contradiction`` for what cannot be made one tree.
        """
        self._edge = None
        witnessed = None if given is None else self.files.opened(given)
        async with self._pool.connection() as connection, connection.transaction():
            row = await store.lock_log(connection, self.log)
            newest = await store.newest_checkpoint(connection, self.log)
            held = await asyncio.to_thread(self.files.published)
            taken_in, rewritten = 0, 0
            if held is not None and (newest is None or held.size >= newest.size):
                reader = await asyncio.to_thread(self.files.reader, held)
                await self._agree(reader, newest)
                taken_in = await self._take_in(connection, reader, row.size, held, newest)
            elif newest is not None:
                if witnessed is None and newest.size:
                    raise Contradiction(
                        "the log's own files are gone: say with --newest-checkpoint what a witness or mirror saw last,"
                        " or bring back a mirror's files"
                    )
                reader, rewritten = await self._rewrite(connection, newest)
            else:
                reader = None
            if witnessed is not None:
                if reader is None or witnessed.size > reader.size:
                    raise Contradiction(
                        f"somebody saw {witnessed.size} leaves, and neither database nor files have them:"
                        f" copy a mirror's files to {self.files.folder}, and reconcile again"
                    )
                await self._agree(reader, witnessed)
            # The next entry says of which epoch the ledger is now.
            await store.set_epoch(connection, self.log, 0)
        self._waits.clear()
        _log.warning("public log reconciled", log=self.log, taken_in=taken_in, rewritten=rewritten)
        return taken_in, rewritten

    async def _agree(self, reader: TileReader, other: StoredCheckpoint | None) -> None:
        if other is not None and await asyncio.to_thread(reader.root_at, other.size) != other.root:
            raise Contradiction(f"two trees of {other.size} leaves were signed: the log has forked")

    async def _take_in(
        self,
        connection: Connection,
        reader: TileReader,
        size: int,
        held: StoredCheckpoint,
        newest: StoredCheckpoint | None,
    ) -> int:
        """Give the database the leaves and the checkpoint that it lost; those it has beyond its checkpoint must be the same."""
        sure = 0 if newest is None else newest.size
        shared = min(size, held.size)
        for start in range(sure, shared, _PAGE):
            end = min(start + _PAGE, shared)
            known = await store.list_leaves(connection, self.log, start, end - start)
            if known != await asyncio.to_thread(_entries, reader, start, end):
                raise Contradiction(f"leaves {start} to {end} are other ones in the database than those published")
        for start in range(size, held.size, _PAGE):
            end = min(start + _PAGE, held.size)
            entries = await asyncio.to_thread(_entries, reader, start, end)
            await store.add_leaves(
                connection, self.log, start, [Leaf(subject=subject_of(entry), entry=entry) for entry in entries]
            )
        if newest is None or newest.size < held.size:
            await store.add_checkpoint(connection, self.log, held)
        return max(0, held.size - size)

    async def _rewrite(self, connection: Connection, newest: StoredCheckpoint) -> tuple[TileReader, int]:
        edge, written = Edge(), 0
        while edge.size < newest.size:
            entries = await store.list_leaves(connection, self.log, edge.size, min(_PAGE, newest.size - edge.size))
            if not entries:
                raise Contradiction(f"the database lacks leaf {edge.size}")
            for entry in entries:
                written += await asyncio.to_thread(self.files.write, edge.append(entry))
        written += await asyncio.to_thread(self.files.write, edge.partials())
        if edge.root() != newest.root:
            raise Contradiction("the leaves in the database are not those of its own checkpoint")
        await asyncio.to_thread(self.files.publish, newest)
        return await asyncio.to_thread(self.files.reader, newest), written

    # --- proofs -------------------------------------------------------------------------------------------------------

    async def shown(self) -> tuple[store.LogRow, StoredCheckpoint | None]:
        """The log's row and its newest checkpoint."""
        async with self._pool.connection() as connection:
            return await store.read_log(connection, self.log), await store.newest_checkpoint(connection, self.log)

    async def entries_about(
        self, subjects: Sequence[bytes], *, limit: int
    ) -> tuple[StoredCheckpoint, list[tuple[int, bytes, list[bytes]]]]:
        """The published checkpoint, and (index, entry, path) of what is said of the subjects under it. ``Contradiction``, ``TileError``."""
        published = await asyncio.to_thread(self.files.published)
        if published is None:
            raise Contradiction("nothing was published yet")
        async with self._pool.connection() as connection:
            found = await store.find_leaves(connection, self.log, subjects, size=published.size, limit=limit)

        def prove() -> list[tuple[int, bytes, list[bytes]]]:
            reader = self.files.reader(published)
            return [(index, entry, reader.inclusion_path(index)) for index, entry in found]

        return published, await asyncio.to_thread(prove)

    async def growth(self, old_size: int) -> tuple[StoredCheckpoint, bytes, list[bytes]]:
        """The published checkpoint, the root it had at ``old_size``, and the proof between them. ``Contradiction``, ``TileError``."""
        published = await asyncio.to_thread(self.files.published)
        if published is None or not 0 < old_size <= published.size:
            raise Contradiction(f"no tree of {old_size} leaves was published")

        def prove() -> tuple[bytes, list[bytes]]:
            reader = self.files.reader(published)
            return reader.root_at(old_size), reader.consistency_path(old_size)

        old_root, path = await asyncio.to_thread(prove)
        return published, old_root, path


def _entries(reader: TileReader, start: int, end: int) -> list[bytes]:
    return list(reader.entries(start, end))


def subject_of(entry: bytes) -> bytes:
    """What an entry is about; ``Contradiction`` for one that is not ours."""
    try:
        read = decode(entry)
    except EntryError as err:
        raise Contradiction("an entry in the files that no program of ours wrote") from err
    return read.batch_hash if isinstance(read, BatchEntry) else read.device.encode()
