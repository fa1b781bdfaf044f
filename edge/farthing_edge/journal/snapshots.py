"""Snapshots: what the journal's entries up to a position make of a gateway, in files beside the journal.

Rule 1: a snapshot is a replay written down. It names the position and the hash chain there, so one of another journal, or of this one
before it was rolled back, is never used.
Rule 2: it is written under another name, fsynced, read back and compared before it takes its place; only then do older ones go, and
one older stays.
Rule 3: it is never needed while the entries are there: one that cannot be read is passed over.
"""

import hashlib
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cbor2

from farthing_edge.authorization.state import CoreSettings, GatewayState
from farthing_edge.journal.graph import GraphError, state_from_bytes, state_to_bytes
from farthing_edge.journal.store import SNAPSHOTS

#: The newest, and the one before it in case the newest turns out damaged.
KEPT = 2
#: A site of a hundred thousand devices has a tenth of it; what claims more is no snapshot, and is not unpacked.
MAX_STATE_SIZE = 1 << 30

_MAGIC = b"farthing snapshot 1\n"
_HASH_SIZE = hashlib.sha256().digest_size
_SUFFIX = ".snapshot"
#: Statements and hashes do not shrink, names and numbers do: more effort than the least gains a few percent.
_COMPRESSION = 1


class SnapshotError(Exception):
    """A snapshot that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A snapshot as read: the state after the entry at ``position``, where the journal's hash is ``chain``.

    ``lacking``: an older program wrote it, and fields that it did not know are as a new object begins.
    """

    path: Path
    position: int
    chain: bytes
    state: GatewayState
    lacking: bool


def folder_of(journal: Path) -> Path:
    """Where the snapshots of ``journal`` are."""
    return journal.with_name(journal.name + SNAPSHOTS)


def found(journal: Path) -> list[Path]:
    """Its snapshots, newest first; none of them has been looked into."""
    return sorted(folder_of(journal).glob(f"*{_SUFFIX}"), reverse=True)


def position_of(path: Path) -> int:
    """The position that a snapshot's name says; ``SnapshotError`` when it is not one of ours."""
    if not path.stem.isdigit():
        raise SnapshotError(f"{path.name} is not named as a snapshot is")
    return int(path.stem)


def write(journal: Path, state: GatewayState, chain: bytes) -> Path:
    """Keep ``state`` as a snapshot of ``journal``, proven by reading it back; ``SnapshotError`` or ``OSError`` when it cannot be."""
    folder = folder_of(journal)
    folder.mkdir(exist_ok=True)
    try:
        plain = state_to_bytes(state)
    except GraphError as err:
        raise SnapshotError(str(err)) from err
    body = cbor2.dumps([state.position, chain, len(plain), zlib.compress(plain, _COMPRESSION)])
    path = folder / f"{state.position:015d}{_SUFFIX}"
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as opened:
            opened.write(_MAGIC + hashlib.sha256(body).digest() + body)
            opened.flush()
            os.fsync(opened.fileno())
        if state_to_bytes(_read(scratch, state.settings).state) != plain:
            raise SnapshotError("what was written does not read back as the same state")
        scratch.replace(path)
        _fsync(folder)
    finally:
        scratch.unlink(missing_ok=True)
    for older in found(journal)[KEPT:]:
        older.unlink()
    return path


def read(path: Path, settings: CoreSettings) -> Snapshot:
    """The snapshot at ``path``; ``SnapshotError`` when it is damaged or of another program."""
    try:
        snapshot = _read(path, settings)
    except OSError as err:
        raise SnapshotError(f"{path.name} cannot be read: {err}") from err
    if snapshot.position != position_of(path):
        raise SnapshotError(f"{path.name} is of position {snapshot.position}")
    return snapshot


def _read(path: Path, settings: CoreSettings) -> Snapshot:
    data = path.read_bytes()
    start = len(_MAGIC) + _HASH_SIZE
    body = data[start:]
    if not data.startswith(_MAGIC) or hashlib.sha256(body).digest() != data[len(_MAGIC) : start]:
        raise SnapshotError(f"{path.name} is damaged")
    try:
        position, chain, size, packed = cbor2.loads(body)
        if size > MAX_STATE_SIZE:
            raise SnapshotError(f"{path.name} says it unpacks to {size} bytes")
        plain = zlib.decompressobj().decompress(packed, size)
        state, lacking = state_from_bytes(plain, settings)
    except (cbor2.CBORDecodeError, zlib.error, TypeError, ValueError, GraphError) as err:
        raise SnapshotError(f"{path.name} cannot be used: {err}") from err
    if state.position != position or len(plain) != size:
        raise SnapshotError(f"{path.name} is not what it says of itself")
    return Snapshot(path=path, position=position, chain=chain, state=state, lacking=lacking)


def set_aside(path: Path, why: str) -> Path:
    """Keep a snapshot under a name by which nobody starts from it."""
    aside = path.with_name(f"{path.name}.{why}")
    path.rename(aside)
    return aside


def covered(journal: Path) -> int:
    """The position up to which every kept snapshot covers the entries; 0 when there are fewer than ``KEPT``."""
    kept: Sequence[Path] = found(journal)
    return position_of(kept[-1]) if len(kept) >= KEPT else 0


def _fsync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
