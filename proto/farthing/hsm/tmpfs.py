"""Where a file lives only as long as the machine is up: a tmpfs, asked of statfs, never guessed by name."""

import ctypes
import os
from pathlib import Path

from farthing.hsm.errors import HsmError

#: statfs(2): what ``f_type`` says of a tmpfs and of a ramfs.
_TMPFS_MAGIC = 0x01021994
_RAMFS_MAGIC = 0x858458F6
#: More than any Linux's struct statfs takes; ``f_type`` is its first word.
_STATFS_SIZE = 256


def is_tmpfs(directory: Path) -> bool:
    """Whether files in ``directory`` live in memory only (statfs(2))."""
    buffer = ctypes.create_string_buffer(_STATFS_SIZE)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(directory), buffer) != 0:
        return False
    kind = ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF
    return kind in (_TMPFS_MAGIC, _RAMFS_MAGIC)


def find_tmpfs() -> Path | None:
    """A directory on tmpfs that this user may write to: ``/run``, its own ``/run/user``, else ``/dev/shm``; None if there is none."""
    candidates = (Path("/run"), Path(f"/run/user/{os.getuid()}"), Path("/dev/shm"))  # noqa: S108 -- made private below it
    return next((each for each in candidates if is_tmpfs(each) and os.access(each, os.W_OK | os.X_OK)), None)


def private_directory(parent: Path, name: str) -> Path:
    """``parent``/``name``-<uid>, mode 0700, made or found; ``HsmError`` if it belongs to somebody else."""
    directory = parent / f"{name}-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not directory.is_dir() or directory.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise HsmError(f"{directory} is not a private directory of ours: remove it")
    return directory
