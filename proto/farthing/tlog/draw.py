"""Which batches are audited: drawn from a signed checkpoint, which nobody who seals a batch can know, and anybody can draw again.

seed = SHA-256("farthing/audit/1" ‖ newline ‖ the checkpoint's text). A batch that stands under this checkpoint and not under the one before it is drawn when
the first 8 bytes of SHA-256(seed ‖ batch hash), big-endian, are below rate × 2^64 / 10^6. The root covers every batch and receipt so far, those of other gateways too.
"""

import hashlib
from typing import Final

from farthing.money import PPM

_LABEL: Final = b"farthing/audit/1\n"


def seed(checkpoint_text: str) -> bytes:
    """What a checkpoint's text draws by, 32 bytes."""
    return hashlib.sha256(_LABEL + checkpoint_text.encode()).digest()


def drawn(seed_of: bytes, batch_hash: bytes, *, rate_ppm: int) -> bool:
    """Whether a batch is drawn; ``rate_ppm`` 0 draws none, a million draws all."""
    number = int.from_bytes(hashlib.sha256(seed_of + batch_hash).digest()[:8], "big")
    return number * PPM < rate_ppm << 64
