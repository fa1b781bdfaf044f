"""Roots and proofs over a tree whose complete subtrees somebody can name (RFC 9162, section 2.1).

``Nodes`` gives the hash of a complete subtree by (height, index): the leaves ``index << height`` up to ``(index + 1) << height``.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from farthing.evidence.merkle import EMPTY_ROOT, HASH_SIZE, node_hash

Nodes: TypeAlias = Callable[[int, int], bytes]


def root_at(nodes: Nodes, size: int) -> bytes:
    """The root over the first ``size`` leaves."""
    return EMPTY_ROOT if size == 0 else _range(nodes, 0, size)


def inclusion_path(nodes: Nodes, index: int, size: int) -> list[bytes]:
    """The path from leaf ``index`` to the root over ``size`` leaves, from the bottom (section 2.1.3.1); ``IndexError`` outside."""
    if not 0 <= index < size:
        raise IndexError(index)
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_range(nodes, middle, end))
            end = middle
        else:
            path.append(_range(nodes, start, middle))
            start = middle
    return path[::-1]


def consistency_path(nodes: Nodes, old_size: int, size: int) -> list[bytes]:
    """The proof that the first ``old_size`` of ``size`` leaves are an earlier tree (section 2.1.4.1); ``IndexError`` outside."""
    if not 0 < old_size <= size:
        raise IndexError(old_size)
    path: list[bytes] = []
    start, end, whole = 0, size, True
    while old_size != end:
        middle = start + _split(end - start)
        if old_size <= middle:
            path.append(_range(nodes, middle, end))
            end = middle
        else:
            path.append(_range(nodes, start, middle))
            start, whole = middle, False
    if not whole:
        path.append(_range(nodes, start, end))
    return path[::-1]


def verify_consistency(old_size: int, size: int, old_root: bytes, root: bytes, path: Sequence[bytes]) -> bool:
    """Whether ``path`` proves the tree of ``old_size`` leaves to be the beginning of that of ``size`` (section 2.1.4.2).

    Nothing is the beginning of every tree, without a path; a tree is its own, without a path.
    """
    if not 0 <= old_size <= size or any(len(step) != HASH_SIZE for step in path):
        return False
    if old_size in (0, size):
        expected = EMPTY_ROOT if old_size == 0 else root
        return not path and old_root == expected and (size > 0 or root == EMPTY_ROOT)
    steps = list(path)
    if old_size & (old_size - 1) == 0:
        steps.insert(0, old_root)
    if not steps:
        return False
    node, last = old_size - 1, size - 1
    while node & 1:
        node >>= 1
        last >>= 1
    first = second = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            first, second = node_hash(step, first), node_hash(step, second)
            while node & 1 == 0 and node != 0:
                node >>= 1
                last >>= 1
        else:
            second = node_hash(second, step)
        node >>= 1
        last >>= 1
    return last == 0 and (first, second) == (old_root, root)


def _range(nodes: Nodes, start: int, end: int) -> bytes:
    """The Merkle hash over leaves ``start`` to ``end``, which begin where a subtree of their size may begin."""
    size = end - start
    if size & (size - 1) == 0:
        height = size.bit_length() - 1
        return nodes(height, start >> height)
    middle = start + _split(size)
    return node_hash(_range(nodes, start, middle), _range(nodes, middle, end))


def _split(size: int) -> int:
    """The largest power of two below ``size``."""
    return 1 << ((size - 1).bit_length() - 1)
