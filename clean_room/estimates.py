"""Error bars: what noise of a known distribution does to a count, a sum and a mean.

Intervals are exact for counts (the distribution of the sum of the cells' noises is computed by
convolution) and conservative for means (both parts at 97.5 %, worst corner).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["count_interval", "mean_interval", "ratio_interval", "sum_half_width", "truncated_laplace"]

Floats = npt.NDArray[np.float64]


def truncated_laplace(epsilon: float, half_width: int) -> Floats:
    """Probabilities of −half_width … half_width under a discrete Laplace of scale 1/ε cut off there."""
    if half_width == 0:
        return np.ones(1)
    weights = np.exp(-epsilon * np.abs(np.arange(-half_width, half_width + 1)))
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def count_interval(
    value: int, epsilon: float, half_width: int, cells: int, level: float = 0.95
) -> tuple[int, int]:
    """Central interval of the true count behind the sum of `cells` noisy counts; never below 0."""
    noise = _convolved(truncated_laplace(epsilon, half_width), cells)
    middle = len(noise) // 2
    reach = noise[middle] + np.concatenate(([0.0], 2 * np.cumsum(noise[middle + 1 :])))
    half = int(np.searchsorted(reach, level - 1e-12)) if half_width else 0
    half = min(half, middle)
    return max(0, value - half), max(0, value + half)


def sum_half_width(noise: str, scale: float, level: float = 0.95) -> float:
    """Half width of one sum's interval: `scale` is the Laplace scale b or the Gaussian σ."""
    if scale == 0:
        return 0.0
    if noise == "laplace":
        return -scale * math.log(1 - level)
    return scale * math.sqrt(2) * _erfinv(level)


def mean_interval(
    total: float, total_half: float, count: Sequence[int], bounds: tuple[float, float]
) -> tuple[float, float]:
    """Interval of a mean from that of its sum and of its count, kept within the clip bounds."""
    low_count, high_count = max(1, count[0]), max(1, count[1])
    corners = [(total + s) / n for s in (-total_half, total_half) for n in (low_count, high_count)]
    lower, upper = bounds
    return min(max(lower, min(corners)), upper), max(min(upper, max(corners)), lower)


def ratio_interval(
    top: float, top_variance: float, bottom: float, bottom_variance: float, z: float = 1.959964
) -> tuple[float, float] | None:
    """Fieller's interval (1954) of top/bottom, independent and about normal; None if it has no end.

    It has none when `bottom` cannot be told from 0.
    """
    a = bottom * bottom - z * z * bottom_variance
    b = top * bottom
    c = top * top - z * z * top_variance
    inside = b * b - a * c
    if a <= 0 or inside < 0:
        return None
    root = math.sqrt(inside)
    return (b - root) / a, (b + root) / a


def _convolved(noise: Floats, copies: int) -> Floats:
    # Square and multiply; the tails stay exact, as nothing is cut off.
    result, power = np.ones(1), noise
    while copies:
        if copies & 1:
            result = np.convolve(result, power)
        power = np.convolve(power, power) if copies > 1 else power
        copies >>= 1
    return result


def _erfinv(x: float) -> float:
    low, high = 0.0, 10.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle) < x else (low, middle)
    return (low + high) / 2
