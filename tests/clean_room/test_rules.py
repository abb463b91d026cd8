"""Policies, suppression, rates and error bars."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clean_room.agreements import ColumnOffer
from clean_room.errors import BoundsExceeded
from clean_room.estimates import count_interval, mean_interval, sum_half_width, truncated_laplace
from clean_room.noise import DrawnNoise, fixed_point
from clean_room.rules import MinimumInput, release_cells, shown_rate
from privacy.errors import Misuse, Refused


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"purpose": "model.credit"}, "purpose_not_agreed"),
        ({"purpose": "overlap"}, "purpose_not_agreed"),
        ({"partner_dataset": "salaries"}, "dataset_not_agreed"),
        ({"dimensions": ("spender",)}, "dimension_not_agreed"),
        ({"dimensions": ("age_band", "age_band")}, "dimension_not_agreed"),
        ({"partner_dimensions": ("secret_score",)}, "dimension_not_agreed"),
        ({"segment": "everybody"}, "segment_not_agreed"),
        ({"partner_segment": "adults_40"}, "segment_not_agreed"),
        ({"key": "device"}, "column_not_agreed"),
        ({"epsilon": 1.5}, "epsilon_above_agreed"),
        ({"kind": "measure", "column": "secret_score"}, "column_not_agreed"),
        ({"kind": "measure", "column": "mail"}, "column_not_agreed"),
    ],
)
def test_what_is_not_agreed_is_refused_before_a_job_exists(pair, change, code):
    before = len(pair.bank.service.jobs(limit=200)[0])
    pair.wire.requests.clear()
    kind = change.pop("kind", "overlap")
    with pytest.raises(Refused) as refused:
        pair.bank.service.submit(pair.query(kind, **change), principal="ana")
    assert refused.value.code == code
    assert refused.value.rule == code
    assert refused.value.advice
    assert len(pair.bank.service.jobs(limit=200)[0]) == before
    assert pair.wire.requests == []


def test_the_contributor_checks_for_itself(pair):
    """An analyst whose node checks nothing still gets nowhere."""
    import clean_room.asking
    import clean_room.panel

    class Anything:
        def check(self, asked: object) -> None:
            return None

    kept = clean_room.panel.AGREED, clean_room.asking.AGREED
    clean_room.panel.AGREED = clean_room.asking.AGREED = Anything()
    try:
        job = pair.bank.run(pair.query(epsilon=1.5))
    finally:
        clean_room.panel.AGREED, clean_room.asking.AGREED = kept
    assert job.state == "rejected"
    assert job.error.code == "epsilon_above_agreed"
    assert pair.shop.service.job(job.id).state == "rejected"


def test_a_query_type_that_is_not_agreed_is_refused(make_pair):
    pair = make_pair(terms={"query_types": ("align",)})
    with pytest.raises(Refused) as refused:
        pair.bank.service.submit(pair.query(), principal="ana")
    assert refused.value.code == "query_type_not_agreed"


def test_unknown_collaborations_and_datasets_are_named(pair):
    with pytest.raises(Misuse) as unknown:
        pair.bank.service.submit(pair.query(collaboration="f" * 32), principal="ana")
    assert unknown.value.code == "unknown_collaboration"
    with pytest.raises(Misuse) as unknown:
        pair.bank.service.submit(pair.query(dataset="nothing"), principal="ana")
    assert unknown.value.code == "unknown_dataset"


counts = st.lists(st.integers(-20, 300), min_size=1, max_size=24)


@given(counts, st.integers(1, 120))
def test_what_is_hidden_cannot_be_had_by_subtraction(cells, minimum):
    array = np.array(cells, dtype=np.int64).reshape(1, -1)
    release = release_cells(array, minimum)
    hidden = array[~release.shown]
    if release.value is None:
        assert array.sum() < minimum
        assert not release.shown.any()
        return
    assert release.value == array.sum()
    assert (array[release.shown] >= minimum).all()
    if hidden.size and hidden.size < array.size:
        assert hidden.size >= 2
        assert hidden.sum() >= minimum
    assert (release.reason is None) == (hidden.size == 0)


@given(st.integers(-5, 200), st.integers(0, 200))
def test_rates_are_whole_percent_and_high_ones_are_not_told_apart(value, of):
    rate = shown_rate(value, of)
    if of == 0:
        assert rate is None
    elif round(100 * value / of) > 85:
        assert rate == ">85 %"
    else:
        assert rate == f"{max(0, round(100 * value / of))} %"


def test_the_minimum_is_enough_and_one_less_is_not():
    MinimumInput(100).check(100)
    with pytest.raises(Refused) as refused:
        MinimumInput(100).check(99)
    assert refused.value.code == "input_below_minimum"


@pytest.mark.parametrize("cells", [1, 2, 5, 16])
def test_count_intervals_hold_what_they_claim(cells):
    epsilon, half = 1.0, DrawnNoise().half_width(1.0, 1e-6)
    noise = truncated_laplace(epsilon, half)
    total = noise
    for _ in range(cells - 1):
        total = np.convolve(total, noise)
    low, high = count_interval(10_000, epsilon, half, cells)
    reach = high - 10_000
    assert reach == 10_000 - low
    middle = len(total) // 2
    assert total[middle - reach : middle + reach + 1].sum() >= 0.95
    assert total[middle - reach + 1 : middle + reach].sum() < 0.95


def test_intervals_are_points_without_noise_and_never_below_zero():
    assert count_interval(7, 1.0, 0, 4) == (7, 7)
    assert count_interval(1, 0.1, 100, 1)[0] == 0
    assert sum_half_width("laplace", 0) == 0
    assert sum_half_width("laplace", 1) == pytest.approx(2.9957, abs=1e-3)
    assert sum_half_width("gaussian", 1) == pytest.approx(1.95996, abs=1e-4)


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(1, 1000), st.integers(0, 50))
def test_a_mean_lies_in_its_interval_and_within_bounds(total, half, count, spread):
    low, high = mean_interval(total, half, (max(0, count - spread), count + spread), (-1e3, 1e3))
    mean = min(max(total / count, -1e3), 1e3)
    assert low <= mean + 1e-9
    assert mean <= high + 1e-9


@given(st.floats(-1e7, 1e7), st.floats(1e-3, 1e7))
def test_fixed_point_keeps_bounds_and_five_digits_of_the_larger(lower, width):
    column = fixed_point(ColumnOffer("x", lower, lower + width))
    assert column.lower / column.scale <= lower + 1e-6
    assert column.upper / column.scale >= lower + width - 1e-6
    magnitude = max(abs(lower), abs(lower + width))
    assert 1e5 <= magnitude * column.scale < 1e6 or (column.scale == 1 and magnitude >= 1e6)


@pytest.mark.parametrize(
    ("upper", "scale"), [(1e-4, 10**9), (0.05, 10**7), (1.0, 10**5), (500, 1000), (1e5, 1), (1e9, 1)]
)
def test_the_fixed_point_follows_the_bounds(upper, scale):
    assert fixed_point(ColumnOffer("x", 0, upper)).scale == scale


def test_bounds_that_cannot_travel_are_refused():
    with pytest.raises(BoundsExceeded):
        fixed_point(ColumnOffer("x", 0, 1e300))
