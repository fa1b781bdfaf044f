"""A batch is its bytes: their hash names it, chains it and is what a receipt receipts."""

import hashlib
import zlib
from collections.abc import Sequence

import cbor2

from farthing.device import cbor
from farthing.device.cbor import CborError

#: ``previous_hash`` of the first batch of an incarnation, and of the first directive of a chain.
ZERO_HASH = bytes(32)
#: Whom a batch is signed for (``cose.to_be_signed("batch", BATCH_RECIPIENT, bytes)``).
BATCH_RECIPIENT = "cloud"

#: A seal policy's records (10,000 at most) on two lines each.
MAX_LEAVES = 20_000
#: A leaf carries two statements, a grant and a trace: at most 768 × 2 + 2048 + 512 bytes.
MAX_LEAF_SIZE = 4_096
#: What one upload may unpack to: a batch of ordinary leaves (700 bytes) at MAX_LEAVES, with room.
MAX_DETAIL_SIZE = 16 * 1024 * 1024


class DetailError(ValueError):
    """Bytes that are not the compressed leaves of a batch."""


def batch_hash(batch: bytes) -> bytes:
    """SHA-256 of a batch's bytes: its identity, and the ``previous_hash`` of the one after it."""
    return hashlib.sha256(batch).digest()


def compress_leaves(leaves: Sequence[bytes]) -> bytes:
    """zlib (RFC 1950) of a CBOR array of byte strings, in order."""
    return zlib.compress(cbor2.dumps(list(leaves)), 6)


def decompress_leaves(data: bytes, *, most_bytes: int = MAX_DETAIL_SIZE) -> list[bytes]:
    """The leaves in ``data``; raise ``DetailError`` for anything else, having unpacked no more than ``most_bytes`` (> 0)."""
    # zlib takes 0 for "no limit".
    assert most_bytes > 0
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(data, most_bytes)
    except zlib.error as err:
        raise DetailError("not zlib") from err
    if not unpacker.eof:
        raise DetailError(f"cut short, or more than {most_bytes} bytes")
    if unpacker.unused_data:
        raise DetailError("bytes after the stream")
    try:
        leaves = _byte_strings(plain)
    except CborError as err:
        raise DetailError(str(err)) from err
    return leaves


def _byte_strings(plain: bytes) -> list[bytes]:
    value = cbor.decode(plain)
    if not isinstance(value, tuple) or len(value) > MAX_LEAVES:
        raise CborError(f"not an array of at most {MAX_LEAVES}")
    leaves = []
    for leaf in value:
        if not isinstance(leaf, bytes) or len(leaf) > MAX_LEAF_SIZE:
            raise CborError(f"a leaf is at most {MAX_LEAF_SIZE} bytes")
        leaves.append(leaf)
    return leaves
