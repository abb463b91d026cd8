from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.merkle import leaf_hash, root_of, tree_root
from consent.tiles import (
    Tile,
    bundle_path,
    decode_bundle,
    encode_bundle,
    parse_path,
    root_from_edge,
    subtree_from_tiles,
    tile_path,
    tile_root,
    tiles_between,
    tiles_of,
)
from privacy.errors import Misuse, Tampered


def test_paths_are_those_of_the_specification():
    assert tile_path(Tile(0, 1234067)) == "tile/0/x001/x234/067"
    assert tile_path(Tile(1, 0, 17)) == "tile/1/000.p/17"
    assert bundle_path(273, 112) == "tile/entries/273.p/112"
    assert tile_path(Tile(63, 1000)) == "tile/63/x001/000"


def test_a_tree_of_70000_has_the_tiles_the_specification_counts():
    tiles = list(tiles_of(70_000))
    assert sum(t.level == 0 and t.full for t in tiles) == 273
    assert [t for t in tiles if not t.full] == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert [t for t in tiles if t.level == 1 and t.full] == [Tile(1, 0)]
    assert list(tiles_of(256)) == [Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_of(0)) == []


@given(st.integers(0, 70_000), st.integers(0, 70_000))
def test_what_changed_between_two_sizes_completes_the_old_tree(a, b):
    old, new = sorted((a, b))
    changed = set(tiles_between(old, new))
    now = set(tiles_of(new))
    assert now == changed | (now & set(tiles_of(old)))


@given(st.integers(-1, 63), st.integers(0, 10**9), st.integers(1, 256))
def test_paths_parse_back(level, index, width):
    tile = Tile(level, index, width)
    assert parse_path(tile_path(tile)) == tile


@pytest.mark.parametrize(
    "path",
    [
        "", "tile/0/1", "tile/0/0001", "tile/00/001", "tile/64/001", "tile/-1/001", "tile/0/x000/001",
        "tile/0/x001", "tile/0/001.p/0", "tile/0/001.p/256", "tile/0/001.p/01", "tile/0/001.p/",
        "tile/0/001/",
        "../checkpoint", "tile/0/../../../etc/passwd", "tile/0/001\n", "tile/entries/001.p/999",
        "/tile/0/001",
        "tile/0/" + "x001/" * 100 + "001", "tile/0/٠٠١",
    ],
)  # fmt: skip
def test_every_other_spelling_is_refused(path):
    with pytest.raises(Misuse):
        parse_path(path)


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_bundles_round_trip(entries):
    assert decode_bundle(encode_bundle(entries), len(entries)) == entries


@given(st.binary(max_size=100), st.integers(0, 5))
def test_a_bundle_that_does_not_divide_is_refused(data, width):
    try:
        entries = decode_bundle(data, width)
    except Tampered:
        return
    assert encode_bundle(entries) == data and len(entries) == width


def test_an_entry_too_long_for_its_prefix_is_refused():
    with pytest.raises(Misuse):
        encode_bundle([b"x" * 65_536])


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 511, 512, 700, 65_536 + 300])
def test_roots_and_proof_hashes_come_out_of_tiles(size):
    leaves = [leaf_hash(i.to_bytes(4, "big")) for i in range(size)]
    levels = [leaves]
    while len(levels[-1]) >= 256:
        below = levels[-1]
        levels.append([root_of(below[i : i + 256]) for i in range(0, len(below) - 255, 256)])
    stored = {
        (t.level, t.index): b"".join(levels[t.level][t.index * 256 :][: t.width]) for t in tiles_of(size)
    }
    root = root_of(leaves)
    assert tree_root(size, subtree_from_tiles(lambda level, index: stored[level, index])) == root
    edge = [b"".join(level[len(level) // 256 * 256 :]) for level in levels]
    assert root_from_edge(edge) == root
    if size >= 256:
        assert tile_root(stored[0, 0]) == levels[1][0]


def test_a_short_tile_is_noticed():
    with pytest.raises(Tampered):
        subtree_from_tiles(lambda level, index: b"x" * 32)(3, 0)
