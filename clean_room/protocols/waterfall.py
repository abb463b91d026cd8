"""`overlap` on several keys: rows travel as tuples and are matched one to one, in order of priority.

    A                                              C
    X = X25519(x, 9)          ── Offer ─▶
                              ◀─ Accept ──
    (H(a₁)^x, …, H(a_K)^x)    ── AnalystRows ─▶     rows shuffled whole within each segment
                              ◀─ ContributorRows ── those ^y truncated, reshuffled whole; C's rows ^y; dummies
    C's rows ^x, match, − D/2
                              ── Seal ─▶  ◀─ Seal ──

**Matching.** Rows that have the same first key are a match; among the rows left over on both sides, those
with the same second key; and so on. A row is in one match at most. On each side a value of a key is in one
row only: of rows that share one (a family's phone) the first in file order has it and the others go without,
so a value makes at most one match, and nobody learns who shares what. A missing key is the point of a random
string. Every kind of key is hashed under its own name, so no e-mail address ever meets a phone number.

**Dummies** are whole rows. For every cell and every pattern, a non-empty set of keys, there are D/(2^K − 1)
pairs of rows of which k match, on exactly the keys of the pattern: so the number of rows that match on e-mail
alone, on phone alone and on both are each noised, not only their sum. Each pattern's k is drawn on its own.

**What it reveals beyond `overlap`.** To A: the noisy number of rows for every pattern; and how many rows
match two *different* rows by two keys, which no dummy hides. To neither: which person any row is, or a
match rate of one key. The (ε, δ) agreed is that of the released counts; see `clean_room.noise` for why a
waterfall needs more noise for it.

What thinning drops are whole rows. Everything else is as in `cardinality`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clean_room.errors import Misuse, PeerViolation
from clean_room.group.blinding import BASE_POINT, new_scalar
from clean_room.group.points import TRUNCATED, Points, Random, join, permutation
from clean_room.group.pool import BlindingPool, Progress
from clean_room.protocols.attestation import Attestation
from clean_room.protocols.cardinality import (
    AnalystOffered,
    AnalystSealing,
    ContributorDone,
    Side,
    agree,
    check_lists,
    countersign,
    follow,
    open_run,
    seal,
    split,
)
from clean_room.protocols.messages import Accept, AnalystRows, ContributorRows, Offer, Seal
from clean_room.protocols.terms import Terms, WaterfallTerms
from clean_room.protocols.thinning import dropped, random_column, replaced

__all__ = [
    "RowSide",
    "WaterfallAccepted",
    "WaterfallJoined",
    "WaterfallOffered",
    "WaterfallReturned",
    "WaterfallSent",
    "answer",
    "start",
]

Rows = tuple[Points, ...]
"""One segment: a list a key, row n at place n of each."""


@dataclass(frozen=True, slots=True)
class RowSide(Side):
    """A side whose segments are struct columns: one binary child a key, by priority, null = missing."""

    def check(self, groups: int) -> None:
        """Misuse unless every row has a key, and no value of a key is in two rows."""
        keys = _agreed(self.terms).keys
        if len(self.segments) != groups:
            raise Misuse("There must be one list of rows for every segment named in the terms.")
        for rows in self.segments:
            fits = pa.types.is_struct(rows.type) and rows.type.num_fields == len(keys)
            if not fits or any(not pa.types.is_binary(rows.type.field(i).type) for i in range(len(keys))):
                raise Misuse("Rows must be an Arrow struct with one child of type binary for every key.")
            present = [pc.is_valid(rows.field(i)).to_numpy(zero_copy_only=False) for i in range(len(keys))]
            if rows.null_count or not np.logical_or.reduce(present).all():
                raise Misuse("A row has none of the keys.", advice="Filter it out first.")
        for number in range(len(keys)):
            values = self._values(number).drop_null()
            if pc.count_distinct(values).as_py() != len(values):
                raise Misuse(
                    "A value of a key is in two rows.",
                    advice="Leave it to the first of them.",
                    code="duplicate_people",
                )

    def _values(self, number: int) -> pa.BinaryArray:
        return pa.concat_arrays([rows.field(number) for rows in self.segments])

    def rows(self, progress: Progress | None) -> tuple[Rows, ...]:
        """H(·)^scalar of every own row, rows first, then the padding; not shuffled."""
        keys, sizes = _agreed(self.terms).keys, self.sizes()
        lists: list[tuple[Points, ...]] = []
        for number, key in enumerate(keys):
            columns = []
            for rows, size in zip(self.segments, sizes, strict=True):
                strings = random_column(size, self.random)
                named = pc.binary_join_element_wise(key.encode() + b"\x00", rows.field(number), b"")
                columns += [pc.coalesce(named, strings.slice(0, len(rows))), strings.slice(len(rows))]
            lists.append(split(Points(self.hashed(pa.concat_arrays(columns), progress)), sizes))
        return tuple(zip(*lists, strict=True))


def _agreed(terms: Terms) -> WaterfallTerms:
    if not isinstance(terms, WaterfallTerms):
        raise Misuse("These terms are not for matching on several keys.")
    return terms


def _check_rows(name: str, rows: Sequence[Rows], sizes: Sequence[int], keys: int) -> None:
    """PeerViolation unless every key has lists of these sizes and no point is twice in any of them."""
    if len(rows) != len(sizes) or any(len(segment) != keys for segment in rows):
        raise PeerViolation(f"The lists of {name} are not one a key and segment.")
    lists = [points for segment in rows for points in segment]
    check_lists(name, lists, [size for size in sizes for _ in range(keys)])


def _flat(rows: Sequence[Rows], number: int) -> Points:
    return Points.concat([segment[number] for segment in rows], rows[0][number].width)


def _shuffled(rows: Rows, random: Random) -> Rows:
    order = permutation(len(rows[0]), random)
    return tuple(points.take(order) for points in rows)


# ── analyst ─────────────────────────────────────────────────────────────────────────────────────────────


def start(
    terms: WaterfallTerms,
    segments: Sequence[pa.StructArray],
    *,
    scalar: bytes,
    random: Random,
    pool: BlindingPool,
    attestation: Attestation,
    consent: bytes = b"",
    policy: bytes = bytes(32),
) -> tuple[WaterfallOffered, Offer]:
    """Begin as the analyst; `segments` as in `RowSide`. Raises Misuse if they do not fit the terms."""
    side = RowSide(_agreed(terms), tuple(segments), scalar, random, pool, attestation)
    state, offer = open_run(side, consent, policy)
    return WaterfallOffered(state, side), offer


@dataclass(frozen=True, slots=True)
class WaterfallOffered:
    """A has asked and waits for the Accept."""

    asked: AnalystOffered
    side: RowSide = field(repr=False)

    def accepted(
        self, message: Accept, *, progress: Progress | None = None
    ) -> tuple[WaterfallSent, AnalystRows]:
        """C agreed: hash, blind and shuffle the own rows. Heavy."""
        transcript, theirs = self.asked.checked(message)
        rows = tuple(_shuffled(segment, self.side.random) for segment in self.side.rows(progress))
        answer_ = AnalystRows(transcript, rows)
        return WaterfallSent(self.side, follow(transcript, answer_), theirs), answer_


@dataclass(frozen=True, slots=True)
class WaterfallSent:
    """A has sent its rows and waits for C's."""

    side: RowSide = field(repr=False)
    transcript: bytes
    theirs: tuple[int, ...]

    def joined(self, message: ContributorRows, *, progress: Progress | None = None) -> WaterfallJoined:
        """C answered: blind C's rows, match, count. Heavy. Nothing is sent; see `WaterfallJoined.seal`."""
        transcript, terms = follow(self.transcript, message), _agreed(self.side.terms)
        (analyst, contributor), d, keys = terms.groups, terms.dummies_per_cell, len(terms.keys)
        returned_sizes = [n + d * contributor for n in self.side.sizes()]
        own_sizes = [n + d * analyst for n in self.theirs]
        _check_rows("ContributorRows", message.returned, returned_sizes, keys)
        _check_rows("ContributorRows", message.own, own_sizes, keys)
        flat = Points.concat([_flat(message.own, number) for number in range(keys)]).buffer
        blinded = Points(self.side.pool.blind(self.side.scalar, flat, progress=progress)).truncated()
        own = split(blinded, [sum(own_sizes)] * keys)
        returned = [_flat(message.returned, number) for number in range(keys)]
        theirs = np.repeat(np.arange(contributor), own_sizes)
        ours = np.repeat(np.arange(analyst), returned_sizes)
        counts = np.zeros((analyst, contributor), dtype=np.int64)
        for row, other in matches(own, returned):
            np.add.at(counts, (ours[other], theirs[row]), 1)
        counts -= d // 2
        return WaterfallJoined(self.side, transcript, counts, int(counts.sum()))


def matches(
    own: Sequence[Points], returned: Sequence[Points]
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """For every key in order, which rows of `own` it matches with which of `returned`, one to one.

    own, returned: a list a key, without a point twice.
    """
    free_own = np.arange(len(own[0]), dtype=np.int64)
    free_returned = np.arange(len(returned[0]), dtype=np.int64)
    found = []
    for needles, haystack in zip(own, returned, strict=True):
        places = join(needles.take(free_own), haystack.take(free_returned))
        hit = places >= 0
        found.append((free_own[hit], free_returned[places[hit]]))
        taken = np.zeros(len(free_returned), dtype=np.bool_)
        taken[places[hit]] = True
        free_own, free_returned = free_own[~hit], free_returned[~taken]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class WaterfallJoined:
    """A knows `counts`: int64 (A segments, C segments), D/2 taken off; `total` is their sum."""

    side: Side = field(repr=False)
    transcript: bytes
    counts: npt.NDArray[np.int64]
    total: int

    def seal(self) -> tuple[AnalystSealing, Seal]:
        """Sign the transcript."""
        return seal(self.side, self.transcript)


# ── contributor ─────────────────────────────────────────────────────────────────────────────────────────


def answer(
    offer: Offer,
    terms: WaterfallTerms,
    segments: Sequence[pa.StructArray],
    *,
    matching: npt.NDArray[np.integer],
    scalar: bytes,
    random: Random,
    pool: BlindingPool,
    attestation: Attestation,
    consent: bytes = b"",
    policy: bytes = bytes(32),
) -> tuple[WaterfallAccepted, Accept]:
    """Begin as the contributor. matching: int (A segments, C segments, 2^K − 1), the noise k of every cell
    and pattern, 0 … D/(2^K − 1); pattern number m matches on the keys whose bits are set in m + 1."""
    k = _check_matching(_agreed(terms), matching)
    side = RowSide(terms, tuple(segments), scalar, random, pool, attestation)
    transcript, accept = agree(side, offer, consent, policy)
    return WaterfallAccepted(side, transcript, offer.commitment.sizes, offer.key, k), accept


def _check_matching(terms: WaterfallTerms, matching: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    k = np.asarray(matching)
    if k.shape != (*terms.groups, terms.patterns) or not np.issubdtype(k.dtype, np.integer):
        raise Misuse("The noise must be one whole number for every cell and pattern.")
    if (k < 0).any() or (k > terms.dummies // terms.patterns).any():
        raise Misuse("The noise of a pattern must lie between 0 and its number of dummies.")
    return k.astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class WaterfallAccepted:
    """C has agreed and waits for A's rows. `prepared` may use the wait."""

    side: RowSide = field(repr=False)
    transcript: bytes
    theirs: tuple[int, ...]
    key: bytes
    matching: npt.NDArray[np.int64] = field(repr=False)
    own: tuple[Rows, ...] | None = field(repr=False, default=None)

    def prepared(self, *, progress: Progress | None = None) -> WaterfallAccepted:
        """Hash and blind the own rows now rather than after A's came. Heavy, sends nothing."""
        return self if self.own is not None else replace(self, own=self.side.rows(progress))

    def returned(
        self, message: AnalystRows, *, progress: Progress | None = None
    ) -> tuple[WaterfallReturned, ContributorRows]:
        """A's rows came: blind them, thin them, mix the dummies into both, shuffle whole rows. Heavy."""
        transcript, side = follow(self.transcript, message), self.side
        terms = _agreed(side.terms)
        keys = len(terms.keys)
        _check_rows("AnalystRows", message.lists, self.theirs, keys)
        people = sum(self.theirs)
        lists = Points.concat([_flat(message.lists, number) for number in range(keys)]).buffer
        flat = split(Points(side.pool.blind(side.scalar, lists, progress=progress)), [people] * keys)
        places = dropped(people, terms.keep, side.random)
        thinned = [replaced(points, places, self._blind, side.random) for points in flat]
        cut = [split(points.truncated(), self.theirs) for points in thinned]
        own = self.own if self.own is not None else side.rows(None)
        ours, theirs = self._dummies(terms)
        returned = [
            _shuffled(_mixed(segment, extra, TRUNCATED), side.random)
            for segment, extra in zip(zip(*cut, strict=True), ours, strict=True)
        ]
        rows = [_shuffled(_mixed(o, extra), side.random) for o, extra in zip(own, theirs, strict=True)]
        answer_ = ContributorRows(transcript, tuple(returned), tuple(rows))
        return WaterfallReturned(side, follow(transcript, answer_)), answer_

    def _blind(self, column: pa.BinaryArray) -> bytes:
        return self.side.hashed(column, None)

    def _dummies(self, terms: WaterfallTerms) -> tuple[list[Rows], list[Rows]]:
        """Dummy rows for A's segments (truncated) and for C's (whole).

        Every dummy costs the same multiplications whatever it matches on.
        """
        keys, random, blind = len(terms.keys), self.side.random, self.side.pool.blinder.blind
        analyst, contributor = terms.groups
        returned: list[list[list[bytes]]] = [[[] for _ in range(keys)] for _ in range(analyst)]
        own: list[list[list[bytes]]] = [[[] for _ in range(keys)] for _ in range(contributor)]
        for i, j, pattern in np.ndindex(analyst, contributor, terms.patterns):
            for at in range(terms.dummies // terms.patterns):
                for number in range(keys):
                    s, other = new_scalar(random), new_scalar(random)
                    own[j][number].append(blind(s, BASE_POINT))
                    meets = at < self.matching[i, j, pattern] and (pattern + 1) >> number & 1
                    point = blind(s, self.key) if meets else blind(other, BASE_POINT)
                    returned[i][number].append(point[:TRUNCATED])
        return (
            [tuple(Points(b"".join(column), TRUNCATED) for column in segment) for segment in returned],
            [tuple(Points(b"".join(column)) for column in segment) for segment in own],
        )


def _mixed(rows: Rows, extra: Rows, width: int = 32) -> Rows:
    return tuple(Points.concat([a, b], width) for a, b in zip(rows, extra, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class WaterfallReturned:
    """C has sent its rows and waits for the seal."""

    side: Side = field(repr=False)
    transcript: bytes

    def sealed(self, message: Seal) -> tuple[ContributorDone, Seal]:
        """A signed the transcript: check, sign it too."""
        return countersign(self.side, self.transcript, message)
