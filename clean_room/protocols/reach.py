"""`reach`: how many people are in exactly which of 3 to 8 lists, and nothing else. The contributor's side.

    A, once for each contributor C                C, at place j of the ring, with key k
                              ── Offer ─▶          rules and ε budget (the caller's part)
                              ◀─ Accept ──
                              ── ReachSizes ─▶     how long everybody's list is
                              ◀─ ReachOwn ──       9^k, H(c)^k, shuffled; dummies in it
    in every round h = 1 … N−1, list i = (j − h) mod N:
    9^b, list i               ── ReachList ─▶
                              ◀─ ReachList ──      9^bk, list i to the k, reshuffled; dummies in it
                              ── Seal ─▶  ◀─ Seal ──

A puts a key t_i of its own on list i before any contributor sees it, and takes it off at the end, when all
lists are under the product of the contributors' keys: there A counts the points of every set of lists. No
two contributors need an agreement; A relays. A point is shuffled by each contributor, so nobody, A
included, can tell whose it is while one of those that had it keeps silent.

**What protects C's people against all others together.** b, the product of the keys on a list before C's,
travels with it as the header 9^b. For every non-empty set T of other lists C draws D scalars r and mixes
9^(bkr), made from the header, into each list of T: the same D points in all lists of T in the end. k_T of
them, and D − k_T random points, are in its own list as well, k_T truncated discrete Laplace with scale 1/ε_r
centred at D/2. Sizes do not depend on k_T. Let x_T be how many of C's people are in exactly the lists T of
the others, and y_T how many people are in exactly those lists, C's or not, which C does not change. Whoever
holds everybody else's lists and keys can take those keys off, and then sees random points of which it
knows which lists they are in, that is

    in exactly T and C's list    x_T + k_T
    in exactly T, not C's list   y_T + D − (x_T + k_T)
    in C's list alone            the length of C's list less all x_T + k_T

so x_T + k_T for every T, and the length of C's list, are all there is to see, at any hop and in the end. A
person of C is counted in one x_T at most: adding or removing somebody changes one of these numbers by one
(ε_r, δ_r), and the length, which is a function of n + ν with ν truncated discrete Laplace (ε_s, δ_s), by one:
**(ε_r + ε_s, δ_r + δ_s) in all**. One draw for both regions, with and without C, is what makes it so: drawn
apart they would cost 2 ε_r.

**What contributors learn.** Nothing but lengths, however many of them put together what they have seen
without A: every list they see is under its own t_i, so no two of them can be joined.

A that follows the protocol cannot tell a dummy from a person. One that lies about a header, or sends one
person under several keys, can take the noise off (docs/threat-model.md); the headers are in the transcripts
both sides sign, and may be traced from contributor to contributor by an auditor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clean_room.errors import IllegalStep, Misuse, PeerViolation
from clean_room.group.blinding import BASE_POINT, check_canonical, new_scalar
from clean_room.group.hash_to_curve import on_curve
from clean_room.group.points import WHOLE, Points, Random, permutation
from clean_room.group.pool import BlindingPool, Progress
from clean_room.protocols.attestation import Attestation
from clean_room.protocols.cardinality import (
    ContributorDone,
    Side,
    agree,
    check_lists,
    countersign,
    follow,
)
from clean_room.protocols.messages import Accept, Offer, ReachList, ReachOwn, ReachSizes, Seal
from clean_room.protocols.ring import length_after, list_at, sets_beside
from clean_room.protocols.terms import MAX_PEOPLE, ReachTerms

__all__ = ["ReachAccepted", "ReachPassing", "ReachReturned", "ReachSide", "answer"]

LOW_ORDER = frozenset(
    u.to_bytes(WHOLE, "little")
    for u in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        2**255 - 20,
    )
)
"""u of the points whose order divides 8, of the curve and of its twist, in canonical form."""
_LOW_WORDS = np.array([int.from_bytes(u[:8], "little") for u in LOW_ORDER], dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class ReachSide(Side):
    """A side whose list is as long as one of `slack` more people; of terms for a reach."""

    slack: int = 0

    @property
    def ring(self) -> ReachTerms:
        """The terms. Misuse if they are for something else."""
        if not isinstance(self.terms, ReachTerms):
            raise Misuse("These terms are not for a reach.")
        return self.terms

    @property
    def stated(self) -> int:
        """n + slack."""
        return len(self.segments[0]) + self.slack

    def sizes(self) -> tuple[int, ...]:
        """Padded size of the own list."""
        return (self.terms.padding.padded(self.stated),)


def check_header(header: bytes) -> None:
    """PeerViolation for a header that cannot be the base point under some keys: its dummies would show."""
    check_canonical(header)
    if header in LOW_ORDER or header == BASE_POINT or not on_curve(int.from_bytes(header, "little")):
        raise PeerViolation("A header is not a point that keys lead to.")


def check_points(name: str, points: Points, length: int) -> None:
    """PeerViolation unless there are `length` distinct points in canonical form, none of low order."""
    check_lists(name, (points,), (length,))
    check_canonical(points.buffer)
    suspects = np.flatnonzero(np.isin(points.words, _LOW_WORDS))
    if any(bytes(points.array[at]) in LOW_ORDER for at in suspects):
        raise PeerViolation(f"A point of {name} has low order.")


def check_lengths(terms: ReachTerms, lengths: Sequence[int]) -> None:
    """PeerViolation unless there is one size class for every list, and they are not absurd together."""
    if len(lengths) != terms.parties or any(terms.padding.padded(n) != n for n in lengths):
        raise PeerViolation("The lengths of the lists do not fit the terms.")
    if sum(lengths) > MAX_PEOPLE:
        raise PeerViolation(f"The lists are those of more than {MAX_PEOPLE} people.")


# ── contributor ─────────────────────────────────────────────────────────────────────────────────────────


def answer(
    offer: Offer,
    terms: ReachTerms,
    people: pa.BinaryArray,
    *,
    matching: npt.NDArray[np.integer],
    size_noise: int,
    scalar: bytes,
    random: Random,
    pool: BlindingPool,
    attestation: Attestation,
    consent: bytes = b"",
    policy: bytes = bytes(32),
) -> tuple[ReachAccepted, Accept]:
    """Begin as the contributor, having checked the offered terms against rules and budget.

    people: distinct canonical identifiers, all consented. matching: int (2^(N−1) − 1,), k_T of every set T
    of other lists in ascending order of its bit mask, 0 … D. size_noise: ν, −B … B. PeerViolation if the
    offer's terms differ from `terms`, Misuse if own input does not fit.
    """
    if not isinstance(terms, ReachTerms):
        raise Misuse("These terms are not for a reach.")
    k = np.asarray(matching)
    if k.shape != ((1 << terms.parties - 1) - 1,) or not np.issubdtype(k.dtype, np.integer):
        raise Misuse("The noise must be one whole number for every set of other lists.")
    if (k < 0).any() or (k > terms.dummies).any():
        raise Misuse("The noise of a set must lie between 0 and its number of dummies.")
    if abs(size_noise) > terms.size_slack:
        raise Misuse("The noise of the size must lie within its slack.")
    slack = terms.size_slack + size_noise
    side = ReachSide(terms, (people,), scalar, random, pool, attestation, slack)
    transcript, accept = agree(side, offer, consent, policy)
    theirs = offer.commitment.sizes[0]
    return ReachAccepted(side, transcript, theirs, offer.key, k.astype(np.int64)), accept


@dataclass(frozen=True, slots=True, eq=False)
class ReachAccepted:
    """C has agreed and waits for the lengths of all lists. `prepared` may use the wait."""

    side: ReachSide = field(repr=False)
    transcript: bytes
    theirs: int
    key: bytes
    matching: npt.NDArray[np.int64] = field(repr=False)
    own: Points | None = field(repr=False, default=None)

    def prepared(self, *, progress: Progress | None = None) -> ReachAccepted:
        """Hash and blind the own people now rather than after the lengths came. Heavy, sends nothing."""
        return self if self.own is not None else replace(self, own=self.side.blinded(progress)[0])

    def sized(
        self, message: ReachSizes, *, progress: Progress | None = None
    ) -> tuple[ReachPassing, ReachOwn]:
        """Everybody has agreed: give out the own list, with dummies. Heavy unless prepared."""
        side, terms = self.side, self.side.ring
        transcript = follow(self.transcript, message)
        check_lengths(terms, message.lengths)
        if (message.lengths[0], message.lengths[terms.place]) != (self.theirs, *side.sizes()):
            raise PeerViolation("The lengths of the lists are not the ones committed to.")
        own = self.own if self.own is not None else side.blinded(progress)[0]
        header, blind = side.public(), side.pool.blinder.blind
        scalars, extra = [], []
        for matches in self.matching.tolist():
            for number in range(terms.dummies):
                shared, other = new_scalar(side.random), new_scalar(side.random)
                scalars.append(shared)
                extra.append(blind(shared if number < matches else other, header))
        mixed = Points.concat([own, Points(b"".join(extra))])
        points = mixed.take(permutation(len(mixed), side.random))
        answer_ = ReachOwn(transcript, side.stated, header, points)
        state = ReachPassing(
            side,
            follow(transcript, answer_),
            message.lengths,
            self.key,
            b"".join(scalars),
            frozenset({header}),
            1,
        )
        return state, answer_


@dataclass(frozen=True, slots=True, eq=False)
class ReachPassing:
    """C waits for the list of round `hop`. After the last it is a `ReachReturned`.

    key: the header of A's list, from the offer. scalars: the 32-byte r of every dummy, D for each set of
    other lists in ascending order of its bit mask. headers: those seen so far; no two lists share one.
    """

    side: ReachSide = field(repr=False)
    transcript: bytes
    lengths: tuple[int, ...]
    key: bytes
    scalars: bytes = field(repr=False)
    headers: frozenset[bytes] = field(repr=False)
    hop: int

    def passed(
        self, message: ReachList, *, progress: Progress | None = None
    ) -> tuple[ReachPassing, ReachList]:
        """A list came by: blind it, mix the dummies of its sets in, shuffle. Heavy."""
        side, terms = self.side, self.side.ring
        if self.hop == terms.parties:
            raise IllegalStep("Every list has come by.")
        transcript = follow(self.transcript, message)
        owner = list_at(terms.parties, terms.place, self.hop)
        if (message.owner, message.hop) != (owner, self.hop):
            raise PeerViolation("A list came out of turn: each comes by once, in the order of the ring.")
        check_header(message.header)
        if owner == 0 and self.hop == 1 and message.header != self.key:
            raise PeerViolation("The header of the analyst's list is not the one in its offer.")
        if message.header in self.headers:
            raise PeerViolation("A header came twice: each list is under keys of its own.")
        check_points("ReachList", message.points, length_after(terms, self.lengths, owner, self.hop - 1))
        header = side.pool.blind(side.scalar, message.header)
        flat = side.pool.blind(side.scalar, message.points.buffer, progress=progress)
        mixed = Points.concat([Points(flat), self._dummies(owner, header)])
        answer_ = ReachList(
            transcript, owner, self.hop, header, mixed.take(permutation(len(mixed), side.random))
        )
        last = self.hop == terms.parties - 1
        state = (ReachReturned if last else ReachPassing)(
            side,
            follow(transcript, answer_),
            self.lengths,
            self.key,
            b"" if last else self.scalars,
            self.headers | {message.header, header},
            self.hop + 1,
        )
        return state, answer_

    def _dummies(self, owner: int, header: bytes) -> Points:
        terms, blind = self.side.ring, self.side.pool.blinder.blind
        size, points = WHOLE * terms.dummies, []
        for number, mask in enumerate(sets_beside(terms.parties, terms.place)):
            if mask >> owner & 1:
                drawn = self.scalars[number * size : (number + 1) * size]
                points += [blind(drawn[at : at + WHOLE], header) for at in range(0, size, WHOLE)]
        return Points(b"".join(points))


@dataclass(frozen=True, slots=True, eq=False)
class ReachReturned(ReachPassing):
    """C has had every list and waits for the seal."""

    def sealed(self, message: Seal) -> tuple[ContributorDone, Seal]:
        """A signed the transcript: check, sign it too."""
        return countersign(self.side, self.transcript, message)
