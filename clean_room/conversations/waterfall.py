"""`overlap` on several keys, both halves: one exchange of rows, after which the analyst has counts."""

from __future__ import annotations

import numpy as np

from clean_room.conversations.workshop import Contribution, Finished, Inquiry, Outcome, Workshop
from clean_room.inputs import QueryInput
from clean_room.noise import NoisePlan
from clean_room.protocols import waterfall
from clean_room.protocols.messages import Accept, AnalystRows, ContributorRows, Offer
from clean_room.protocols.terms import WaterfallTerms

__all__ = ["contribute", "inquire"]


def contribute(
    offer: Offer, terms: WaterfallTerms, given: QueryInput, plan: NoisePlan, workshop: Workshop
) -> Contribution:
    """The contributor's half."""
    rows, segments = terms.groups

    def drawn() -> bytes:
        flat = workshop.noise.matching(plan.count_epsilon, plan.half_width, (rows * segments, plan.patterns))
        return np.ascontiguousarray(flat, dtype="<i8").tobytes()

    matching = np.frombuffer(workshop.keep("noise", drawn), dtype="<i8")
    state, accepted = waterfall.answer(
        offer,
        terms,
        given.people,
        matching=matching.reshape(rows, segments, terms.patterns),
        **workshop.arguments(given),
    )
    yield [accepted.to_bytes()]
    state = state.prepared(progress=workshop.progress)
    message = yield []
    returned, answer = state.returned(AnalystRows.from_bytes(message), progress=workshop.progress)
    return Finished([answer.to_bytes()], returned)


def inquire(terms: WaterfallTerms, given: QueryInput, workshop: Workshop) -> Inquiry:
    """The analyst's half."""
    offered, offer = waterfall.start(terms, given.people, **workshop.arguments(given))
    reply = yield offer.to_bytes()
    accepted = Accept.from_bytes(reply)
    sent, rows = offered.accepted(accepted, progress=workshop.progress)
    reply = yield rows.to_bytes()
    joined = sent.joined(ContributorRows.from_bytes(reply), progress=workshop.progress)
    return Outcome(joined, offer.commitment, accepted.commitment, counts=joined.counts)
