"""Proofs and tiles of the public log against RFC 9162's recursive definitions, for all sizes and indexes."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.evidence import merkle
from farthing.tlog import tree
from farthing.tlog.tiles import (
    Edge,
    MissingTile,
    TileError,
    TileReader,
    decode_entries,
    encode_entries,
    entries_path,
    tile_path,
)

#: All sizes and indexes up to here: every shape of a right edge that five levels have.
MOST = 33


@cache
def leaves(size: int) -> tuple[bytes, ...]:
    return tuple(b"leaf %d" % number for number in range(size))


@cache
def defined_root(start: int, end: int) -> bytes:
    """RFC 9162, section 2.1.1, word by word."""
    if end - start == 1:
        return merkle.leaf_hash(b"leaf %d" % start)
    k = 1
    while k * 2 < end - start:
        k *= 2
    return merkle.node_hash(defined_root(start, start + k), defined_root(start + k, end))


def defined_proof(m: int, start: int, end: int, *, known: bool = True) -> list[bytes]:
    """RFC 9162, section 2.1.4.1, word by word: SUBPROOF."""
    n = end - start
    if m == n:
        return [] if known else [defined_root(start, end)]
    k = 1
    while k * 2 < n:
        k *= 2
    if m <= k:
        return [*defined_proof(m, start, start + k, known=known), defined_root(start + k, end)]
    return [*defined_proof(m - k, start + k, end, known=False), defined_root(start, start + k)]


def node(height: int, index: int) -> bytes:
    return defined_root(index << height, (index + 1) << height)


class Files(dict[str, bytes]):
    """A log's files as a web server shows them."""

    def fetch(self, path: str, most: int) -> bytes:
        if path not in self:
            raise MissingTile(path)
        assert len(self[path]) <= most
        return self[path]


def published(size: int) -> tuple[Files, bytes]:
    edge, files = Edge(), Files()
    for leaf in leaves(size):
        files.update(edge.append(leaf))
    files.update(edge.partials())
    return files, edge.root()


def test_every_consistency_proof_is_the_defined_one_and_holds() -> None:
    for size in range(1, MOST):
        assert tree.root_at(node, size) == defined_root(0, size) == merkle.root(leaves(size))
        for old in range(1, size + 1):
            path = tree.consistency_path(node, old, size)
            assert path == defined_proof(old, 0, size)
            assert tree.verify_consistency(old, size, defined_root(0, old), defined_root(0, size), path)


def test_no_consistency_proof_holds_for_anything_else() -> None:
    wrong = bytes(32)
    for size in range(1, 18):
        for old in range(1, size + 1):
            path, old_root, root = defined_proof(old, 0, size), defined_root(0, old), defined_root(0, size)
            assert not tree.verify_consistency(old, size, wrong, root, path)
            assert not tree.verify_consistency(old, size, old_root, wrong, path)
            assert not tree.verify_consistency(old, size, old_root, root, [*path, wrong])
            for number in range(len(path)):
                assert not tree.verify_consistency(old, size, old_root, root, path[:number] + path[number + 1 :])
                changed = [*path[:number], wrong, *path[number + 1 :]]
                assert not tree.verify_consistency(old, size, old_root, root, changed)
            if old < size:
                assert not tree.verify_consistency(size, old, root, old_root, path)
                # A size in between has another root, or another way to it; the same path never serves both.
                for other in range(old + 1, size):
                    assert not tree.verify_consistency(other, size, old_root, root, path)


def test_nothing_is_the_beginning_of_every_tree() -> None:
    root = defined_root(0, 5)
    assert tree.verify_consistency(0, 5, merkle.EMPTY_ROOT, root, [])
    assert tree.verify_consistency(0, 0, merkle.EMPTY_ROOT, merkle.EMPTY_ROOT, [])
    assert not tree.verify_consistency(0, 5, root, root, [])
    assert not tree.verify_consistency(0, 0, merkle.EMPTY_ROOT, root, [])
    assert not tree.verify_consistency(0, 5, merkle.EMPTY_ROOT, root, [root])
    assert not tree.verify_consistency(-1, 5, merkle.EMPTY_ROOT, root, [])
    with pytest.raises(IndexError):
        tree.consistency_path(node, 0, 5)
    with pytest.raises(IndexError):
        tree.consistency_path(node, 6, 5)


def test_every_inclusion_path_from_nodes_is_the_one_from_leaves() -> None:
    for size in range(1, MOST):
        for index in range(size):
            path = tree.inclusion_path(node, index, size)
            assert path == merkle.inclusion_proof(leaves(size), index)
            assert merkle.verify_inclusion(leaves(size)[index], index, size, path, defined_root(0, size))
        with pytest.raises(IndexError):
            tree.inclusion_path(node, size, size)


# RFC 9162, section 2.1.5: proofs in a tree of seven leaves d0 to d6, whose nodes have these names.
def test_the_examples_of_the_rfc() -> None:
    a, b, c, d, e, f = (node(0, number) for number in range(6))
    g, h, i, j = node(1, 0), node(1, 1), node(1, 2), node(0, 6)
    k, l_ = node(2, 0), merkle.node_hash(i, j)
    assert tree.inclusion_path(node, 0, 7) == [b, h, l_]
    assert tree.inclusion_path(node, 3, 7) == [c, g, l_]
    assert tree.inclusion_path(node, 4, 7) == [f, j, k]
    assert tree.inclusion_path(node, 6, 7) == [i, k]
    assert tree.consistency_path(node, 3, 7) == [c, d, g, l_]
    assert tree.consistency_path(node, 4, 7) == [l_]
    assert tree.consistency_path(node, 6, 7) == [i, j, k]
    assert (a, e) == (merkle.leaf_hash(b"leaf 0"), merkle.leaf_hash(b"leaf 4"))


# --- tiles ------------------------------------------------------------------------------------------------------------


def test_where_tiles_stand() -> None:
    # tlog-tiles: "index 1234067 will be encoded as x001/x234/067".
    assert tile_path(0, 1_234_067) == "tile/0/x001/x234/067"
    assert tile_path(3, 0, 17) == "tile/3/000.p/17"
    assert entries_path(999) == "tile/entries/999"
    assert entries_path(1_000, 1) == "tile/entries/x001/000.p/1"


def test_the_tree_of_the_specification() -> None:
    """tlog-tiles: 70,000 leaves are 273 full level 0 tiles and one of 112, one full level 1 tile and one of 17, one of 1 at level 2."""
    edge, files = Edge(), Files()
    for number in range(70_000):
        files.update(edge.append(b"%d" % number))
    partial = dict(edge.partials())
    assert set(partial) == {"tile/entries/273.p/112", "tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"}
    assert [path for path in files if path.startswith("tile/1/")] == ["tile/1/000"]
    assert sum(path.startswith("tile/0/") for path in files) == 273
    assert all(len(data) == 8_192 for path, data in files.items() if not path.startswith("tile/entries/"))
    files.update(partial)
    assert edge.root() == merkle.root([b"%d" % number for number in range(70_000)])
    reader = TileReader(size=70_000, root=edge.root(), fetch=files.fetch)
    for index in (0, 255, 256, 65_535, 65_536, 69_888, 69_999):
        leaf = reader.entry(index)
        assert leaf == b"%d" % index
        assert merkle.verify_inclusion(leaf, index, 70_000, reader.inclusion_path(index), edge.root())
    for old in (1, 256, 65_537):
        old_root = merkle.root([b"%d" % number for number in range(old)])
        assert reader.root_at(old) == old_root
        path = reader.consistency_path(old)
        assert tree.verify_consistency(old, 70_000, old_root, edge.root(), path)


def test_a_tree_of_256_is_a_full_tile_and_a_partial_one_above() -> None:
    files, root = published(256)
    assert set(files) == {"tile/entries/000", "tile/0/000", "tile/1/000.p/1"}
    assert TileReader(size=256, root=root, fetch=files.fetch).root_at(256) == merkle.root(leaves(256))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1_100), st.data())
def test_a_log_that_grew_and_was_read_again_is_the_same(size: int, data: st.DataObject) -> None:
    """Written in two sittings, the second from what the files say: the same files, root and entries."""
    first = data.draw(st.integers(0, size))
    files, root = published(first)
    reader = TileReader(size=first, root=root, fetch=files.fetch)
    edge = Edge.read(reader)
    for number in range(first, size):
        files.update(edge.append(b"leaf %d" % number))
    files.update(edge.partials())
    whole, whole_root = published(size)
    assert edge.root() == whole_root == merkle.root(leaves(size))
    assert {path: files[path] for path in whole} == whole
    again = TileReader(size=size, root=whole_root, fetch=files.fetch)
    assert tuple(again.entries(0, size)) == leaves(size)
    start = data.draw(st.integers(0, size))
    copied, _ = published(start)
    copied.update(again.files(start))
    assert {path: copied[path] for path in whole} == whole


def test_entries_of_a_bundle() -> None:
    entries = [b"", b"a", bytes(65_535)]
    assert decode_entries(encode_entries(entries)) == entries
    for cut in (b"\x00", b"\x00\x02a", b"\x00\x00\x00"):
        with pytest.raises(TileError):
            decode_entries(cut)


def read_all(size: int, root: bytes, files: Files) -> list[bytes]:
    return list(TileReader(size=size, root=root, fetch=files.fetch).entries(0, size))


@pytest.mark.parametrize("size", [5, 256, 300, 70_000 // 100])
def test_no_changed_file_is_believed(size: int) -> None:
    """Each file, one bit: found when it is read, by name."""
    files, root = published(size)
    for path, content in files.items():
        changed = Files(files)
        changed[path] = content[:-1] + bytes([content[-1] ^ 1])
        with pytest.raises(TileError):
            read_all(size, root, changed)
        del changed[path]
        with pytest.raises(TileError):
            read_all(size, root, changed)


def test_a_deleted_partial_tile_is_read_from_the_full_one() -> None:
    small, root = published(200)
    del small["tile/0/000.p/200"], small["tile/entries/000.p/200"]
    large, _ = published(256)
    reader = TileReader(size=200, root=root, fetch=Files(large).fetch)
    assert tuple(reader.entries(190, 200)) == leaves(200)[190:]
