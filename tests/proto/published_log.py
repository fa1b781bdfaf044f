"""A small public log in a folder, signed with a key in memory: for tests of those who read it."""

from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from farthing.tlog.checkpoint import Checkpoint
from farthing.tlog.note import NoteKey, SignatureType, SignedNote, note_signature
from farthing.tlog.tiles import Edge

ORIGIN = "example.com/farthing/devices"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = NoteKey(
    name=ORIGIN,
    kind=SignatureType.ED25519,
    public=PRIVATE.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw),
)


def sign(checkpoint: Checkpoint) -> bytes:
    """The checkpoint as the log's signed note."""
    signature = note_signature(KEY, PRIVATE.sign(checkpoint.text.encode()))
    return SignedNote(text=checkpoint.text, signatures=(signature,)).encode()


def publish(folder: Path, entries: Sequence[bytes], *, origin: str = ORIGIN) -> Checkpoint:
    """Write the whole log of ``entries``."""
    edge = Edge()
    files: list[tuple[str, bytes]] = []
    for entry in entries:
        files += edge.append(entry)
    for path, content in [*files, *edge.partials()]:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    checkpoint = Checkpoint(origin=origin, size=edge.size, root=edge.root())
    (folder / "checkpoint").write_bytes(sign(checkpoint))
    return checkpoint
