"""Match rates above 85 % are not told apart, by any number of a result.

The analyst knows how many own people went in, so a count would give away the very rate that is only shown as
">85 %". Where more of an own cell matches, all of its counts are therefore scaled down to 85 % of it and
become lower bounds, marked `capped`, with the size of the cell as the upper end of the interval. Everything
else (totals, rates, means over several cells, intervals) is computed from the counts so scaled, so that no
subtraction and no division brings the true ones back.

Why at all, with noise on every count: noise hides each person, not a fact about everybody. That all of a
group are the partner's is known of each of them, however much noise there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from clean_room.rules import shown_rate

__all__ = ["HighRates", "cap_high"]

_HIGH = 85


@dataclass(frozen=True, slots=True)
class HighRates:
    """Counts after capping. counts: int64 (own cells, partner's cells); rows: which own cells were capped;
    factors: float64, what the counts of each own cell were multiplied with; sizes: own people of each."""

    counts: npt.NDArray[np.int64] = field(repr=False)
    rows: npt.NDArray[np.bool_]
    factors: npt.NDArray[np.float64] = field(repr=False)
    sizes: tuple[int, ...]

    def marked(
        self, document: Mapping[str, Any], *, people: bool, whole: Callable[[int], int] = int
    ) -> dict[str, Any]:
        """A result computed from `counts`, with what is a lower bound marked and its interval opened.

        people: whether `value` is a number of people; whole: from people who went in to those they stand for.
        """
        shown = dict(document)
        if not self.rows.any():
            return shown
        if not shown["suppressed"]:
            shown |= self._bound(shown, sum(self.sizes), people, whole)
            if shown.get("rate") is not None and not self.rows.all():
                shown["rate"] = f"≥{shown_rate(int(self.counts.sum()), sum(self.sizes))}"
            elif "rate" in shown:
                shown["rate"] = f">{_HIGH} %"
        columns = self.counts.shape[1]
        shown["cells"] = [
            dict(cell) | self._bound(cell, self.sizes[n // columns], people, whole)
            if self.rows[n // columns] and not cell["suppressed"]
            else cell
            for n, cell in enumerate(shown.get("cells", ()))
        ]
        return shown

    def _bound(
        self, shown: Mapping[str, Any], most: int, people: bool, whole: Callable[[int], int]
    ) -> dict[str, Any]:
        return {"capped": True} | ({"ci95": [shown["ci95"][0], whole(most)]} if people else {})


def cap_high(counts: npt.NDArray[np.int64], sizes: Sequence[int]) -> HighRates:
    """Scale down the rows of `counts` (own cells, partner's cells) that hold more than 85 % of `sizes`."""
    total, of = counts.sum(axis=1), np.array(sizes, dtype=np.int64)
    high = (of > 0) & (np.rint(100 * total / np.maximum(of, 1)) > _HIGH)
    factors = np.where(high, of * _HIGH / 100 / np.maximum(total, 1), 1.0)
    capped = np.where(high[:, None], np.floor(counts * factors[:, None]), counts).astype(np.int64)
    return HighRates(capped, high, factors, tuple(int(n) for n in sizes))
