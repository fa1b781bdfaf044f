"""Merkle trees against RFC 9162's recursive definition, and against the known vectors of its reference log."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.evidence import merkle


def defined_root(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word by word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + defined_root(leaves[:k]) + defined_root(leaves[k:])).digest()


def defined_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 9162, section 2.1.3.1, word by word."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if index < k:
        return [*defined_path(index, leaves[:k]), defined_root(leaves[k:])]
    return [*defined_path(index - k, leaves[k:]), defined_root(leaves[:k])]


# The leaves and roots that certificate-transparency implementations test with.
CT_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(1, 9))
def test_known_roots(size: int) -> None:
    assert merkle.root(CT_LEAVES[:size]).hex() == CT_ROOTS[size - 1]


def test_no_leaves() -> None:
    assert merkle.root([]) == merkle.EMPTY_ROOT == hashlib.sha256(b"").digest()


@pytest.mark.parametrize("size", range(1, 34))
def test_every_leaf_of_every_size_is_proven(size: int) -> None:
    leaves = [bytes([n]) * n for n in range(size)]
    root = merkle.root(leaves)
    assert root == defined_root(leaves)
    for index, leaf in enumerate(leaves):
        path = merkle.inclusion_proof(leaves, index)
        assert path == defined_path(index, leaves)
        assert merkle.verify_inclusion(leaf, index, size, path, root)


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=40, unique=True), st.data())
def test_a_proof_proves_nothing_else(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = merkle.inclusion_proof(leaves, index)
    root = merkle.root(leaves)
    size = len(leaves)
    assert not merkle.verify_inclusion(leaves[index] + b"x", index, size, path, root)
    assert not merkle.verify_inclusion(leaves[index], index, size, [*path, bytes(32)], root)
    assert not merkle.verify_inclusion(leaves[index], -1, size, path, root)
    assert not merkle.verify_inclusion(leaves[index], size, size, path, root)
    other = data.draw(st.integers(0, size - 1))
    assert merkle.verify_inclusion(leaves[index], other, size, path, root) == (other == index)
    if path:
        damaged = [bytes(32), *path[1:]]
        assert not merkle.verify_inclusion(leaves[index], index, size, damaged, root)
        assert not merkle.verify_inclusion(leaves[index], index, size, path[:-1], root)
        assert not merkle.verify_inclusion(leaves[index], index, size, [path[0][:-1], *path[1:]], root)


def test_a_leaf_that_is_not_there_has_no_proof() -> None:
    with pytest.raises(IndexError):
        merkle.inclusion_proof([b"a"], 1)
