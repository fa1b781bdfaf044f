"""What the public logs say of a bundle's batches and device: entries checked up to checkpoints that the logs signed.

Rule 1: a log's key is believed because the verifier brought it, or because a root vouches for it; an entry under any other key shows nothing.
Rule 2: an entry that does not lead to its checkpoint, or speaks of something else than the bundle, is a fault.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from farthing.evidence import merkle
from farthing.evidence.bundle import PublishedEntry
from farthing.tlog.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from farthing.tlog.entries import BatchEntry, DeviceEntry, EntryError, decode
from farthing.tlog.note import NoteError, NoteKey, SignatureType, parse_note


class PublishedFault(ValueError):
    """The first thing about a published entry that does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An entry that leads to a checkpoint of a log whose key is believed."""

    entry: BatchEntry | DeviceEntry
    index: int
    checkpoint: Checkpoint


def log_keys(vouched: Sequence[bytes]) -> list[bytes]:
    """The raw Ed25519 keys among SubjectPublicKeyInfos that a root vouches for."""
    keys = []
    for spki in vouched:
        key = load_der_public_key(spki)
        if isinstance(key, Ed25519PublicKey):
            keys.append(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
    return keys


def show(published: PublishedEntry, *, given: Sequence[NoteKey], vouched: Sequence[bytes]) -> Shown | None:
    """The entry, checked; None where nobody believes its log's key. Raises ``PublishedFault``.

    ``given`` are verifier keys that the verifier brought, ``vouched`` raw Ed25519 keys of certificates that a root issued.
    """
    try:
        note = parse_note(published.checkpoint)
        origin = parse_checkpoint(note.text).origin
        keys = [key for key in given if key.name == origin] or [
            NoteKey(name=origin, kind=SignatureType.ED25519, public=public) for public in vouched
        ]
        known = [key for key in keys if note.of(key)]
        if not known:
            if any(key.name == origin for key in given):
                raise PublishedFault(f"the checkpoint of {origin} is not signed with the key given for it")
            return None
        checkpoint, _ = open_checkpoint(published.checkpoint, known[0])
        entry = decode(published.entry)
    except (NoteError, EntryError) as err:
        raise PublishedFault(str(err)) from err
    if not merkle.verify_inclusion(published.entry, published.index, checkpoint.size, published.path, checkpoint.root):
        raise PublishedFault(f"its path does not lead to the checkpoint of {origin}")
    return Shown(entry=entry, index=published.index, checkpoint=checkpoint)


def check_batch(entry: BatchEntry, receipts: Mapping[bytes, bytes | None]) -> bool:
    """Whether an entry says of a batch what its receipt in the bundle says; ``receipts``: batch hash → the receipt's bytes, None without one.

    An entry of the same batch with another receipt (a restored ledger posted it again) says nothing of this one: False. Raises ``PublishedFault``
    for a batch that is not in the bundle.
    """
    if entry.batch_hash not in receipts:
        raise PublishedFault("of a batch that is not in the bundle")
    body = receipts[entry.batch_hash]
    return body is not None and hashlib.sha256(body).digest() == entry.receipt_hash
