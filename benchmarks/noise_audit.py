"""Is the noise what it is said to be, and is an answer as private as it is charged for?

Whole runs of the core, both halves of the conversation in memory, with `DrawnNoise` and tiny sets; the only
thing left out is the network. Every cell of a run has noise of its own, so one run gives as many samples as
it has cells.

    goodness of fit   chi-square of counts less the truth against the stated truncated discrete Laplace, and
                      of sums less the truth against the discrete Laplace (equally likely bins)
    independence      the correlation of neighbouring cells of a run
    empirical ε       two inputs that differ by one person, many runs of each: the threshold that tells them
                      apart best is chosen on one half of the runs, and gives on the other half a lower bound
                      of ε by Clopper and Pearson's intervals (Jagielski, Ullman and Oprea, "Auditing
                      Differentially Private Machine Learning: How Private is Private SGD?", NeurIPS 2020;
                      Nasr et al., "Tight Auditing of Differentially Private Machine Learning", USENIX
                      Security 2023). A bound above the ε charged would disprove the claim; one below it does
                      not prove it.

`make bench-audit` prints the figures; the tests run the same on fewer.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import stats

from clean_room.conversations import Outcome, Workshop, contribute, inquire
from clean_room.estimates import truncated_laplace
from clean_room.group.pool import BlindingPool
from clean_room.inputs import QueryInput
from clean_room.noise import DrawnNoise, NoisePlan, NoiseSource
from clean_room.protocols.attestation import Attestation
from clean_room.protocols.messages import Offer
from clean_room.protocols.terms import ColumnTerms, MeasureTerms, OverlapTerms, Padding
from consent.receipts import GateEvidence, PseudonymSet

Integers = npt.NDArray[np.int64]
COLUMN = ColumnTerms("spend", lower=0, upper=1000)


class HalvedNoise(DrawnNoise):
    """Broken on purpose: noise of half the scale it should have. What an audit must find."""

    def matching(self, epsilon: float, half_width: int, shape: tuple[int, int]) -> Integers:
        """See `NoiseSource`."""
        return super().matching(2 * epsilon, half_width, shape)

    def sums(self, scale: float, size: int) -> list[int]:
        """See `NoiseSource`."""
        return super().sums(scale / 2, size)


@dataclass(frozen=True)
class Core:
    """Runs of the core. `side` × `side` cells each, so as many samples a run."""

    pool: BlindingPool
    noise: NoiseSource
    epsilon: float
    delta: float
    side: int = 8

    @property
    def plan(self) -> NoisePlan:
        """All of ε on the counts; of a measured column all of it on the sums, as well."""
        half_width = self.noise.half_width(self.epsilon, self.delta)
        return NoisePlan(self.epsilon, self.delta, self.epsilon, self.epsilon, half_width)

    def counts(self, runs: int, people: int) -> Integers:
        """Noisy counts of `runs` × cells, in every one of which `people` are shared."""
        found = [self._run(OverlapTerms, people).counts for _ in range(runs)]
        return np.concatenate([counts.reshape(1, -1) for counts in found if counts is not None])

    def sums(self, runs: int, people: int) -> Integers:
        """Noisy sums, in fixed point, in every one of which `people` with the upper bound are shared."""
        found = [self._run(MeasureTerms, people).sums for _ in range(runs)]
        return np.concatenate(
            [np.rint(sums).astype(np.int64).reshape(1, -1) for sums in found if sums is not None]
        )

    def _run(self, kind: type[OverlapTerms], people: int) -> Outcome:
        plan, measured = self.plan, kind is MeasureTerms
        terms = kind(
            job=os.urandom(16).hex(),
            purpose="overlap.reach",
            analyst="bank",
            contributor="shop",
            padding=Padding(1, 4),
            analyst_segments=tuple(f"a{i}" for i in range(self.side)),
            contributor_segments=tuple(f"c{i}" for i in range(self.side)),
            dummies=2 * plan.half_width,
            epsilon=plan.epsilon,
            delta=plan.delta,
            **({"columns": (COLUMN,)} if measured else {}),
        )
        cells = [
            [[f"{i}-{j}-{n}" for n in range(people)] for j in range(self.side)] for i in range(self.side)
        ]
        mine = [[name for cell in row for name in cell] for row in cells]
        theirs = [[name for row in cells for name in row[j]] for j in range(self.side)]
        workshop = Workshop(
            pool=self.pool,
            random=os.urandom,
            noise=self.noise,
            attestation=Attestation(lambda _, __: bytes(64), lambda _, __, ___: None),
            progress=lambda _, __: None,
        )
        asking = inquire(terms, _input(mine), workshop)
        offer = next(asking)
        assert offer is not None
        answering = contribute(
            Offer.from_bytes(offer),
            terms,
            _input(theirs, value=COLUMN.upper if measured else None),
            plan,
            workshop,
        )
        message = asking.send(next(answering)[0])
        next(answering)
        while True:
            try:
                replies = answering.send(message) if message is not None else []
            except StopIteration as end:
                replies = end.value.replies
            for reply in replies:
                try:
                    message = asking.send(reply)
                except StopIteration as end:
                    outcome: Outcome = end.value
                    return outcome


def _input(segments: Sequence[Sequence[str]], value: float | None = None) -> QueryInput:
    people = tuple(pa.array([name.encode() for name in names], pa.binary()) for names in segments)
    evidence = GateEvidence(
        purpose="overlap.reach", partner="partner", log_origin="log", log_size=0, log_root="",
        policy_hash="0" * 64, count=0, set_root="", set_salt="", checked_at=datetime(2026, 1, 1, tzinfo=UTC),
        key_kind="email",
    )  # fmt: skip
    return QueryInput(
        people=people,
        rows=tuple(np.arange(len(cell)) for cell in people),
        values=None if value is None else tuple(np.full(len(cell), value) for cell in people),
        evidence=evidence,
        members=PseudonymSet.of_rows(bytes(32), np.empty((0, 32), np.uint8)),
        counts=SimpleNamespace(people=sum(map(len, people))),  # type: ignore[arg-type]
        known=people[0],
    )


def fit_of_counts(noise: Integers, epsilon: float, half_width: int) -> float:
    """p-value of the chi-square test that this is truncated discrete Laplace of scale 1/ε.

    Neighbouring values with fewer than 8 expected are put together. 0 for a value that is impossible.
    """
    flat = noise.reshape(-1)
    if np.abs(flat).max() > half_width:
        return 0.0
    expected = truncated_laplace(epsilon, half_width) * flat.size
    observed = np.bincount(flat + half_width, minlength=2 * half_width + 1)
    bins = np.unique(np.minimum(np.cumsum(expected) // 8, expected.sum() // 8 - 1), return_inverse=True)[1]
    return _p(np.bincount(bins, observed), np.bincount(bins, expected))


def fit_of_sums(noise: Integers, scale: float, bins: int = 16) -> float:
    """p-value of the chi-square test that this is discrete Laplace: P(x) ∝ exp(−|x|/scale).

    Bins are equally likely up to the steps of the distribution, whose exact chances are taken.
    """
    alpha = np.exp(-1 / scale)

    def below(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """P(noise ≤ x) for whole x."""
        left = alpha ** np.maximum(-x, 0) / (1 + alpha)
        return np.where(x < 0, left, 1 - alpha ** (np.maximum(x, 0) + 1) / (1 + alpha))

    share = np.arange(1, bins) / bins
    edges = np.unique(np.rint(np.sign(share - 0.5) * -scale * np.log(1 - 2 * np.abs(share - 0.5))))
    chances = np.diff(np.concatenate([[0.0], below(edges), [1.0]]))
    observed = np.bincount(np.searchsorted(edges, noise.reshape(-1)), minlength=len(chances))
    return _p(observed, chances * noise.size)


def _p(observed: npt.NDArray[Any], expected: npt.NDArray[np.float64]) -> float:
    statistic = float(((observed - expected) ** 2 / expected).sum())
    return float(stats.chi2.sf(statistic, len(expected) - 1))


def empirical_epsilon(
    without: Integers, with_one: Integers, *, delta: float = 0.0, confidence: float = 0.999
) -> float:
    """Lower bound of ε from samples of two neighbouring inputs, wrong with chance 1 − `confidence` at most.

    (ε, δ)-DP says P(S) ≤ e^ε · Q(S) + δ for every S; S is a half line, found on the first halves of both.
    """
    tried, without = np.array_split(without.reshape(-1), 2)
    tried_one, with_one = np.array_split(with_one.reshape(-1), 2)
    thresholds = np.unique(np.concatenate([tried, tried_one]))
    promising = _bounds(tried, tried_one, thresholds, delta, confidence)
    at, side = np.unravel_index(int(np.argmax(promising)), promising.shape)
    return float(_bounds(without, with_one, thresholds[[at]], delta, confidence)[0, side])


def _bounds(
    without: Integers, with_one: Integers, thresholds: Integers, delta: float, confidence: float
) -> npt.NDArray[np.float64]:
    """(thresholds, 2): lower bounds of ε from telling the inputs apart by ≥ a threshold, and by < it."""
    n, m = len(without), len(with_one)
    a = np.searchsorted(np.sort(without), thresholds)  # below the threshold
    b = np.searchsorted(np.sort(with_one), thresholds)
    risk = (1 - confidence) / 2
    hits, of_hits = np.stack([m - b, a], 1), np.array([m, n])
    misses, of_misses = np.stack([n - a, b], 1), np.array([n, m])
    least = np.where(hits > 0, stats.beta.ppf(risk, np.maximum(hits, 1), of_hits - hits + 1), 0.0)
    left = np.maximum(of_misses - misses, 1)
    most = np.where(misses < of_misses, stats.beta.ppf(1 - risk, misses + 1, left), 1.0)
    found: npt.NDArray[np.float64] = np.log(np.maximum(least - delta, 1e-300)) - np.log(most)
    return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=60, help="runs of 64 cells for each figure")
    parser.add_argument("--sum-runs", type=int, default=6)
    given = parser.parse_args()
    begun = time.perf_counter()
    with BlindingPool(workers=0) as pool:
        print(f"{os.cpu_count()} cores, Python {platform.python_version()}; {given.runs} runs of 64 cells")
        print("| ε | δ | samples | p | correlation | empirical ε ≥ | broken: p | broken: ε ≥ |")
        print("|---|---|---|---|---|---|---|---|")
        for epsilon, delta in ((1.0, 1e-6), (0.5, 1e-3), (2.0, 1e-3)):
            rows = []
            for source in (DrawnNoise(), HalvedNoise()):
                core = Core(pool, source, epsilon, delta)
                without, with_one = core.counts(given.runs, 0), core.counts(given.runs, 1)
                noise = np.concatenate([without, with_one - 1])
                rows.append((
                    fit_of_counts(noise, epsilon, core.plan.half_width),
                    float(np.corrcoef(noise[:, :-1].reshape(-1), noise[:, 1:].reshape(-1))[0, 1]),
                    empirical_epsilon(without, with_one, delta=delta),
                    noise.size,
                ))  # fmt: skip
            (p, related, lower, samples), (broken_p, _, broken, _) = rows
            print(
                f"| {epsilon:g} | {delta:g} | {samples:,} | {p:.3f} | {related:+.4f} | {lower:.3f} "
                f"| {broken_p:.1e} | {broken:.3f} |",
                flush=True,
            )
        print("sums of a column clipped to 1000, ε = 1")
        for source in (DrawnNoise(), HalvedNoise()):
            core = Core(pool, source, 1.0, 1e-2)
            without, with_one = core.sums(given.sum_runs, 0), core.sums(given.sum_runs, 1)
            noise = np.concatenate([without, with_one - COLUMN.upper])
            print(
                f"{type(source).__name__}: {noise.size:,} samples, "
                f"p = {fit_of_sums(noise, COLUMN.magnitude):.3g}, "
                f"empirical ε ≥ {empirical_epsilon(without, with_one):.3f}",
                flush=True,
            )
    print(f"{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
