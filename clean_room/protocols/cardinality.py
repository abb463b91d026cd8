"""`overlap`: how many people two partners share, per cell of segments, and nothing else.

    A                                              C
    X = X25519(x, 9)          ── Offer ─▶          rules and ε budget (the caller's part)
                              ◀─ Accept ──
    H(a)^x, shuffled          ── AnalystPoints ─▶
                              ◀─ ContributorPoints ── H(a)^xy truncated, reshuffled; H(c)^y; dummies in both
    H(c)^yx, join, − D/2
                              ── Seal ─▶  ◀─ Seal ──   both sign the transcript hash

A step is a method that takes the partner's message and returns (next state, message). It raises and
changes nothing if the message does not fit; the state can then be stepped again.

Lists are filled up to size classes with points of random strings, which come from the same map as
people do. The segments of a side must partition its people: within a segment they are distinct (Misuse
`duplicate_people`) and nobody is in two (Misuse `overlapping_segments`). Noise is charged once for all
cells because a person is in one only; whoever sent the same people in m segments would get m independent
noisy answers for the price of one. Both sides check it on the blinded lists they receive.

What a run reveals: to A, the noisy counts, C's padded sizes; to C, A's padded sizes. A that follows the
protocol cannot tell a dummy from a person. C cannot check that A uses the x behind X; X is signed, fresh
per job, and may be opened to an auditor.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clean_room.errors import IllegalStep, Misuse, PeerViolation
from clean_room.group.blinding import BASE_POINT
from clean_room.group.points import TRUNCATED, Points, Random, join, permutation
from clean_room.group.pool import BlindingPool, Progress
from clean_room.protocols.attestation import Attestation
from clean_room.protocols.dummies import Dummies, check_matching, draw_dummies
from clean_room.protocols.messages import (
    START,
    Accept,
    AnalystPoints,
    ContributorPoints,
    InputCommitment,
    Message,
    Offer,
    Seal,
    chain,
)
from clean_room.protocols.terms import (
    MAX_PEOPLE,
    EpochTerms,
    MeasureTerms,
    OverlapTerms,
    Terms,
    WaterfallTerms,
    parse_terms,
)
from clean_room.protocols.thinning import dropped, replaced
from privacy.column_mac import KEY, ColumnMac

__all__ = [
    "AnalystDone",
    "AnalystJoined",
    "AnalystOffered",
    "AnalystSealing",
    "AnalystSent",
    "ContributorAccepted",
    "ContributorDone",
    "ContributorReturned",
    "Side",
    "answer",
    "start",
]

ANALYST, CONTRIBUTOR = 1, 2
_HASH = ColumnMac(bytes(KEY))  # no secret: where two hashes are equal the people themselves are compared
OFFER, ACCEPT, TRANSCRIPT = "clean-room-offer", "clean-room-accept", "clean-room-transcript"


@dataclass(frozen=True, slots=True)
class Side:
    """One side's own things for the length of a run.

    segments: one Arrow binary column of canonical identifiers per own segment, distinct, without nulls.
    scalar: the run's secret (`new_scalar`). random: source of bytes. pool: does the heavy steps.
    """

    terms: Terms
    segments: tuple[pa.BinaryArray, ...] = field(repr=False)
    scalar: bytes = field(repr=False)
    random: Random = field(repr=False)
    pool: BlindingPool = field(repr=False)
    attestation: Attestation = field(repr=False)

    def check(self, groups: int) -> None:
        """Misuse unless there is one column of present identifiers a segment, nobody twice or in two."""
        if len(self.segments) != groups:
            raise Misuse("There must be one list of identifiers for every segment named in the terms.")
        for people in self.segments:
            if not (pa.types.is_binary(people.type) or pa.types.is_large_binary(people.type)):
                raise Misuse("Identifiers must be an Arrow column of type binary.")
            if people.null_count:
                raise Misuse("A segment holds missing identifiers.", advice="Filter them out first.")
            if not _distinct(people):
                raise Misuse(
                    "A segment holds the same person twice.",
                    advice="Deduplicate on the canonical identifier first.",
                    code="duplicate_people",
                )
        everybody = [people.cast(pa.binary()) for people in self.segments]
        if groups > 1 and not _distinct(pa.concat_arrays(everybody)):
            raise Misuse(
                "A person is in two segments.",
                advice="Use segments that partition the people.",
                code="overlapping_segments",
            )

    def sizes(self) -> tuple[int, ...]:
        """Padded size of every own list."""
        return tuple(self.terms.padding.padded(len(people)) for people in self.segments)

    def blinded(self, progress: Progress | None) -> tuple[Points, ...]:
        """H(·)^scalar of every own list, people first, then the padding; not shuffled."""
        sizes = self.sizes()
        columns = []
        for people, size in zip(self.segments, sizes, strict=True):
            noise, missing = self.random(32 * (size - len(people))), size - len(people)
            padding = pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(32), missing, [None, pa.py_buffer(noise)]
            )
            columns += [people.cast(pa.binary()), padding.cast(pa.binary())]
        flat = self.hashed(pa.concat_arrays(columns), progress)
        return split(Points(flat), sizes)

    def hashed(self, people: pa.BinaryArray, progress: Progress | None) -> bytes:
        """H(·)^scalar of a column: 32 bytes a row."""
        return self.pool.hash_and_blind(people, self.scalar, progress=progress)

    def public(self) -> bytes:
        """What the signed offer binds the scalar by: X, 32 bytes."""
        return self.pool.blind(self.scalar, BASE_POINT)

    def check_public(self, key: bytes) -> None:
        """PeerViolation for a partner's `public` that is no point, or one of low order."""
        self.pool.blind(self.scalar, key)


def _distinct(people: pa.BinaryArray) -> bool:
    """Whether nobody is twice in a column: by hashes, which take a third of the room of a table."""
    words = np.sort(_HASH.tags(people.cast(pa.binary()))[:, 0])
    if not (words[1:] == words[:-1]).any():
        return True
    return bool(pc.count_distinct(people).as_py() == len(people))


def split(points: Points, sizes: Sequence[int]) -> tuple[Points, ...]:
    """Cut one list into consecutive lists of the given sizes, without copying."""
    ends = np.cumsum([0, *sizes])
    return tuple(points.slice(int(a), int(b)) for a, b in itertools.pairwise(ends))


def follow(transcript: bytes, message: Message) -> bytes:
    """The transcript hash with `message` appended; PeerViolation if it does not follow this transcript."""
    if message.previous != transcript:
        raise PeerViolation("A message does not belong to this run, or came out of turn.")
    return chain(message)


def check_commitment(terms: Terms, commitment: InputCommitment, groups: int) -> None:
    """PeerViolation unless the sizes are size classes, one a segment, and not absurd together."""
    if len(commitment.sizes) != groups or any(terms.padding.padded(n) != n for n in commitment.sizes):
        raise PeerViolation("The committed sizes do not fit the terms.")
    if sum(commitment.sizes) > MAX_PEOPLE:
        raise PeerViolation(f"The committed sizes are those of more than {MAX_PEOPLE} people.")


def check_lists(name: str, lists: Sequence[Points], sizes: Sequence[int]) -> None:
    """PeerViolation unless the lists have these sizes and no point is twice in them, all taken together."""
    if [len(points) for points in lists] != list(sizes):
        raise PeerViolation(f"The lists of {name} do not have the sizes agreed.")
    if not Points.concat(lists, lists[0].width).distinct():
        raise PeerViolation(f"The lists of {name} hold a point twice.")


# ── analyst ─────────────────────────────────────────────────────────────────────────────────────────────


def start(
    terms: OverlapTerms,
    segments: Sequence[pa.BinaryArray],
    *,
    scalar: bytes,
    random: Random,
    pool: BlindingPool,
    attestation: Attestation,
    consent: bytes = b"",
    policy: bytes = bytes(32),
) -> tuple[AnalystOffered, Offer]:
    """Begin as the analyst. Cheap: nothing is hashed yet.

    segments: per analyst segment of `terms`, a column of canonical identifiers. consent, policy: go into
    the commitment (see InputCommitment). Raises Misuse if the input does not fit the terms.
    """
    _check_terms(terms)
    return open_run(Side(terms, tuple(segments), scalar, random, pool, attestation), consent, policy)


def _check_terms(terms: Terms) -> None:
    if not isinstance(terms, OverlapTerms) or isinstance(terms, WaterfallTerms | EpochTerms):
        raise Misuse("These terms are for another protocol.", advice=f"They are {terms.PROTOCOL}.")


def open_run(side: Side, consent: bytes, policy: bytes) -> tuple[AnalystOffered, Offer]:
    """The first step of every two-party join."""
    side.check(side.terms.groups[0])
    offer = Offer(
        terms=side.terms.to_bytes(),
        commitment=InputCommitment(side.sizes(), consent, policy),
        key=side.public(),
    )
    offer = replace(offer, signature=side.attestation.sign(OFFER, offer.unsigned()))
    return AnalystOffered(side, follow(START, offer)), offer


@dataclass(frozen=True, slots=True)
class AnalystOffered:
    """A has asked and waits for the Accept."""

    side: Side = field(repr=False)
    transcript: bytes

    def accepted(
        self, message: Accept, *, progress: Progress | None = None
    ) -> tuple[AnalystSent, AnalystPoints]:
        """C agreed: hash, blind and shuffle the own people. Heavy."""
        transcript, theirs = self.checked(message)
        lists = []
        for points in self.side.blinded(progress):
            lists.append(points.take(permutation(len(points), self.side.random)))
        answer_ = AnalystPoints(transcript, tuple(lists))
        return AnalystSent(self.side, follow(transcript, answer_), theirs), answer_

    def checked(self, message: Accept) -> tuple[bytes, tuple[int, ...]]:
        """The transcript with a good Accept appended, and C's sizes."""
        transcript = follow(self.transcript, message)
        check_commitment(self.side.terms, message.commitment, self.side.terms.groups[1])
        self.side.terms.check_rows(message.commitment.sizes)
        self.side.attestation.verify(ACCEPT, message.unsigned(), message.signature)
        return transcript, message.commitment.sizes


@dataclass(frozen=True, slots=True)
class AnalystSent:
    """A has sent its points and waits for C's."""

    side: Side = field(repr=False)
    transcript: bytes
    theirs: tuple[int, ...]

    def joined(self, message: ContributorPoints, *, progress: Progress | None = None) -> AnalystJoined:
        """C answered: blind C's people, join, count. Heavy. Nothing is sent; see `AnalystJoined.seal`."""
        transcript = follow(self.transcript, message)
        (rows, columns), d = self.side.terms.groups, self.side.terms.dummies_per_cell
        check_lists("ContributorPoints", message.returned, [n + d * columns for n in self.side.sizes()])
        sizes = [n + d * rows for n in self.theirs]
        check_lists("ContributorPoints", message.own, sizes)
        flat = self.side.pool.blind(self.side.scalar, Points.concat(message.own).buffer, progress=progress)
        people = Points(flat).truncated()
        del flat
        masks = np.stack([join(people, returned) >= 0 for returned in message.returned])
        bounds = np.cumsum([0, *sizes])
        counts = (
            np.add.reduceat(np.pad(masks, ((0, 0), (0, 1))), bounds[:-1], axis=1, dtype=np.int64) - d // 2
        )
        found = people.take(np.flatnonzero(masks.any(axis=0)))
        total = found.distinct_count() - rows * columns * (d // 2)
        return AnalystJoined(self.side, transcript, counts, total, masks, tuple(int(b) for b in bounds))


@dataclass(frozen=True, slots=True, eq=False)
class AnalystJoined:
    """A knows the result; what remains is to seal it (or, for `measure`, to sum).

    counts: int64 (A segments, C segments), D/2 taken off, so a cell may be negative. total: people found
    in any cell, D/2 a cell taken off; the sum of `counts`.
    masks: bool (A segments, C's rows): which of C's rows, in C's order, were found in each segment; C's
    segment j is masks[:, bounds[j]:bounds[j + 1]].
    """

    side: Side = field(repr=False)
    transcript: bytes
    counts: npt.NDArray[np.int64]
    total: int
    masks: npt.NDArray[np.bool_] = field(repr=False)
    bounds: tuple[int, ...] = field(repr=False)

    def seal(self) -> tuple[AnalystSealing, Seal]:
        """Sign the transcript. IllegalStep for `measure`, where the sums come first."""
        if isinstance(self.side.terms, MeasureTerms):
            raise IllegalStep("The sums agreed have not been asked for yet.")
        return seal(self.side, self.transcript)


def seal(side: Side, transcript: bytes) -> tuple[AnalystSealing, Seal]:
    """The analyst's closing signature."""
    signature = side.attestation.sign(TRANSCRIPT, transcript)
    return AnalystSealing(side, transcript, signature), Seal(transcript, ANALYST, signature)


@dataclass(frozen=True, slots=True)
class AnalystSealing:
    """A has signed and waits for C's signature."""

    side: Side = field(repr=False)
    transcript: bytes
    signature: bytes = field(repr=False)

    def sealed(self, message: Seal) -> AnalystDone:
        """C signed too. Tampered if the signature does not hold."""
        check_seal(self.side, self.transcript, message, CONTRIBUTOR)
        return AnalystDone(self.transcript, self.signature, message.signature)


def check_seal(side: Side, transcript: bytes, message: Seal, role: int) -> None:
    """PeerViolation or Tampered unless `message` is the partner's signature over `transcript`."""
    if message.previous != transcript or message.role != role:
        raise PeerViolation("A seal does not belong to this run.")
    side.attestation.verify(TRANSCRIPT, transcript, message.signature)


@dataclass(frozen=True, slots=True)
class AnalystDone:
    """Over. `transcript` is the hash both signed."""

    transcript: bytes
    own_signature: bytes
    partner_signature: bytes


# ── contributor ─────────────────────────────────────────────────────────────────────────────────────────


def answer(
    offer: Offer,
    terms: OverlapTerms,
    segments: Sequence[pa.BinaryArray],
    *,
    matching: npt.NDArray[np.integer],
    scalar: bytes,
    random: Random,
    pool: BlindingPool,
    attestation: Attestation,
    consent: bytes = b"",
    policy: bytes = bytes(32),
) -> tuple[ContributorAccepted, Accept]:
    """Begin as the contributor, having checked `parse_terms(offer.terms)` against rules and budget.

    terms: what the contributor agreed to; PeerViolation if the offer's are not the same. matching: int
    (A segments, C segments), the noise k of every cell, 0 … D. Misuse if own input does not fit.
    """
    _check_terms(terms)
    k = check_matching(terms, matching)
    side = Side(terms, tuple(segments), scalar, random, pool, attestation)
    transcript, accept = agree(side, offer, consent, policy)
    return ContributorAccepted(side, transcript, offer.commitment.sizes, offer.key, k), accept


def agree(side: Side, offer: Offer, consent: bytes, policy: bytes) -> tuple[bytes, Accept]:
    """The contributor's first step in every two-party join."""
    side.check(side.terms.groups[1])
    transcript = follow(START, offer)
    if parse_terms(offer.terms) != side.terms:
        raise PeerViolation("The terms offered are not the ones agreed.")
    check_commitment(side.terms, offer.commitment, side.terms.groups[0])
    side.terms.check_rows(side.sizes())
    side.attestation.verify(OFFER, offer.unsigned(), offer.signature)
    side.check_public(offer.key)  # before anything is spent
    accept = Accept(transcript, InputCommitment(side.sizes(), consent, policy))
    accept = replace(accept, signature=side.attestation.sign(ACCEPT, accept.unsigned()))
    return follow(transcript, accept), accept


def _kept(terms: Terms) -> int:
    return terms.keep if isinstance(terms, OverlapTerms) else 1000


@dataclass(frozen=True, slots=True, eq=False)
class ContributorAccepted:
    """C has agreed and waits for A's points. `prepared` may use the wait."""

    side: Side = field(repr=False)
    transcript: bytes
    theirs: tuple[int, ...]
    key: bytes
    matching: npt.NDArray[np.int64] = field(repr=False)
    own: tuple[Points, ...] | None = field(repr=False, default=None)

    def prepared(self, *, progress: Progress | None = None) -> ContributorAccepted:
        """Hash and blind the own people now rather than after A's points came. Heavy, sends nothing."""
        return self if self.own is not None else replace(self, own=self.side.blinded(progress))

    def returned(
        self, message: AnalystPoints, *, progress: Progress | None = None
    ) -> tuple[ContributorReturned, ContributorPoints]:
        """A's points came: blind and thin them, mix the dummies into both lists, shuffle. Heavy."""
        transcript = follow(self.transcript, message)
        check_lists("AnalystPoints", message.lists, self.theirs)
        side = self.side
        flat = side.pool.blind(side.scalar, Points.concat(message.lists).buffer, progress=progress)
        places = dropped(sum(self.theirs), _kept(side.terms), side.random)
        whole = replaced(Points(flat), places, lambda column: side.hashed(column, None), side.random)
        thinned = whole.truncated()
        del flat, whole  # a third of a gigabyte each at ten million people
        own = self.own if self.own is not None else side.blinded(None)
        dummies = draw_dummies(side.terms, self.matching, self.key, side.random, side.pool.blinder)
        own_lists, rows = self._own(own, dummies)
        returned = []
        for points, extra in zip(split(thinned, self.theirs), dummies.returned, strict=True):
            mixed = Points.concat([points.truncated(), extra.truncated()], TRUNCATED)
            returned.append(mixed.take(permutation(len(mixed), side.random)))
        answer_ = ContributorPoints(transcript, tuple(returned), own_lists)
        return ContributorReturned(side, follow(transcript, answer_), rows), answer_

    def _own(
        self, own: tuple[Points, ...], dummies: Dummies
    ) -> tuple[tuple[Points, ...], tuple[npt.NDArray[np.int64], ...]]:
        lists, rows = [], []
        for people, points, extra in zip(self.side.segments, own, dummies.own, strict=True):
            order = permutation(len(points) + len(extra), self.side.random)
            lists.append(points.mixed(extra, order))
            rows.append(np.where(order < len(people), order, -1))
        return tuple(lists), tuple(rows)


@dataclass(frozen=True, slots=True, eq=False)
class ContributorReturned:
    """C has sent its points and waits for the seal (or, for `measure`, sends its columns).

    rows: per own segment, int64, for every position of the list sent the row of `segments[j]` that stands
    there, or −1 for padding and dummies.
    """

    side: Side = field(repr=False)
    transcript: bytes
    rows: tuple[npt.NDArray[np.int64], ...] = field(repr=False)

    def sealed(self, message: Seal) -> tuple[ContributorDone, Seal]:
        """A signed the transcript: check, sign it too. IllegalStep for `measure`, as in `seal`."""
        if isinstance(self.side.terms, MeasureTerms):
            raise IllegalStep("The sums agreed have not been answered yet.")
        return countersign(self.side, self.transcript, message)


def countersign(side: Side, transcript: bytes, message: Seal) -> tuple[ContributorDone, Seal]:
    """The contributor's closing signature."""
    check_seal(side, transcript, message, ANALYST)
    signature = side.attestation.sign(TRANSCRIPT, transcript)
    return ContributorDone(transcript, signature, message.signature), Seal(transcript, CONTRIBUTOR, signature)


@dataclass(frozen=True, slots=True)
class ContributorDone:
    """Over. `transcript` is the hash both signed."""

    transcript: bytes
    own_signature: bytes
    partner_signature: bytes
