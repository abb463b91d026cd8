"""Noise. The statistical tests are set so wide that a right sampler fails once in a hundred million runs."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import Misuse
from privacy.noise import discrete_gaussian, discrete_laplace, half_width_for, truncated_discrete_laplace

SAMPLES = 10_000


def chi_square(samples: list[int], weight: dict[int, float]) -> tuple[float, int]:
    """Pearson's statistic against `weight` over its keys, the rest pooled into one cell; and its freedom."""
    total = sum(weight.values())
    counts = Counter(samples)
    statistic, seen, mass, cells = 0.0, 0, 0.0, 0
    for value, w in weight.items():
        expected = len(samples) * w / total
        if expected < 10:
            continue
        statistic += (counts[value] - expected) ** 2 / expected
        seen += counts[value]
        mass += w / total
        cells += 1
    expected = len(samples) * (1 - mass)
    if expected > 10:
        statistic += (len(samples) - seen - expected) ** 2 / expected
        cells += 1
    return statistic, cells - 1


def assert_fits(samples: list[int], weight: dict[int, float]) -> None:
    statistic, freedom = chi_square(samples, weight)
    # Wilson and Hilferty's approximation; 5.6 standard deviations, one tail, is about 10⁻⁸.
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert z < 5.6, (statistic, freedom)


@pytest.mark.parametrize("scale", [0.5, 2.0, 7.5])
def test_discrete_laplace_fits(scale: float) -> None:
    assert_fits(discrete_laplace(scale, SAMPLES), {x: math.exp(-abs(x) / scale) for x in range(-400, 401)})


@pytest.mark.parametrize("sigma", [0.7, 3.0])
def test_discrete_gaussian_fits(sigma: float) -> None:
    assert_fits(
        discrete_gaussian(sigma, SAMPLES), {x: math.exp(-(x**2) / (2 * sigma**2)) for x in range(-60, 61)}
    )


@pytest.mark.parametrize(("scale", "half_width"), [(2.0, 3), (5.0, 2), (1.0, 14), (10.0, 1)])
def test_truncated_laplace_is_the_conditioned_one_not_the_clamped_one(scale: float, half_width: int) -> None:
    samples = truncated_discrete_laplace(scale, half_width, SAMPLES)
    assert len(samples) == SAMPLES and max(map(abs, samples)) <= half_width
    assert_fits(samples, {x: math.exp(-abs(x) / scale) for x in range(-half_width, half_width + 1)})


def test_the_fit_test_has_teeth() -> None:
    clamped = [max(-3, min(3, x)) for x in discrete_laplace(2.0, SAMPLES)]
    with pytest.raises(AssertionError):
        assert_fits(clamped, {x: math.exp(-abs(x) / 2.0) for x in range(-3, 4)})


def delta_of(epsilon: float, half_width: int, distance: int = 1) -> Fraction:
    """The exact hockey-stick divergence between c + noise and c + 1 + noise, summed over all outputs.

    With rational α (the float nearest to e^−ε) the sum is exact; it knows nothing of the closed form.
    """
    alpha = Fraction(math.exp(-epsilon))
    p = {x: alpha ** abs(x) for x in range(-half_width, half_width + 1)}
    total = sum(p.values())
    q = {x + distance: w for x, w in p.items()}
    return (
        sum((max(Fraction(0), w - q.get(x, Fraction(0)) / alpha) for x, w in p.items()), Fraction(0)) / total
    )


@settings(max_examples=30)
@given(epsilon=st.floats(0.2, 4.0), exponent=st.floats(0.5, 9))
def test_half_width_is_enough_and_the_least(epsilon: float, exponent: float) -> None:
    delta = 10**-exponent
    width = half_width_for(epsilon, delta)
    assert delta_of(epsilon, width) <= Fraction(delta)
    # The margin of 10⁻⁹ may cost one step where δ(B) equals δ to nine digits.
    if width > 0:
        assert delta_of(epsilon, width - 1) > Fraction(delta) * (1 - Fraction(1, 10**8))


def test_known_half_widths() -> None:
    assert half_width_for(1.0, 1e-6) == 14
    assert half_width_for(1.0, 0.9) == 1  # B = 0 has δ = 1: the plain count
    assert half_width_for(100.0, 1e-6) == 1
    assert half_width_for(1e-6, 1e-9) > 1_000_000


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, -math.inf, 1e12])
def test_arguments_that_make_no_noise_are_refused(bad: float) -> None:
    for call in (
        lambda: discrete_laplace(bad, 1),
        lambda: discrete_gaussian(bad, 1),
        lambda: truncated_discrete_laplace(bad, 3, 1),
        lambda: half_width_for(bad, 1e-6),
        lambda: half_width_for(1.0, bad),
    ):
        with pytest.raises(Misuse):
            call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: discrete_laplace(1.0, -1),
        lambda: discrete_laplace(1.0, 10**9),
        lambda: discrete_laplace(1.0, 1.5),  # type: ignore[arg-type]
        lambda: discrete_laplace(True, 1),
        lambda: truncated_discrete_laplace(1.0, -1, 1),
        lambda: truncated_discrete_laplace(1e6, 1, 1),
        lambda: half_width_for(1.0, 1.0),
    ],
)
def test_misuse(call: object) -> None:
    with pytest.raises(Misuse):
        call()  # type: ignore[operator]


def test_no_samples_are_no_samples() -> None:
    assert (
        discrete_laplace(1.0, 0) == discrete_gaussian(1.0, 0) == truncated_discrete_laplace(1.0, 3, 0) == []
    )
    assert truncated_discrete_laplace(1.0, 0, 5) == [0] * 5
