from __future__ import annotations

import os
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clean_room.errors import Misuse
from clean_room.group.points import Points, join, permutation


def points_of(rows: list[bytes], width: int = 32) -> Points:
    return Points(b"".join(rows), width)


rows32 = st.lists(st.binary(min_size=32, max_size=32), max_size=20)
rows16 = st.lists(st.binary(min_size=16, max_size=16), max_size=20)


@given(rows32, rows32)
def test_concat_and_slice_undo_each_other(a: list[bytes], b: list[bytes]) -> None:
    both = Points.concat([points_of(a), points_of(b)])
    assert len(both) == both.count == len(a) + len(b)
    assert both.slice(0, len(a)) == points_of(a)
    assert both.slice(len(a), len(both)) == points_of(b)


@given(rows32)
def test_truncation_keeps_the_low_half_of_each(rows: list[bytes]) -> None:
    assert points_of(rows).truncated() == points_of([r[:16] for r in rows], 16)
    assert points_of(rows).truncated().truncated() == points_of(rows).truncated()


@given(rows16, rows16)
def test_join_finds_the_first_equal_point(needles: list[bytes], haystack: list[bytes]) -> None:
    haystack = haystack + needles[::2]
    found = join(points_of(needles, 16), points_of(haystack, 16))
    assert found.dtype == np.int64
    assert found.tolist() == [haystack.index(n) if n in haystack else -1 for n in needles]


@given(rows32)
def test_distinct_means_no_point_twice(rows: list[bytes]) -> None:
    assert points_of(rows).distinct() == (len(set(rows)) == len(rows))


def test_a_view_into_a_larger_buffer_is_not_copied() -> None:
    buffer = bytearray(os.urandom(320))
    points = Points(memoryview(buffer)[64:])
    assert len(points) == 8
    buffer[64] ^= 1
    assert points.array[0, 0] == buffer[64]
    with pytest.raises(ValueError):
        points.array[0, 0] = 0


def test_shuffling_moves_every_point_and_loses_none() -> None:
    points = points_of([bytes([i] * 32) for i in range(100)])
    order = permutation(100, os.urandom)
    assert sorted(order.tolist()) == list(range(100))
    assert points.take(order).array[:, 0].tolist() == order.tolist()
    assert points.take(np.array([], dtype=np.int64)) == Points(b"")


def test_a_shuffle_is_uniform() -> None:
    # 6 orders of three things, 3000 draws: each expected 500 times, sd 20; six sigma either way.
    seen: dict[tuple[int, ...], int] = {}
    for _ in range(3000):
        key = tuple(permutation(3, os.urandom).tolist())
        seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 6
    assert all(380 < n < 620 for n in seen.values())


def test_a_shuffle_follows_its_source_of_randomness_only() -> None:
    assert (
        permutation(5, lambda n: bytes(range(n))).tolist()
        == permutation(5, lambda n: bytes(range(n))).tolist()
    )
    assert permutation(0, os.urandom).tolist() == []


def test_a_draw_with_a_tie_is_thrown_away() -> None:
    draws = iter([bytes(24), bytes(8) + b"\1" * 8 + bytes(8), bytes(range(24))])
    assert sorted(permutation(3, lambda n: next(draws)).tolist()) == [0, 1, 2]
    assert next(draws, None) is None


def test_points_that_share_their_first_bytes_are_told_apart() -> None:
    rows = [bytes(8) + bytes([n] * 8) for n in range(5)]
    assert points_of(rows, 16).distinct()
    assert not points_of([*rows, rows[2]], 16).distinct()
    assert join(points_of(rows[::-1], 16), points_of(rows, 16)).tolist() == [4, 3, 2, 1, 0]
    other = [bytes(8) + b"x" * 8]
    assert join(points_of(other, 16), points_of(rows[:1], 16)).tolist() == [-1]


def test_a_join_of_many_points_agrees_with_a_dictionary() -> None:
    haystack = [os.urandom(16) for _ in range(3000)]
    needles = [*haystack[::3], *[os.urandom(16) for _ in range(1000)], *haystack[::7]]
    places = {row: n for n, row in enumerate(haystack)}
    assert join(points_of(needles, 16), points_of(haystack, 16)).tolist() == [
        places.get(n, -1) for n in needles
    ]


def test_impossible_buffers_and_mixed_widths_are_refused() -> None:
    for buffer, width in ((bytes(33), 32), (bytes(8), 16), (bytes(24), 24)):
        with pytest.raises(Misuse):
            Points(buffer, width)
    with pytest.raises(Misuse):
        Points.concat([Points(bytes(32)), Points(bytes(16), 16)])
    with pytest.raises(Misuse):
        join(Points(bytes(32)), Points(bytes(16), 16))


def test_points_do_not_show_themselves() -> None:
    assert "buffer" not in repr(Points(bytes(32)))


def test_equality_compares_contents_and_width() -> None:
    assert Points(bytes(32)) == Points(bytearray(32))
    assert hash(Points(bytes(32))) == hash(Points(bytearray(32)))
    assert Points(bytes(32)) != Points(bytes(32), 16)
    assert Points(bytes(32)) != bytes(32)


@given(st.integers(0, 20), st.integers(0, 20), st.sampled_from([16, 32]), st.randoms())
def test_mixing_is_taking_from_both_end_to_end(own: int, extra: int, width: int, random: Random) -> None:
    one, other = (Points(random.randbytes(n * width), width) for n in (own, extra))
    order = np.array(random.sample(range(own + extra), own + extra), dtype=np.int64)
    assert one.mixed(other, order) == Points.concat([one, other], width).take(order)


def test_points_of_different_widths_are_not_mixed() -> None:
    with pytest.raises(Misuse):
        Points(bytes(32)).mixed(Points(bytes(16), 16), np.array([0, 1]))
