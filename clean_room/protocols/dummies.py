"""The contributor's noise: D dummies a cell, k of which match. List sizes do not depend on k.

    matching      X25519(s, 9) into the own list and X25519(s, X), X = X25519(x, 9), into the returned one:
                  the analyst raises the first to x and meets the second
    not matching  unrelated random points of the subgroup into both

Every dummy costs the same two multiplications, whichever kind it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clean_room.errors import Misuse
from clean_room.group.blinding import BASE_POINT, Blinder, new_scalar
from clean_room.group.points import Points, Random
from clean_room.protocols.terms import Terms

__all__ = ["Dummies", "check_matching", "draw_dummies"]


@dataclass(frozen=True, slots=True)
class Dummies:
    """`returned[i]`: whole points for A's segment i; `own[j]`: for C's segment j. Cells in order."""

    returned: tuple[Points, ...]
    own: tuple[Points, ...]


def check_matching(terms: Terms, matching: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """`matching` as int64 of shape (A segments, C segments) with 0 ≤ k ≤ D; Misuse otherwise."""
    k = np.asarray(matching)
    if k.shape != terms.groups or not np.issubdtype(k.dtype, np.integer):
        raise Misuse("The noise must be one whole number for every cell.")
    if (k < 0).any() or (k > terms.dummies_per_cell).any():
        raise Misuse("The noise of a cell must lie between 0 and its number of dummies.")
    return k.astype(np.int64)


def draw_dummies(
    terms: Terms, matching: npt.NDArray[np.integer], key: bytes, random: Random, blinder: Blinder
) -> Dummies:
    """All dummies of a run. `key` is X; PeerViolation if it has low order."""
    k = check_matching(terms, matching)
    rows, columns = k.shape
    returned: list[list[bytes]] = [[] for _ in range(rows)]
    own: list[list[bytes]] = [[] for _ in range(columns)]
    for i, j in np.ndindex(rows, columns):
        for number in range(terms.dummies_per_cell):
            s, other = new_scalar(random), new_scalar(random)
            own[j].append(blinder.blind(s, BASE_POINT))
            matches = number < k[i, j]
            returned[i].append(blinder.blind(s, key) if matches else blinder.blind(other, BASE_POINT))
    return Dummies(
        tuple(Points(b"".join(points)) for points in returned),
        tuple(Points(b"".join(points)) for points in own),
    )
