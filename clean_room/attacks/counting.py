"""Attacks that take each count at face value: splitting a list until its parts are all members, or none.

`halving` follows the baseline attack of Guo, Han, Liu, Wang, Jia and Li, "Birds of a Feather Flock Together:
How Set Bias Helps to Deanonymize You via Revealed Intersection Sizes" (USENIX Security 2022): the list is
split in two, the size of the intersection asked for one half and had for the other by subtraction, and the
half that promises more is split on. Their feature-aware attack sorts targets by how likely they match before
it splits; here that is the prior.

`planned` follows DyPathBlazer of Jiang, Du and Yan, "AnonPSI: An Anonymity Assessment Framework for PSI"
(NDSS 2024; arXiv 2311.18118): where to split next is looked up in a table over (size of the list, members in
it, calls left), filled bottom-up by dynamic programming, which maximises how many memberships are expected
to be told. Unlike theirs, ours may go back to the other half with the calls that are left.

Both papers know exact counts. Under noise a call is asked as often as it takes for the rounded average to be
the true count with the wanted confidence (`Setting.repeats`), with other invented people each time. Written
from the papers' abstracts and published descriptions.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from clean_room.attacks.setting import Floats, Setting

__all__ = ["LIST", "halving", "planned"]

LIST = 10
"""Targets split at a time: beyond it a month's calls do not reach down to single people."""
_CALLS = 10


def halving(setting: Setting) -> float:
    """Expected number of targets told by splitting in halves."""
    return _expected(setting, free=False)


def planned(setting: Setting) -> float:
    """Expected number of targets told by splitting as the table says."""
    return _expected(setting, free=True)


def _expected(setting: Setting, *, free: bool) -> float:
    calls = setting.answers // setting.repeats
    if not calls or setting.sure_before:
        return 0.0
    best = 0.0
    for size in range(1, LIST + 1):
        for spent in range(1, min(calls, _CALLS) + 1):
            best = max(best, _of_list(setting.prior, size, spent, free) * (calls // spent))
    # The last count of a chain is as doubtful as every other: a target is told if all of its chain are right.
    return float(min(setting.targets, setting.cells * best * setting.confidence))


@cache
def _hypergeometric(n: int, m: int, k: int) -> Floats:
    """Probability of j members among k of n people of whom m are members, j = 0 … k."""
    return np.array(
        [
            math.comb(m, j) * math.comb(n - m, k - j) / math.comb(n, k) if k - j <= n - m else 0.0
            for j in range(k + 1)
        ]
    )


@cache
def _value(n: int, m: int, calls: int, free: bool) -> float:
    """Memberships told of a list of n with m members (which is known), with so many calls left."""
    if m in {0, n}:
        return float(n)
    if not calls:
        return 0.0
    best = 0.0
    for k in range(1, n) if free else (n // 2,):
        gain = 0.0
        for j, chance in enumerate(_hypergeometric(n, m, k)):
            if chance > 0 and j <= m and m - j <= n - k:
                gain += float(chance) * _shared((k, j), (n - k, m - j), calls - 1, free)
        best = max(best, gain)
    return best


@cache
def _shared(one: tuple[int, int], other: tuple[int, int], calls: int, free: bool) -> float:
    """Two lists (size, members) and the calls shared out among them as is best."""
    sure = sum(members in {0, size} for size, members in (one, other))
    if sure:
        return _value(*one, calls, free) + _value(*other, calls, free)
    return max(_value(*one, c, free) + _value(*other, calls - c, free) for c in range(calls + 1))


def _of_list(p: float, n: int, calls: int, free: bool) -> float:
    """Memberships told of a fresh list of n who match with chance p; the first call tells how many do."""
    return sum(
        math.comb(n, m) * p**m * (1 - p) ** (n - m) * _value(n, m, calls - 1, free) for m in range(n + 1)
    )
