"""`activate`: the analyst gets the contributor's encrypted keys of the people they share. An explicit reveal.

The dual clean room flow of PAIR 1.x (IAB Tech Lab, Publisher Advertiser Identity Reconciliation), in the
ristretto255 group (`clean_room.group.ristretto`); A is the advertiser with key a, C the publisher with
key p and salt s:

    A                                              C
                              ── Offer ─▶  ◀─ Accept, PairSalt ──     s
    E(a, P(x)), shuffled      ── AnalystPoints ─▶
                              ◀─ PairPoints ──     E(p, E(a, P(x))) reshuffled; E(p, P(y)) shuffled
    E(a, E(p, P(y))), join
                              ── Seal ─▶  ◀─ Seal ──

A ends with those of C's *publisher ids* E(p, P(y)) that both have, which its platform may bid on; C keeps
which of its people has which publisher id, to put it in a bid request. A learns how many it shares and no
identity, not even which of its own people they are, because C reshuffles its list; C learns nothing but
A's padded size. p and s live for an epoch (PAIR: 180 and 30 days), or the ids would be of no use to C:
within one, A can tell that a person is the same one as in an earlier run.

`terms.keep` below 1000 makes C replace a random part of A's points, so that a match rate says nothing
certain about anybody. The caller filters by consent before; there are no dummies.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import rbcl

from clean_room.errors import Misuse
from clean_room.group.points import WHOLE, Points, Random, join, permutation
from clean_room.group.pool import BlindingPool, Progress
from clean_room.group.ristretto import SALT, encrypt
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
from clean_room.protocols.messages import Accept, AnalystPoints, Offer, PairPoints, PairSalt, Seal
from clean_room.protocols.terms import ActivateTerms

__all__ = [
    "ActivateAccepted",
    "ActivateOffered",
    "ActivateReturned",
    "ActivateSalted",
    "ActivateSent",
    "AnalystActivated",
    "PairSide",
    "answer",
    "start",
]


@dataclass(frozen=True, slots=True)
class PairSide(Side):
    """A side whose scalar is a PAIR key and whose people are hashed with a salt (32 bytes)."""

    salt: bytes = field(default=bytes(SALT), repr=False)

    def hashed(self, people: pa.BinaryArray, progress: Progress | None) -> bytes:
        """E(key, P(·)) of a column."""
        return self.pool.pair_hash(people, self.scalar, self.salt, progress=progress)

    def public(self) -> bytes:
        """key · base point."""
        return bytes(rbcl.crypto_scalarmult_ristretto255_base(self.scalar))

    def check_public(self, key: bytes) -> None:
        """PeerViolation for what is no point of the group."""
        encrypt(self.scalar, key)


def start(
    terms: ActivateTerms,
    people: pa.BinaryArray,
    *,
    scalar: bytes,
    random: Random,
    pool: BlindingPool,
    attestation: Attestation,
    consent: bytes = b"",
    policy: bytes = bytes(32),
) -> tuple[ActivateOffered, Offer]:
    """Begin as the analyst. `people`: distinct addresses, canonical under `pair-1`, all consented.

    `scalar` is a PAIR key (`ristretto.new_key`).
    """
    _check_terms(terms)
    side = PairSide(terms, (people,), scalar, random, pool, attestation)
    state, offer = open_run(side, consent, policy)
    return ActivateOffered(state, side), offer


def _check_terms(terms: object) -> None:
    if not isinstance(terms, ActivateTerms):
        raise Misuse("These terms are not for activation.")
    if (terms.kind, terms.profile) != ("email", "pair-1"):
        raise Misuse(
            "Activation joins e-mail addresses under the profile pair-1.",
            advice="Agree on the key profile pair-1.",
            code="profile_mismatch",
        )


@dataclass(frozen=True, slots=True)
class ActivateOffered:
    """A has asked and waits for the Accept."""

    asked: AnalystOffered
    side: PairSide = field(repr=False)

    def accepted(self, message: Accept) -> ActivateSalted:
        """C agreed; its salt comes next."""
        transcript, (theirs,) = self.asked.checked(message)
        return ActivateSalted(self.side, transcript, theirs)


@dataclass(frozen=True, slots=True)
class ActivateSalted:
    """A waits for the salt."""

    side: PairSide = field(repr=False)
    transcript: bytes
    theirs: int

    def salted(
        self, message: PairSalt, *, progress: Progress | None = None
    ) -> tuple[ActivateSent, AnalystPoints]:
        """Hash, encrypt and shuffle the own people. Heavy."""
        transcript = follow(self.transcript, message)
        side = replace(self.side, salt=message.salt)
        (points,) = side.blinded(progress)
        answer_ = AnalystPoints(transcript, (points.take(permutation(len(points), side.random)),))
        return ActivateSent(side, follow(transcript, answer_), self.theirs), answer_


@dataclass(frozen=True, slots=True)
class ActivateSent:
    """A has sent its points and waits for C's."""

    side: Side = field(repr=False)
    transcript: bytes
    theirs: int

    def joined(self, message: PairPoints, *, progress: Progress | None = None) -> AnalystActivated:
        """C answered: encrypt C's ids, join, keep the ids that both have. Heavy."""
        transcript = follow(self.transcript, message)
        check_lists("PairPoints", (message.returned,), self.side.sizes())
        check_lists("PairPoints", (message.own,), (self.theirs,))
        both = Points(self.side.pool.pair_encrypt(self.side.scalar, message.own.buffer, progress=progress))
        shared = np.flatnonzero(join(both, message.returned) >= 0)
        return AnalystActivated(self.side, transcript, message.own.take(shared))


@dataclass(frozen=True, slots=True, eq=False)
class AnalystActivated:
    """A knows `ids`: C's publisher ids (32 bytes each, in random order) of the people both have."""

    side: Side = field(repr=False)
    transcript: bytes
    ids: Points = field(repr=False)

    def seal(self) -> tuple[AnalystSealing, Seal]:
        """Sign the transcript."""
        return seal(self.side, self.transcript)


def answer(
    offer: Offer,
    terms: ActivateTerms,
    people: pa.BinaryArray,
    *,
    salt: bytes,
    scalar: bytes,
    random: Random,
    pool: BlindingPool,
    attestation: Attestation,
    consent: bytes = b"",
    policy: bytes = bytes(32),
) -> tuple[ActivateAccepted, Accept, PairSalt]:
    """Begin as the contributor, having checked the offered terms. PeerViolation if they differ.

    `scalar` and `salt` are the epoch's: the same for every run whose publisher ids are to be the same.
    """
    if len(salt) != SALT:
        raise Misuse(f"A PAIR salt is {SALT} bytes.")
    _check_terms(terms)
    side = PairSide(terms, (people,), scalar, random, pool, attestation, salt)
    transcript, accept = agree(side, offer, consent, policy)
    salted = PairSalt(transcript, salt)
    state = ActivateAccepted(side, follow(transcript, salted), offer.commitment.sizes, terms.keep)
    return state, accept, salted


@dataclass(frozen=True, slots=True, eq=False)
class ActivateAccepted:
    """C has agreed and waits for A's points."""

    side: Side = field(repr=False)
    transcript: bytes
    theirs: tuple[int, ...]
    keep: int
    own: tuple[Points, ...] | None = field(repr=False, default=None)

    def prepared(self, *, progress: Progress | None = None) -> ActivateAccepted:
        """Hash and encrypt the own people now rather than after A's points came. Heavy, sends nothing."""
        return self if self.own is not None else replace(self, own=self.side.blinded(progress))

    def returned(
        self, message: AnalystPoints, *, progress: Progress | None = None
    ) -> tuple[ActivateReturned, PairPoints]:
        """A's points came: encrypt them again, replace some if so agreed, reshuffle all. Heavy."""
        transcript, side = follow(self.transcript, message), self.side
        check_lists("AnalystPoints", message.lists, self.theirs)
        flat = side.pool.pair_encrypt(side.scalar, message.lists[0].buffer, progress=progress)
        returned = self._thinned(Points(flat))
        (own,) = self.own if self.own is not None else side.blinded(None)
        order = permutation(len(own), side.random)
        answer_ = PairPoints(
            transcript, returned.take(permutation(len(returned), side.random)), own.take(order)
        )
        people = len(side.segments[0])
        return ActivateReturned(side, follow(transcript, answer_), own.slice(0, people)), answer_

    def _thinned(self, points: Points) -> Points:
        if self.keep == 1000:
            return points
        # 16 bits a point against the share: off by at most 1/65536, in favour of dropping.
        drawn = np.frombuffer(self.side.random(2 * len(points)), dtype="<u2")
        dropped = np.flatnonzero(drawn >= self.keep * 65536 // 1000)
        array = points.array.copy()
        for at in dropped.tolist():
            point = rbcl.crypto_core_ristretto255_from_hash(self.side.random(64))
            array[at] = np.frombuffer(point, dtype=np.uint8)
        return Points(array.reshape(-1).data.cast("B") if len(array) else b"", WHOLE)


@dataclass(frozen=True, slots=True, eq=False)
class ActivateReturned:
    """C has answered and waits for the seal. `ids` row n is the publisher id of the own person n."""

    side: Side = field(repr=False)
    transcript: bytes
    ids: Points = field(repr=False)

    @property
    def id_rows(self) -> npt.NDArray[np.uint8]:
        """Publisher ids, shape (people, 32), dtype uint8, in the order of the own column."""
        return self.ids.array

    def sealed(self, message: Seal) -> tuple[ContributorDone, Seal]:
        """A signed the transcript: check, sign it too."""
        return countersign(self.side, self.transcript, message)
