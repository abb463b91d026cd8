"""Tiles (c2sp.org/tlog-tiles): the tree and its entries as static files.

A tile at level `L`, index `N` holds up to 256 hashes, each the root of a perfect subtree of 256^L leaves.
Tiles are immutable once full; the rightmost tile of each level is partial (`.p/W`), and an empty tile is
never written. Entries travel beside them in bundles of 256, each prefixed by its length as a u16.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from consent.merkle import HASH_SIZE, PerfectSubtree, fold_frontier, node_hash, root_of
from privacy.errors import Misuse, Tampered

__all__ = [
    "TILE_HEIGHT",
    "TILE_WIDTH",
    "Tile",
    "bundle_path",
    "decode_bundle",
    "encode_bundle",
    "parse_path",
    "subtree_from_levels",
    "subtree_from_tiles",
    "tile_levels",
    "tile_path",
    "tiles_between",
    "tiles_of",
]

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT

_PATH = re.compile(
    r"tile/(?P<level>entries|0|[1-9]\d?)/(?P<high>(?:x\d{3}/)*)(?P<low>\d{3})(?:\.p/(?P<width>[1-9]\d{0,2}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """A tile's place. `level` is -1 for an entry bundle; `width` is 1..256."""

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def full(self) -> bool:
        return self.width == TILE_WIDTH


def _index_path(index: int) -> str:
    digits = f"{index % 1000:03d}"
    while index >= 1000:
        index //= 1000
        digits = f"x{index % 1000:03d}/{digits}"
    return digits


def tile_path(tile: Tile) -> str:
    """`tile/<L>/<N>[.p/<W>]`, relative to the log's prefix."""
    level = "entries" if tile.level < 0 else str(tile.level)
    suffix = "" if tile.full else f".p/{tile.width}"
    return f"tile/{level}/{_index_path(tile.index)}{suffix}"


def bundle_path(index: int, width: int = TILE_WIDTH) -> str:
    return tile_path(Tile(-1, index, width))


def parse_path(path: str) -> Tile:
    """Inverse of `tile_path`; raises Misuse for every other spelling (so no path can leave the log)."""
    match = _PATH.fullmatch(path) if len(path) < 100 else None
    if match is not None:
        level = -1 if match["level"] == "entries" else int(match["level"])
        index = int(match["high"].replace("x", "").replace("/", "") + match["low"])
        tile = Tile(level, index, int(match["width"] or TILE_WIDTH))
        if level < 64 and tile.width <= TILE_WIDTH and tile_path(tile) == path:
            return tile
    raise Misuse("This is not the path of a tile.", code="not_found")


def tiles_of(size: int) -> Iterator[Tile]:
    """Every hash tile of a tree of `size` leaves, full ones and the partial one of each level."""
    yield from tiles_between(0, size)


def tiles_between(old: int, new: int) -> Iterator[Tile]:
    """The hash tiles of the tree of size `new` that differ from those of the tree of size `old`."""
    level = 0
    while new >> level * TILE_HEIGHT:
        before, after = old >> level * TILE_HEIGHT, new >> level * TILE_HEIGHT
        if after > before:
            for index in range(before // TILE_WIDTH, after // TILE_WIDTH):
                yield Tile(level, index)
            if after % TILE_WIDTH:
                yield Tile(level, after // TILE_WIDTH, after % TILE_WIDTH)
        level += 1


def split_hashes(data: bytes) -> list[bytes]:
    return [data[i : i + HASH_SIZE] for i in range(0, len(data), HASH_SIZE)]


def tile_root(data: bytes) -> bytes:
    """The hash of a tile's subtree: for a full tile, one hash of the level above."""
    return root_of(split_hashes(data))


def subtree_from_tiles(read: Callable[[int, int], bytes]) -> PerfectSubtree:
    """Hashes of perfect subtrees out of tiles; `read(level, index)` gives a tile's bytes, maybe partial.

    Raises Tampered when a tile is too short for what the tree size promises.
    """

    def subtree(level: int, index: int) -> bytes:
        tile_level, height = divmod(level, TILE_HEIGHT)
        start = index << height
        data = read(tile_level, start // TILE_WIDTH)
        offset = start % TILE_WIDTH * HASH_SIZE
        part = data[offset : offset + (HASH_SIZE << height)]
        if len(part) != HASH_SIZE << height:
            raise Tampered("A tile holds fewer hashes than the tree's size needs.", code="short_tile")
        return root_of(split_hashes(part))

    return subtree


def tile_levels(data: bytes) -> list[list[bytes]]:
    """The nodes of a tile by height: its hashes, the nodes above pairs of them, and so on."""
    levels = [split_hashes(data)]
    while len(levels[-1]) > 1:
        pairs = iter(levels[-1])
        levels.append([node_hash(left, right) for left, right in zip(pairs, pairs, strict=False)])
    return levels


def subtree_from_levels(levels_of: Callable[[int, int], Sequence[Sequence[bytes]]]) -> PerfectSubtree:
    """As `subtree_from_tiles`; `levels_of(level, index)` gives the `tile_levels` of a tile, maybe partial."""

    def subtree(level: int, index: int) -> bytes:
        tile_level, height = divmod(level, TILE_HEIGHT)
        start = index << height
        levels = levels_of(tile_level, start // TILE_WIDTH)
        place = start % TILE_WIDTH >> height
        if height >= len(levels) or place >= len(levels[height]):
            raise Tampered("A tile holds fewer hashes than the tree's size needs.", code="short_tile")
        return levels[height][place]

    return subtree


def root_from_edge(edge: Sequence[bytes]) -> bytes:
    """The root from the partial tiles of every level, level 0 first (an empty one where none is)."""
    parts: list[bytes] = []
    for data in reversed(edge):
        hashes = split_hashes(data)
        start, width = 0, len(hashes)
        for bit in range(TILE_HEIGHT - 1, -1, -1):
            if width >> bit & 1:
                parts.append(root_of(hashes[start : start + (1 << bit)]))
                start += 1 << bit
    return fold_frontier(parts)


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    if any(len(entry) > 0xFFFF for entry in entries):
        raise Misuse("A log entry is at most 65,535 bytes.")
    return b"".join([len(entry).to_bytes(2, "big") + entry for entry in entries])


def decode_bundle(data: bytes, width: int) -> list[bytes]:
    """Exactly `width` entries and not a byte more; raises Tampered."""
    entries, position = [], 0
    try:
        for _ in range(width):
            start = position + 2
            position = start + (data[position] << 8 | data[position + 1])
            entries.append(data[start:position])
    except IndexError:
        raise Tampered("An entry bundle is cut short.", code="short_bundle") from None
    if position > len(data):
        raise Tampered("An entry bundle is cut short.", code="short_bundle")
    if position != len(data):
        raise Tampered("An entry bundle holds more than it should.", code="long_bundle")
    return entries
