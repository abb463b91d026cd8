"""`align`, both halves: both sides end with the rows they share and an id for each."""

from __future__ import annotations

from clean_room.conversations.workshop import Contribution, Finished, Inquiry, Outcome, Workshop, id_rows
from clean_room.inputs import QueryInput
from clean_room.noise import NoisePlan
from clean_room.protocols import alignment
from clean_room.protocols.messages import Accept, AlignedRows, AlignPoints, AnalystPoints, Offer
from clean_room.protocols.terms import AlignTerms

__all__ = ["contribute", "inquire"]


def contribute(
    offer: Offer, terms: AlignTerms, given: QueryInput, _: NoisePlan, workshop: Workshop
) -> Contribution:
    """The contributor's half."""
    (people,), (places,) = given.people, given.rows
    state, accepted = alignment.answer(offer, terms, people, **workshop.arguments(given))
    yield [accepted.to_bytes()]
    state = state.prepared(progress=workshop.progress)
    message = yield []
    returned, points = state.returned(AnalystPoints.from_bytes(message), progress=workshop.progress)
    message = yield [points.to_bytes()]
    agreed = returned.aligned(AlignedRows.from_bytes(message))
    # The empty reply tells the analyst that its rows fit.
    return Finished([b""], agreed, places[agreed.rows], id_rows(agreed.ids))


def inquire(terms: AlignTerms, given: QueryInput, workshop: Workshop) -> Inquiry:
    """The analyst's half."""
    (people,), (places,) = given.people, given.rows
    offered, offer = alignment.start(terms, people, **workshop.arguments(given))
    reply = yield offer.to_bytes()
    accepted = Accept.from_bytes(reply)
    sent, points = offered.accepted(accepted, progress=workshop.progress)
    reply = yield points.to_bytes()
    aligned, rows = sent.joined(AlignPoints.from_bytes(reply), progress=workshop.progress)
    yield rows.to_bytes()
    return Outcome(
        aligned,
        offer.commitment,
        accepted.commitment,
        rows=places[aligned.rows],
        ids=id_rows(aligned.ids),
    )
