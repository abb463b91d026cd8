from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clean_room.errors import Misuse
from clean_room.protocols.sampling import (
    STEPS,
    SampleFacts,
    SamplingKey,
    factor_of,
    month_of,
    planned_step,
    rate_of,
    sampled_interval,
    step_of,
    threshold_of,
)
from clean_room.samples import Sampler

PAIR, AGREEMENT = bytes(range(32)), "ab" * 32


def facts(step: int, each: np.ndarray, inside: np.ndarray) -> SampleFacts:
    """How a list fell in which person i has `each[i]` rows."""
    rows = each[inside]
    return SampleFacts(step, int(each.sum()), int(rows.sum()), int((rows**2).sum()), int(rows.max()))


def test_both_nodes_derive_the_same_key_and_nobody_else_does() -> None:
    one, two = (SamplingKey.derive(PAIR, AGREEMENT, "2026-11") for _ in range(2))
    assert one == two
    others = [
        SamplingKey.derive(PAIR[::-1], AGREEMENT, "2026-11"),
        SamplingKey.derive(PAIR, "cd" * 32, "2026-11"),
        SamplingKey.derive(PAIR, AGREEMENT, "2026-12"),
    ]
    assert len({one.key, *(other.key for other in others)}) == 4
    assert len({one.id, *(other.id for other in others)}) == 4
    assert one.key.hex() not in one.id
    assert one.key.hex() not in repr(one)
    assert repr(one.key) not in repr(one)


def test_the_month_turns_at_midnight_utc() -> None:
    assert month_of(datetime(2026, 11, 30, 23, 59, tzinfo=UTC)) == "2026-11"
    assert month_of(datetime(2026, 12, 1, tzinfo=UTC)) == "2026-12"


@given(st.integers(0, STEPS))
def test_a_step_of_the_ladder_is_its_own_step(step: int) -> None:
    assert step_of(rate_of(step)) == step
    assert abs(threshold_of(step) / 2**64 - rate_of(step)) < 1e-12


@given(st.floats(1e-7, 1.0))
def test_a_rate_asked_for_is_rounded_up_and_by_less_than_a_fifth(rate: float) -> None:
    got = rate_of(step_of(rate))
    assert rate * (1 - 1e-6) <= got <= rate * 1.19


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(Misuse):
        step_of(rate)


def test_thresholds_halve_every_four_steps_without_rounding() -> None:
    assert [threshold_of(4 * n) for n in range(4)] == [2**64, 2**63, 2**62, 2**61]
    with pytest.raises(Misuse):
        threshold_of(STEPS + 1)


def test_a_lower_rate_samples_fewer_of_the_same_people() -> None:
    key = SamplingKey.derive(PAIR, AGREEMENT, "2026-11")
    people = pa.array([f"person.{n}@example.org" for n in range(20_000)])
    kept = [
        set(Sampler.of(key, rate).kept("email", people, "comity-1", "CN").rows.tolist())
        for rate in (1.0, 0.5, 0.1)
    ]
    assert kept[2] < kept[1] < kept[0]
    assert len(kept[0]) == 20_000
    assert abs(len(kept[1]) - 10_000) < 400


def test_the_planner_samples_as_few_as_reach_the_error_and_never_below_the_minimum() -> None:
    step = planned_step(100_000_000, minimum=1000)
    n, p = 100_000_000, rate_of(step)
    assert 1.96 * math.sqrt((1 - p) / (p * n)) <= 0.005
    p = rate_of(step + 1)
    assert 1.96 * math.sqrt((1 - p) / (p * n)) > 0.005
    assert planned_step(2_000, minimum=1000) == 0
    assert planned_step(0, minimum=1) == 0
    assert 50_000 * rate_of(planned_step(50_000, minimum=40_000, error=1.0)) >= 44_000
    assert planned_step(100_000_000, minimum=1000, noise=1000.0) < step


def test_everybody_in_the_sample_is_exact() -> None:
    whole = facts(0, np.ones(5000), np.ones(5000, dtype=bool))
    assert factor_of(whole) == (1.0, True)
    assert sampled_interval(1234, 0, whole) == (1234, 1234)
    assert sampled_interval(1234, 7, whole) == (1227, 1241)


@pytest.mark.parametrize("shared", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("rows", ["one each", "some have more"])
def test_intervals_hold_the_truth_nineteen_times_in_twenty(shared: float, rows: str) -> None:
    """600 samples of a list of 40,000 people, each noised: the interval misses in 5 %, give or take 2.5."""
    rng = np.random.default_rng(7)
    people, step, epsilon = 40_000, 12, 0.5
    each = np.ones(people, dtype=np.int64)
    if rows != "one each":
        each += rng.poisson(0.4, people) + 20 * (rng.random(people) < 0.002)
    truth = int(people * shared)
    missed, errors = 0, []
    for _ in range(600):
        inside = rng.random(people) < rate_of(step)
        noise = rng.geometric(1 - math.exp(-epsilon)) - rng.geometric(1 - math.exp(-epsilon))
        fell = facts(step, each, inside)
        count = int(inside[:truth].sum()) + noise
        low, high = sampled_interval(count, 6, fell)
        errors.append(count * factor_of(fell)[0] - truth)
        missed += not low <= truth <= high
    assert missed <= 600 * 0.075
    assert abs(np.mean(errors)) < 4 * np.std(errors) / math.sqrt(600)


def test_the_interval_of_a_list_without_repeats_is_that_of_a_hypergeometric_draw() -> None:
    fell = SampleFacts(step=16, rows=1_600_000, sampled=100_000, squares=100_000, most=1)
    low, high = sampled_interval(50_000, 0, fell)
    assert (low + high) / 2 == pytest.approx(800_000)
    hypergeometric = 1.96 * math.sqrt(100_000 * 0.5 * 0.5 * (1 - 1 / 16)) * 16
    assert (high - low) / 2 == pytest.approx(hypergeometric, rel=1e-3)


def test_one_person_with_very_many_rows_does_not_move_the_estimate() -> None:
    inside = SampleFacts(step=16, rows=1_100_000, sampled=162_500, squares=62_500 + 10**10, most=100_000)
    assert factor_of(inside) == (16.0, False)
    left_out = SampleFacts(step=16, rows=1_100_000, sampled=62_500, squares=62_500, most=1)
    assert factor_of(left_out) == (16.0, False)


def test_thinning_is_undone_and_widens_the_interval() -> None:
    fell = SampleFacts(step=16, rows=1_600_000, sampled=100_000, squares=100_000, most=1)
    plain, thinned = sampled_interval(50_000, 3, fell), sampled_interval(45_000, 3, fell, keep=0.9)
    assert sum(thinned) == pytest.approx(sum(plain))
    assert thinned[1] - thinned[0] > plain[1] - plain[0]


def test_a_negative_noisy_count_is_nobody() -> None:
    fell = SampleFacts(step=4, rows=1000, sampled=500, squares=500, most=1)
    low, high = sampled_interval(-5, 7, fell)
    assert low == 0
    assert high > 0
