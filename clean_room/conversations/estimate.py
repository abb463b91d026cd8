"""`estimate`, both halves: an overlap over the sample, and what the analyst knows of how its list fell."""

from __future__ import annotations

from dataclasses import replace

from clean_room.conversations import overlap
from clean_room.conversations.workshop import Contribution, Inquiry, Workshop
from clean_room.errors import Misuse
from clean_room.inputs import QueryInput
from clean_room.noise import NoisePlan
from clean_room.protocols.messages import Offer
from clean_room.protocols.terms import EstimateTerms

__all__ = ["contribute", "inquire"]


def contribute(
    offer: Offer, terms: EstimateTerms, given: QueryInput, plan: NoisePlan, workshop: Workshop
) -> Contribution:
    """The contributor's half: that of an overlap, over people who were sampled."""
    _check(given, terms)
    return (yield from overlap.contribute(offer, terms, given, plan, workshop))


def inquire(terms: EstimateTerms, given: QueryInput, workshop: Workshop) -> Inquiry:
    """The analyst's half."""
    _check(given, terms)
    outcome = yield from overlap.inquire(terms, given, workshop)
    return replace(outcome, sample=given.sample)


def _check(given: QueryInput, terms: EstimateTerms) -> None:
    if given.sample is None or given.sample.step != terms.step:
        raise Misuse("an estimate is made over the sample that was agreed.", code="illegal_step")
