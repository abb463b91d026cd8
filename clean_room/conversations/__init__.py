"""One file a kind of query, each with both halves: `contribute` answers, `inquire` asks.

Which half runs follows from the type of the agreed terms alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from clean_room.conversations import activate, align, epoch, estimate, measure, overlap, reach, waterfall
from clean_room.conversations.workshop import (
    Contribution,
    Finished,
    Inquiry,
    Keep,
    Kept,
    Outcome,
    Workshop,
    acceptance,
)
from clean_room.errors import Misuse
from clean_room.inputs import QueryInput
from clean_room.noise import NoisePlan
from clean_room.protocols.messages import Offer
from clean_room.protocols.terms import (
    ActivateTerms,
    AlignTerms,
    EpochTerms,
    EstimateTerms,
    MeasureTerms,
    OverlapTerms,
    ReachTerms,
    RefreshTerms,
    Terms,
    WaterfallTerms,
)

__all__ = [
    "Contribution",
    "Finished",
    "Inquiry",
    "Keep",
    "Kept",
    "Outcome",
    "Workshop",
    "acceptance",
    "contribute",
    "inquire",
]

_CONTRIBUTIONS: Mapping[type[Terms], Callable[..., Contribution]] = {
    OverlapTerms: overlap.contribute,
    EpochTerms: epoch.contribute,
    RefreshTerms: epoch.contribute,
    EstimateTerms: estimate.contribute,
    MeasureTerms: measure.contribute,
    AlignTerms: align.contribute,
    ActivateTerms: activate.contribute,
    WaterfallTerms: waterfall.contribute,
    ReachTerms: reach.contribute,
}
_INQUIRIES: Mapping[type[Terms], Callable[..., Inquiry]] = {
    OverlapTerms: overlap.inquire,
    EpochTerms: epoch.inquire,
    RefreshTerms: epoch.inquire,
    EstimateTerms: estimate.inquire,
    MeasureTerms: measure.inquire,
    AlignTerms: align.inquire,
    ActivateTerms: activate.inquire,
    WaterfallTerms: waterfall.inquire,
}


def _chosen(table: Mapping[type[Terms], Callable[..., Any]], terms: Terms) -> Callable[..., Any]:
    found = table.get(type(terms))
    if found is None:
        raise Misuse("terms of a kind this version does not converse about.", code="illegal_step")
    return found


def contribute(
    offer: Offer, terms: Terms, given: QueryInput, plan: NoisePlan, workshop: Workshop
) -> Contribution:
    """The contribution that terms of this type ask for."""
    made: Contribution = _chosen(_CONTRIBUTIONS, terms)(offer, terms, given, plan, workshop)
    return made


def inquire(terms: Terms, given: QueryInput, workshop: Workshop) -> Inquiry:
    """The inquiry that terms of this type ask for."""
    made: Inquiry = _chosen(_INQUIRIES, terms)(terms, given, workshop)
    return made
