"""A log's static files: written whole and synced, tiles before the checkpoint that needs them.

Rule 1: what the checkpoint file says was published. A database that knows less, or otherwise, was restored: nothing is added or
published until people have reconciled the two.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from farthing.tlog.checkpoint import Checkpoint, open_checkpoint
from farthing.tlog.keeping import write_durably
from farthing.tlog.note import MAX_NOTE_SIZE, NoteError, NoteKey
from farthing.tlog.places import fetch_from
from farthing.tlog.tiles import CHECKPOINT, MissingTile, TileReader, partials_folder
from farthing_cloud.publiclog.store import StoredCheckpoint


class Contradiction(Exception):
    """The database and what was published do not agree: only people can say which one is right."""


class LogFiles:
    """The folder of one log."""

    def __init__(self, folder: Path, key: NoteKey) -> None:
        self.folder = folder
        self.key = key
        self.fetch = fetch_from(str(folder))

    def published(self) -> StoredCheckpoint | None:
        """What the checkpoint file says; None where there is none. ``Contradiction`` if it is not ours."""
        try:
            data = self.fetch(CHECKPOINT, MAX_NOTE_SIZE)
        except MissingTile:
            return None
        return self.opened(data)

    def opened(self, note: bytes) -> StoredCheckpoint:
        """A checkpoint of this log, signed with its key; ``Contradiction``."""
        try:
            checkpoint, _ = open_checkpoint(note, self.key)
        except NoteError as err:
            raise Contradiction(f"a checkpoint that is not this log's: {err}") from err
        return StoredCheckpoint(size=checkpoint.size, root=checkpoint.root, note=note)

    def reader(self, checkpoint: StoredCheckpoint) -> TileReader:
        """The files as of a checkpoint, each believed by its root; ``TileError``."""
        return TileReader(size=checkpoint.size, root=checkpoint.root, fetch=self.fetch)

    def check(self, *, size: int, newest: StoredCheckpoint | None) -> None:
        """Raise ``Contradiction`` unless what was published is the beginning of what the database has."""
        held = self.published()
        if held is None:
            if newest is not None and newest.size:
                raise Contradiction(
                    f"{self.folder / CHECKPOINT} is gone, though {newest.size} leaves were published:"
                    " bring the files back, or `farthing-admin log reconcile`"
                )
            return
        if held.size > size or (held.size and newest is None):
            raise Contradiction(
                f"{held.size} leaves were published, the database has {size}: it was restored."
                " `farthing-admin log reconcile` takes back what it lost"
            )
        if newest is not None and held.size == newest.size and held.root != newest.root:
            raise Contradiction(f"{self.folder} and the database have two trees of {held.size} leaves")
        if newest is not None and held.size > newest.size:
            raise Contradiction(
                f"a checkpoint of {held.size} leaves was published that the database does not know: it was restored."
                " `farthing-admin log reconcile` takes it back"
            )

    def write(self, files: Iterable[tuple[str, bytes]]) -> int:
        """Write tiles, durably; how many. What a full tile makes superfluous stays until ``publish``."""
        count = 0
        for path, content in files:
            file = self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            write_durably(file, content)
            count += 1
        return count

    def publish(self, checkpoint: StoredCheckpoint) -> None:
        """Put the checkpoint in place; everything that it needs is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_durably(self.folder / CHECKPOINT, checkpoint.note)

    def tidy(self, full: Iterable[str]) -> None:
        """Delete the partial tiles of tiles that are full now (tlog-tiles allows it; readers fall back)."""
        for path in full:
            shutil.rmtree(self.folder / partials_folder(path), ignore_errors=True)


def text_of(key: NoteKey, size: int, root: bytes) -> str:
    """The text that the log's key is to sign."""
    return Checkpoint(origin=key.name, size=size, root=root).text
