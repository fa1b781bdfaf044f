"""A disk that failed, and a disk that is full.

After a failed fsync, whoever opens the file again sees the last transaction as committed, although it may never reach the disk:
the page cache knows nothing of the failure any more. So a failed commit leaves a mark that lives as long as the page cache, on a
tmpfs; a start that finds it first copies the journal, as it reads now, into a new file that is fsynced, and puts that in its place.
"""

import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from farthing.hsm.tmpfs import find_tmpfs
from farthing_edge.journal.errors import JournalError

#: Freed when the disk is full: room for the readings and ends of some hours, at 400 bytes each.
BALLAST_SIZE = 4 * 1024 * 1024
#: With less than this a journal cannot even be opened: SQLite makes a file of 32 KiB beside it, and the first entries need a page or two.
LEAST_ROOM = 256 * 1024
#: What a journal's name goes on with, before a stamp: of the salvaged one that waits, of the folder with the damaged one.
_SALVAGED, _DAMAGED = ".salvaged-", ".damaged-"


def default_mark_directory() -> Path | None:
    """Where marks live: a tmpfs, or nowhere when this machine has none."""
    return find_tmpfs()


def mark_path(journal: Path, directory: Path) -> Path:
    """The mark of ``journal``, named after its whole path."""
    name = hashlib.sha256(os.fsencode(journal.resolve())).hexdigest()[:24]
    return directory / f"farthing-journal-{name}.suspect"


def mark_beside(journal: Path) -> Path:
    """The mark of ``journal`` where there is no tmpfs, or it takes none. It outlives the page cache, which costs one copy more than was needed."""
    return journal.with_name(journal.name + ".failed")


def leave_mark(marks: Sequence[Path], reason: str) -> bool:
    """Say, in the first place that takes it, that what the page cache shows may not be on the disk; whether any did."""
    for mark in marks:
        with suppress(OSError):
            mark.write_text(f"{reason}\n", encoding="utf-8")
            return True
    return False


def copy_suspect(journal: Path, marks: Sequence[Path]) -> Path:
    """Put a fsynced copy in the place of a marked journal, remove its marks, return where the old file went."""
    fresh = journal.with_name(journal.name + ".copy")
    aside = journal.with_name(f"{journal.name}.suspect-{time.time_ns()}")
    for leftover in (fresh, fresh.with_name(fresh.name + "-wal"), fresh.with_name(fresh.name + "-shm")):
        leftover.unlink(missing_ok=True)
    try:
        # What the page cache shows of the log may not be on the disk, where older frames then stand. Whatever folds it back, closing the
        # source does, would leave pages in the file that are newer than those: the log goes to the disk as it is read, before anything rests on it.
        _write_again(journal.with_name(journal.name + "-wal"))
        source = sqlite3.connect(journal)
        target = sqlite3.connect(fresh)
        try:
            source.backup(target)
            (verdict,) = target.execute("PRAGMA integrity_check(1)").fetchone()
        finally:
            source.close()
            target.close()
        if verdict != "ok":
            raise JournalError(f"the copy of {journal} is damaged ({verdict}): salvage it before the next start")
        fsync(fresh)
        # There is a journal under its name at every moment: one that is missing would be begun anew. The old log beside the new file, should
        # this end in between, says what the copy was made of, and changes nothing.
        for suffix in ("", "-wal"):
            second_name(journal.with_name(journal.name + suffix), aside.with_name(aside.name + suffix))
        fresh.rename(journal)
        fsync(journal.parent)
        for suffix in ("-wal", "-shm"):
            journal.with_name(journal.name + suffix).unlink(missing_ok=True)
        fsync(journal.parent)
    except (OSError, sqlite3.Error) as err:
        raise JournalError(
            f"the journal {journal} stopped on a failed disk and cannot be copied: check the disk, then start again"
        ) from err
    for mark in marks:
        mark.unlink()
    return aside


def _write_again(path: Path) -> None:
    """Put a fsynced copy of what is read from the file at ``path``, if there is one, in its place."""
    if path.exists():
        fresh = path.with_name(path.name + ".copy")
        # Read and written: a copy that the file system makes by itself may share what the disk has.
        fresh.write_bytes(path.read_bytes())
        fsync(fresh)
        fresh.rename(path)
        fsync(path.parent)


def second_name(path: Path, second: Path) -> None:
    """Let the file at ``path``, if there is one, be at ``second`` too."""
    if not path.exists():
        return
    try:
        os.link(path, second)
    except OSError:
        # A file system without links.
        shutil.copy2(path, second)
        fsync(second)


def salvaged_name(journal: Path, stamp: int) -> Path:
    """Under which a salvaged journal that is whole waits to take its place."""
    return journal.with_name(f"{journal.name}{_SALVAGED}{stamp}")


def damaged_place(journal: Path, stamp: int) -> Path:
    """Where what was salvaged lies as it was found."""
    return journal.with_name(f"{journal.name}{_DAMAGED}{stamp}")


def finish_salvage(journal: Path, snapshots: Path) -> bool:
    """Put a salvaged journal in its place if one waits for that, and take away what was of the damaged one; whether one did.

    A log beside a file that it is not of would be folded into it, so it goes first: from the moment that the new file has its waiting name, every start
    and every tool that writes comes here before it looks at the old one. All that goes has a second name among the damaged.
    """
    stamps = sorted(
        int(named)
        for each in journal.parent.glob(f"{journal.name}{_SALVAGED}*")
        if (named := each.name.removeprefix(f"{journal.name}{_SALVAGED}")).isdigit()
    )
    for stamp in stamps:
        for suffix in ("-wal", "-shm"):
            journal.with_name(journal.name + suffix).unlink(missing_ok=True)
        for each in damaged_place(journal, stamp).glob("*.snapshot"):
            (snapshots / each.name).unlink(missing_ok=True)
        fsync(journal.parent)
        salvaged_name(journal, stamp).rename(journal)
        fsync(journal.parent)
    return bool(stamps)


def fsync(path: Path) -> None:
    """Make a file, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def reserve(ballast: Path) -> bool:
    """Set aside ``BALLAST_SIZE`` bytes unless they are; whether they are."""
    if ballast.exists():
        return True
    try:
        handle = os.open(ballast, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError:
        return False
    try:
        os.posix_fallocate(handle, 0, BALLAST_SIZE)
    except OSError:
        ballast.unlink(missing_ok=True)
        return False
    finally:
        os.close(handle)
    return True


def release(ballast: Path) -> bool:
    """Give the reserve back to the disk; whether there was one."""
    if not ballast.exists():
        return False
    ballast.unlink()
    return True


def room_to_reserve(ballast: Path) -> bool:
    """Whether the disk has so much again that setting the reserve aside leaves as much free."""
    return room(ballast.parent) >= 2 * BALLAST_SIZE


def room(folder: Path) -> int:
    """Free bytes on the disk of ``folder``."""
    usage = os.statvfs(folder)
    return usage.f_bavail * usage.f_frsize
