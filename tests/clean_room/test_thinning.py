"""Thinning: what it is worth is exact, answers stay unbiased, and chance is in the error bar."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clean_room.agreements import ColumnOffer
from clean_room.group.points import Points
from clean_room.noise import NoisePlan
from clean_room.protocols.thinning import dropped, replaced
from clean_room.statistics import MeasuredColumn, interval_of
from clean_room.thinning import SIZES, delta_of, epsilon_of, guarantees, sampling_half_width
from privacy.errors import Misuse


def divergence(people: int, keep: float, epsilon: float) -> float:
    """δ by summing both binomials, term by term, in both directions."""

    def of(n: int) -> list[float]:
        return [
            math.comb(n, k) * keep**k * (1 - keep) ** (n - k) if k <= n else 0.0 for k in range(people + 1)
        ]

    p, q = of(people), of(people - 1)
    e = math.exp(epsilon)
    one = sum(max(0.0, a - e * b) for a, b in zip(p, q, strict=True))
    return max(one, sum(max(0.0, b - e * a) for a, b in zip(p, q, strict=True)))


@settings(max_examples=40)
@given(st.integers(1, 60), st.sampled_from([0.5, 0.75, 0.9, 0.95]), st.floats(0, 3))
def test_delta_is_that_of_the_two_binomials(people: int, keep: float, epsilon: float) -> None:
    assert delta_of(people, keep, epsilon) == pytest.approx(
        divergence(people, keep, epsilon), rel=1e-5, abs=1e-15
    )


def test_a_hundredth_dropped_of_ten_thousand_gives_about_a_half() -> None:
    epsilon = epsilon_of(10_000, 0.99, 1e-6)
    assert epsilon is not None
    assert 0.45 < epsilon < 0.5
    assert delta_of(10_000, 0.99, epsilon) <= 1e-6 < delta_of(10_000, 0.99, epsilon - 0.001)


def test_more_people_hide_each_other_better_and_too_few_do_not_at_all() -> None:
    found = [epsilon_of(people, 0.99, 1e-6) for people in (1_000, 5_000, 10_000, 100_000, 10_000_000)]
    assert found[0] is None
    known = [e for e in found if e is not None]
    assert len(known) == 4
    assert known == sorted(known, reverse=True)
    # With probability pᴺ nobody is dropped, and then everybody is seen to be there.
    assert delta_of(100, 0.99, 15.0) >= 0.99**100


def test_dropping_more_protects_more() -> None:
    keeps = (0.995, 0.99, 0.95, 0.9, 0.5)
    found = [epsilon_of(20_000, keep, 1e-6) or math.inf for keep in keeps]
    assert found == sorted(found, reverse=True)


def test_guarantees_are_rounded_against_oneself_and_say_where_there_is_none() -> None:
    small, middle, _ = guarantees(0.99, 1e-6)
    assert [small["people"], middle["people"]] == list(SIZES[:2])
    assert small["epsilon"] is None
    exact = epsilon_of(10_000, 0.99, 1e-6)
    assert exact is not None
    assert exact <= middle["epsilon"] <= exact + 0.001


@pytest.mark.parametrize(
    ("people", "keep", "delta"), [(-1, 0.9, 0.1), (9, 1.0, 0.1), (9, 0.0, 0.1), (9, 0.9, 0)]
)
def test_what_is_no_thinning_is_misuse(people: int, keep: float, delta: float) -> None:
    with pytest.raises(Misuse):
        epsilon_of(people, keep, delta)


def test_nobody_is_dropped_at_a_thousand_and_the_share_is_kept_below() -> None:
    assert len(dropped(10_000, 1000, os.urandom)) == 0
    found = len(dropped(100_000, 990, os.urandom))
    assert abs(found - 1000) < 7 * math.sqrt(1000 * 0.99)
    assert dropped(3, 500, lambda n: b"\x00" * n).tolist() == []
    assert dropped(3, 500, lambda n: b"\xff" * n).tolist() == [0, 1, 2]


def test_what_is_replaced_is_replaced_in_place_and_the_rest_stays() -> None:
    points = Points(bytes(range(32)) * 4)
    seen: list[pa.BinaryArray] = []

    def blind(column: pa.BinaryArray) -> bytes:
        seen.append(column)
        return b"\xaa" * 32 * len(column)

    out = replaced(points, np.array([1, 3]), blind, os.urandom)
    assert [bytes(row) for row in out.array] == [bytes(range(32)), b"\xaa" * 32] * 2
    assert len(set(seen[0].to_pylist())) == 2
    assert bytes(points.buffer) == bytes(range(32)) * 4
    assert replaced(points, np.empty(0, np.int64), blind, os.urandom) is points


def plan(keep: float, half_width: int = 0, **more: Any) -> NoisePlan:
    return NoisePlan(1.0, 1e-6, 1.0, more.pop("sum_epsilon", 0.0), half_width, keep=keep, **more)


def test_the_interval_holds_the_true_count_as_often_as_it_says() -> None:
    random = np.random.default_rng(7)
    people, keep = 2_000, 0.9
    held = 0
    for kept in random.binomial(people, keep, 400):
        low, high = interval_of(round(kept / keep), plan(keep), 1)
        held += low <= people <= high
    assert held >= 0.95 * 400 - 3 * math.sqrt(400 * 0.05 * 0.95)


def test_thinning_widens_an_interval_and_its_absence_does_not() -> None:
    assert interval_of(500, plan(1.0), 1) == [500, 500]
    low, high = interval_of(500, plan(0.9), 1)
    assert low < 500 < high
    wide = interval_of(500, plan(0.9, half_width=20), 1)
    assert wide[0] < low
    assert wide[1] > high
    patterns = interval_of(500, NoisePlan(1.0, 1e-6, 1 / 3, 0.0, 50, patterns=3), 1)
    assert patterns[1] > interval_of(500, NoisePlan(1.0, 1e-6, 1 / 3, 0.0, 50), 1)[1]


def test_the_half_width_is_a_quantile_and_zero_without_people() -> None:
    assert sampling_half_width(0, 0.9) == sampling_half_width(1000, 1.0) == 0.0
    # The normal approximation at 1.96 σ / p, to within two people.
    assert sampling_half_width(10_000, 0.9) == pytest.approx(1.96 * 30 / 0.9, abs=2)


@pytest.mark.parametrize("statistic", ["sum", "mean", "count", "variance"])
def test_sums_of_those_let_through_stand_for_all_within_their_interval(statistic: str) -> None:
    random = np.random.default_rng(11)
    values = random.uniform(0, 100, 4_000)
    truth = {"sum": values.sum(), "mean": values.mean(), "count": 4_000, "variance": values.var()}[statistic]
    offer, keep, held, seen = ColumnOffer("spend", 0, 100), 0.9, 0, []
    for _ in range(60):
        kept = values[random.random(4_000) < keep]
        sums = [kept.sum()] + ([((kept - 50) ** 2).sum()] if statistic == "variance" else [])
        column = MeasuredColumn(
            offer,
            statistic,
            plan(keep, sum_epsilon=1.0),
            np.array([[round(len(kept) / keep)]]),
            np.array([[sums]]) / keep,
        )
        shown = column._of(int(column.counts[0, 0]), column.sums[0, 0], 1)
        seen.append(shown["value"])
        held += shown["ci95"][0] <= truth <= shown["ci95"][1]
    assert held >= 54
    assert np.mean(seen) == pytest.approx(truth, rel=0.02)
