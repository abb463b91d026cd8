"""The noise of whole core runs has the stated distribution, and an audit finds no more ε than is charged.

A broken noise source fails the same tests. Real randomness: each test is wrong once in a million times.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clean_room.group.pool import BlindingPool
from clean_room.noise import DrawnNoise
from privacy.noise import discrete_laplace, truncated_discrete_laplace

EPSILON, DELTA = 1.0, 0.02
RARELY = 1e-6


def _loaded() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "noise_audit.py"
    spec = importlib.util.spec_from_file_location("noise_audit", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["noise_audit"] = module
    spec.loader.exec_module(module)
    return module


audit = _loaded()


def _samples(pool: BlindingPool, source: Any, kind: str, runs: int) -> Any:
    core = audit.Core(pool, source, EPSILON, DELTA)
    draw = core.counts if kind == "counts" else core.sums
    return SimpleNamespace(without=draw(runs, 0), with_one=draw(runs, 1), half_width=core.plan.half_width)


@pytest.fixture(scope="module")
def counts(pool: BlindingPool) -> Any:
    """1,280 noisy counts out of core runs, half of them of one shared person."""
    return _samples(pool, DrawnNoise(), "counts", 10)


@pytest.fixture(scope="module")
def broken(pool: BlindingPool) -> Any:
    return _samples(pool, audit.HalvedNoise(), "counts", 10)


@pytest.fixture(scope="module")
def sums(pool: BlindingPool) -> Any:
    return _samples(pool, DrawnNoise(), "sums", 1)


def noise_of(found: Any, one: int = 1) -> Any:
    return np.concatenate([found.without, found.with_one - one])


def test_the_noise_of_counts_is_the_truncated_laplace_that_is_stated(counts: Any) -> None:
    assert np.abs(noise_of(counts)).max() == counts.half_width, "cut off there, and not before"
    assert audit.fit_of_counts(noise_of(counts), EPSILON, counts.half_width) > RARELY


def test_noise_of_another_scale_does_not_pass_for_it(broken: Any) -> None:
    assert audit.fit_of_counts(noise_of(broken), EPSILON, broken.half_width) < RARELY


def test_every_cell_of_a_run_has_noise_of_its_own(counts: Any) -> None:
    noise = noise_of(counts)
    related = np.corrcoef(noise[:, :-1].reshape(-1), noise[:, 1:].reshape(-1))[0, 1]
    assert abs(related) < 5 / np.sqrt(noise.size)


def test_the_audit_finds_no_more_epsilon_than_is_charged(counts: Any) -> None:
    found = audit.empirical_epsilon(counts.without, counts.with_one, delta=DELTA, confidence=1 - RARELY)
    assert found <= EPSILON


def test_the_audit_finds_out_a_source_that_adds_too_little(broken: Any) -> None:
    found = audit.empirical_epsilon(broken.without, broken.with_one, delta=DELTA, confidence=0.95)
    assert found > EPSILON


def test_the_noise_of_sums_is_the_laplace_that_is_stated(sums: Any) -> None:
    noise, scale = noise_of(sums, audit.COLUMN.upper), audit.COLUMN.magnitude / EPSILON
    assert audit.fit_of_sums(noise, scale, bins=8) > RARELY
    assert audit.fit_of_sums(noise // 2, scale, bins=8) < 1e-3, "of half the scale it would be found out"
    found = audit.empirical_epsilon(sums.without, sums.with_one, confidence=1 - RARELY)
    assert found <= EPSILON


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 2.5])
def test_the_audit_itself_is_right_about_noise_of_known_epsilon(epsilon: float) -> None:
    """Drawn without the core, as many as it takes to come near the truth from below."""
    drawn = np.array(discrete_laplace(1 / epsilon, 60_000))
    found = audit.empirical_epsilon(drawn[:30_000], drawn[30_000:] + 1, confidence=1 - RARELY)
    assert 0.7 * epsilon < found <= epsilon
    twice = audit.empirical_epsilon(drawn[:30_000], drawn[30_000:] + 2, confidence=0.999)
    assert twice > 1.2 * epsilon, "two people more are not one person more"


def test_the_fit_itself_takes_right_noise_and_refuses_noise_shifted_by_a_fifth() -> None:
    right = np.array(truncated_discrete_laplace(1.0, 6, 20_000))
    assert audit.fit_of_counts(right, 1.0, 6) > RARELY
    shifted = right + (np.arange(20_000) % 5 == 0)
    assert audit.fit_of_counts(shifted[np.abs(shifted) <= 6], 1.0, 6) < RARELY
    assert audit.fit_of_counts(right + 1, 1.0, 6) == 0.0, "an impossible value"
    sums = np.array(discrete_laplace(250.0, 20_000))
    assert audit.fit_of_sums(sums, 250.0) > RARELY
    assert audit.fit_of_sums(sums, 300.0) < RARELY
    assert audit.fit_of_sums(sums + 40, 250.0) < RARELY
