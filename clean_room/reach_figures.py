"""From the noisy counts of a reach to its figures: reach, regions, exclusive people, k-way overlaps, errors.

Every contributor j draws one number κ for every set T of other lists. It adds κ to the region "exactly T
and j" and takes it off "exactly T" (of which the part in one list alone is counted as what is left of its
size), and one number ν for its size. So a figure, a sum of regions with weights w, is off by

    Σ_j Σ_T (w(T ∪ j) − w(T) − w(j)) κ_jT  +  Σ_j w(j) ν_j

independent truncated discrete Laplace all of them; intervals come from the exact distribution of that sum.
The analyst knows its own size, which has no noise. For the reach every weight is 1, so each κ counts once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from clean_room.estimates import truncated_laplace
from clean_room.noise import NoisePlan
from clean_room.protocols.ring import sets_beside
from clean_room.rules import HIGH_RATE

__all__ = ["Figure", "ReachFigures", "ReachRelease", "release_regions"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of people and the half width of its 95 % interval. Noise may take the number below 0."""

    value: int
    half: int

    @property
    def ci95(self) -> list[int]:
        """The interval, never below 0."""
        return [max(0, self.value - self.half), max(0, self.value + self.half)]


@dataclass(frozen=True, slots=True, eq=False)
class ReachFigures:
    """Figures of one reach.

    regions: int64 (2^N,): at bit mask m, people in exactly the lists of m; index 0 is 0. Noisy.
    """

    regions: npt.NDArray[np.int64] = field(repr=False)
    plan: NoisePlan

    @classmethod
    def of(cls, counts: npt.NDArray[np.int64], sizes: Iterable[int], plan: NoisePlan) -> ReachFigures:
        """From the counts of regions of two lists and more, and the sizes of all lists."""
        regions = counts.copy()
        for number, size in enumerate(sizes):
            inside = [m for m in range(len(counts)) if m >> number & 1 and m.bit_count() > 1]
            regions[1 << number] = size - counts[inside].sum()
        regions[0] = 0
        return cls(regions, plan)

    @property
    def lists(self) -> int:
        """N."""
        return len(self.regions).bit_length() - 1

    def region(self, mask: int) -> Figure:
        """People in exactly the lists of `mask`; of one list: in no other."""
        return self._sum([mask])

    def reach(self) -> Figure:
        """People in any list, each counted once."""
        return self.at_least(1)

    def exactly(self, lists: int) -> Figure:
        """People in so many lists."""
        return self._sum(m for m in range(1, len(self.regions)) if m.bit_count() == lists)

    def at_least(self, lists: int) -> Figure:
        """People in so many lists or more."""
        return self._sum(m for m in range(1, len(self.regions)) if m.bit_count() >= lists)

    def _sum(self, masks: Iterable[int]) -> Figure:
        weights = np.zeros(len(self.regions), dtype=np.int64)
        weights[list(masks)] = 1
        return Figure(int(weights @ self.regions), self._half(weights))

    def _half(self, weights: npt.NDArray[np.int64]) -> int:
        draws: Counter[int] = Counter()
        for place in range(1, self.lists):
            beside = np.array(sets_beside(self.lists, place))
            own = weights[1 << place]
            draws.update(np.abs(weights[beside | 1 << place] - weights[beside] - own).tolist())
        sizes = sum(int(weights[1 << place]) for place in range(1, self.lists))
        regions = tuple(sorted((factor, count) for factor, count in draws.items() if factor))
        plan = self.plan
        return _half_width(
            plan.count_epsilon, plan.half_width, regions, plan.size_epsilon, plan.size_slack, sizes
        )


@lru_cache(maxsize=256)
def _half_width(  # noqa: PLR0917
    epsilon: float,
    half_width: int,
    draws: tuple[tuple[int, int], ...],
    size_epsilon: float,
    slack: int,
    sizes: int,
    level: float = 0.95,
) -> int:
    """Least h with P(−h … h) ≥ level, of a sum of draws (each factor · κ, so many of them) and sizes.

    The distribution is exact but for rounding: the product of the parts' Fourier transforms, which are
    real as the parts are symmetric.
    """
    furthest = half_width * sum(factor * count for factor, count in draws) + slack * sizes
    length = 1 << (2 * furthest + 1).bit_length()
    spectrum = np.ones(length // 2 + 1)
    for noise, factor, count in (
        *((truncated_laplace(epsilon, half_width), factor, count) for factor, count in draws),
        (truncated_laplace(size_epsilon, slack), 1, sizes),
    ):
        wrapped = np.zeros(length)
        middle = len(noise) // 2
        wrapped[factor * np.arange(-middle, middle + 1) % length] = noise
        spectrum *= np.fft.rfft(wrapped).real ** count
    density = np.fft.irfft(spectrum, length)
    reach = density[0] + np.concatenate(([0.0], 2 * np.cumsum(density[1 : furthest + 1])))
    return min(int(np.searchsorted(reach, level - 1e-9)), furthest)


@dataclass(frozen=True, slots=True)
class ReachRelease:
    """What may be shown. `regions`: bool (2^N,); `totals`: the k of which "in exactly k" may be shown;
    `at_least`: the k of which "in k or more" may be. Nothing at all if `suppressed`; `covered` says that too
    much of the analyst's own list is in others."""

    regions: npt.NDArray[np.bool_]
    totals: frozenset[int]
    at_least: frozenset[int]
    suppressed: bool
    covered: bool = False

    @property
    def reason(self) -> str | None:
        """Code for why something is hidden."""
        if self.suppressed:
            return "below_minimum_cell"
        if self.covered:
            return "high_rate"
        return None if self.regions[1:].all() else "cells_below_minimum"


def release_regions(regions: npt.NDArray[np.int64], minimum: int, own: int = 0) -> ReachRelease:
    """Apply the minimum cell to noisy regions, so that nothing hidden follows from what is shown.

    Shown besides regions are the reach, totals over all regions of k lists, and how many people went into
    the analyst's own list. Regions are therefore grouped by their number of lists k and by whether they hold
    the analyst's list (bit 0), as if the total of each group were known: of a group none is hidden, or two or
    more that hold at least `minimum` people together, the next smallest being hidden as well until that is
    so. Where it cannot be had, the total of that k is hidden and the groups of all such k are joined. If it
    cannot be had even with no total but the reach, everything is hidden.

    `own` is how many people went into the analyst's own list. If more than 85 % of them are in one other
    list, or in any, how many are not would single them out: then no region of the own list is shown, and no
    total.
    """
    masks = np.arange(len(regions))
    lists = np.array([int(m).bit_count() for m in masks])
    own_list = (masks & 1).astype(bool)
    parties = int(lists.max())
    covered = own > 0 and _most_covered(regions) * 100 > HIGH_RATE * own
    joined: set[int] = set(range(1, parties + 1)) if covered else set()
    while regions[1:].sum() >= minimum:
        shown = (regions >= minimum) & (masks > 0) & ~(own_list & covered)
        group = np.where(np.isin(lists, list(joined)), 0, lists)
        failed = [
            (k, side)
            for k in sorted({*group[1:].tolist()})
            for side in (False, True)
            if not _hidden_enough(regions, shown, (group == k) & (own_list == side) & (masks > 0), minimum)
        ]
        if not failed:
            # A total of regions that are all shown anyway tells nothing more.
            totals = frozenset(k for k in range(1, parties + 1) if k not in joined or shown[lists == k].all())
            # Totals are known apart from those of `joined`, of which only the sum may be.
            whole = frozenset(
                k for k in range(1, parties + 1) if all(j >= k for j in joined) or all(j < k for j in joined)
            )
            return ReachRelease(shown, totals, whole, False, covered)
        fresh = {k for k, _ in failed if k}
        if not fresh:
            rest = [k for k in range(1, parties + 1) if k not in joined]
            if not rest:
                break
            fresh = {min(rest, key=lambda k: int(regions[lists == k].sum()))}
        joined |= fresh
    return ReachRelease(np.zeros(len(regions), dtype=np.bool_), frozenset(), frozenset(), True)


def _most_covered(regions: npt.NDArray[np.int64]) -> int:
    """How many of the analyst's own people are in the other list that has most of them, or in any other."""
    masks = np.arange(len(regions))
    inside = (masks & 1).astype(bool)
    others = range(1, len(regions).bit_length() - 1)
    shared = [int(regions[inside & (masks >> other & 1).astype(bool)].sum()) for other in others]
    return max(*shared, int(regions[inside].sum() - regions[1]))


def _hidden_enough(
    regions: npt.NDArray[np.int64],
    shown: npt.NDArray[np.bool_],
    group: npt.NDArray[np.bool_],
    minimum: int,
) -> bool:
    """Hide more of the group until it tells nothing; False if that cannot be."""
    if shown[group].all():
        return True
    places = np.flatnonzero(group)
    for place in places[np.argsort(regions[places], kind="stable")]:
        hidden = group & ~shown
        if hidden.sum() >= 2 and regions[hidden].sum() >= minimum:
            return True
        shown[place] = False
    hidden = group & ~shown
    return bool(hidden.sum() >= 2 and regions[hidden].sum() >= minimum)
