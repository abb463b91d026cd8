"""Sets of points as flat buffers: n · 32 bytes whole, n · 16 truncated; no object per point.

A `Points` never copies what it is given, so a million points arriving in one message stay where the
message is. Whatever rearranges (take, concat, truncated) makes one new buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clean_room.errors import Misuse

__all__ = ["TRUNCATED", "WHOLE", "Buffer", "Points", "Random", "join", "permutation"]

WHOLE = 32
"""Bytes of a u-coordinate, little-endian (RFC 7748, section 5)."""
TRUNCATED = 16
"""Bytes kept of a doubly blinded point: 10⁶ · 10⁶ pairs of strangers collide with probability 2⁻⁸⁸."""

Buffer: TypeAlias = bytes | bytearray | memoryview
Random: TypeAlias = Callable[[int], bytes]
"""A source of n random bytes, `os.urandom` but in tests."""


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """A sequence of points (or truncated points) in one flat buffer.

    `buffer` holds `len(self)` · `width` bytes; `width` is 32 or 16. Equality compares contents.
    """

    buffer: Buffer = field(repr=False)
    width: int = WHOLE

    def __post_init__(self) -> None:
        if self.width not in (WHOLE, TRUNCATED):
            raise Misuse("A point is 32 bytes wide, or 16 truncated.")
        if memoryview(self.buffer).nbytes % self.width:
            raise Misuse("The buffer does not hold a whole number of points.")

    def __len__(self) -> int:
        return memoryview(self.buffer).nbytes // self.width

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Points):
            return NotImplemented
        return self.width == other.width and memoryview(self.buffer) == memoryview(other.buffer)

    def __hash__(self) -> int:
        return hash((self.width, bytes(self.buffer)))

    @classmethod
    def concat(cls, parts: Iterable[Points], width: int = WHOLE) -> Points:
        """All `parts` (each `width` wide) end to end."""
        listed = list(parts)
        if any(part.width != width for part in listed):
            raise Misuse("Points of different widths cannot be joined.")
        # One list stays where it is: at ten million people a copy is a third of a gigabyte.
        return listed[0] if len(listed) == 1 else cls(b"".join(part.buffer for part in listed), width)

    @property
    def count(self) -> int:
        """How many points there are."""
        return len(self)

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """A read-only view, shape (n, width), dtype uint8."""
        view = np.frombuffer(self.buffer, dtype=np.uint8).reshape(-1, self.width)
        view.flags.writeable = False
        return view

    @property
    def column(self) -> pa.FixedSizeBinaryArray:
        """The same bytes as an Arrow column of `fixed_size_binary(width)`, without a copy."""
        return pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(self.width), len(self), [None, pa.py_buffer(self.buffer)]
        )

    def take(self, indices: npt.NDArray[np.integer]) -> Points:
        """The points at `indices`, in that order; one copy. With a permutation: a shuffle."""
        if not len(indices):
            return Points(b"", self.width)
        return Points(np.take(self.array, indices, axis=0).data.cast("B"), self.width)

    def mixed(self, extra: Points, order: npt.NDArray[np.integer]) -> Points:
        """`concat` of the two, taken in `order`, without making it first: a shuffle in half the room."""
        if extra.width != self.width:
            raise Misuse("Points of different widths cannot be joined.")
        if not len(order):
            return Points(b"", self.width)
        from_extra = np.flatnonzero(order >= len(self))
        if not len(self):
            return extra.take(order)
        out = np.take(self.array, order, axis=0, mode="clip")
        out[from_extra] = extra.array[order[from_extra] - len(self)]
        return Points(out.data.cast("B"), self.width)

    def slice(self, start: int, stop: int) -> Points:
        """Points `start` to `stop`, without a copy."""
        return Points(memoryview(self.buffer)[start * self.width : stop * self.width], self.width)

    def truncated(self) -> Points:
        """The first 16 bytes (the low bits of u) of every point."""
        if self.width == TRUNCATED:
            return self
        if not len(self):
            return Points(b"", TRUNCATED)
        return Points(np.ascontiguousarray(self.array[:, :TRUNCATED]).data.cast("B"), TRUNCATED)

    @property
    def words(self) -> npt.NDArray[np.uint64]:
        """The first 8 bytes of every point as a number: what the points are sorted by."""
        return np.ascontiguousarray(self.array[:, :8]).view("<u8").reshape(-1)

    def distinct_count(self) -> int:
        """How many different points there are."""
        ordered = np.sort(self.words)
        if not (ordered[1:] == ordered[:-1]).any():
            return len(self)
        return int(pc.count_distinct(self.column).as_py())

    def distinct(self) -> bool:
        """Whether no point occurs twice."""
        return self.distinct_count() == len(self)


def join(needles: Points, haystack: Points) -> npt.NDArray[np.int64]:
    """For every needle its first position in `haystack`, or −1. Shape (len(needles),), int64.

    A merge on the first 8 bytes, checked on all; a hash join where two points of `haystack` share them,
    as chance brings about once in 2²⁵ times for a million points, and a partner as often as it likes.
    """
    if needles.width != haystack.width:
        raise Misuse("Points of different widths cannot be joined.")
    if not len(needles) or not len(haystack):
        return np.full(len(needles), -1, dtype=np.int64)
    keys = haystack.words
    order = np.argsort(keys)
    ordered = keys[order]
    if (ordered[1:] == ordered[:-1]).any():
        found = pc.index_in(needles.column, value_set=haystack.column)
        return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), dtype=np.int64)
    wanted = needles.words
    # Needles are looked up in ascending order: the same answer, without a cache miss for each.
    ascending = np.argsort(wanted)
    at = np.minimum(np.searchsorted(ordered, wanted[ascending]), len(ordered) - 1)
    candidates = order[at]
    same = (haystack.array[candidates] == needles.array[ascending]).all(axis=1)
    result = np.empty(len(needles), dtype=np.int64)
    result[ascending] = np.where(same, candidates, -1)
    return result


def permutation(n: int, random: Random) -> npt.NDArray[np.int64]:
    """A uniformly random order of n things, drawn from `random`: sort by 8 random bytes each.

    Equal keys would favour one order over another, so a draw with a tie is thrown away; that happens
    once in 2²⁵ times for a million things.
    """
    while True:
        keys = np.frombuffer(random(8 * n), dtype=np.uint64)
        order = np.argsort(keys)
        ordered = keys[order]
        if not (ordered[1:] == ordered[:-1]).any():
            return order.astype(np.int64, copy=False)
