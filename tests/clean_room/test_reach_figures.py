from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clean_room.estimates import truncated_laplace
from clean_room.noise import DrawnNoise, NoisePlan
from clean_room.protocols.ring import sets_beside
from clean_room.reach_figures import ReachFigures, release_regions

PLAN = NoisePlan(1.0, 1e-6, 0.59, 0.0, 12, size_epsilon=0.41, size_slack=15)
EXACT = NoisePlan(0.0, 0.0, 0.0, 0.0, 0)


def truth_of(lists: list[set[int]]) -> np.ndarray:
    counts = np.zeros(1 << len(lists), dtype=np.int64)
    for person in set().union(*lists):
        counts[sum(1 << i for i, people in enumerate(lists) if person in people)] += 1
    return counts


def noisy(truth: np.ndarray, kappa: list[np.ndarray], nu: list[int]) -> ReachFigures:
    """Figures as a run gives them whose contributors drew these numbers (0: the middle)."""
    parties = len(truth).bit_length() - 1
    counts, sizes = truth.copy(), []
    for number in range(parties):
        inside = [m for m in range(len(truth)) if m >> number & 1]
        sizes.append(int(truth[inside].sum()) + (nu[number - 1] if number else 0))
    for place, drawn in enumerate(kappa, 1):
        for mask, k in zip(sets_beside(parties, place), drawn, strict=True):
            counts[mask | 1 << place] += k
            if mask.bit_count() > 1:
                counts[mask] -= k
    counts[[m for m in range(len(counts)) if m.bit_count() < 2]] = 0
    return ReachFigures.of(counts, sizes, PLAN)


@given(st.integers(3, 6).flatmap(lambda n: st.lists(st.sets(st.integers(0, 40)), min_size=n, max_size=n)))
def test_without_noise_every_figure_is_that_of_the_lists(lists: list[set[int]]) -> None:
    truth = truth_of(lists)
    figures = noisy(truth, [np.zeros((1 << len(lists) - 1) - 1, dtype=int)] * (len(lists) - 1), [0] * 7)
    figures = ReachFigures(figures.regions, EXACT)
    everybody = set().union(*lists)
    assert figures.regions[1:].tolist() == truth[1:].tolist()
    assert figures.reach().value == len(everybody)
    for k in range(1, len(lists) + 1):
        found = [sum(p in people for people in lists) for p in everybody]
        assert figures.exactly(k).value == sum(n == k for n in found)
        assert figures.at_least(k).value == sum(n >= k for n in found)
    for number, people in enumerate(lists):
        alone = people.difference(*(other for n, other in enumerate(lists) if n != number))
        assert figures.region(1 << number).value == len(alone)
        assert figures.region(1 << number).half == 0


def test_reach_is_the_sizes_less_what_is_counted_more_than_once() -> None:
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 50, 16)
    counts[[m for m in range(16) if m.bit_count() < 2]] = 0
    sizes = [900, 800, 700, 600]
    figures = ReachFigures.of(counts, sizes, PLAN)
    more = sum((m.bit_count() - 1) * counts[m] for m in range(16) if m.bit_count() > 1)
    assert figures.reach().value == sum(sizes) - more


def test_with_noise_figures_are_right_on_average_and_their_intervals_hold_19_times_in_20() -> None:
    rng, parties, runs = np.random.default_rng(11), 4, 1500
    truth = np.concatenate(([0], rng.integers(500, 900, 15)))
    regions = truncated_laplace(PLAN.count_epsilon, PLAN.half_width)
    sizes = truncated_laplace(PLAN.size_epsilon, PLAN.size_slack)
    exact = ReachFigures(truth, PLAN)
    names = {
        "reach": lambda f: f.reach(),
        "a region": lambda f: f.region(0b1010),
        "own exclusive": lambda f: f.region(0b0001),
        "another's exclusive": lambda f: f.region(0b0100),
        "exactly 1": lambda f: f.exactly(1),
        "exactly 2": lambda f: f.exactly(2),
        "at least 2": lambda f: f.at_least(2),
        "at least 3": lambda f: f.at_least(3),
        "all": lambda f: f.exactly(4),
    }
    off: dict[str, list[int]] = {name: [] for name in names}
    for _ in range(runs):
        kappa = [rng.choice(np.arange(-12, 13), 7, p=regions) for _ in range(parties - 1)]
        nu = [int(n) for n in rng.choice(np.arange(-15, 16), parties - 1, p=sizes)]
        figures = noisy(truth, kappa, nu)
        for name, figure in names.items():
            off[name].append(figure(figures).value - figure(exact).value)
    for name, figure in names.items():
        errors, half = np.array(off[name]), figure(exact).half
        assert abs(errors.mean()) < 4 * errors.std() / np.sqrt(runs), name
        assert 0.93 < (np.abs(errors) <= half).mean() < 0.995, name
        assert (np.abs(errors) < half).mean() < 0.965, name  # and it is no wider than it must be


def test_the_noise_that_is_drawn_is_the_noise_that_is_reckoned_with() -> None:
    drawn = DrawnNoise().matching(PLAN.count_epsilon, PLAN.half_width, (1, 4000)) - PLAN.half_width
    expected = truncated_laplace(PLAN.count_epsilon, PLAN.half_width)
    variance = float((expected * np.arange(-12, 13) ** 2).sum())
    assert abs(drawn.mean()) < 4 * np.sqrt(variance / 4000)
    assert 0.85 < drawn.var() / variance < 1.15


def test_eight_lists_and_a_small_epsilon_still_have_intervals() -> None:
    plan = NoisePlan(0.1, 1e-6, 0.083, 0.0, 140, size_epsilon=0.017, size_slack=600)
    figures = ReachFigures(np.full(256, 10_000), plan)
    deviation = np.sqrt(7 * 127 * 2 / 0.083**2 + 7 * 2 / 0.017**2)
    assert 1.6 * deviation < figures.reach().half < 2.1 * deviation
    assert figures.region(3).half < figures.exactly(2).half < figures.reach().half


# ── the minimum cell ────────────────────────────────────────────────────────────────────────────────────


def shown_vectors(regions: np.ndarray, release: object) -> list[np.ndarray]:
    """Everything a reader knows, as weights over the regions."""
    parties = len(regions).bit_length() - 1
    lists = np.array([m.bit_count() for m in range(len(regions))])
    vectors = [np.eye(len(regions))[m] for m in range(1, len(regions)) if release.regions[m]]  # type: ignore[attr-defined]
    vectors += [(lists == k).astype(float) for k in release.totals]  # type: ignore[attr-defined]
    vectors += [(lists >= k).astype(float) for k in release.at_least]  # type: ignore[attr-defined]
    vectors.append((lists >= 1).astype(float))  # the reach
    vectors.append((np.arange(len(regions)) & 1).astype(float))  # the analyst's own people
    assert all(0 < k <= parties for k in release.totals | release.at_least)  # type: ignore[attr-defined]
    return vectors


def follows(vector: np.ndarray, known: list[np.ndarray]) -> bool:
    """Whether `vector` is a combination of what is known."""
    basis = np.array(known).T
    found, *_ = np.linalg.lstsq(basis, vector, rcond=None)
    return bool(np.allclose(basis @ found, vector, atol=1e-7))


@settings(max_examples=150)
@given(
    st.integers(3, 5).flatmap(
        lambda n: st.lists(
            st.sampled_from([-3, 0, 4, 9, 10, 11, 30, 400]), min_size=(1 << n) - 1, max_size=(1 << n) - 1
        )
    )
)
def test_nothing_hidden_follows_from_what_is_shown(values: list[int]) -> None:
    regions = np.array([0, *values])
    release = release_regions(regions, 10)
    if release.suppressed:
        assert not release.regions.any() and not release.totals and not release.at_least
        assert release.reason == "below_minimum_cell"
        return
    assert regions[1:].sum() >= 10
    assert (regions[release.regions] >= 10).all()
    assert 1 in release.at_least
    assert release.reason == (None if release.regions[1:].all() else "cells_below_minimum")
    known = shown_vectors(regions, release)
    for mask in range(1, len(regions)):
        if not release.regions[mask]:
            assert not follows(np.eye(len(regions))[mask], known)
    lists = np.array([m.bit_count() for m in range(len(regions))])
    for k in range(1, int(lists.max()) + 1):
        if k not in release.totals and regions[lists == k].sum() < 10:
            assert not follows((lists == k).astype(float), known)
    # Small sums of hidden regions do not follow either: of two or three of them within one k.
    for k in range(1, int(lists.max()) + 1):
        hidden = [m for m in range(1, len(regions)) if lists[m] == k and not release.regions[m]]
        for some in itertools.chain(itertools.combinations(hidden, 2), itertools.combinations(hidden, 3)):
            if regions[list(some)].sum() < 10:
                vector = np.zeros(len(regions))
                vector[list(some)] = 1
                assert not follows(vector, known)


def test_all_is_shown_where_all_is_large_enough() -> None:
    release = release_regions(np.full(16, 50), 50)
    assert release.regions[1:].all() and not release.regions[0]
    assert release.totals == release.at_least == {1, 2, 3, 4}
    assert release.reason is None


def test_one_small_overlap_of_all_lists_takes_a_total_along_but_not_the_rest() -> None:
    regions = np.full(16, 500)
    regions[15] = 3
    release = release_regions(regions, 50)
    assert not release.suppressed
    assert 4 not in release.totals and len(release.totals) >= 2
    assert release.regions.sum() >= 8


def test_few_new_people_hide_the_reach_as_well() -> None:
    # Who knows the own 1000 would else learn that the others add only three.
    regions = np.zeros(8, dtype=np.int64)
    regions[[1, 3, 5, 7]] = 250
    regions[2] = 3
    assert release_regions(regions, 50).suppressed


@pytest.mark.parametrize("number", [3, 8])
def test_nobody_shared_and_nobody_at_all(number: int) -> None:
    assert release_regions(np.zeros(1 << number, dtype=np.int64), 1).suppressed
    alone = np.zeros(1 << number, dtype=np.int64)
    alone[[1 << n for n in range(number)]] = 1000
    release = release_regions(alone, 50)
    assert (
        release.suppressed or not release.regions[[m for m in range(1 << number) if m.bit_count() > 1]].any()
    )


@pytest.mark.parametrize("where", [0b011, 0b101, 0b111])
def test_a_list_that_is_nearly_all_in_others_is_not_taken_apart(where: int) -> None:
    # 20 of 1000 are missing from the others, or from one of them: whoever knows the 1000 would learn which.
    regions = np.array([0, 20, 300, 0, 300, 0, 300, 0])
    regions[where] = 980
    release = release_regions(regions, 10, 1000)
    assert release.reason == "high_rate" and not release.suppressed
    assert not release.regions[[1, 3, 5, 7]].any()
    assert release.regions[[2, 4, 6]].all()
    assert not release.totals and release.at_least == {1}
    spread = np.array([0, 400, 300, 200, 300, 200, 300, 200])
    assert release_regions(spread, 10, 1000).reason is None
