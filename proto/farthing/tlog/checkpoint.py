"""Checkpoints: a log's name, size and root as the text of a signed note (C2SP tlog-checkpoint)."""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from farthing.evidence.merkle import HASH_SIZE
from farthing.tlog.note import NoteError, NoteKey, SignedNote, check_name, parse_note, verify

#: A tree of more leaves is out of reach of tiles (tlog-tiles: levels 0 to 63) and of every integer column.
MAX_SIZE: Final = 2**63 - 1
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A log's tree head: its origin, the number of its leaves, and the Merkle root over them (RFC 9162, section 2.1.1)."""

    origin: str
    size: int
    root: bytes
    #: Further lines, opaque; we write none.
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.origin)
        if not 0 <= self.size <= MAX_SIZE:
            raise NoteError("a log's size is 0 to 2^63 - 1")
        if len(self.root) != HASH_SIZE:
            raise NoteError(f"a root has {HASH_SIZE} bytes")

    @property
    def text(self) -> str:
        """The note's text."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint that a note's text is; raise ``NoteError``. The text is not believed: see ``open_checkpoint``."""
    lines = text.split("\n")
    if lines.pop() != "" or len(lines) < 3 or not all(lines):
        raise NoteError("a checkpoint has three lines or more, none of them empty")
    origin, size, root, *extensions = lines
    if not _SIZE.fullmatch(size):
        raise NoteError("the second line of a checkpoint is the size, in decimal")
    try:
        decoded = base64.b64decode(root, validate=True)
    except (binascii.Error, ValueError) as err:
        raise NoteError("the third line of a checkpoint is the root, in base64") from err
    checkpoint = Checkpoint(origin=origin, size=int(size), root=decoded, extensions=tuple(extensions))
    if checkpoint.text != text:
        raise NoteError("a checkpoint has one spelling")
    return checkpoint


def open_checkpoint(data: bytes, key: NoteKey) -> tuple[Checkpoint, SignedNote]:
    """The checkpoint in ``data`` if the log's ``key`` signed it and it speaks of that log; raise ``NoteError``."""
    note = parse_note(data)
    verify(note, key)
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != key.name:
        raise NoteError(f"a checkpoint of {checkpoint.origin}, not of {key.name}")
    return checkpoint, note
