"""Intervals of measured statistics hold what they say, over many drawn noises and many drawn people."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clean_room.agreements import ColumnOffer
from clean_room.estimates import ratio_interval
from clean_room.noise import NoisePlan, fixed_point, middle, squares_of
from clean_room.rules import release_cells
from clean_room.statistics import MeasuredColumn
from privacy.noise import discrete_laplace, truncated_discrete_laplace

COLUMN = ColumnOffer("spend", 0.0, 200.0)
PLAN = NoisePlan(1.0, 1e-6, 1 / 3, 1 / 3, 60)


def noisy(values: np.ndarray, plan: NoisePlan) -> tuple[np.ndarray, np.ndarray]:
    """One cell's count and sums as the protocol would give them."""
    columns = fixed_point(COLUMN), squares_of(COLUMN)
    totals = [
        columns[0].fixed_point(values).sum(),
        columns[1].fixed_point((values - middle(columns[0])) ** 2).sum(),
    ]
    sums = [
        (total + discrete_laplace(c.magnitude / plan.sum_epsilon, 1)[0]) / c.scale
        for total, c in zip(totals, columns, strict=True)
    ]
    count = len(values) + truncated_discrete_laplace(1 / plan.count_epsilon, plan.half_width, 1)[0]
    return np.array([[count]]), np.array([[sums]])


def test_the_interval_of_a_variance_holds_it_at_least_as_often_as_it_says() -> None:
    values = np.random.default_rng(7).gamma(2.0, 20.0, 2000).clip(0, 200)
    inside = 0
    for _ in range(200):
        counts, sums = noisy(values, PLAN)
        found = MeasuredColumn(COLUMN, "variance", PLAN, counts, sums)._of(int(counts[0, 0]), sums[0, 0], 1)
        low, high = found["ci95"]
        assert low <= found["value"] <= high
        inside += low <= values.var() <= high
    # 190 expected at least; the parts are joined by Bonferroni, so it is nearer 200. P(< 184) < 1 %.
    assert inside >= 184


def test_the_interval_of_a_lift_covers_noise_and_chance() -> None:
    rng, truth, inside, told = np.random.default_rng(11), 0.25, 0, 0
    column, plan = ColumnOffer("bought", 0.0, 1.0), NoisePlan(1.0, 1e-6, 0.5, 0.5, 40)
    sizes = [40_000, 20_000]
    for _ in range(300):
        sold = [rng.binomial(sizes[0], 0.05 * (1 + truth)), rng.binomial(sizes[1], 0.05)]
        sums = np.array([[[s + rng.laplace(0, 2.0)]] for s in sold])
        measured = MeasuredColumn(column, "lift", plan, np.array([[30_000], [15_000]]), sums)
        found = measured.lift(release_cells(measured.counts, 50), sizes, [0], [1])
        if found["ci95"] is not None:
            told += 1
            inside += found["ci95"][0] <= truth <= found["ci95"][1]
    assert told == 300
    # Binomial(300, ≥ .95): below 272 once in a thousand.
    assert inside >= 272


def test_a_lift_over_nothing_has_no_value() -> None:
    counts, sums = np.array([[100], [100]]), np.array([[[5.0]], [[0.0]]])
    measured = MeasuredColumn(COLUMN, "lift", PLAN, counts, sums)
    found = measured.lift(release_cells(counts, 50), [1000, 1000], [0], [1])
    assert found["value"] is None and found["ci95"] is None
    low, high = found["incremental"]["ci95"]
    assert low < 0.005 < high


def test_a_lift_with_a_hidden_cell_is_hidden() -> None:
    counts = np.array([[100], [3]])
    measured = MeasuredColumn(COLUMN, "lift", PLAN, counts, np.zeros((2, 1, 1)))
    found = measured.lift(release_cells(counts, 50), [1000, 1000], [0], [1])
    assert found["suppressed"] and found["value"] is None and "treated" not in found


@given(st.floats(0.01, 100), st.floats(1e-6, 1), st.floats(0.01, 100), st.floats(1e-6, 1))
def test_fiellers_interval_holds_the_ratio_or_has_no_end(
    top: float, top_variance: float, bottom: float, bottom_variance: float
) -> None:
    found = ratio_interval(top, top_variance, bottom, bottom_variance)
    if bottom**2 <= 1.96**2 * bottom_variance * 0.99:
        assert found is None
    if found is not None:
        low, high = found
        assert low <= top / bottom <= high


def test_fiellers_interval_of_a_sure_bottom_is_the_plain_one() -> None:
    low, high = ratio_interval(10.0, 1.0, 2.0, 0.0) or (0.0, 0.0)
    assert (low, high) == (pytest.approx(5 - 1.959964 / 2), pytest.approx(5 + 1.959964 / 2))
