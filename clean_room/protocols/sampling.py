"""Consistent keyed sampling: both sides look at the same people, and nobody else can tell which.

A person is in the sample if a keyed hash of its canonical identifier is below a threshold, so two lists are
thinned to the same people without a word about them, and the people they share are thinned alike. The idea
is that of bottom-k and threshold sketches (Cohen and Kaplan, "Tighter estimation using bottom k sketches",
2008) and of trajectory sampling (Duffield and Grossglauser, 2001).

    sampling key   HKDF-SHA256(pair key, salt = agreement hash, info = "comity/clean-room/sampling/v1" month)
    in the sample  the first 8 bytes of AES-CMAC(sampling key, identifier) < 2⁶⁴ · rate

The key is the same all month, and with it the sample: asking again meets the same people, so that repeating
shows nothing about anybody else, and neither takes the error of the sample away. Rates are those of a
ladder, four steps to a halving: two samples of different rates differ by 16 % of the larger at least.

Two estimates of how many N of the whole are shared, when m of the sample are:

    m / p                  each is sampled with chance p: variance N (1 − p) / p
    m · (rows / sampled)   the analyst knows how many of its rows fell into the sample (the ratio estimator,
                           Cochran, "Sampling Techniques", 1977, chapter 6): if a row is a person, variance
                           N (1 − p) / p · (1 − N / rows), that of a hypergeometric draw

The second is used unless a few people have very many rows. Noise drawn for differential privacy falls on m
and so is widened by the same factor. Both nodes know who is in the sample: what is charged for a query is
that of an overlap, for sampling hides nobody from a partner that knows the key ("amplification by sampling"
is not claimed).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from privacy.errors import Misuse
from privacy.keys import hkdf_sha256

__all__ = [
    "STEPS",
    "SampleFacts",
    "SamplingKey",
    "factor_of",
    "month_of",
    "planned_step",
    "rate_of",
    "sampled_interval",
    "step_of",
    "threshold_of",
]

STEPS = 96
"""Steps of the ladder: the last is one in 16 million."""
_PER_HALVING = 4
_INFO = b"comity/clean-room/sampling/v1"
_Z = 1.959964
_MOST_ROWS_OF_ONE = 1000
_UNLIKELY = 4.0


@dataclass(frozen=True, slots=True)
class SamplingKey:
    """The key of one pair of partners for one month.

    `id` (hex) names it without telling anything about it: both put it into the terms, so that two nodes with
    different keys find out before they count.
    """

    period: str
    key: bytes
    id: str

    @classmethod
    def derive(cls, pair_key: bytes, agreement: str, period: str) -> SamplingKey:
        """agreement: its SHA-256, hex; period: `month_of` the start of the query."""
        info, salt = _INFO + b" " + period.encode(), bytes.fromhex(agreement)
        both = hkdf_sha256(pair_key, info=info, salt=salt, length=32)
        return cls(period, both[:16], both[16:].hex())

    def __repr__(self) -> str:
        return f"SamplingKey(period={self.period!r}, id={self.id!r})"


def month_of(moment: datetime) -> str:
    """The month a moment lies in, as `2026-11`."""
    return moment.strftime("%Y-%m")


def rate_of(step: int) -> float:
    """The share of people in the sample at a step of the ladder: 2^(−step/4)."""
    return float(2.0 ** (-step / _PER_HALVING))


def step_of(rate: float) -> int:
    """The step of the smallest rate of the ladder that is not below `rate`. Misuse outside 0 … 1."""
    if not 0 < rate <= 1:
        raise Misuse("An estimate looks at a share above 0 and at most 1.", code="malformed_query")
    return min(STEPS, math.floor(-_PER_HALVING * math.log2(rate) + 1e-9))


def threshold_of(step: int) -> int:
    """⌊2⁶⁴ · rate⌋, by whole numbers alone, so that no two machines round it differently."""
    if not 0 <= step <= STEPS:
        raise Misuse(f"A step of the ladder is 0 to {STEPS}.")
    return math.isqrt(math.isqrt(1 << (256 - step)))


def planned_step(
    rows: int, *, minimum: int, shared: float = 0.5, error: float = 0.005, noise: float = 0.0
) -> int:
    """The step whose sample of `rows` own rows estimates an overlap to within `error` (relative, at 95 %).

    shared: the share of own people guessed to be shared; a smaller one makes the true error larger, which the
    interval then tells. minimum: people the sample must hold. noise: half width of the noise on a count.
    """
    if rows < 1:
        return 0
    # 1.96 · √((1 − p)(1 − s) / (p · s · rows)) and noise / (p · s · rows), squared and added, stay below it.
    low, high = 0, STEPS
    while low < high:
        middle = (low + high + 1) // 2
        p = rate_of(middle)
        drawn = _Z**2 * (1 - p) * (1 - shared) / (p * shared * rows)
        # A tenth more than the minimum: a sample varies, and consents are asked for afterwards.
        if drawn + (noise / (p * shared * rows)) ** 2 <= error**2 and p * rows >= 1.1 * minimum:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True, slots=True)
class SampleFacts:
    """How the own list fell: `rows` of it were looked at and `sampled` kept.

    squares: Σ x² over the people in the sample, x the rows one has; most: the largest x.
    """

    step: int
    rows: int
    sampled: int
    squares: int
    most: int

    @property
    def rate(self) -> float:
        """p."""
        return rate_of(self.step)


def factor_of(facts: SampleFacts) -> tuple[float, bool]:
    """What a count in the sample is multiplied by, and whether by the ratio of rows rather than by 1/p.

    The ratio is not trusted where one person has over a thousand rows, nor where the sample's share of the
    rows is further from p than chance takes it: then somebody with very many rows is inside, or left out.
    """
    p = facts.rate
    if p == 1:
        return 1.0, True
    spread = math.sqrt((1 - p) * max(facts.squares, 1))
    usual = abs(facts.sampled - p * facts.rows) <= _UNLIKELY * spread
    if facts.sampled and usual and facts.most <= _MOST_ROWS_OF_ONE:
        return facts.rows / facts.sampled, True
    return 1 / p, False


def sampled_interval(
    count: int, noise_half: int, facts: SampleFacts, *, keep: float = 1.0
) -> tuple[float, float]:
    """95 % interval of the whole's number, from the noisy `count` in the sample; never below 0.

    noise_half: half width of the 95 % interval of the noise. keep: the chance at which the contributor lets
    a shared person match at all. The error of the sample is about normal at the
    counts that may be shown; it and the noise are independent and their half widths are added in squares,
    which for a Laplace beside a normal errs on the wide side.
    """
    p = facts.rate
    factor, by_ratio = factor_of(facts)
    factor /= keep
    whole = max(0.0, count * factor)
    variance = (1 - p) / p * whole
    if by_ratio and facts.rows:
        # Σ (y − R x)² over all people; a shared one has one row at least, which bounds Σ x y from below.
        share = whole / facts.rows
        variance = (1 - p) / p * max(0.0, whole - 2 * share * whole + share**2 * facts.squares / p)
    variance += (1 - keep) * max(0, count) * factor**2
    half = math.sqrt(_Z**2 * variance + (noise_half * factor) ** 2)
    return max(0.0, whole - half), whole + half
