"""Which noise a query gets, how its ε is shared out, and who draws it.

Cells of one side partition its people, so a person added or removed changes one count by one: every cell
is noised at the full ε of the counts (parallel composition). A `measure` query shares its ε equally among
the counts and each column it sums: two columns for a variance, which needs the squares as well. Counts are
noised by truncated discrete Laplace through dummies, sums by discrete Laplace scaled to the largest
absolute value a clipped row can have. A `reach` shares its ε between the counts of regions and the size of
the list, and its δ equally.

With epochs (`protocols.epochs`) the noise of all runs is drawn at the full ε for every pair of lifetimes, in
the first run, which is charged; the count of a run is the sum of those pairs that are running.

On K keys a person counts for more than one: without somebody, a row of the partner's may match another of
the own by a later key, and a row that shared a phone may take it over. Following what the lack of a row
changes from key to key shows that at most 1, then 2, then 4 … matches change, 2^K − 1 in all. So the noise
of each of the 2^K − 1 patterns of keys (`protocols.waterfall`) is drawn at that part of ε, with δ shared out
as group privacy asks for that many changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clean_room.agreements import ColumnOffer
from clean_room.errors import BoundsExceeded
from clean_room.protocols.lifetimes import alive_pairs
from clean_room.protocols.terms import ColumnTerms, EpochTerms, RefreshTerms, Terms
from clean_room.rules import Asked
from privacy.noise import discrete_laplace, half_width_for, truncated_discrete_laplace

__all__ = [
    "REFRESHES",
    "DrawnNoise",
    "NoisePlan",
    "NoiseSource",
    "fixed_point",
    "in_epochs",
    "middle",
    "plan",
    "spent",
    "squares_of",
    "summed_columns",
]

REFRESHES = 3
"""How many refreshes an epoch has: with the first run a weekly figure for a month."""
_MAX_SCALE = 1e9  # of `privacy.noise`


class NoiseSource(Protocol):
    """Where the contributor's noise comes from. Both nodes must use the same kind: widths are agreed."""

    def half_width(self, epsilon: float, delta: float) -> int:
        """Half of the dummies a cell gets."""

    def matching(self, epsilon: float, half_width: int, shape: tuple[int, int]) -> npt.NDArray[np.int64]:
        """How many dummies of every cell match: 0 … 2 · half_width, centred at half_width."""

    def sums(self, scale: float, size: int) -> list[int]:
        """Noise for `size` sums, in fixed-point units; `scale` is that of a Laplace distribution."""


class DrawnNoise:
    """The real thing, through `privacy.noise` (OpenDP)."""

    def half_width(self, epsilon: float, delta: float) -> int:
        return half_width_for(epsilon, delta)

    def matching(self, epsilon: float, half_width: int, shape: tuple[int, int]) -> npt.NDArray[np.int64]:
        drawn = truncated_discrete_laplace(1 / epsilon, half_width, shape[0] * shape[1])
        return np.asarray(drawn, dtype=np.int64).reshape(shape) + half_width

    def sums(self, scale: float, size: int) -> list[int]:
        return discrete_laplace(scale, size)


@dataclass(frozen=True, slots=True)
class NoisePlan:
    """How one query's (ε, δ) is spent. All zero where a rule of its own lets members be revealed.

    `sum_epsilon` is for each column summed, `size_epsilon` for how many people go into a `reach`, whose noise
    is at most `size_slack`; their counts are those of its regions. A cell's count is the sum of `patterns`
    noisy ones. `keep` is the share of matching people that thinning lets through.
    """

    epsilon: float
    delta: float
    count_epsilon: float
    sum_epsilon: float
    half_width: int
    size_epsilon: float = 0.0
    size_slack: int = 0
    patterns: int = 1
    keep: float = 1.0


_SIZE_SHARES = {3: 0.41, 4: 0.34, 5: 0.29, 6: 0.24, 7: 0.20, 8: 0.17}
"""Of a reach's ε, what is for the size of a list, by the number of lists.

A contributor's noise moves the reach once for its size and once for each of a = 2^(N−1) − 1 sets of other
lists, with variance about 2/ε² each: 2/εₛ² + 2a/(ε − εₛ)² is least for εₛ = ε / (1 + a^⅓).
"""


def plan(asked: Asked, noise: NoiseSource) -> NoisePlan:
    """The plan both nodes derive from query and agreement. Refused (`bounds_exceeded`) if there is none."""
    if asked.query.kind in {"align", "activate"}:
        return NoisePlan(0.0, 0.0, 0.0, 0.0, 0)
    epsilon, delta = asked.epsilon, asked.agreement.terms.delta_per_query
    if asked.query.kind == "reach":
        size = epsilon * _SIZE_SHARES[2 + len(asked.query.others)]
        half, slack = noise.half_width(epsilon - size, delta / 2), noise.half_width(size, delta / 2)
        return NoisePlan(epsilon, delta, epsilon - size, 0.0, half, size_epsilon=size, size_slack=slack)
    keep = round(1000 * asked.agreement.terms.thinning) / 1000
    if asked.query.fallback_keys:
        changes = (1 << 1 + len(asked.query.fallback_keys)) - 1
        share = epsilon / changes
        group = sum(math.exp(step * share) for step in range(changes))
        half = noise.half_width(share, delta / group)
        return NoisePlan(epsilon, delta, share, 0.0, half, patterns=changes, keep=keep)
    if in_epochs(asked):
        half, patterns = noise.half_width(epsilon, delta), alive_pairs(REFRESHES, 0)
        return NoisePlan(epsilon, delta, epsilon, 0.0, half, patterns=patterns, keep=keep)
    columns = summed_columns(asked)
    share = epsilon / (1 + len(columns))
    if any(column.magnitude > _MAX_SCALE * share for column in columns):
        raise BoundsExceeded(
            "the noise such bounds need is beyond what can be drawn.",
            advice="Clip the column lower, or ask with a larger epsilon.",
        )
    sums = share if columns else 0.0
    return NoisePlan(epsilon, delta, share, sums, noise.half_width(share, delta), keep=keep)


def in_epochs(asked: Asked) -> bool:
    """Whether a query is one that is refreshed: an overlap of one cell, where the agreement has epochs."""
    query = asked.query
    plain = query.kind == "overlap" and not query.fallback_keys
    one_cell = not query.dimensions and not query.partner_dimensions
    return plain and one_cell and asked.agreement.terms.epoch_days > 0


def spent(terms: Terms, agreed: NoisePlan) -> NoisePlan:
    """The plan for one run of an epoch: a refresh costs nothing, and has the noise of its generation."""
    if not isinstance(terms, EpochTerms):
        return agreed
    agreed = replace(agreed, patterns=alive_pairs(terms.refreshes, terms.generation))
    return replace(agreed, epsilon=0.0, delta=0.0) if isinstance(terms, RefreshTerms) else agreed


def summed_columns(asked: Asked) -> tuple[ColumnTerms, ...]:
    """What a query has summed: its column and, for a variance, the squares of the distance from the middle.

    Empty for a query without a column, or with one that is not agreed (which the rules refuse).
    """
    column = None if asked.query.column is None else asked.partners.column(asked.query.column)
    if column is None:
        return ()
    first = fixed_point(column)
    if asked.query.statistic != "variance":
        return (first,)
    return first, squares_of(column)


def squares_of(column: ColumnOffer) -> ColumnTerms:
    """The fixed point of the squares of a column's distance from the middle of its bounds."""
    first = fixed_point(column)
    reach = (first.upper - first.lower) / 2 / first.scale
    return fixed_point(ColumnOffer(f"{column.name} squared", 0.0, reach * reach))


def middle(column: ColumnTerms) -> float:
    """The middle of a column's bounds, from which the squares of a variance are taken."""
    return (column.lower + column.upper) / 2 / column.scale


def fixed_point(column: ColumnOffer) -> ColumnTerms:
    """The integers a column travels as.

    The scale is the power of ten that brings the larger bound to 10⁵ … 10⁶ (1 for a larger bound), so that
    rounding is below 10⁻⁵ of it, while 7 · 10⁷ rows still stay below a quarter of the plain modulus.
    """
    magnitude = max(abs(column.lower), abs(column.upper))
    if magnitude > 1 << 40:
        raise BoundsExceeded("a column's clip bounds are at most 2^40.", advice="Clip the column lower.")
    scale = 1
    while magnitude * scale < 1e5 and scale < 10**12:
        scale *= 10
    lower, upper = int(np.floor(column.lower * scale)), int(np.ceil(column.upper * scale))
    return ColumnTerms(name=column.name, lower=lower, upper=upper, scale=scale)
