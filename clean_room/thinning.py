"""What thinning by itself protects: the (ε, δ) of dropping every matching person with probability 1 − p.

Of an intersection of N people the analyst sees Bin(N, p), which is near Bin(N − 1, p): whether any one of
them is in it is hidden by who else was dropped, even from an analyst who has lied about its points or its
key and sees every dummy for what it is. The larger the intersection, the better it hides.

    δ(ε) = max over both directions of Σ_k max(0, P(k) − e^ε Q(k))        P = Bin(N, p), Q = Bin(N − 1, p)

is computed exactly from the privacy loss, which with d = N − k people dropped is ln(N(1 − p)/d); the sum is
over the d that carry all but 10⁻²⁰ of the probability, and what is left out is added, so that it is never
below the truth. Definition: Dwork and Roth (2014), 2.4, in the form of Balle, Barthe and Gaboardi (2018),
theorem 1; sampled counts as a mechanism of their own: Cormode and Bharadwaj, "Sample and threshold
differential privacy" (AISTATS 2022).

The counts are divided by p, which makes them unbiased, and error bars are widened by what chance adds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from privacy.errors import Misuse

__all__ = ["SIZES", "Guarantee", "delta_of", "epsilon_of", "guarantees", "sampling_half_width", "share"]

SIZES = (1_000, 10_000, 100_000)
"""Intersections a guarantee is stated for where the real one must not be told."""
_MOST_EPSILON = 20.0
_LEFT_OUT = 1e-20
_ROUNDING = 1 + 1e-6
"""Beyond what floating-point logarithms of factorials are off by."""
Floats = npt.NDArray[np.float64]


def share(thousandths: int) -> float:
    """The probability that a matching person is let through."""
    return thousandths / 1000


@dataclass(frozen=True, slots=True)
class Guarantee:
    """Of an intersection of `people`: `epsilon` at `delta`, None where there is no ε for so small a δ."""

    people: int
    epsilon: float | None
    delta: float

    def document(self) -> dict[str, Any]:
        """For results, previews and receipts; ε rounded up to three decimals."""
        epsilon = None if self.epsilon is None else math.ceil(self.epsilon * 1000) / 1000
        return {"people": self.people, "epsilon": epsilon, "delta": self.delta}


def guarantees(keep: float, delta: float, sizes: Sequence[int] = SIZES) -> list[dict[str, Any]]:
    """What thinning to the share `keep` guarantees by itself, for each size of the intersection."""
    return [Guarantee(size, epsilon_of(size, keep, delta), delta).document() for size in sizes]


def delta_of(people: int, keep: float, epsilon: float) -> float:
    """The least δ for which thinning an intersection of `people` is (ε, δ)-differentially private."""
    _check(people, keep)
    dropped, probability = _dropped(people, 1 - keep)
    loss = dropped / (people * (1 - keep))
    one = float((probability * np.maximum(0.0, 1 - math.exp(epsilon) * loss)).sum())
    other = float((probability * np.maximum(0.0, loss - math.exp(epsilon))).sum())
    return min(1.0, max(one, other) * _ROUNDING + _LEFT_OUT)


def epsilon_of(people: int, keep: float, delta: float) -> float | None:
    """The least ε at which thinning holds with `delta`, to 10⁻⁶ and never too low.

    None where no ε does: when nobody is dropped, with probability pᴺ, everybody is seen to be there.
    """
    _check(people, keep)
    if not 0 < delta < 1:
        raise Misuse("delta lies between 0 and 1.")
    if people < 1 or delta_of(people, keep, _MOST_EPSILON) > delta:
        return None
    low, high = 0.0, _MOST_EPSILON
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if delta_of(people, keep, middle) <= delta else (middle, high)
    return high


def sampling_half_width(people: int, keep: float, level: float = 0.95) -> float:
    """How far an estimate of `people` from those let through is off by chance, at `level`.

    In people: the exact binomial quantile over p; 0 where nobody is dropped.
    """
    if keep >= 1 or people <= 0:
        return 0.0
    dropped, probability = _dropped(people, 1 - keep)
    off = np.abs(dropped - people * (1 - keep))
    order = np.argsort(off)
    reached = np.searchsorted(np.cumsum(probability[order]), level)
    return float(off[order][min(int(reached), len(order) - 1)]) / keep


def _check(people: int, keep: float) -> None:
    if people < 0 or not 0 < keep < 1:
        raise Misuse("thinning keeps a share above 0 and below 1 of no fewer than no people.")


def _dropped(people: int, drop: float) -> tuple[Floats, Floats]:
    """How many are dropped, with their probabilities, but for what has less than 10⁻²⁰ together."""
    if people == 0:
        return np.zeros(1), np.ones(1)
    mean = people * drop
    # Bernstein: P(|d − mean| > t) ≤ 2 exp(−t² / (2 (variance + t/3))), at most 2e⁻⁴⁸ for this t.
    variance, power = mean * (1 - drop), -math.log(_LEFT_OUT / 2) + 1
    reach = power / 3 + math.sqrt(power * power / 9 + 2 * power * variance)
    low, high = max(0, math.floor(mean - reach)), min(people, math.ceil(mean + reach))
    dropped = np.arange(low, high + 1, dtype=np.float64)
    first = (
        math.lgamma(people + 1)
        - math.lgamma(low + 1)
        - math.lgamma(people - low + 1)
        + low * math.log(drop)
        + (people - low) * math.log1p(-drop)
    )
    steps = np.log((people - dropped[:-1]) / (dropped[:-1] + 1)) + math.log(drop) - math.log1p(-drop)
    logs = first + np.concatenate(([0.0], np.cumsum(steps)))
    return dropped, np.exp(logs)
