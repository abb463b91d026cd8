"""How many points are in exactly which of several lists: one pass over all of them, sorted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clean_room.group.points import Points

__all__ = ["region_counts"]


def region_counts(lists: Sequence[Points]) -> npt.NDArray[np.int64]:
    """int64, shape (2 ** len(lists),): at index m the points that are in exactly the lists of bit mask m.

    Within a list points must be distinct. They are compared by their first 16 bytes.
    """
    sizes = [len(points) for points in lists]
    bits = np.repeat(np.uint16(1) << np.arange(len(lists), dtype=np.uint16), sizes)
    if not len(bits):
        return np.zeros(1 << len(lists), dtype=np.int64)
    flat = np.concatenate([np.ascontiguousarray(points.array[:, :16]).view("<u8") for points in lists])
    first, second = np.ascontiguousarray(flat[:, 0]), np.ascontiguousarray(flat[:, 1])
    order = np.argsort(first)
    alike = first[order[1:]] == first[order[:-1]]
    if (alike & (second[order[1:]] != second[order[:-1]])).any():
        # Two strangers share 8 bytes, by chance or by design: sort by all 16.
        order = np.lexsort((second, first))
        alike = first[order[1:]] == first[order[:-1]]
    alike &= second[order[1:]] == second[order[:-1]]
    masks = np.bitwise_or.reduceat(bits[order], np.flatnonzero(np.concatenate(([True], ~alike))))
    return np.bincount(masks, minlength=1 << len(lists)).astype(np.int64)
