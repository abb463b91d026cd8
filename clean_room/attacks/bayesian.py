"""Attacks that know the noise: every answer moves a posterior over who of a few targets is a member.

`active` follows the idea of ActBayesian (Jiang, Du and Yan, "AnonPSI", NDSS 2024): keep a posterior, ask next
about the subset whose count is most uncertain, update by Bayes' rule, and call a membership told once
its posterior is beyond the confidence. For a handful of targets the posterior is kept over all 2^n
possibilities, where theirs is one number a person, so what one answer says of several targets together is not
lost. `one_person` spends everything on a single target. Written from the published descriptions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clean_room.attacks.setting import Floats, Setting

__all__ = ["OnePerson", "active", "one_person"]

_BLOCKS = (1, 2, 4, 6)
_STEPS = 12
_TRIED = 12
_RUNS = 120


@dataclass(frozen=True, slots=True)
class OnePerson:
    """All answers spent on one target: how sure the adversary is of it in the end.

    Chances that the likelier guess is right: `prior` without any answer, `posterior` with them on average,
    `ninth` in the luckiest tenth of cases at least. `bound` is what differential privacy allows: odds that
    grew by e^(ε · answers).
    """

    prior: float
    posterior: float
    ninth: float
    bound: float


def one_person(setting: Setting, random: np.random.Generator, runs: int = 2000) -> OnePerson:
    """Simulate it. The target is a member in half the runs, weighted by the prior."""
    member = np.arange(runs) % 2
    likely = _evidence(setting, random, member, setting.answers, 1)
    evidence = likely[:, 1] - likely[:, 0]
    start = np.log(setting.prior / (1 - setting.prior)) if 0 < setting.prior < 1 else 0.0
    chance = 1 / (1 + np.exp(-np.clip(start + evidence, -700, 700)))
    right = np.maximum(chance, 1 - chance)  # of the likelier guess
    weights = np.where(member == 1, setting.prior, 1 - setting.prior)
    order = np.argsort(right)
    until = np.cumsum(weights[order]) / weights.sum()
    odds = max(setting.prior, 1 - setting.prior)
    grown = np.log(odds / (1 - odds)) + setting.epsilon * setting.answers if odds < 1 else 700.0
    return OnePerson(
        prior=odds,
        posterior=float(np.average(right, weights=weights)),
        ninth=float(right[order][int(np.searchsorted(until, 0.9))]),
        bound=float(1 / (1 + np.exp(-min(grown, 700.0)))),
    )


def active(setting: Setting, random: np.random.Generator) -> float:
    """Expected number of targets told, by the best way of sharing the answers out among blocks of targets.

    Blocks lie in different cells of a query, one a cell; a block is given up for the next one after as many
    answers as pay off best. When the prior alone is sure of everybody, only the rarer kind counts as told.
    """
    if not setting.answers:
        return 0.0
    steps = min(setting.answers, _STEPS)
    best = 0.0
    for size in _BLOCKS:
        told = _blocks(setting, random, size, steps, setting.answers // steps)
        for step, mean in enumerate(told, 1):
            rounds = setting.answers // (step * (setting.answers // steps))
            best = max(best, float(mean) * rounds * setting.cells)
    return min(float(setting.targets), best)


def _blocks(setting: Setting, random: np.random.Generator, size: int, steps: int, each: int) -> Floats:
    """Mean number of targets told in a block after 1 … `steps` steps of `each` answers about one subset."""
    states = (np.arange(1 << size)[:, None] >> np.arange(size)) & 1
    truth = (random.random((_RUNS, size)) < setting.prior).astype(np.int64)
    prior = np.clip(setting.prior, 1e-9, 1 - 1e-9)
    posterior = np.tile(np.log(prior) * states.sum(1) + np.log1p(-prior) * (size - states.sum(1)), (_RUNS, 1))
    told = np.empty(steps)
    for step in range(steps):
        masks = np.vstack(
            [np.eye(size, dtype=np.int64), random.integers(0, 2, (_TRIED, size)), np.ones(size, int)]
        )
        masks = masks[masks.any(axis=1)]
        sums = states @ masks.T  # (states, masks)
        chance = np.exp(posterior - posterior.max(axis=1, keepdims=True))
        chance /= chance.sum(axis=1, keepdims=True)
        expected = chance @ sums
        chosen = np.argmax(chance @ (sums * sums) - expected**2, axis=1)
        seen = (truth * masks[chosen]).sum(axis=1)
        likely = _evidence(setting, random, seen, each, size)
        posterior = posterior + np.take_along_axis(likely, sums[:, chosen].T, axis=1)
        posterior -= posterior.max(axis=1, keepdims=True)
        told[step] = _told(setting, posterior, states)
    return told


def _told(setting: Setting, posterior: Floats, states: npt.NDArray[np.int64]) -> float:
    chance = np.exp(posterior)
    member = (chance @ states) / chance.sum(axis=1, keepdims=True)
    yes, no = member >= setting.confidence, member <= 1 - setting.confidence
    if setting.sure_before:
        return float((yes if setting.prior < 0.5 else no).sum(axis=1).mean())
    return float((yes | no).sum(axis=1).mean())


def _evidence(
    setting: Setting, random: np.random.Generator, counts: npt.NDArray[np.int64], answers: int, most: int
) -> Floats:
    """(runs, most + 1): log-likelihood of a count of 0 … `most` after so many answers about `counts`.

    The noise is simulated, from a seed: never for answers.
    """
    width = setting.half_width
    drawn = random.multinomial(answers, setting.noise, size=len(counts))
    # An impossible answer rules a count out for good; a finite number keeps sums of it from being undefined.
    likely = np.full(2 * width + 1 + 2 * most, -1e4)
    likely[most : most + 2 * width + 1] = np.log(setting.noise)
    moved = np.stack([likely[most + d : most + d + 2 * width + 1] for d in range(-most, most + 1)])
    by_offset = drawn @ moved.T
    offsets = counts[:, None] - np.arange(most + 1) + most
    found: Floats = np.take_along_axis(by_offset, offsets, axis=1)
    return found
