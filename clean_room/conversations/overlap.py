"""`overlap`, both halves: one exchange of points, after which the analyst has counts."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from clean_room.conversations.workshop import Contribution, Finished, Inquiry, Outcome, Workshop
from clean_room.inputs import QueryInput
from clean_room.noise import NoisePlan
from clean_room.protocols import cardinality
from clean_room.protocols.messages import Accept, AnalystPoints, ContributorPoints, Offer
from clean_room.protocols.terms import OverlapTerms

__all__ = ["Joined", "accept", "contribute", "inquire", "join"]


def accept(
    offer: Offer, terms: OverlapTerms, given: QueryInput, plan: NoisePlan, workshop: Workshop
) -> tuple[cardinality.ContributorAccepted, bytes]:
    """Agree, with the noise of every cell drawn: once, however often a run is taken up again."""

    def drawn() -> bytes:
        noise = workshop.noise.matching(plan.count_epsilon, plan.half_width, terms.groups)
        return np.asarray(noise, dtype="<i8").tobytes()

    kept = np.frombuffer(workshop.keep("matching", drawn), dtype="<i8")
    matching = kept.astype(np.int64).reshape(terms.groups)
    state, message = cardinality.answer(
        offer, terms, given.people, matching=matching, **workshop.arguments(given)
    )
    return state, message.to_bytes()


def contribute(
    offer: Offer, terms: OverlapTerms, given: QueryInput, plan: NoisePlan, workshop: Workshop
) -> Contribution:
    """The contributor's half."""
    state, accepted = accept(offer, terms, given, plan, workshop)
    yield [accepted]
    state = state.prepared(progress=workshop.progress)
    message = yield []
    returned, points = state.returned(AnalystPoints.from_bytes(message), progress=workshop.progress)
    return Finished([points.to_bytes()], returned)


@dataclass(frozen=True, slots=True)
class Joined:
    """The analyst after the join, with the two messages that hold the commitments."""

    state: cardinality.AnalystJoined
    offer: Offer
    accept: Accept


def join(
    terms: OverlapTerms, given: QueryInput, workshop: Workshop
) -> Generator[bytes | None, bytes, Joined]:
    """The analyst's half up to the join."""
    offered, offer = cardinality.start(terms, given.people, **workshop.arguments(given))
    reply = yield offer.to_bytes()
    accepted = Accept.from_bytes(reply)
    sent, points = offered.accepted(accepted, progress=workshop.progress)
    reply = yield points.to_bytes()
    joined = sent.joined(ContributorPoints.from_bytes(reply), progress=workshop.progress)
    return Joined(joined, offer, accepted)


def inquire(terms: OverlapTerms, given: QueryInput, workshop: Workshop) -> Inquiry:
    """The analyst's half."""
    joined = yield from join(terms, given, workshop)
    return Outcome(
        joined.state, joined.offer.commitment, joined.accept.commitment, counts=joined.state.counts
    )
