"""`reach`, the analyst's side: a line to every contributor, and the ring they make. See `protocols.reach`.

A line is one two-party session with its own transcript and seal. The states named `Reach…` hold all of them
and take the messages of all contributors at once, in the order of the ring; if one does not fit, nothing
has changed, and the error says whose it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clean_room.errors import IllegalStep, Misuse, PeerViolation, Tampered
from clean_room.group.points import Points, Random, permutation
from clean_room.group.pool import BlindingPool, Progress
from clean_room.protocols.attestation import Attestation
from clean_room.protocols.cardinality import AnalystOffered, AnalystSealing, follow, open_run, seal
from clean_room.protocols.messages import Accept, Message, Offer, ReachList, ReachOwn, ReachSizes, Seal
from clean_room.protocols.reach import ReachSide, check_header, check_lengths, check_points
from clean_room.protocols.regions import region_counts
from clean_room.protocols.ring import length_after, list_at, transit_keys
from clean_room.protocols.terms import ReachTerms

__all__ = [
    "LineAgreed",
    "LineOffered",
    "LineOpen",
    "LinePassing",
    "LineSized",
    "ReachAsked",
    "ReachCircling",
    "ReachCounted",
    "ReachSized",
    "start",
]

# ── the line to one contributor ────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class LineOffered:
    """A has asked one contributor and waits for its Accept."""

    side: ReachSide = field(repr=False)
    transcript: bytes

    def accepted(self, message: Accept) -> LineAgreed:
        """C agreed."""
        transcript, (theirs,) = AnalystOffered(self.side, self.transcript).checked(message)
        return LineAgreed(self.side, transcript, theirs)


@dataclass(frozen=True, slots=True)
class LineAgreed:
    """C has agreed; A waits for the others."""

    side: ReachSide = field(repr=False)
    transcript: bytes
    theirs: int

    def sizes(self, lengths: tuple[int, ...]) -> tuple[LineSized, ReachSizes]:
        """Everybody has agreed: tell C how long the lists are."""
        message = ReachSizes(self.transcript, lengths)
        return LineSized(self.side, follow(self.transcript, message), lengths), message


@dataclass(frozen=True, slots=True)
class LineSized:
    """A waits for C's own list."""

    side: ReachSide = field(repr=False)
    transcript: bytes
    lengths: tuple[int, ...]

    def opened(self, message: ReachOwn) -> LineOpen:
        """C gave out its list."""
        terms = self.side.ring
        transcript = follow(self.transcript, message)
        if terms.padding.padded(message.stated) != self.lengths[terms.place]:
            raise PeerViolation("The size stated is not the one committed to.")
        check_header(message.header)
        check_points("ReachOwn", message.points, length_after(terms, self.lengths, terms.place, 0))
        size = message.stated - terms.size_slack
        return LineOpen(self.side, transcript, self.lengths, size, 0, message.header, message.points)


@dataclass(frozen=True, slots=True)
class LineOpen:
    """A has got from C the list of round `hop` (0: C's own) and will send the next, or the seal.

    size: C's noisy n.
    """

    side: ReachSide = field(repr=False)
    transcript: bytes
    lengths: tuple[int, ...]
    size: int
    hop: int
    header: bytes = field(repr=False)
    points: Points = field(repr=False)

    def passes(self, header: bytes, points: Points) -> tuple[LinePassing, ReachList]:
        """Send the list whose turn it is with C. IllegalStep if all have been there."""
        terms, hop = self.side.ring, self.hop + 1
        if hop == terms.parties:
            raise IllegalStep("Every list has come by.")
        message = ReachList(self.transcript, list_at(terms.parties, terms.place, hop), hop, header, points)
        state = LinePassing(self.side, follow(self.transcript, message), self.lengths, self.size, hop, header)
        return state, message

    def seal(self) -> tuple[AnalystSealing, Seal]:
        """Sign the transcript. IllegalStep before all lists have been with C."""
        if self.hop != self.side.ring.parties - 1:
            raise IllegalStep("Not every list has come by.")
        return seal(self.side, self.transcript)


@dataclass(frozen=True, slots=True)
class LinePassing:
    """A waits for the list that is with C."""

    side: ReachSide = field(repr=False)
    transcript: bytes
    lengths: tuple[int, ...]
    size: int
    hop: int
    sent: bytes = field(repr=False)

    def returned(self, message: ReachList) -> LineOpen:
        """The list came back, under one more key."""
        terms = self.side.ring
        transcript = follow(self.transcript, message)
        owner = list_at(terms.parties, terms.place, self.hop)
        if (message.owner, message.hop) != (owner, self.hop):
            raise PeerViolation("Another list came back than was sent.")
        check_header(message.header)
        if message.header == self.sent:
            raise PeerViolation("A header came back as it was sent.")
        check_points("ReachList", message.points, length_after(terms, self.lengths, owner, self.hop))
        return LineOpen(
            self.side, transcript, self.lengths, self.size, self.hop, message.header, message.points
        )


# ── the whole ring ─────────────────────────────────────────────────────────────────────────────

L = TypeVar("L")
R = TypeVar("R")
M = TypeVar("M", bound=Message)


def _each(lines: Sequence[L], messages: Sequence[M], step: Callable[[L, M], R]) -> tuple[R, ...]:
    """Take `step` on every line with its message; a violation names the contributor."""
    taken = []
    for line, message in zip(lines, messages, strict=True):
        try:
            taken.append(step(line, message))
        except (PeerViolation, Tampered) as error:
            name = line.side.terms.contributor  # type: ignore[attr-defined]
            raise type(error)(f"{name}: {error.detail}", advice=error.advice, code=error.code) from None
    return tuple(taken)


def start(
    terms: Sequence[ReachTerms],
    people: pa.BinaryArray,
    *,
    random: Random,
    pool: BlindingPool,
    attestations: Sequence[Attestation],
    consents: Sequence[bytes],
    policies: Sequence[bytes],
) -> tuple[ReachAsked, tuple[Offer, ...]]:
    """Begin as the analyst. Cheap: nothing is hashed yet.

    terms, attestations, consents, policies: one for each contributor, in the order of the ring. people:
    distinct canonical identifiers, all consented towards every contributor. Raises Misuse for terms that
    are not of one panel.
    """
    if not terms or any(not isinstance(own, ReachTerms) for own in terms):
        raise Misuse("These terms are not for a reach.")
    if [own.place for own in terms] != list(range(1, terms[0].parties)):
        raise Misuse("There must be terms for every contributor, in the order of the ring.")
    if len({own.panel for own in terms}) != 1:
        raise Misuse("The contributors' terms are not of one panel.")
    keys = tuple(transit_keys(random) for _ in range(terms[0].parties))
    lines, offers = [], []
    for own, attestation, consent, policy in zip(terms, attestations, consents, policies, strict=True):
        side = ReachSide(own, (people,), keys[0][0], random, pool, attestation)
        state, offer = open_run(side, consent, policy)
        lines.append(LineOffered(side, state.transcript))
        offers.append(offer)
    return ReachAsked(tuple(lines), keys), tuple(offers)


@dataclass(frozen=True, slots=True)
class ReachAsked:
    """A has asked everybody. `keys` are t and its inverse for every list."""

    lines: tuple[LineOffered, ...]
    keys: tuple[tuple[bytes, bytes], ...] = field(repr=False)

    def accepted(
        self, messages: Sequence[Accept], *, progress: Progress | None = None
    ) -> tuple[ReachSized, tuple[ReachSizes, ...]]:
        """All have agreed: hash, blind and shuffle the own people; tell all how long the lists are. Heavy."""
        agreed = _each(self.lines, messages, LineOffered.accepted)
        side = self.lines[0].side
        lengths = (*side.sizes(), *(line.theirs for line in agreed))
        check_lengths(side.ring, lengths)
        (points,) = side.blinded(progress)
        own = (side.public(), points.take(permutation(len(points), side.random)))
        lines, told = zip(*(line.sizes(lengths) for line in agreed), strict=True)
        return ReachSized(lines, self.keys, own), told


@dataclass(frozen=True, slots=True)
class ReachSized:
    """A waits for everybody's list. `own` is A's: header and points under t_0."""

    lines: tuple[LineSized, ...]
    keys: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    own: tuple[bytes, Points] = field(repr=False)

    def opened(
        self, messages: Sequence[ReachOwn], *, progress: Progress | None = None
    ) -> tuple[ReachCircling, tuple[ReachList, ...]]:
        """All lists are here: put a key of A's on each, shuffle, and send each to its first stop. Heavy."""
        opened = _each(self.lines, messages, LineSized.opened)
        side, lists = opened[0].side, [self.own]
        for line, (key, _) in zip(opened, self.keys[1:], strict=True):
            points = Points(side.pool.blind(key, line.points.buffer, progress=progress))
            points = points.take(permutation(len(points), side.random))
            lists.append((side.pool.blind(key, line.header), points))
        return circle(opened, self.keys, tuple(lists))


Lists = tuple[tuple[bytes, Points], ...]


def circle(
    lines: tuple[LineOpen, ...], keys: tuple[tuple[bytes, bytes], ...], lists: Lists
) -> tuple[ReachCircling, tuple[ReachList, ...]]:
    """Send every contributor the list of the next round."""
    parties, hop = len(lists), lines[0].hop + 1
    turn = [lists[list_at(parties, place, hop)] for place in range(1, parties)]
    sent, messages = zip(*(line.passes(*due) for line, due in zip(lines, turn, strict=True)), strict=True)
    return ReachCircling(sent, keys, lists), messages


@dataclass(frozen=True, slots=True)
class ReachCircling:
    """A waits for the lists that are with the contributors. `lists` are as A has them, one resting."""

    lines: tuple[LinePassing, ...]
    keys: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    lists: Lists = field(repr=False)

    @property
    def closing(self) -> bool:
        """Whether this is the last round."""
        return self.lines[0].hop == len(self.lists) - 1

    def returned(self, messages: Sequence[ReachList]) -> tuple[ReachCircling, tuple[ReachList, ...]]:
        """A round is over: send the lists on. IllegalStep in the last round, see `closed`."""
        if self.closing:
            raise IllegalStep("Every list has been everywhere.")
        lines, lists = self._received(messages)
        return circle(lines, self.keys, lists)

    def closed(self, messages: Sequence[ReachList], *, progress: Progress | None = None) -> ReachCounted:
        """The last round is over: take A's keys off and count. Heavy. IllegalStep in an earlier round."""
        if not self.closing:
            raise IllegalStep("Not every list has been everywhere.")
        lines, lists = self._received(messages)
        pool = lines[0].side.pool
        last = [
            Points(pool.blind(key, points.buffer, progress=progress)).truncated()
            for (_, points), (_, key) in zip(lists, self.keys, strict=True)
        ]
        terms, counts = lines[0].side.ring, region_counts(last)
        shared = np.array([mask.bit_count() > 1 for mask in range(len(counts))])
        counts[shared] -= len(lines) * (terms.dummies // 2)
        counts[~shared] = 0
        people = len(lines[0].side.segments[0])
        return ReachCounted(lines, counts, (people, *(line.size for line in lines)))

    def _received(self, messages: Sequence[ReachList]) -> tuple[tuple[LineOpen, ...], Lists]:
        lines = _each(self.lines, messages, LinePassing.returned)
        lists = list(self.lists)
        for line in lines:
            terms = line.side.ring
            lists[list_at(terms.parties, terms.place, line.hop)] = (line.header, line.points)
        return lines, tuple(lists)


@dataclass(frozen=True, slots=True, eq=False)
class ReachCounted:
    """A knows the result; what remains is to seal it with everybody.

    counts: int64 (2^N,), at bit mask m the people in exactly the lists of m, N − 1 times D/2 taken off, so
    that a region may be negative; 0 for no list and for single lists, which are only padding and the rest.
    sizes: people in each list, A's own exactly, the others' with their noise (may be negative).
    """

    lines: tuple[LineOpen, ...]
    counts: npt.NDArray[np.int64] = field(repr=False)
    sizes: tuple[int, ...]
