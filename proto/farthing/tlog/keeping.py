"""Files that must be whole: written beside, synced, renamed, and the folder synced."""

import os
from pathlib import Path


def write_durably(file: Path, content: bytes) -> None:
    """Put ``content`` in place of ``file`` at once: after a crash there is the old content or the new, and nothing between."""
    beside = file.with_name(f".{file.name}.new")
    with beside.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    beside.replace(file)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make names in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
