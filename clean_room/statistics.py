"""What noisy sums say of a column over the people two partners share: sum, count, mean, variance, lift.

Every interval is at 95 % and covers the noise of all its parts. A lift compares the rate among those whom
a campaign reached with the rate among a holdout, per person of the own group whether shared or not; its
interval covers the noise and the chance of who was held out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from clean_room.agreements import ColumnOffer
from clean_room.estimates import count_interval, mean_interval, ratio_interval, sum_half_width
from clean_room.noise import NoisePlan, fixed_point, middle, squares_of
from clean_room.protocols.terms import ColumnTerms, OverlapTerms
from clean_room.rules import CellRelease
from clean_room.thinning import sampling_half_width

__all__ = ["MeasuredColumn", "cells_of", "interval_of"]

_HIDDEN: Mapping[str, Any] = {"value": None, "ci95": None, "count": None}


@dataclass(frozen=True, slots=True)
class MeasuredColumn:
    """One column over the shared people, in total and per cell.

    counts: int64 (A cells, C cells); sums: float64 (A cells, C cells, columns summed), both noisy.
    """

    column: ColumnOffer
    statistic: str
    plan: NoisePlan
    counts: npt.NDArray[np.int64] = field(repr=False)
    sums: npt.NDArray[np.float64] = field(repr=False)

    @property
    def terms(self) -> ColumnTerms:
        """The fixed point the column travelled as."""
        return fixed_point(self.column)

    @property
    def scale(self) -> float:
        """Laplace scale of the noise on each sum, in the column's units."""
        return self._scale(self.terms)

    def _scale(self, column: ColumnTerms) -> float:
        if self.plan.half_width == 0:
            return 0.0
        return column.magnitude / self.plan.sum_epsilon / column.scale / self.plan.keep

    def document(self, release: CellRelease, terms: OverlapTerms) -> dict[str, Any]:
        """The statistic in total and in every cell that may be shown."""
        cells = []
        for i, j in cells_of(self.counts):
            open_ = bool(release.shown[i, j])
            one = self._of(int(self.counts[i, j]), self.sums[i, j], 1) if open_ else dict(_HIDDEN)
            labels = {"analyst": terms.analyst_segments[i], "contributor": terms.contributor_segments[j]}
            cells.append(labels | one | {"suppressed": not open_})
        whole = self._of(int(self.counts.sum()), self.sums.sum(axis=(0, 1)), self.counts.size)
        return self._described(release, whole) | {"cells": cells if self.counts.size > 1 else []}

    def _described(self, release: CellRelease, whole: dict[str, Any]) -> dict[str, Any]:
        return (dict(_HIDDEN) if release.suppressed else whole) | {
            "column": self.column.name,
            "statistic": self.statistic,
            "noise": "laplace",
            "noise_scale": self.scale,
            "bounds": [self.column.lower, self.column.upper],
        }

    def _of(self, count: int, sums: npt.NDArray[np.float64], cells: int) -> dict[str, Any]:
        if self.statistic == "count":
            return {"value": count, "ci95": interval_of(count, self.plan, cells), "count": count}
        if self.statistic == "variance":
            return self._variance(count, sums, cells)
        total = float(sums[0])
        if self.statistic == "sum":
            half = self._half(self.terms, count, cells)
            return {"value": total, "ci95": [total - half, total + half], "count": count}
        bounds = (self.column.lower, self.column.upper)
        mean, low, high = self._mean(total, count, cells, bounds, column=self.terms, level=0.975)
        return {"value": mean, "ci95": [low, high], "count": count}

    def _half(self, column: ColumnTerms, count: int, cells: int, level: float = 0.95) -> float:
        """Half width of a sum over cells: √m of one's, and what rounding to the fixed point may have lost.

        With thinning, also who was let through: (1 − p)/p of the sum of squares, at most that of the bounds.
        """
        rounding = max(0, count) * 0.5 / column.scale
        if self.plan.keep >= 1:
            return sum_half_width("laplace", self._scale(column), level) * math.sqrt(cells) + rounding
        level = 1 - (1 - level) / 2
        noise = sum_half_width("laplace", self._scale(column), level) * math.sqrt(cells)
        return noise + sum_half_width("gaussian", math.sqrt(self._chance(column, count)), level) + rounding

    def _chance(self, column: ColumnTerms, count: int) -> float:
        """Largest variance of a sum over `count` people by chance of who was let through, units squared."""
        most = column.magnitude / column.scale
        return (1 - self.plan.keep) / self.plan.keep * max(0, count) * most * most

    def _mean(
        self,
        total: float,
        count: int,
        cells: int,
        bounds: tuple[float, float],
        *,
        column: ColumnTerms,
        level: float,
    ) -> tuple[float, float, float]:
        half = self._half(column, count, cells, level)
        low, high = mean_interval(total, half, interval_of(count, self.plan, cells, level), bounds)
        mean = min(max(total / max(1, count), bounds[0]), bounds[1])
        return mean, min(low, mean), max(high, mean)

    def _variance(self, count: int, sums: npt.NDArray[np.float64], cells: int) -> dict[str, Any]:
        """E[(x − c)²] − (E[x] − c)², c the middle of the bounds; three parts at 98⅓ % each."""
        first, level = self.terms, 1 - 0.05 / 3
        centre, reach = middle(first), (self.column.upper - self.column.lower) / 2
        squares = squares_of(self.column)
        mean, low, high = self._mean(
            float(sums[0]), count, cells, (self.column.lower, self.column.upper), column=first, level=level
        )
        second, second_low, second_high = self._mean(
            float(sums[1]), count, cells, (0.0, reach * reach), column=squares, level=level
        )
        off = [abs(low - centre), abs(high - centre)]
        nearest = 0.0 if low <= centre <= high else min(off)
        value = min(max(0.0, second - (mean - centre) ** 2), reach * reach)
        ends = [max(0.0, second_low - max(off) ** 2), min(reach * reach, second_high - nearest**2)]
        interval = [min(ends[0], value), max(ends[1], value)]
        return {"value": value, "ci95": interval, "count": count, "mean": mean}

    def lift(
        self, release: CellRelease, sizes: Sequence[int], treated: Sequence[int], held: Sequence[int]
    ) -> dict[str, Any]:
        """Rate among `treated` own cells over the rate among `held`, less one; hidden if any cell is.

        sizes: own people of each own cell, shared or not: the denominators of the rates.
        """
        if release.suppressed or not release.shown.all():
            hidden: dict[str, Any] = {"suppressed": True, "reason": release.reason, "cells": []}
            return dict(_HIDDEN) | self._described(release, dict(_HIDDEN)) | hidden
        groups = [self._group(sizes, cells) for cells in (treated, held)]
        (rate, variance), (base, base_variance) = groups
        interval = ratio_interval(rate, variance, base, base_variance)
        whole = {
            "value": rate / base - 1 if base else None,
            "ci95": None if interval is None else [interval[0] - 1, interval[1] - 1],
            "count": int(self.counts.sum()),
        }
        difference, spread = rate - base, 1.959964 * math.sqrt(variance + base_variance)
        return self._described(release, whole) | {
            "cells": [],
            "treated": {"people": sum(sizes[i] for i in treated), "rate": rate},
            "holdout": {"people": sum(sizes[i] for i in held), "rate": base},
            "incremental": {"value": difference, "ci95": [difference - spread, difference + spread]},
        }

    def _group(self, sizes: Sequence[int], cells: Sequence[int]) -> tuple[float, float]:
        """The rate of a group and the variance of that estimate."""
        people = max(1, sum(sizes[i] for i in cells))
        total = float(self.sums[list(cells), :, 0].sum())
        rate = total / people
        low, high = min(0.0, self.column.lower), max(0.0, self.column.upper)
        inside = min(max(rate, low), high)
        # Bhatia and Davis (2000): the variance of what lies in [l, u] with mean m is at most (u − m)(m − l).
        chance = (high - inside) * (inside - low) / people
        noise = 2 * self.scale**2 * len(cells) * self.counts.shape[1] / people**2
        shared = int(self.counts[list(cells), :].sum())
        return rate, chance + noise + self._chance(self.terms, shared) / people**2


def interval_of(value: int, plan: NoisePlan, cells: int, level: float = 0.95) -> list[int]:
    """Interval of a count that is the sum of `cells` noisy ones."""
    cells *= plan.patterns
    if plan.keep >= 1:
        return list(count_interval(value, plan.count_epsilon, plan.half_width, cells, level))
    # Noise and chance have half of what may be missed each.
    level = 1 - (1 - level) / 2
    far = 1 << 40  # from the edge at 0, where intervals are cut off
    noise = (count_interval(far, plan.count_epsilon, plan.half_width, cells, level)[1] - far) / plan.keep
    half = math.ceil(noise + sampling_half_width(math.ceil(max(0, value) + noise), plan.keep, level))
    return [max(0, value - half), max(0, value + half)]


def cells_of(counts: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Every (own cell, partner's cell), row by row."""
    return [(i, j) for i in range(counts.shape[0]) for j in range(counts.shape[1])]
