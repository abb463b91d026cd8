"""`overlap` in an epoch: a cold run, and refreshes in which only what has changed is blinded.

    A                                              C
    X = X25519(x, 9)          ── Offer ─▶          holds the epoch at the generation before, or it is over
                              ◀─ Accept ──
    who came: H(a)^x          ── AnalystChange ─▶
    who went: their places    ◀─ ContributorChange ──  of A's list and of its own: who came, who went
    count the lists as they are now
                              ── Seal ─▶  ◀─ Seal ──

The first run is a change of two empty lists. x and y live as long as the epoch, so a point that stays need
not be blinded again, and can be recognised: this is what a refresh saves and what it costs.

**What A sees.** In each list every point has a lifetime (protocols.lifetimes), and A learns which points
the two lists have in common. So the whole of what an epoch tells A, however it keeps and joins what it got,
is how many points of either list have each lifetime, and for every pair of lifetimes (i, j)

    m_ij = number of points with lifetime i in A's list that are in C's list with lifetime j

whether or not both were ever there at a time; it learns more of each m_ij, as lifetimes end, but never
more than m_ij. Which of A's people is which point it cannot say beyond the lifetime, as C shuffles what came
in one run.

**What protects C's people.** In the cold run C draws k_ij, truncated discrete Laplace centred at D/2, for
every pair, and fixes D dummies for it: each a point of lifetime i in A's returned list and a point of
lifetime j in C's own; k_ij of them the same person, X25519(s, X) and X25519(s, 9), the others two unrelated
ones. They come and go with their lifetimes like people, so that A sees m_ij + k_ij, and how many points
have a lifetime does not depend on k. Noise of a later run's own would be told from people by being new
then, and noise that stays cancels out of the difference of two runs: here both are lifetimes like any other.

A person of C has one lifetime in C's list and meets a person with one lifetime in A's: it is counted in one
m_ij. Without it the same is seen with one k_ij larger by one. Which one may depend on what A chose to do on
seeing the earlier runs; but what A saw says which it is, so taking the noise of the world with the person
to that of the world without is one to one, and no outcome is likelier in one than e^ε times in the other, but
with probability δ. **All runs of an epoch together are (ε, δ)-DP for a person of C**, whenever it came or
went; ε is charged for the cold run and nothing for a refresh. The price is error: a count is the sum of all
pairs whose lifetimes are both running, (g+1)²(R+1−g)² in generation g of an epoch of R refreshes.

That holds as long as nobody comes back: a point with a second life would be in a class of its own, alone. A
side that sees somebody come back begins a new epoch, and C takes no point of A's a second time. Nor is a
generation answered twice: two answers with the same dummies and other people would part the two. C's epoch is
therefore over when a run fails after its answer has left.

**What else is seen.** A sees the sizes of C's groups of one lifetime, C those of A's; each is filled up to a
size class, what leaves by padding that was laid in when it came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clean_room.errors import Misuse, PeerViolation
from clean_room.group.points import TRUNCATED, Buffer, Points, Random, join, permutation
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
)
from clean_room.protocols.epoch_states import AnalystEpoch, ContributorEpoch, Listed
from clean_room.protocols.lifetimes import Change, EpochOver, alive_pairs, change, laid, length_of, lifetimes
from clean_room.protocols.messages import Accept, AnalystChange, ContributorChange, Offer, Seal
from clean_room.protocols.terms import EpochTerms
from clean_room.protocols.thinning import dropped, random_column, replaced
from privacy.column_mac import ColumnMac

__all__ = ["EpochAccepted", "EpochJoined", "EpochOffered", "EpochReturned", "EpochSent", "answer", "start"]


@dataclass(frozen=True, slots=True)
class EpochSide(Side):
    """A side in an epoch; its scalar is that of the epoch."""

    @property
    def epoch(self) -> EpochTerms:
        """The terms. Misuse if they are for something else."""
        if not isinstance(self.terms, EpochTerms):
            raise Misuse("These terms are not for an epoch.")
        return self.terms

    def tags(self, key: bytes) -> npt.NDArray[np.uint64]:
        """Keyed hashes of the own people."""
        return ColumnMac(key).tags(self.segments[0].cast(pa.binary()))

    def changed(self, held: AnalystEpoch | ContributorEpoch) -> tuple[Change, npt.NDArray[np.uint64]]:
        """What changes in the own list, and the hashes of the own people. EpochOver."""
        tags = self.tags(held.key)
        return change(held.own, tags, self.epoch.generation, self.terms.padding, self.random), tags

    def length(self, people: int) -> int:
        """How long a list of so many people goes out in this generation."""
        terms = self.epoch
        return length_of(people, terms.padding, terms.refreshes - terms.generation)

    def fresh(self, rows: npt.NDArray[np.int64], padding: int, progress: Progress | None) -> Points:
        """H(·)^scalar of these rows of the own people, then of padding."""
        people = self.segments[0].cast(pa.binary()).take(pa.array(rows))
        nobody = random_column(padding, self.random)
        return Points(self.hashed(pa.concat_arrays([people, nobody]), progress))

    def check_added(self, name: str, points: int, committed: int, dummies: int) -> None:
        """PeerViolation unless a list that came has a length it may have."""
        length = points - dummies
        terms = self.epoch
        expected = self.length(committed)
        if terms.generation == 0:
            fits = length == expected
        else:
            fits = 0 <= length <= expected and terms.padding.padded(length) == length
        if not fits:
            raise PeerViolation(f"The message {name} has a list of a length that does not fit.")


def _places(name: str, gone: Sequence[Buffer], lists: Sequence[Listed]) -> list[npt.NDArray[np.int64]]:
    """Places as they came, ascending and of points that are there. PeerViolation."""
    if len(gone) != len(lists):
        raise PeerViolation(f"The message {name} is of another generation.")
    found = []
    for group, held in zip(gone, lists, strict=True):
        places = np.frombuffer(group, dtype=">u4").astype(np.int64)
        if len(places) and (
            (np.diff(places) <= 0).any() or places[-1] >= len(held) or not held.alive[places].all()
        ):
            raise PeerViolation(f"The message {name} names points that are not there.")
        found.append(places)
    return found


def _sent(places: Sequence[npt.NDArray[np.int64]]) -> tuple[Buffer, ...]:
    return tuple(group.astype(">u4").tobytes() for group in places)


def _check_held(terms: EpochTerms, held: AnalystEpoch | ContributorEpoch | None) -> None:
    """EpochOver unless what is held is this epoch at the generation before."""
    if terms.generation == 0:
        if held is not None:
            raise Misuse("The first run of an epoch has nothing before it.")
    elif held is None or len(held.own) != terms.generation:
        raise EpochOver("This node does not hold the epoch at that generation.")


# ── analyst ─────────────────────────────────────────────────────────────────────────────────────────────


def start(
    terms: EpochTerms,
    segments: Sequence[pa.BinaryArray],
    *,
    held: AnalystEpoch | None,
    scalar: bytes,
    random: Random,
    pool: BlindingPool,
    attestation: Attestation,
    consent: bytes = b"",
    policy: bytes = bytes(32),
) -> tuple[EpochOffered, Offer]:
    """Begin as the analyst; as `cardinality.start`. `held` is what the run before left, None in a cold run.

    `scalar` is for a cold run; a refresh goes on with that of the epoch. Raises EpochOver.
    """
    _check_held(terms, held)
    epoch = AnalystEpoch(scalar, random(16)) if held is None else held
    side = EpochSide(terms, tuple(segments), epoch.scalar, random, pool, attestation)
    side.check(1)
    changed, tags = side.changed(epoch)
    offered, offer = open_run(side, consent, policy)
    return EpochOffered(side, offered, epoch, changed, tags), offer


@dataclass(frozen=True, slots=True, eq=False)
class EpochOffered:
    """A has asked and waits for the Accept."""

    side: EpochSide = field(repr=False)
    offered: AnalystOffered = field(repr=False)
    held: AnalystEpoch = field(repr=False)
    changed: Change = field(repr=False)
    tags: npt.NDArray[np.uint64] = field(repr=False)

    def accepted(
        self, message: Accept, *, progress: Progress | None = None
    ) -> tuple[EpochSent, AnalystChange]:
        """C agreed: blind who came, name the places of who went. Heavy in a cold run."""
        transcript, theirs = self.offered.checked(message)
        side, rows = self.side, self.changed.fresh
        padding = side.length(len(rows)) - len(rows)
        group, order = laid(self.tags[rows], padding, np.empty(0, np.uint8), side.random)
        points = side.fresh(rows, padding, progress).take(order)
        reply = AnalystChange(transcript, _sent(self.changed.gone), points)
        held = replace(self.held, own=(*self.changed.groups, group))
        return EpochSent(side, follow(transcript, reply), held, theirs[0], len(points)), reply


@dataclass(frozen=True, slots=True, eq=False)
class EpochSent:
    """A has sent its change and waits for C's."""

    side: EpochSide = field(repr=False)
    transcript: bytes
    held: AnalystEpoch = field(repr=False)
    theirs: int
    added: int

    def joined(self, message: ContributorChange, *, progress: Progress | None = None) -> EpochJoined:
        """C answered: blind who came, take out who went, count. Heavy in a cold run."""
        transcript = follow(self.transcript, message)
        side, held, terms = self.side, self.held, self.side.epoch
        g, d, span = terms.generation, terms.dummies, lifetimes(terms.refreshes)
        extra = d * len(span) * sum(b == g for b, _ in span)
        check_lists("ContributorChange", [message.returned], [self.added + extra])
        side.check_added("ContributorChange", len(message.own), self.theirs, extra)
        check_lists("ContributorChange", [message.own], [len(message.own)])
        returned = [
            group.without(places, g)
            for group, places in zip(
                held.returned, _places("ContributorChange", message.returned_gone, held.returned), strict=True
            )
        ]
        theirs = [
            group.without(places, g)
            for group, places in zip(
                held.theirs, _places("ContributorChange", message.own_gone, held.theirs), strict=True
            )
        ]
        blinded = Points(side.pool.blind(side.scalar, message.own.buffer, progress=progress)).truncated()
        returned.append(Listed.of(message.returned))
        theirs.append(Listed.of(blinded))
        found = join(
            Points.concat([group.now() for group in theirs], TRUNCATED),
            Points.concat([group.now() for group in returned], TRUNCATED),
        )
        count = int((found >= 0).sum()) - d // 2 * alive_pairs(terms.refreshes, g)
        after = replace(held, returned=tuple(returned), theirs=tuple(theirs))
        return EpochJoined(side, transcript, np.array([[count]], dtype=np.int64), after)


@dataclass(frozen=True, slots=True, eq=False)
class EpochJoined:
    """A knows the result. counts: int64 (1, 1), as `AnalystJoined.counts`. held: for the next refresh."""

    side: EpochSide = field(repr=False)
    transcript: bytes
    counts: npt.NDArray[np.int64]
    held: AnalystEpoch = field(repr=False)

    def seal(self) -> tuple[AnalystSealing, Seal]:
        """Sign the transcript."""
        return seal(self.side, self.transcript)


# ── contributor ─────────────────────────────────────────────────────────────────────────────────────────


def answer(
    offer: Offer,
    terms: EpochTerms,
    segments: Sequence[pa.BinaryArray],
    *,
    held: ContributorEpoch | None,
    matching: npt.NDArray[np.integer] | None,
    scalar: bytes,
    random: Random,
    pool: BlindingPool,
    attestation: Attestation,
    consent: bytes = b"",
    policy: bytes = bytes(32),
) -> tuple[EpochAccepted, Accept]:
    """Begin as the contributor; as `cardinality.answer`. `held` is what the run before left.

    matching: int (pairs of lifetimes,), k of each, 0 … D, lifetimes of A's list first; None for a refresh,
    whose noise was drawn in the cold run. Raises EpochOver.
    """
    _check_held(terms, held)
    if held is None:
        k = np.asarray(matching)
        if k.shape != (terms.pairs,) or not np.issubdtype(k.dtype, np.integer):
            raise Misuse("The noise must be one whole number for every pair of lifetimes.")
        if (k < 0).any() or (k > terms.dummies).any():
            raise Misuse("The noise of a pair must lie between 0 and its number of dummies.")
        epoch = ContributorEpoch(scalar, random(16), offer.key, random(32), terms.dummies, k.astype(np.int64))
    elif matching is not None:
        raise Misuse("The noise of an epoch is drawn in its first run.")
    else:
        epoch = held
        if (epoch.dummies_per_pair, len(epoch.matching)) != (terms.dummies, terms.pairs):
            raise EpochOver("The epoch was begun with other noise.")
        if offer.key != epoch.partner:
            raise PeerViolation("A refresh was offered under another key.")
    side = EpochSide(terms, tuple(segments), epoch.scalar, random, pool, attestation)
    side.check(1)
    changed, tags = side.changed(epoch)
    transcript, accept = agree(side, offer, consent, policy)
    return EpochAccepted(side, transcript, offer.commitment.sizes[0], epoch, changed, tags), accept


@dataclass(frozen=True, slots=True, eq=False)
class EpochAccepted:
    """C has agreed and waits for A's change. `prepared` may use the wait."""

    side: EpochSide = field(repr=False)
    transcript: bytes
    theirs: int
    held: ContributorEpoch = field(repr=False)
    changed: Change = field(repr=False)
    tags: npt.NDArray[np.uint64] = field(repr=False)
    own: Points | None = field(repr=False, default=None)

    @property
    def _padding(self) -> int:
        rows = self.changed.fresh
        return self.side.length(len(rows)) - len(rows)

    def prepared(self, *, progress: Progress | None = None) -> EpochAccepted:
        """Blind who came to the own list now rather than later. Heavy in a cold run, sends nothing."""
        if self.own is not None:
            return self
        return replace(self, own=self.side.fresh(self.changed.fresh, self._padding, progress))

    def returned(
        self, message: AnalystChange, *, progress: Progress | None = None
    ) -> tuple[EpochReturned, ContributorChange]:
        """A's change came: blind who came, find who went, mix in the dummies whose time it is. Heavy."""
        transcript = follow(self.transcript, message)
        side, held, terms = self.side, self.held, self.side.epoch
        g = terms.generation
        side.check_added("AnalystChange", len(message.added), self.theirs, 0)
        check_lists("AnalystChange", [message.added], [len(message.added)])
        places = _places("AnalystChange", message.gone, held.sent)
        if any(terms.padding.padded(len(group)) != len(group) for group in places):
            raise PeerViolation("A group of places is not filled up to a size class.")
        held.check_new(message.added)
        ready = self.prepared(progress=progress)
        own = ready.own if ready.own is not None else Points(b"")
        flat = side.pool.blind(side.scalar, message.added.buffer, progress=progress)
        thin = dropped(len(message.added), terms.keep, side.random)
        people = replaced(Points(flat), thin, lambda column: side.hashed(column, None), side.random)
        theirs, mine = held.dummies(terms, side.pool.blinder)
        # A's list: people in the order they came, then dummies; shuffled.
        whole = Points.concat([people.truncated(), theirs.points.truncated()], TRUNCATED)
        order = permutation(len(whole), side.random)
        returned = whole.take(order)
        sent = [group.without(gone, g) for group, gone in zip(held.sent, places, strict=True)]
        returned_gone = [group.places_of(gone, g) for group, gone in zip(sent, places, strict=True)]
        sent.append(Listed.placed(message.added, order, theirs.ends))
        group, mixed = laid(self.tags[self.changed.fresh], self._padding, mine.ends, side.random)
        reply = ContributorChange(
            transcript,
            _sent(returned_gone),
            returned,
            _sent(self.changed.gone),
            own.mixed(mine.points, mixed),
        )
        after = replace(held, own=(*self.changed.groups, group), sent=tuple(sent))
        return EpochReturned(side, follow(transcript, reply), after), reply


@dataclass(frozen=True, slots=True, eq=False)
class EpochReturned:
    """C has sent its change and waits for the seal. held: for the next refresh, once the run is signed."""

    side: EpochSide = field(repr=False)
    transcript: bytes
    held: ContributorEpoch = field(repr=False)

    def sealed(self, message: Seal) -> tuple[ContributorDone, Seal]:
        """A signed the transcript: check, sign it too."""
        return countersign(self.side, self.transcript, message)
