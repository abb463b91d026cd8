"""What the two sides agree on before anything is computed: one type a protocol, one byte form each.

The byte form is RFC 8785 JSON, so both sides hash the same bytes; it travels inside the signed offer.
Which type it is decides what the analyst will learn; there is no flag that widens it.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import rfc8785

from clean_room.errors import BoundsExceeded, Misuse, PeerViolation
from clean_room.protocols.sampling import STEPS

__all__ = [
    "ActivateTerms",
    "AlignTerms",
    "ColumnTerms",
    "EpochTerms",
    "EstimateTerms",
    "MeasureTerms",
    "OverlapTerms",
    "Padding",
    "PartnerList",
    "ReachTerms",
    "RefreshTerms",
    "Terms",
    "WaterfallTerms",
    "parse_terms",
]

PLAIN_MODULUS = 281_474_976_694_273
"""t of the encrypted sums: the largest 48-bit prime that is 1 mod 2 · 8192."""
MAX_SEGMENTS = 256
MAX_CELLS = 4096
MAX_COLUMNS = 16
MAX_KEYS = 3
MAX_REFRESHES = 4
MAX_DUMMIES = 100_000
MAX_TOTAL_DUMMIES = 4_000_000
MAX_PEOPLE = 1 << 27
MIN_PARTNERS, MAX_PARTNERS = 2, 7
_MAX_TEXT = 256
_MAX_BYTES = 1 << 20


def _text(name: str, value: object, *, empty: bool = False) -> None:
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not (value or empty):
        raise Misuse(f"The terms' {name} must be 1 to {_MAX_TEXT} characters of text.")


def _whole(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Misuse(f"The terms' {name} must be a whole number from {low} to {high}.")


@dataclass(frozen=True, slots=True)
class Padding:
    """Size classes: a list is filled up with random points to the next class, so its size says little.

    From `minimum` up there are `steps` classes (a power of two) between one power of two and the next: the
    cost is at most 1/steps of the list (3 % on average with 16), and a size is known only to within that.
    """

    minimum: int = 256
    steps: int = 16

    def __post_init__(self) -> None:
        _whole("padding minimum", self.minimum, 1, 1 << 24)
        _whole("padding steps", self.steps, 1, 1 << 16)
        if self.steps & (self.steps - 1):
            raise Misuse(
                "The terms' padding steps must be a power of two: else a class is not its own class."
            )

    def padded(self, n: int) -> int:
        """The class of a list of `n` rows: the smallest class that is not below it."""
        if n <= self.minimum:
            return self.minimum
        step = max((1 << ((n - 1).bit_length() - 1)) // self.steps, 1)
        return -(-n // step) * step


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What every private join agrees on. Names are the collaboration's; `rules` its hash (hex).

    `kind` and `profile` say which identifier is joined and how it is normalised (privacy.identifiers).
    """

    PROTOCOL: ClassVar[str] = ""

    job: str
    purpose: str
    analyst: str
    contributor: str
    kind: str = "email"
    profile: str = "comity-1"
    collaboration: str = ""
    rules: str = ""
    analyst_dataset: str = ""
    contributor_dataset: str = ""
    padding: Padding = Padding()

    def __post_init__(self) -> None:
        for name in ("job", "purpose", "analyst", "contributor", "kind", "profile"):
            _text(name, getattr(self, name))
        for name in ("collaboration", "rules", "analyst_dataset", "contributor_dataset"):
            _text(name, getattr(self, name), empty=True)
        if not isinstance(self.padding, Padding):
            raise Misuse("The terms' padding must be a Padding.")

    @property
    def groups(self) -> tuple[int, int]:
        """How many lists each side sends: (analyst's, contributor's)."""
        return 1, 1

    @property
    def dummies_per_cell(self) -> int:
        """Dummies the contributor mixes in, a cell."""
        return 0

    def check_rows(self, rows: tuple[int, ...]) -> None:
        """Refused (`bounds_exceeded`) if the contributor's lists, of so many rows, are too long."""

    def to_bytes(self) -> bytes:
        """RFC 8785 JSON with a `protocol` member."""
        return rfc8785.dumps({**asdict(self), "protocol": self.PROTOCOL})


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapTerms(Terms):
    """`overlap`: the analyst learns a noisy size of the intersection for every cell.

    A cell is an analyst segment × a contributor segment. `dummies` is D: per cell, even; a cell's count
    comes out shifted by k − D/2, where 0 ≤ k ≤ D is the contributor's noise. `epsilon` and `delta` say
    what the contributor charges for it; drawing k accordingly is the caller's part (privacy.noise).
    `keep` is the share of people the contributor lets match, in thousandths (`clean_room.thinning`); the
    counts are of those let through, and whoever releases them divides.
    """

    PROTOCOL: ClassVar[str] = "overlap/1"

    analyst_segments: tuple[str, ...] = ("all",)
    contributor_segments: tuple[str, ...] = ("all",)
    dummies: int = 0
    epsilon: float = 0.0
    delta: float = 0.0
    keep: int = 1000

    def __post_init__(self) -> None:
        super(OverlapTerms, self).__post_init__()
        _whole("keep", self.keep, 1, 1000)
        for name in ("analyst_segments", "contributor_segments"):
            labels = getattr(self, name)
            if not isinstance(labels, tuple) or not 1 <= len(labels) <= MAX_SEGMENTS:
                raise Misuse(f"The terms' {name} must be a tuple of 1 to {MAX_SEGMENTS} labels.")
            for label in labels:
                _text(name, label)
            if len(set(labels)) != len(labels):
                raise Misuse(f"The terms' {name} name a segment twice.")
        if len(self.analyst_segments) * len(self.contributor_segments) > MAX_CELLS:
            raise Misuse(f"The terms have more than {MAX_CELLS} cells.")
        _whole("dummies", self.dummies, 0, MAX_DUMMIES)
        if self.dummies % 2:
            raise Misuse("The terms' dummies must be even: the noise is centred at half of them.")
        if self.dummies * len(self.analyst_segments) * len(self.contributor_segments) > MAX_TOTAL_DUMMIES:
            raise Misuse(
                f"The terms need more than {MAX_TOTAL_DUMMIES} dummies.",
                advice="Ask for fewer cells, or with a larger epsilon.",
                code="too_many_dummies",
            )
        for name in ("epsilon", "delta"):
            number = getattr(self, name)
            if not isinstance(number, int | float) or isinstance(number, bool) or not 0 <= number < math.inf:
                raise Misuse(f"The terms' {name} must be a number, 0 or more.")

    @property
    def groups(self) -> tuple[int, int]:
        """Number of segments on each side."""
        return len(self.analyst_segments), len(self.contributor_segments)

    @property
    def dummies_per_cell(self) -> int:
        """D."""
        return self.dummies


@dataclass(frozen=True, slots=True, kw_only=True)
class WaterfallTerms(OverlapTerms):
    """`overlap` on several keys: rows matched one to one, by the first of `keys`, then by the next.

    `dummies` is still per cell, of all patterns together; a pattern is a non-empty set of keys that a dummy
    row matches on, so there are 2^K − 1 of them, each with as many dummies, an even number.
    """

    PROTOCOL: ClassVar[str] = "waterfall/1"

    keys: tuple[str, ...] = ("email", "phone")

    def __post_init__(self) -> None:
        super(WaterfallTerms, self).__post_init__()
        if not isinstance(self.keys, tuple) or not 2 <= len(self.keys) <= MAX_KEYS:
            raise Misuse(f"The terms' keys must be a tuple of 2 to {MAX_KEYS} kinds of identifier.")
        for key in self.keys:
            _text("keys", key)
        if self.keys[0] != self.kind or len(set(self.keys)) != len(self.keys):
            raise Misuse("The terms' keys must be different, and the first the kind that is joined on.")
        if self.dummies % (2 * self.patterns):
            raise Misuse("The terms' dummies must be the same even number for every pattern.")

    @property
    def patterns(self) -> int:
        """How many sets of keys a dummy row can match on."""
        return (1 << len(self.keys)) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochTerms(OverlapTerms):
    """The first run of an epoch: an `overlap` of one cell that `refreshes` runs may follow under its keys.

    `dummies` is D for every pair of lifetimes (protocols.lifetimes, protocols.epochs): the noise of the whole
    epoch. `epsilon` and `delta` are for all of its runs taken together.
    """

    PROTOCOL: ClassVar[str] = "epoch/1"

    refreshes: int = 3

    def __post_init__(self) -> None:
        super(EpochTerms, self).__post_init__()
        _whole("refreshes", self.refreshes, 1, MAX_REFRESHES)
        if self.groups != (1, 1):
            raise Misuse("An epoch has one cell.")
        if self.epoch_dummies > MAX_TOTAL_DUMMIES:
            raise Misuse(
                f"The terms need more than {MAX_TOTAL_DUMMIES} dummies.",
                advice="Ask with a larger epsilon.",
                code="too_many_dummies",
            )

    @property
    def generation(self) -> int:
        """Which run of the epoch it is; the first is 0."""
        return 0

    @property
    def pairs(self) -> int:
        """How many pairs of lifetimes an epoch has."""
        return ((self.refreshes + 1) * (self.refreshes + 2) // 2) ** 2

    @property
    def epoch_dummies(self) -> int:
        """All dummies of the epoch, in each of the two lists."""
        return self.dummies * self.pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshTerms(EpochTerms):
    """A later run of the epoch that the job `epoch` began: the same question, of the people of now."""

    PROTOCOL: ClassVar[str] = "refresh/1"

    epoch: str
    number: int

    def __post_init__(self) -> None:
        super(RefreshTerms, self).__post_init__()
        _text("epoch", self.epoch)
        _whole("number", self.number, 1, self.refreshes)

    @property
    def generation(self) -> int:
        """`number`."""
        return self.number


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateTerms(OverlapTerms):
    """`estimate`: an overlap over a sample of both lists that is chosen alike (protocols.sampling).

    `step` is that of the rate, `period` the month (`2026-11`) and `sample` the name of the sampling key: two
    nodes that would sample by different keys differ in their terms.
    """

    PROTOCOL: ClassVar[str] = "estimate/1"

    step: int = 0
    period: str
    sample: str

    def __post_init__(self) -> None:
        super(EstimateTerms, self).__post_init__()
        _whole("step", self.step, 0, STEPS)
        for name in ("period", "sample"):
            _text(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class ColumnTerms:
    """One summed column: fixed-point integers clipped to lower … upper; value = integer / scale."""

    name: str
    lower: int
    upper: int
    scale: int = 1

    def __post_init__(self) -> None:
        _text("column name", self.name)
        _whole("column bounds", self.lower, -(1 << 40), 1 << 40)
        _whole("column bounds", self.upper, self.lower, 1 << 40)
        _whole("column scale", self.scale, 1, 1 << 40)

    def fixed_point(
        self, values: npt.NDArray[np.floating] | npt.NDArray[np.integer]
    ) -> npt.NDArray[np.int64]:
        """`values` times scale, rounded, clipped to the bounds. Misuse if one is missing or not a number."""
        scaled = np.asarray(values, dtype=np.float64) * self.scale
        if np.isnan(scaled).any():
            raise Misuse("A value is missing or not a number.")
        return np.clip(np.rint(scaled), self.lower, self.upper).astype(np.int64)

    @property
    def magnitude(self) -> int:
        """The largest absolute value a row can add."""
        return max(abs(self.lower), abs(self.upper))


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureTerms(OverlapTerms):
    """`measure`: besides the counts, a noisy sum of every column over every cell."""

    PROTOCOL: ClassVar[str] = "measure/1"

    columns: tuple[ColumnTerms, ...] = ()

    def __post_init__(self) -> None:
        super(MeasureTerms, self).__post_init__()
        if not isinstance(self.columns, tuple) or not 1 <= len(self.columns) <= MAX_COLUMNS:
            raise Misuse(f"The terms' columns must be a tuple of 1 to {MAX_COLUMNS} ColumnTerms.")
        if len({column.name for column in self.columns}) != len(self.columns):
            raise Misuse("The terms name a column twice.")

    def check_rows(self, rows: tuple[int, ...]) -> None:
        """Refused unless rows · bound < t/4 for every list and column: then no sum can wrap around."""
        for column in self.columns:
            if max(rows) * column.magnitude >= PLAIN_MODULUS // 4:
                raise BoundsExceeded(
                    "So many rows with such bounds could leave the range in which the sum is exact.",
                    rule="bounds_exceeded",
                    advice="Clip the column lower, or scale it by less.",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignTerms(Terms):
    """`align`: both sides learn which of their rows are shared, and a shared random id for each."""

    PROTOCOL: ClassVar[str] = "align/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivateTerms(Terms):
    """`activate`: the analyst learns the contributor's encrypted keys of the people they share.

    `keep` is the share of matching people the contributor lets match, in thousandths: the others are
    replaced by random points, so that no list, however well it fits, is found whole.
    """

    PROTOCOL: ClassVar[str] = "activate/1"

    keep: int = 1000

    def __post_init__(self) -> None:
        super(ActivateTerms, self).__post_init__()
        _whole("keep", self.keep, 1, 1000)


@dataclass(frozen=True, slots=True)
class PartnerList:
    """One contributor's list in a `reach`, named by the collaboration under which it is asked for."""

    collaboration: str
    dataset: str
    segment: str = ""

    def __post_init__(self) -> None:
        _text("collaboration", self.collaboration)
        _text("dataset", self.dataset)
        _text("segment", self.segment, empty=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachTerms(Terms):
    """`reach`: the analyst learns how many people are in exactly which of 3 to 8 lists, with noise.

    `partners` are all the contributors, by ascending collaboration, which is the order of the ring; list 0
    is the analyst's, list i that of `partners[i - 1]`. What is said of one contributor alone (`contributor`,
    `collaboration`, `rules`, `contributor_dataset`) differs from session to session; `panel` is the hash of
    the rest, the same for all.

    `dummies` is D, even, for every set of other lists (see protocols.reach). `size_slack` is B: a list goes
    out as long as one of n + B + ν people, with −B ≤ ν ≤ B the contributor's noise. Of `epsilon`,
    `size_epsilon` is for ν and the rest for the dummies; drawing both accordingly is the caller's part.
    """

    PROTOCOL: ClassVar[str] = "reach/1"

    partners: tuple[PartnerList, ...]
    analyst_segment: str = ""
    dummies: int = 0
    size_slack: int = 0
    epsilon: float = 0.0
    size_epsilon: float = 0.0
    delta: float = 0.0

    def __post_init__(self) -> None:
        super(ReachTerms, self).__post_init__()
        _text("analyst_segment", self.analyst_segment, empty=True)
        if not isinstance(self.partners, tuple) or not all(isinstance(p, PartnerList) for p in self.partners):
            raise Misuse("The terms' partners must be a tuple of PartnerList.")
        if not MIN_PARTNERS <= len(self.partners) <= MAX_PARTNERS:
            raise Misuse(f"A reach has {MIN_PARTNERS} to {MAX_PARTNERS} partners besides the analyst.")
        order = [partner.collaboration for partner in self.partners]
        if order != sorted(set(order)):
            raise Misuse("The terms' partners must be distinct and in ascending order of collaboration.")
        if PartnerList(self.collaboration, self.contributor_dataset) not in [
            PartnerList(partner.collaboration, partner.dataset) for partner in self.partners
        ]:
            raise Misuse("The terms' contributor is not one of their partners.")
        _whole("dummies", self.dummies, 0, MAX_DUMMIES)
        _whole("size_slack", self.size_slack, 0, MAX_DUMMIES)
        if self.dummies % 2:
            raise Misuse("The terms' dummies must be even: the noise is centred at half of them.")
        if self.most_dummies > MAX_TOTAL_DUMMIES:
            raise Misuse(
                f"The terms need more than {MAX_TOTAL_DUMMIES} dummies in a list.",
                advice="Ask with fewer partners, or with a larger epsilon.",
                code="too_many_dummies",
            )
        for name in ("epsilon", "size_epsilon", "delta"):
            number = getattr(self, name)
            if not isinstance(number, int | float) or isinstance(number, bool) or not 0 <= number < math.inf:
                raise Misuse(f"The terms' {name} must be a number, 0 or more.")
        if self.size_epsilon > self.epsilon:
            raise Misuse("The terms' size_epsilon is part of their epsilon.")

    @property
    def parties(self) -> int:
        """How many lists there are: 3 to 8."""
        return 1 + len(self.partners)

    @property
    def place(self) -> int:
        """Number of the contributor's list: 1 or more."""
        return 1 + [partner.collaboration for partner in self.partners].index(self.collaboration)

    @property
    def most_dummies(self) -> int:
        """At least as many as there will be in any list in the end."""
        return self.dummies * len(self.partners) << len(self.partners)

    @property
    def region_epsilon(self) -> float:
        """ε of the dummies."""
        return self.epsilon - self.size_epsilon

    @property
    def panel(self) -> str:
        """SHA-256 (hex) of what the terms of all contributors have in common."""
        common = {**asdict(self), "protocol": self.PROTOCOL}
        for name in ("contributor", "collaboration", "rules", "contributor_dataset"):
            del common[name]
        return hashlib.sha256(rfc8785.dumps(common)).hexdigest()


_TYPES: dict[str, type[Terms]] = {
    t.PROTOCOL: t
    for t in (
        OverlapTerms,
        WaterfallTerms,
        EpochTerms,
        RefreshTerms,
        EstimateTerms,
        MeasureTerms,
        AlignTerms,
        ActivateTerms,
        ReachTerms,
    )
}


def _rebuild(kind: type[Any], members: object) -> Any:
    if not isinstance(members, dict) or set(members) != {f.name for f in fields(kind)}:
        raise PeerViolation("The terms do not have exactly the members their protocol needs.")
    values: dict[str, Any] = dict(members)
    if "padding" in values:
        values["padding"] = _rebuild(Padding, values["padding"])
    for name in ("analyst_segments", "contributor_segments", "columns", "keys", "partners"):
        if name in values:
            if not isinstance(values[name], list):
                raise PeerViolation(f"The terms' {name} is not a list.")
            values[name] = tuple(values[name])
    for name, part in (("columns", ColumnTerms), ("partners", PartnerList)):
        if name in values:
            values[name] = tuple(_rebuild(part, member) for member in values[name])
    return kind(**values)


def parse_terms(data: bytes) -> Terms:
    """Read terms back from a partner's bytes. Anything but exactly what `to_bytes` writes: PeerViolation."""
    if len(data) > _MAX_BYTES:
        raise PeerViolation("The terms are too long.")
    try:
        members = json.loads(bytes(data))
        kind = _TYPES[members.pop("protocol")]
        terms = _rebuild(kind, members)
        again = terms.to_bytes()
    except PeerViolation:
        raise
    except (Misuse, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        # Our own checks name the field and never the value; a decoder's message may quote the input.
        why = error.detail if isinstance(error, Misuse) else "The terms cannot be read."
        raise PeerViolation(why) from None
    if again != bytes(data):
        raise PeerViolation("The terms are not in canonical form.")
    return terms  # type: ignore[no-any-return]
