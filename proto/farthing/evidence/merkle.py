"""Merkle trees as in RFC 9162, section 2.1: SHA-256, 0x00 before a leaf, 0x01 before a pair of nodes."""

import hashlib
from collections.abc import Sequence

HASH_SIZE = 32
#: The root of no leaves: SHA-256 of nothing.
EMPTY_ROOT = hashlib.sha256(b"").digest()

_sha256 = hashlib.sha256


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of one leaf (RFC 9162, section 2.1.1)."""
    return _sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two nodes side by side (RFC 9162, section 2.1.1)."""
    return _sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """The Merkle tree hash of ``leaves`` (any bytes, in order): 32 bytes; :data:`EMPTY_ROOT` for none."""
    if not leaves:
        return EMPTY_ROOT
    return _root([leaf_hash(leaf) for leaf in leaves])


def _root(level: list[bytes]) -> bytes:
    # Pairing from the left and lifting a lone last node gives RFC 9162's tree: its left half is the largest power of two
    # below the number of leaves.
    while len(level) > 1:
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The path from leaf ``index`` to the root, from the bottom (RFC 9162, section 2.1.3.1); ``IndexError`` outside."""
    return inclusion_proofs(leaves, [index])[0]


def inclusion_proofs(leaves: Sequence[bytes], indices: Sequence[int]) -> list[list[bytes]]:
    """The paths of several leaves, as :func:`inclusion_proof`; the tree is hashed once."""
    for index in indices:
        if not 0 <= index < len(leaves):
            raise IndexError(index)
    level = [leaf_hash(leaf) for leaf in leaves]
    nodes = list(indices)
    paths: list[list[bytes]] = [[] for _ in nodes]
    while len(level) > 1:
        for path, node in zip(paths, nodes, strict=True):
            if node ^ 1 < len(level):
                path.append(level[node ^ 1])
        nodes = [node // 2 for node in nodes]
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return paths


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root_hash: bytes) -> bool:
    """Whether ``path`` proves ``leaf`` to be number ``index`` of ``size`` under ``root_hash`` (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last = index, size - 1
    current = leaf_hash(leaf)
    for step in path:
        if last == 0 or len(step) != HASH_SIZE:
            return False
        if node & 1 or node == last:
            current = node_hash(step, current)
            while node & 1 == 0 and node != 0:
                node >>= 1
                last >>= 1
        else:
            current = node_hash(current, step)
        node >>= 1
        last >>= 1
    return last == 0 and current == root_hash
