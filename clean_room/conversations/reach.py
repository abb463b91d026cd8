"""`reach`, both halves: every contributor as in any other query, the analyst with all of them at once."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from clean_room.conversations.workshop import Contribution, Finished, Workshop
from clean_room.errors import PeerViolation
from clean_room.inputs import QueryInput
from clean_room.noise import NoisePlan
from clean_room.protocols import circle, reach
from clean_room.protocols.attestation import Attestation
from clean_room.protocols.messages import (
    Accept,
    InputCommitment,
    Message,
    Offer,
    ReachList,
    ReachOwn,
    ReachSizes,
)
from clean_room.protocols.terms import ReachTerms
from clean_room.questions import commitment_document, policy_bytes

__all__ = ["ReachOutcome", "RingInquiry", "contribute", "inquire"]

M = TypeVar("M", bound=Message)


def contribute(
    offer: Offer, terms: ReachTerms, given: QueryInput, plan: NoisePlan, workshop: Workshop
) -> Contribution:
    """A contributor's half: its own list out, then every other list once, in and out."""
    sets = (1 << terms.parties - 1) - 1

    def drawn() -> bytes:
        regions = workshop.noise.matching(plan.count_epsilon, plan.half_width, (1, sets))
        size = workshop.noise.matching(plan.size_epsilon, plan.size_slack, (1, 1))
        return np.concatenate([regions, size - plan.size_slack], axis=1).astype("<i8").tobytes()

    noise = np.frombuffer(workshop.keep("noise", drawn), dtype="<i8").astype(np.int64)
    (people,) = given.people
    state, accept = reach.answer(
        offer, terms, people, matching=noise[:-1], size_noise=int(noise[-1]), **workshop.arguments(given)
    )
    yield [accept.to_bytes()]
    state = state.prepared(progress=workshop.progress)
    message = yield []
    passing, own = state.sized(ReachSizes.from_bytes(message), progress=workshop.progress)
    reply: Message = own
    for _ in range(1, terms.parties):
        message = yield [reply.to_bytes()]
        passing, reply = passing.passed(ReachList.from_bytes(message), progress=workshop.progress)
    if not isinstance(passing, reach.ReachReturned):
        raise PeerViolation("The ring is not closed.")
    return Finished([reply.to_bytes()], passing)


@dataclass(frozen=True, slots=True)
class ReachOutcome:
    """What the analyst has learnt, before release rules; own and the contributors' commitments, in order."""

    state: circle.ReachCounted = field(repr=False)
    own: tuple[InputCommitment, ...]
    theirs: tuple[InputCommitment, ...]


RingInquiry = Generator[tuple[bytes, ...], tuple[bytes, ...], ReachOutcome]
"""next() → the offers; send(everybody's replies) → everybody's next messages. One each, in ring order."""


def inquire(
    terms: Sequence[ReachTerms],
    given: Sequence[QueryInput],
    attestations: Sequence[Attestation],
    workshop: Workshop,
) -> RingInquiry:
    """The analyst's half. `given` is the same people for every contributor, with the consents towards it.

    The workshop's own attestation is not used.
    """
    (people,) = given[0].people
    asked, offers = circle.start(
        terms,
        people,
        random=workshop.random,
        pool=workshop.pool,
        attestations=attestations,
        consents=[commitment_document(one.evidence) for one in given],
        policies=[policy_bytes(one.evidence) for one in given],
    )
    replies = yield _bytes(offers)
    accepts = _parsed(Accept, replies, terms)
    sized, told = asked.accepted(accepts, progress=workshop.progress)
    replies = yield _bytes(told)
    circling, lists = sized.opened(_parsed(ReachOwn, replies, terms), progress=workshop.progress)
    while True:
        replies = yield _bytes(lists)
        returned = _parsed(ReachList, replies, terms)
        if circling.closing:
            counted = circling.closed(returned, progress=workshop.progress)
            return ReachOutcome(
                counted, tuple(o.commitment for o in offers), tuple(a.commitment for a in accepts)
            )
        circling, lists = circling.returned(returned)


def _bytes(messages: Sequence[Message]) -> tuple[bytes, ...]:
    return tuple(message.to_bytes() for message in messages)


def _parsed(kind: type[M], replies: Sequence[bytes], terms: Sequence[ReachTerms]) -> list[M]:
    parsed = []
    for reply, own in zip(replies, terms, strict=True):
        try:
            parsed.append(kind.from_bytes(reply))
        except PeerViolation as error:
            raise PeerViolation(f"{own.contributor}: {error.detail}", advice=error.advice) from None
    return parsed
