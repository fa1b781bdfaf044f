"""PayWord hash chains (Rivest and Shamir, "PayWord and MicroMint: Two Simple Micropayment Schemes", 1996, section 3).

Rule 1: word 0 is the anchor, and word i hashes (SHA-256) to word i - 1. Who shows word i has proven i steps, whatever became of the
messages before it.
Rule 2: words are made from a secret by its owner alone, from the last one down; nobody can go the other way.
Rule 3: to check costs one hash for each step since the last word that was checked.
"""

import hashlib
from collections.abc import Iterable

from farthing.device.messages import MAX_CHAIN_LENGTH, WORD_SIZE

_sha256 = hashlib.sha256


def word(secret: bytes, length: int, index: int) -> bytes:
    """Word ``index`` of the chain of ``length`` words that ``secret`` (32 random bytes, its last word) makes; 0 is the anchor.

    Raise ``ValueError`` for a secret of another size, or an index or length out of range.
    """
    if len(secret) != WORD_SIZE or not 0 <= index <= length <= MAX_CHAIN_LENGTH:
        raise ValueError("no such word")
    for _ in range(length - index):
        secret = _sha256(secret).digest()
    return secret


def words(secret: bytes, length: int) -> list[bytes]:
    """The whole chain, anchor first: ``length`` + 1 words."""
    chain = [word(secret, length, length)]
    for _ in range(length):
        chain.append(_sha256(chain[-1]).digest())
    chain.reverse()
    return chain


def proves(known: bytes, steps: int, preimage: bytes) -> bool:
    """Whether ``preimage`` is ``steps`` (at least 1) beyond the word ``known``."""
    if steps < 1:
        return False
    for _ in range(steps):
        preimage = _sha256(preimage).digest()
    return preimage == known


def highest(known_index: int, known: bytes, shown: Iterable[tuple[int, bytes]]) -> tuple[int, bytes]:
    """How far the ticks ``shown`` (index, preimage; in any order, lost, repeated and false ones among them) prove the chain.

    ``known`` is the word at ``known_index``. Each is checked against the highest that held before it: one hash a step, also where
    some were lost. A false one changes nothing.
    """
    index, last = known_index, known
    for at, preimage in shown:
        steps = at - index
        if steps == 1:
            # Nearly always: nothing was lost.
            if _sha256(preimage).digest() == last:
                index, last = at, preimage
        elif steps > 1 and proves(last, steps, preimage):
            index, last = at, preimage
    return index, last
