"""`align`: both sides get a shared random id for every person they share. An explicit reveal.

    A                                              C
                              ── Offer ─▶  ◀─ Accept ──
    H(a)^x, shuffled          ── AnalystPoints ─▶
                              ◀─ AlignPoints ──    H(a)^xy in A's order; H(c)^y, shuffled
    H(c)^yx, join, draw ids   ── AlignedRows ─▶    position in C's list ↔ id
                              ── Seal ─▶  ◀─ Seal ──

Afterwards both know which of their own people the other has too: the input of joint training, under a
rule and a consent purpose of its own. The caller filters by consent before; there are no dummies.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clean_room.errors import Misuse, PeerViolation
from clean_room.group.points import Points, Random, join, permutation
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
from clean_room.protocols.messages import ROW_ID, Accept, AlignedRows, AlignPoints, AnalystPoints, Offer, Seal
from clean_room.protocols.terms import AlignTerms

__all__ = [
    "AlignAccepted",
    "AlignAgreed",
    "AlignOffered",
    "AlignReturned",
    "AlignSent",
    "AnalystAligned",
    "answer",
    "start",
]


def start(
    terms: AlignTerms,
    people: pa.BinaryArray,
    *,
    scalar: bytes,
    random: Random,
    pool: BlindingPool,
    attestation: Attestation,
    consent: bytes = b"",
    policy: bytes = bytes(32),
) -> tuple[AlignOffered, Offer]:
    """Begin as the analyst. `people`: distinct canonical identifiers, all consented."""
    if not isinstance(terms, AlignTerms):
        raise Misuse("These terms are not for alignment.")
    state, offer = open_run(Side(terms, (people,), scalar, random, pool, attestation), consent, policy)
    return AlignOffered(state), offer


@dataclass(frozen=True, slots=True)
class AlignOffered:
    """A has asked and waits for the Accept."""

    asked: AnalystOffered

    def accepted(
        self, message: Accept, *, progress: Progress | None = None
    ) -> tuple[AlignSent, AnalystPoints]:
        """C agreed: hash, blind and shuffle the own people, remembering the order. Heavy."""
        transcript, (theirs,) = self.asked.checked(message)
        side = self.asked.side
        (points,) = side.blinded(progress)
        order = permutation(len(points), side.random)
        answer_ = AnalystPoints(transcript, (points.take(order),))
        rows = np.where(order < len(side.segments[0]), order, -1)
        return AlignSent(side, follow(transcript, answer_), theirs, rows), answer_


@dataclass(frozen=True, slots=True, eq=False)
class AlignSent:
    """A has sent its points and waits for C's."""

    side: Side = field(repr=False)
    transcript: bytes
    theirs: int
    rows: npt.NDArray[np.int64] = field(repr=False)

    def joined(
        self, message: AlignPoints, *, progress: Progress | None = None
    ) -> tuple[AnalystAligned, AlignedRows]:
        """C answered: blind C's people, join, draw an id for each shared person. Heavy."""
        transcript = follow(self.transcript, message)
        check_lists("AlignPoints", (message.returned,), (len(self.rows),))
        check_lists("AlignPoints", (message.own,), (self.theirs,))
        blinded = Points(self.side.pool.blind(self.side.scalar, message.own.buffer, progress=progress))
        found = join(blinded.truncated(), message.returned)
        positions = np.flatnonzero(found >= 0)
        rows = self.rows[found[positions]]
        if (rows < 0).any():
            raise PeerViolation("A person of the partner was found among the padding.")
        # Ids in ascending order go to rows in C's (random) order, so both sides sort alike.
        drawn = np.frombuffer(self.side.random(ROW_ID * len(rows)), dtype=">u8").reshape(-1, 2)
        ids = drawn[np.lexsort((drawn[:, 1], drawn[:, 0]))].tobytes()
        answer_ = AlignedRows(transcript, positions.astype(">u4").tobytes(), ids)
        state = AnalystAligned(self.side, follow(transcript, answer_), rows, as_ids(ids))
        return state, answer_


def as_ids(flat: bytes) -> pa.FixedSizeBinaryArray:
    """Row ids as an Arrow column."""
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(ROW_ID), len(flat) // ROW_ID, [None, pa.py_buffer(flat)]
    )


@dataclass(frozen=True, slots=True, eq=False)
class AnalystAligned:
    """A knows: own row `rows[n]` (int64) is shared and has the id `ids[n]` (16 bytes); ids ascend."""

    side: Side = field(repr=False)
    transcript: bytes
    rows: npt.NDArray[np.int64] = field(repr=False)
    ids: pa.FixedSizeBinaryArray = field(repr=False)

    def seal(self) -> tuple[AnalystSealing, Seal]:
        """Sign the transcript."""
        return seal(self.side, self.transcript)


def answer(
    offer: Offer,
    terms: AlignTerms,
    people: pa.BinaryArray,
    *,
    scalar: bytes,
    random: Random,
    pool: BlindingPool,
    attestation: Attestation,
    consent: bytes = b"",
    policy: bytes = bytes(32),
) -> tuple[AlignAccepted, Accept]:
    """Begin as the contributor, having checked the offered terms. PeerViolation if they differ."""
    if not isinstance(terms, AlignTerms):
        raise Misuse("These terms are not for alignment.")
    side = Side(terms, (people,), scalar, random, pool, attestation)
    transcript, accept = agree(side, offer, consent, policy)
    return AlignAccepted(side, transcript, offer.commitment.sizes), accept


@dataclass(frozen=True, slots=True, eq=False)
class AlignAccepted:
    """C has agreed and waits for A's points."""

    side: Side = field(repr=False)
    transcript: bytes
    theirs: tuple[int, ...]
    own: tuple[Points, ...] | None = field(repr=False, default=None)

    def prepared(self, *, progress: Progress | None = None) -> AlignAccepted:
        """Hash and blind the own people now rather than after A's points came. Heavy, sends nothing."""
        return self if self.own is not None else replace(self, own=self.side.blinded(progress))

    def returned(
        self, message: AnalystPoints, *, progress: Progress | None = None
    ) -> tuple[AlignReturned, AlignPoints]:
        """A's points came: blind them in their order. Heavy."""
        transcript, side = follow(self.transcript, message), self.side
        check_lists("AnalystPoints", message.lists, self.theirs)
        flat = side.pool.blind(side.scalar, message.lists[0].buffer, progress=progress)
        (own,) = self.own if self.own is not None else side.blinded(None)
        order = permutation(len(own), side.random)
        answer_ = AlignPoints(transcript, Points(flat).truncated(), own.take(order))
        rows = np.where(order < len(side.segments[0]), order, -1)
        return AlignReturned(side, follow(transcript, answer_), rows), answer_


@dataclass(frozen=True, slots=True, eq=False)
class AlignReturned:
    """C has sent its points and waits for the ids."""

    side: Side = field(repr=False)
    transcript: bytes
    sent: npt.NDArray[np.int64] = field(repr=False)

    def aligned(self, message: AlignedRows) -> AlignAgreed:
        """Read the ids. PeerViolation if a position is none of ours, or a position or id comes twice."""
        transcript = follow(self.transcript, message)
        positions = np.frombuffer(message.positions, dtype=">u4").astype(np.int64)
        if len(positions) and positions.max() >= len(self.sent):
            raise PeerViolation("The message AlignedRows names a position that does not exist.")
        rows = self.sent[positions]
        if (rows < 0).any() or len(np.unique(positions)) != len(positions):
            raise PeerViolation("The message AlignedRows names padding, or a position twice.")
        ids = np.frombuffer(message.ids, dtype=np.uint8).reshape(-1, ROW_ID)
        words = ids.view(">u8").reshape(-1, 2).astype(np.uint64)
        later, earlier = words[1:], words[:-1]
        ascending = (later[:, 0] > earlier[:, 0]) | (
            (later[:, 0] == earlier[:, 0]) & (later[:, 1] > earlier[:, 1])
        )
        if not ascending.all():
            raise PeerViolation("The ids of the message AlignedRows do not ascend.")
        return AlignAgreed(self.side, transcript, rows, as_ids(ids.tobytes()))


@dataclass(frozen=True, slots=True, eq=False)
class AlignAgreed:
    """C knows: own row `rows[n]` (int64) is shared and has the id `ids[n]` (16 bytes); ids ascend."""

    side: Side = field(repr=False)
    transcript: bytes
    rows: npt.NDArray[np.int64] = field(repr=False)
    ids: pa.FixedSizeBinaryArray = field(repr=False)

    def sealed(self, message: Seal) -> tuple[ContributorDone, Seal]:
        """A signed the transcript: check, sign it too."""
        return countersign(self.side, self.transcript, message)
