"""`overlap` in an epoch, both halves; a cold run and a refresh differ in what they begin with.

What a refresh begins with goes through `keep`: a replay goes on from where the run began, whatever has been
made of the epoch since.
"""

from __future__ import annotations

import numpy as np

from clean_room.conversations.workshop import Contribution, Finished, Inquiry, Outcome, Workshop
from clean_room.errors import Misuse
from clean_room.inputs import QueryInput
from clean_room.noise import NoisePlan
from clean_room.protocols import epochs
from clean_room.protocols.epoch_states import AnalystEpoch, ContributorEpoch
from clean_room.protocols.messages import Accept, AnalystChange, ContributorChange, Offer
from clean_room.protocols.terms import EpochTerms

__all__ = ["contribute", "inquire"]


def _held(terms: EpochTerms, workshop: Workshop) -> bytes | None:
    if terms.generation == 0:
        return None
    if workshop.epoch is None:
        raise Misuse("a refresh needs what the run before has left.", code="illegal_step")
    return workshop.keep("epoch", workshop.epoch)


def contribute(
    offer: Offer, terms: EpochTerms, given: QueryInput, plan: NoisePlan, workshop: Workshop
) -> Contribution:
    """The contributor's half. The noise of all runs is drawn in the first."""
    held, matching = _held(terms, workshop), None
    if held is None:

        def drawn() -> bytes:
            noise = workshop.noise.matching(plan.count_epsilon, plan.half_width, (1, terms.pairs))
            return np.asarray(noise, dtype="<i8").tobytes()

        matching = np.frombuffer(workshop.keep("matching", drawn), dtype="<i8").astype(np.int64)
    state, accepted = epochs.answer(
        offer,
        terms,
        given.people,
        held=None if held is None else ContributorEpoch.from_bytes(held),
        matching=matching,
        **workshop.arguments(given),
    )
    yield [accepted.to_bytes()]
    state = state.prepared(progress=workshop.progress)
    message = yield []
    returned, change = state.returned(AnalystChange.from_bytes(message), progress=workshop.progress)
    return Finished([change.to_bytes()], returned, epoch=returned.held.to_bytes())


def inquire(terms: EpochTerms, given: QueryInput, workshop: Workshop) -> Inquiry:
    """The analyst's half."""
    held = _held(terms, workshop)
    offered, offer = epochs.start(
        terms,
        given.people,
        held=None if held is None else AnalystEpoch.from_bytes(held),
        **workshop.arguments(given),
    )
    reply = yield offer.to_bytes()
    accepted = Accept.from_bytes(reply)
    sent, change = offered.accepted(accepted, progress=workshop.progress)
    reply = yield change.to_bytes()
    joined = sent.joined(ContributorChange.from_bytes(reply), progress=workshop.progress)
    return Outcome(
        joined,
        offer.commitment,
        accepted.commitment,
        counts=joined.counts,
        epoch=joined.held.to_bytes(),
    )
