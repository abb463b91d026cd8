"""From what the analyst has learnt to what may be shown: minimum cell, error bars, rates.

    overlap   value, ci95, rate, cells[{analyst, contributor, value, ci95, suppressed}]
    measure   value (sum, count or mean of the column over the shared people), ci95, count, noise_scale, cells
    align     value (number of shared people, exact)

Everywhere `suppressed` and `reason`; a suppressed value is null and never tells 0 from "below the minimum".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clean_room.agreements import ColumnOffer
from clean_room.errors import Misuse
from clean_room.estimates import count_interval, mean_interval, sum_half_width
from clean_room.inquiries import Outcome
from clean_room.noise import NoisePlan, fixed_point
from clean_room.protocols.terms import OverlapTerms, Terms
from clean_room.rules import Asked, CellRelease, release_cells, shown_rate

__all__ = ["released"]


def released(outcome: Outcome, asked: Asked, terms: Terms, plan: NoisePlan, people: int) -> dict[str, Any]:
    """The result document of a query; `people` is how many of the analyst's own went in."""
    if outcome.counts is None:
        shared = 0 if outcome.rows is None else len(outcome.rows)
        hidden = shared < asked.agreement.terms.minimum_cell
        return {
            "value": None if hidden else shared,
            "ci95": None if hidden else [shared, shared],
            "rate": None if hidden else shown_rate(shared, people),
            "cells": [],
            "suppressed": hidden,
            "reason": "below_minimum_cell" if hidden else None,
            "epsilon_spent": 0.0,
        }
    if not isinstance(terms, OverlapTerms):
        raise Misuse("counts came out of terms that have none.")
    release = release_cells(outcome.counts, asked.agreement.terms.minimum_cell)
    shown: dict[str, Any] = {
        "suppressed": release.suppressed,
        "reason": release.reason,
        "epsilon_spent": plan.epsilon,
        "delta_spent": plan.delta,
    }
    if asked.query.kind == "measure":
        column = None if asked.query.column is None else asked.partners.column(asked.query.column)
        if column is None or outcome.sums is None:
            raise Misuse("a measure outcome without its column.")
        measured = _Measured(column, asked.query.statistic, plan)
        return shown | measured.document(outcome.counts, outcome.sums, release, terms)
    value = release.value
    interval = None if value is None else _interval(value, plan, outcome.counts.size)
    return shown | {
        "value": value,
        "ci95": interval,
        "rate": None if value is None else shown_rate(value, people),
        "cells": [
            {
                "analyst": terms.analyst_segments[i],
                "contributor": terms.contributor_segments[j],
                "value": int(outcome.counts[i, j]) if release.shown[i, j] else None,
                "ci95": _interval(int(outcome.counts[i, j]), plan, 1) if release.shown[i, j] else None,
                "suppressed": not release.shown[i, j],
            }
            for i, j in _cells(outcome.counts)
        ],
    }


@dataclass(frozen=True, slots=True)
class _Measured:
    """One column's statistic, in total and per cell."""

    column: ColumnOffer
    statistic: str
    plan: NoisePlan

    @property
    def scale(self) -> float:
        """Laplace scale of the noise on each sum, in the column's units."""
        fixed = fixed_point(self.column)
        return 0.0 if self.plan.half_width == 0 else fixed.magnitude / self.plan.sum_epsilon / fixed.scale

    def document(
        self,
        counts: npt.NDArray[np.int64],
        sums: npt.NDArray[np.float64],
        release: CellRelease,
        terms: OverlapTerms,
    ) -> dict[str, Any]:
        hidden: dict[str, Any] = {"value": None, "ci95": None, "count": None}
        cells = []
        for i, j in _cells(counts):
            open_ = bool(release.shown[i, j])
            one = self._statistic(int(counts[i, j]), float(sums[i, j]), 1) if open_ else hidden
            labels = {"analyst": terms.analyst_segments[i], "contributor": terms.contributor_segments[j]}
            cells.append(labels | one | {"suppressed": not open_})
        whole = self._statistic(int(counts.sum()), float(sums.sum()), counts.size)
        return (hidden if release.suppressed else whole) | {
            "column": self.column.name,
            "statistic": self.statistic,
            "noise": "laplace",
            "noise_scale": self.scale,
            "bounds": [self.column.lower, self.column.upper],
            "cells": cells if counts.size > 1 else [],
        }

    def _statistic(self, count: int, total: float, cells: int) -> dict[str, Any]:
        if self.statistic == "count":
            return {"value": count, "ci95": _interval(count, self.plan, cells), "count": count}
        # A sum over m cells carries m independent noises: √m times one half width bounds their spread.
        spread = math.sqrt(cells)
        # Every value was rounded to the fixed point, by half a unit at most.
        rounding = max(0, count) * 0.5 / fixed_point(self.column).scale
        if self.statistic == "sum":
            half = sum_half_width("laplace", self.scale) * spread + rounding
            return {"value": total, "ci95": [total - half, total + half], "count": count}
        half = sum_half_width("laplace", self.scale, 0.975) * spread + rounding
        bounds = (self.column.lower, self.column.upper)
        low, high = mean_interval(total, half, _interval(count, self.plan, cells, 0.975), bounds)
        mean = min(max(total / max(1, count), bounds[0]), bounds[1])
        return {"value": mean, "ci95": [min(low, mean), max(high, mean)], "count": count}


def _interval(value: int, plan: NoisePlan, cells: int, level: float = 0.95) -> list[int]:
    return list(count_interval(value, plan.count_epsilon, plan.half_width, cells, level))


def _cells(counts: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    return [(i, j) for i in range(counts.shape[0]) for j in range(counts.shape[1])]
