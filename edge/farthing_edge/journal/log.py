"""SQLite's write-ahead log, folded back into the journal by us: SQLite does it in the commit that makes the log too long, where everybody
who waits for an answer waits for it, and does not look at what the disk says to it.

Rule 1: nearly all of it is done beside the writer, on another thread and connection; the writer folds only what was written meanwhile.
Rule 2: when there is nobody to do it (a tool that writes a journal), the writer does, before the commit that finds the log twice as long.
Rule 3: how long the log is nobody tells us before it is folded: what is written is counted, and each time the count is corrected.
"""

import sqlite3
from pathlib import Path

#: The log is folded back at this size, so a start reads little more than that.
WAL_SIZE = 4_096_000
#: What stands before each page in the log (SQLite's file format, section 4.1).
_FRAME_HEAD = 24
#: Pages that a commit rewrites, whatever it holds: the last of a table and those above it. Only the first guess hangs on it.
_PAGES_A_COMMIT = 4
#: Readers may keep the log from being folded to its end: it is tried again when this part of its usual length has come.
_TRY_AGAIN_PART = 4


class WriteAheadLog:
    """How long the log of one open journal is, in pages. One thread at a time."""

    __slots__ = ("_began_empty", "_counted", "_found", "_guessed", "_page_size", "_try_at", "_usual")

    def __init__(self, path: Path, *, page_size: int) -> None:
        self._page_size = page_size
        self._usual = WAL_SIZE // page_size
        self._try_at = self._usual
        log = path.with_name(path.name + "-wal")
        #: Guessed pages since the log began anew. One that was found is at most as long as its file.
        self._counted = log.stat().st_size // (page_size + _FRAME_HEAD) if log.exists() else 0
        self._began_empty = not self._counted
        #: When it was last looked, so many pages were found where so many had been guessed.
        self._found, self._guessed = 1, 1

    def wrote(self, size: int) -> None:
        """A commit of ``size`` bytes is in it."""
        self._counted += _PAGES_A_COMMIT + size // self._page_size

    @property
    def pages(self) -> int:
        """About how many."""
        return self._counted * self._found // self._guessed

    @property
    def is_long(self) -> bool:
        """Whether it is time to fold it back."""
        return self.pages >= self._try_at

    @property
    def is_forgotten(self) -> bool:
        """Whether it should have been folded back long ago."""
        return self.pages >= self._try_at + self._usual

    def fold(self, connection: sqlite3.Connection, *, beside: int) -> None:
        """Fold back what can be, on the writer's ``connection``; ``beside``: pages that were found beside it a moment ago. ``sqlite3.Error``."""
        # Also when it fails: not again at once.
        self._try_at = self.pages + self._usual // _TRY_AGAIN_PART
        found, folded = fold_beside(connection)
        # Where there are fewer than a moment ago all of those were folded, and the log has begun anew since.
        in_all = found if found >= beside else beside + found
        if self._began_empty and in_all > 0 and self._counted > 0:
            self._found, self._guessed = in_all, self._counted
        if found == folded:
            # The next commit begins it anew.
            self._counted, self._began_empty, self._try_at = 0, True, self._usual


def fold_beside(connection: sqlite3.Connection) -> tuple[int, int]:
    """Fold back what no reader needs, while others write; pages of the log, and how many of them are folded. ``sqlite3.Error``."""
    _, found, folded = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return found, folded
