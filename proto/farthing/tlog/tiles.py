"""A log as static files (C2SP tlog-tiles): where its tiles and entries stand, how they are read and believed, how they grow.

Rule 1: a hash from a tile is believed only once it leads to a signed root; :class:`TileReader` gives out no other.
Rule 2: a full tile never changes; what grows is at the right edge (:class:`Edge`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from farthing.evidence.merkle import EMPTY_ROOT, HASH_SIZE, leaf_hash, node_hash
from farthing.tlog import tree

#: Hashes of a full tile, and the height of the subtree that it is.
TILE_WIDTH: Final = 256
TILE_HEIGHT: Final = 8
#: An entry's length travels in two bytes.
MAX_ENTRY_SIZE: Final = 0xFFFF
#: The largest bundle of entries that can be.
MAX_BUNDLE_SIZE: Final = TILE_WIDTH * (2 + MAX_ENTRY_SIZE)
CHECKPOINT: Final = "checkpoint"

#: Bytes of the file at a path below the log's folder or URL, at most so many; ``MissingTile`` where there is none.
Fetch: TypeAlias = Callable[[str, int], bytes]


class TileError(ValueError):
    """Files that are not what the signed root says; the message names the file."""


class MissingTile(TileError):
    """A file that is not there."""


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """``tile/<level>/<index>[.p/<width>]``."""
    return f"tile/{level}/{_number(index)}{_part(width)}"


def entries_path(index: int, width: int = TILE_WIDTH) -> str:
    """``tile/entries/<index>[.p/<width>]``."""
    return f"tile/entries/{_number(index)}{_part(width)}"


def partials_folder(path: str) -> str:
    """The folder of the partial tiles of a full tile's path."""
    return f"{path}.p"


def _number(index: int) -> str:
    """Three digits a folder, all but the last after an x: 1234067 is x001/x234/067."""
    parts = [f"{index % 1000:03d}"]
    while index := index // 1000:
        parts.insert(0, f"x{index % 1000:03d}")
    return "/".join(parts)


def _part(width: int) -> str:
    assert 0 < width <= TILE_WIDTH
    return "" if width == TILE_WIDTH else f".p/{width}"


def encode_entries(entries: Sequence[bytes]) -> bytes:
    """A bundle: each entry after its length, two bytes, big-endian."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def decode_entries(data: bytes) -> list[bytes]:
    """The entries of a bundle; ``TileError``."""
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 2], "big")
        entry = data[at + 2 : at + 2 + size]
        if len(entry) != size or at + 2 > len(data):
            raise TileError("a bundle of entries ends in the middle of one")
        entries.append(entry)
        at += 2 + size
    return entries


@dataclass(slots=True)
class TileReader:
    """A log of ``size`` leaves under ``root``, read from files that nobody has to trust.

    Raises ``TileError`` where a file is missing or does not lead to the root.
    """

    size: int
    root: bytes
    fetch: Fetch
    _tiles: dict[tuple[int, int], tuple[bytes, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the right edge, which the root is made of."""
        edge: list[tuple[bytes, ...]] = []
        for level, width in enumerate(_widths(self.size)):
            index = self.size >> TILE_HEIGHT * (level + 1)
            edge.append(self._load(level, index, width) if width else ())
        if _root_of(edge) != self.root:
            raise TileError("the tiles at the right edge do not lead to the signed root")
        for level, hashes in enumerate(edge):
            if hashes:
                self._tiles[level, self.size >> TILE_HEIGHT * (level + 1)] = hashes

    def node(self, height: int, index: int) -> bytes:
        """The hash of a complete subtree: of the leaves ``index << height`` to ``(index + 1) << height``."""
        assert (index + 1) << height <= self.size
        level, inside = divmod(height, TILE_HEIGHT)
        first = index << inside
        hashes = self._tile(level, first // TILE_WIDTH)
        offset = first % TILE_WIDTH
        return _complete(hashes[offset : offset + (1 << inside)])

    def root_at(self, size: int) -> bytes:
        """The root over the first ``size`` leaves."""
        return tree.root_at(self.node, size)

    def inclusion_path(self, index: int) -> list[bytes]:
        """The path of a leaf to the root."""
        return tree.inclusion_path(self.node, index, self.size)

    def consistency_path(self, old_size: int) -> list[bytes]:
        """The proof that an earlier tree is the beginning of this one."""
        return tree.consistency_path(self.node, old_size, self.size)

    def entries(self, start: int, end: int) -> Iterator[bytes]:
        """The entries ``start`` to ``end``, each checked against its leaf hash."""
        index = start
        while index < end:
            bundle = index // TILE_WIDTH
            hashes = self._tile(0, bundle)
            entries = self._bundle(bundle, len(hashes))
            for offset in range(index % TILE_WIDTH, min(len(hashes), end - bundle * TILE_WIDTH)):
                yield entries[offset]
            index = (bundle + 1) * TILE_WIDTH

    def entry(self, index: int) -> bytes:
        """One entry."""
        return next(self.entries(index, index + 1))

    def files(self, start: int) -> Iterator[tuple[str, bytes]]:
        """The files of this log that one of ``start`` leaves did not have yet, each checked: entries, then tiles, level by level."""
        for index in range(start // TILE_WIDTH, (self.size + TILE_WIDTH - 1) // TILE_WIDTH):
            width = len(self._tile(0, index))
            yield entries_path(index, width), encode_entries(self._bundle(index, width)[:width])
        for level, _ in enumerate(_widths(self.size)):
            count = self.size >> TILE_HEIGHT * level
            before = start >> TILE_HEIGHT * level
            for index in range(before // TILE_WIDTH, (count + TILE_WIDTH - 1) // TILE_WIDTH):
                hashes = self._tile(level, index)
                yield tile_path(level, index, len(hashes)), b"".join(hashes)

    def _bundle(self, index: int, width: int) -> list[bytes]:
        path = entries_path(index, width)
        entries = decode_entries(self._fetch(path, entries_path(index), width, MAX_BUNDLE_SIZE))
        if tuple(map(leaf_hash, entries[:width])) != self._tile(0, index)[:width]:
            raise TileError(f"{path}: its entries are not those of the tree")
        return entries

    def _tile(self, level: int, index: int) -> tuple[bytes, ...]:
        known = self._tiles.get((level, index))
        if known is not None:
            return known
        # What is not at the right edge is full, and its parent says what it hashes to.
        hashes = self._load(level, index, TILE_WIDTH)
        parent = self._tile(level + 1, index // TILE_WIDTH)
        if _complete(hashes) != parent[index % TILE_WIDTH]:
            raise TileError(f"{tile_path(level, index)}: does not lead to the signed root")
        self._tiles[level, index] = hashes
        return hashes

    def _load(self, level: int, index: int, width: int) -> tuple[bytes, ...]:
        path = tile_path(level, index, width)
        data = self._fetch(path, tile_path(level, index), width, TILE_WIDTH * HASH_SIZE)
        if len(data) % HASH_SIZE or len(data) < width * HASH_SIZE:
            raise TileError(f"{path}: {len(data)} bytes are not {width} hashes")
        return tuple(data[at : at + HASH_SIZE] for at in range(0, width * HASH_SIZE, HASH_SIZE))

    def _fetch(self, path: str, full_path: str, width: int, most: int) -> bytes:
        try:
            return self.fetch(path, most)
        except MissingTile:
            if width == TILE_WIDTH:
                raise
            # A partial tile may be deleted once the full one is there; it begins with the same hashes.
            return self.fetch(full_path, most)


@dataclass(slots=True)
class Edge:
    """The right edge of a log that grows: the hashes of the last tile of each level, and the entries of the last bundle."""

    size: int = 0
    levels: list[list[bytes]] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)

    @classmethod
    def read(cls, reader: TileReader) -> "Edge":
        """The edge of a log that was published."""
        levels: list[list[bytes]] = []
        for level, width in enumerate(_widths(reader.size)):
            first = (reader.size >> TILE_HEIGHT * level) - width
            levels.append([reader.node(TILE_HEIGHT * level, first + number) for number in range(width)])
        start = reader.size - reader.size % TILE_WIDTH
        return cls(size=reader.size, levels=levels, entries=list(reader.entries(start, reader.size)))

    def append(self, entry: bytes) -> list[tuple[str, bytes]]:
        """Take in the next entry; the files that became full by it, lowest level first."""
        assert len(entry) <= MAX_ENTRY_SIZE
        self.entries.append(entry)
        finished: list[tuple[str, bytes]] = []
        if len(self.entries) == TILE_WIDTH:
            finished.append((entries_path(self.size // TILE_WIDTH), encode_entries(self.entries)))
            self.entries = []
        rising, level, index = leaf_hash(entry), 0, self.size
        self.size += 1
        while True:
            if level == len(self.levels):
                self.levels.append([])
            hashes = self.levels[level]
            hashes.append(rising)
            if len(hashes) < TILE_WIDTH:
                return finished
            index //= TILE_WIDTH
            finished.append((tile_path(level, index), b"".join(hashes)))
            rising = _complete(hashes)
            hashes.clear()
            level += 1

    def partials(self) -> list[tuple[str, bytes]]:
        """The files that a checkpoint of the present size needs beside the full ones."""
        files: list[tuple[str, bytes]] = []
        if self.entries:
            path = entries_path(self.size // TILE_WIDTH, len(self.entries))
            files.append((path, encode_entries(self.entries)))
        for level, hashes in enumerate(self.levels):
            if hashes:
                index = self.size >> TILE_HEIGHT * (level + 1)
                files.append((tile_path(level, index, len(hashes)), b"".join(hashes)))
        return files

    def root(self) -> bytes:
        """The root over everything so far."""
        return _root_of(self.levels)


def _widths(size: int) -> Iterator[int]:
    """The width of the last, partial tile of each level; 0 where all tiles of it are full."""
    while size:
        yield size % TILE_WIDTH
        size //= TILE_WIDTH


def _root_of(levels: Sequence[Sequence[bytes]]) -> bytes:
    """The root over the right edge: its complete subtrees, joined from the smallest on."""
    root: bytes | None = None
    for hashes in levels:
        end = len(hashes)
        while end:
            # The last complete subtree in a row of ``end`` hashes is as wide as the lowest bit of ``end``.
            width = end & -end
            subtree = _complete(hashes[end - width : end])
            root = subtree if root is None else node_hash(subtree, root)
            end -= width
    return EMPTY_ROOT if root is None else root


def _complete(hashes: Sequence[bytes]) -> bytes:
    """The root of a complete subtree over hashes, a power of two of them."""
    row = list(hashes)
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]
