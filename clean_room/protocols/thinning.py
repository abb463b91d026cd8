"""Thinning: the contributor drops each of the analyst's points with a fixed probability.

A dropped point gives way to one of a random string, which comes from the same map as people do and meets
nothing. List sizes do not change, nothing tells a dropped point from one of a stranger, and no analyst,
however it chose its points or X, can undo it. What that alone is worth is in `clean_room.thinning`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clean_room.group.points import Points, Random

__all__ = ["dropped", "random_column", "replaced"]

WHOLE_SHARE = 1000
_LIMIT = 1 << 32


def dropped(count: int, keep: int, random: Random) -> npt.NDArray[np.int64]:
    """Places of those of `count` rows that are dropped, each with probability 1 − keep/1000.

    32 bits a row are drawn against the share: off by at most 2⁻³², in favour of dropping.
    """
    if keep >= WHOLE_SHARE:
        return np.empty(0, dtype=np.int64)
    drawn = np.frombuffer(random(4 * count), dtype="<u4")
    return np.flatnonzero(drawn >= keep * _LIMIT // WHOLE_SHARE).astype(np.int64)


def random_column(count: int, random: Random) -> pa.BinaryArray:
    """`count` random strings of 32 bytes, to be hashed where there is nobody."""
    strings = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(32), count, [None, pa.py_buffer(random(32 * count))]
    )
    return strings.cast(pa.binary())


def replaced(
    points: Points, places: npt.NDArray[np.int64], blind: Callable[[pa.BinaryArray], bytes], random: Random
) -> Points:
    """`points` with those at `places` replaced by what `blind` makes of random strings."""
    if not len(places):
        return points
    array = points.array.copy()
    array[places] = Points(blind(random_column(len(places), random))).array
    return Points(array.reshape(-1).data.cast("B"))
