"""Simulated attacks: right where the answer is known, never beyond the bound, the same for the same seed."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clean_room.attacks import (
    Part,
    Setting,
    active,
    assess,
    halving,
    one_person,
    parts_of,
    planned,
    singled_out,
)
from clean_room.attacks.counting import _of_list, _value
from clean_room.differencing import HASH_KEY_BYTES, Fingerprint, keyed_hashes
from privacy.noise import half_width_for, truncated_discrete_laplace


def month(epsilon: float, answers: int, **more: Any) -> Setting:
    return Setting(epsilon, half_width_for(epsilon, 1e-6), answers, **more)


def exact(answers: int, **more: Any) -> Setting:
    return Setting(1.0, 0, answers, **more)


def part(people: Any, noises: int = 1) -> Part:
    return Part(np.array(sorted(people), dtype=np.uint64), noises)


# ── counts at face value ────────────────────────────────────────────────────────────────────────────────


def test_the_plan_is_worth_what_it_is_worth_by_hand() -> None:
    # Two people of whom one is a member: one more call tells both.
    assert _value(2, 1, 0, True) == 0 and _value(2, 1, 1, True) == 2
    # A fresh list of two, at even odds: half the time both or neither, which one call tells.
    assert _of_list(0.5, 2, 1, True) == 1.0 and _of_list(0.5, 2, 2, True) == 2.0
    # Three people, one of them a member, one call: whoever is asked about alone is it with chance 1/3, and
    # then all are known; else one is known. (3 + 2 · 1) / 3.
    assert _value(3, 1, 1, True) == pytest.approx(5 / 3)


@pytest.mark.parametrize("prior", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("answers", [1, 3, 7])
def test_planning_is_never_worse_than_halving(prior: float, answers: int) -> None:
    setting = exact(answers, prior=prior)
    assert planned(setting) >= halving(setting) > 0


def test_without_noise_ten_calls_tell_a_handful_and_with_noise_none() -> None:
    assert exact(10).repeats == 1
    assert 10 < planned(exact(10)) < 20
    assert month(1.0, 10).repeats > 10
    assert planned(month(1.0, 10)) == halving(month(1.0, 10)) == 0


def test_averaging_as_often_as_said_does_give_the_true_count() -> None:
    setting = month(1.0, 10)
    drawn = np.array(truncated_discrete_laplace(1.0, setting.half_width, setting.repeats * 400))
    right = np.abs(drawn.reshape(400, -1).mean(axis=1)) < 0.5
    # Binomial(400, .95): below 360 once in ten thousand.
    assert right.sum() >= 360


# ── posteriors ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("answers", [1, 5, 20])
@pytest.mark.parametrize("prior", [0.5, 0.9])
def test_nobody_is_told_beyond_the_bound(epsilon: float, answers: int, prior: float) -> None:
    found = one_person(month(epsilon, answers, prior=prior), np.random.default_rng(1))
    # Up to δ an answer, which no posterior of 2,000 runs shows.
    assert found.prior - 0.02 <= found.posterior <= found.bound * (1 + 1e-9)
    assert found.ninth <= found.bound * (1 + 1e-9)
    odds = max(prior, 1 - prior)
    assert found.bound == pytest.approx(1 / (1 + (1 - odds) / odds * math.exp(-epsilon * answers)), rel=1e-9)


def test_what_the_simulation_is_sure_of_is_right_as_often_under_real_noise() -> None:
    """The posterior of the attack, computed from noise that OpenDP drew, is calibrated."""
    setting, runs = month(1.0, 6), 600
    drawn = np.array(truncated_discrete_laplace(1.0, setting.half_width, runs * 6)).reshape(runs, 6)
    member = np.random.default_rng(3).random(runs) < 0.5
    likely = np.full(2 * setting.half_width + 3, -1e4)
    likely[1:-1] = np.log(setting.noise)
    seen = drawn + member[:, None] + setting.half_width + 1
    odds = (likely[seen - 1] - likely[seen]).sum(axis=1)
    sure = np.abs(odds) > math.log(19)
    right = (odds > 0) == member
    assert sure.sum() > 100
    assert right[sure].mean() >= 0.93
    simulated = one_person(setting, np.random.default_rng(2)).posterior
    assert abs(simulated - right.mean()) < 0.06


def test_more_answers_and_weaker_noise_tell_more_people() -> None:
    def told(setting: Setting) -> float:
        return active(setting, np.random.default_rng(5))

    assert told(month(1.0, 0)) == 0
    assert told(month(1.0, 2)) <= told(month(1.0, 10)) < told(month(2.0, 10)) < told(month(6.0, 10))
    assert told(month(1.0, 10, cells=4)) == pytest.approx(4 * told(month(1.0, 10)))
    assert told(month(6.0, 10, cells=1000, targets=50)) == 50


def test_who_is_told_by_the_prior_alone_is_not_counted() -> None:
    assert exact(1, prior=0.97).sure_before
    assert planned(exact(10, prior=0.97)) == 0
    assert active(month(1.0, 1, prior=0.97), np.random.default_rng(5)) < 0.2


# ── sums and differences ────────────────────────────────────────────────────────────────────────────────


def test_two_answers_that_differ_by_one_person_single_it_out() -> None:
    found = singled_out([part(range(100)), part(range(99))], month(4.0, 1))
    assert found is not None
    assert (found.people, found.answers) == (1, 2)
    assert found.confidence > 0.9
    assert singled_out([part(range(100)), part(range(99))], month(0.1, 1)).confidence < 0.6  # type: ignore[union-attr]


def test_three_answers_none_of_which_is_close_to_another_may_single_one_out() -> None:
    whole, left, right = part(range(101)), part(range(50)), part(range(50, 100))
    found = singled_out([whole, left, right], month(4.0, 1))
    assert found is not None
    assert (found.people, found.answers) == (1, 3)
    nothing = singled_out([part(range(1000)), part(range(400))], month(4.0, 1))
    assert nothing is None


def test_a_group_of_many_tells_little_of_one() -> None:
    one, many = (singled_out([part(range(1000)), part(range(1000 - n))], month(1.0, 1)) for n in (1, 60))
    assert one is not None and many is not None
    assert one.confidence > many.confidence
    assert many.confidence < 0.56


def test_the_parts_of_a_question_are_its_cells_and_all_of_it() -> None:
    hashed = [
        keyed_hashes(os.urandom(HASH_KEY_BYTES), pa.array([b"%d" % i for i in cell], pa.binary()))
        for cell in (range(3), range(3, 8))
    ]
    question = Fingerprint.of(hashed, [np.arange(3), np.arange(5)], kind="email")
    parts = parts_of(question, partner_cells=2)
    assert [(len(p.people), p.noises) for p in parts] == [(8, 4), (3, 2), (5, 2)]
    single = Fingerprint.of(hashed[:1], [np.arange(3)], kind="email")
    assert [(len(p.people), p.noises) for p in parts_of(single)] == [(3, 1)]


# ── all together ────────────────────────────────────────────────────────────────────────────────────────


def test_an_assessment_is_one_number_and_one_sentence_and_repeats_itself() -> None:
    parts = [part(range(100)), part(range(99))]
    found = assess(month(1.0, 10, cells=2), parts, seed=3)
    assert found == assess(month(1.0, 10, cells=2), parts, seed=3)
    assert found.told == max(found.by_attack.values()) == found.by_attack[found.best]
    document = found.document()
    json.dumps(document)
    assert document["sentence"].startswith("With the 10 such answers the month has left")
    assert "1,000 chosen people" in document["sentence"]
    assert "Two answers" in document["sentence"]
    assert "Not covered" in document["covers"]
    assert document["one_person"]["bound"] <= 1


def test_without_answers_left_it_says_so() -> None:
    found = assess(month(1.0, 0))
    assert found.told == 0
    assert "no such answer left" in found.sentence
    assert found.person.posterior == pytest.approx(0.5)


@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_a_prior_without_doubt_is_no_error(prior: float) -> None:
    found = assess(month(1.0, 3, prior=prior))
    assert math.isfinite(found.told) and math.isfinite(found.person.posterior)


def test_very_wide_noise_and_very_many_answers_are_no_error() -> None:
    found = assess(month(0.01, 1000, cells=50), [part(range(100)), part(range(99))])
    assert found.told < 1
    assert "nobody" in found.sentence or "about" in found.sentence
