"""Noise for differential privacy: integer-valued, exact, from a secure source.

All samples come from OpenDP's discrete samplers (Canonne, Kamath and Steinke, "The Discrete Gaussian for
Differential Privacy", 2020), which use exact rational arithmetic and the operating system's randomness.
None of these functions takes a seed on purpose.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from privacy.errors import Misuse

__all__ = ["discrete_gaussian", "discrete_laplace", "half_width_for", "truncated_discrete_laplace"]

_SCALE_LIMIT = 1e9  # beyond it 64-bit counts drown anyway
_SIZE_LIMIT = 10_000_000


def discrete_laplace(scale: float, size: int) -> list[int]:
    """Return `size` independent samples with P(x) ∝ exp(−|x| / scale) on the integers.

    Added to a count that one person changes by at most 1, `scale = 1/ε` gives ε-DP. Raises `Misuse` unless
    0 < scale ≤ 10⁹ and 0 ≤ size ≤ 10⁷.
    """
    return _samples(_laplace(_positive("scale", scale)), _count(size))


def discrete_gaussian(sigma: float, size: int) -> list[int]:
    """Return `size` independent samples with P(x) ∝ exp(−x² / 2σ²) on the integers.

    Added to a vector of l2 sensitivity 1 it gives 1/(2σ²)-zCDP. Raises `Misuse` as `discrete_laplace`.
    """
    return _samples(_gaussian(_positive("sigma", sigma)), _count(size))


def truncated_discrete_laplace(scale: float, half_width: int, size: int) -> list[int]:
    """Return `size` independent samples with P(x) ∝ exp(−|x| / scale) on −half_width … half_width.

    By rejection, so the distribution is exactly the discrete Laplace conditioned on the interval; clamping
    would pile up mass at its ends. Raises `Misuse` for a scale above 100 × (half_width + 1), where hardly
    any sample is accepted.
    """
    if isinstance(half_width, bool) or not isinstance(half_width, int) or half_width < 0:
        raise Misuse("half_width is an integer of 0 or more.")
    measure, wanted = _laplace(_positive("scale", scale)), _count(size)
    if scale > 100 * (half_width + 1):
        raise Misuse("The scale is far wider than the interval.", advice="Use a wider interval.")
    alpha = math.exp(-1 / scale)
    accepted_share = 1 - 2 * alpha ** (half_width + 1) / (1 + alpha)
    kept: list[int] = []
    while len(kept) < wanted:
        missing = wanted - len(kept)
        draw = min(int(missing / accepted_share * 1.1) + 16, 1_000_000)
        kept.extend(x for x in _samples(measure, draw) if -half_width <= x <= half_width)
    return kept[:wanted]


def half_width_for(epsilon: float, delta: float) -> int:
    """Return the least B for which truncated noise on −B … B with scale 1/ε is (ε, δ)-DP for a count.

    Let α = e^−ε and let the noise have P(x) = α^|x| / Z on −B … B, Z = (1 + α − 2α^(B+1)) / (1 − α). A person
    moves the count by at most 1, so compare the output distributions p around c and q around c + 1.

    - Where both are positive, both share the normaliser Z and their exponents differ by at most 1, so
      p ≤ e^ε · q and q ≤ e^ε · p.
    - The only output of p that q cannot give is c − B; symmetrically c + 1 + B for q.

    Hence sup over events S of P(S) − e^ε·Q(S) is exactly the mass of that one output,
    ``δ(B) = α^B / Z = α^B (1 − α) / (1 + α − 2α^(B+1))``, which falls as B grows, and the mechanism is
    (ε, δ)-DP if and only if δ(B) ≤ δ. The bound is tight; nothing smaller than the returned B will do.
    Neighbouring data that change *two* counts by one each (a person moved between cells) pay twice.

    The decision is taken with a relative margin of 10⁻⁹ towards the larger B, far above rounding error.
    Raises `Misuse` unless ε and δ are finite, 0 < ε ≤ 100 and 0 < δ < 1.
    """
    if not (math.isfinite(epsilon) and 0 < epsilon <= 100):
        raise Misuse("epsilon is a number above 0 and at most 100.")
    if not (math.isfinite(delta) and 0 < delta < 1):
        raise Misuse("delta is a number between 0 and 1.")
    target = math.log(delta) - 1e-9
    # Solved for α^B; then moved to the exact least integer, since the quotient is rounded.
    one_less = -math.expm1(-epsilon)
    alpha = math.exp(-epsilon)
    start = math.log((one_less + 2 * alpha * delta) / (delta * (1 + alpha))) / epsilon
    width = max(0, math.ceil(start) - 2)
    while _log_delta(epsilon, width) > target:
        width += 1
    return width


def _log_delta(epsilon: float, half_width: int) -> float:
    """ln δ(B) of `half_width_for`, without overflow or cancellation for small ε."""
    one_less = -math.expm1(-epsilon)  # 1 − α
    # 1 + α − 2α^(B+1) = (1 − α) + 2α(1 − α^B)
    rest = one_less + 2 * math.exp(-epsilon) * -math.expm1(-epsilon * half_width)
    return -epsilon * half_width + math.log(one_less) - math.log(rest)


def _positive(name: str, value: float) -> float:
    if isinstance(value, bool) or not (math.isfinite(value) and 0 < value <= _SCALE_LIMIT):
        raise Misuse(f"{name} is a number above 0 and at most 10⁹.")
    return float(value)


def _count(size: int) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= _SIZE_LIMIT:
        raise Misuse("size is an integer from 0 to 10⁷.")
    return size


def _samples(measurement: Any, size: int) -> list[int]:
    return list(measurement([0] * size)) if size else []


# OpenDP is slow to import, so only those who draw noise wait for it. It wants its reviewed-but-unproven
# parts asked for by name; enabling "contrib" is process-wide and only lifts that question.
@lru_cache(maxsize=64)
def _laplace(scale: float) -> Any:
    import opendp.prelude as dp

    dp.enable_features("contrib")
    return dp.m.make_laplace(dp.vector_domain(dp.atom_domain(T="i64")), dp.l1_distance(T="i64"), scale=scale)


@lru_cache(maxsize=64)
def _gaussian(sigma: float) -> Any:
    import opendp.prelude as dp

    dp.enable_features("contrib")
    return dp.m.make_gaussian(dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="i64"), scale=sigma)
