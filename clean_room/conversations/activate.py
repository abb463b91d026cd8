"""`activate`, both halves: the analyst ends with the contributor's encrypted ids of the shared people.

The contributor's key and salt are those of the epoch (`Workshop.pair_epoch`), or its ids would be of no use
to it; the epoch goes through `keep`, so that a replay stays in the one it began in.
"""

from __future__ import annotations

from clean_room.conversations.workshop import (
    SALTED,
    Contribution,
    Finished,
    Inquiry,
    Outcome,
    Workshop,
    acceptance,
)
from clean_room.errors import Misuse
from clean_room.group.ristretto import SALT, new_key
from clean_room.inputs import QueryInput
from clean_room.noise import NoisePlan
from clean_room.protocols import activation
from clean_room.protocols.messages import AnalystPoints, Offer, PairPoints, PairSalt
from clean_room.protocols.terms import ActivateTerms

__all__ = ["contribute", "inquire"]

_KEY = 32


def contribute(
    offer: Offer, terms: ActivateTerms, given: QueryInput, _: NoisePlan, workshop: Workshop
) -> Contribution:
    """The contributor's half."""
    (people,), (places,) = given.people, given.rows
    if workshop.pair_epoch is None:
        raise Misuse("an activation needs the publisher's key and salt.", code="illegal_step")
    epoch = workshop.keep("pair-epoch", workshop.pair_epoch)
    if len(epoch) != _KEY + SALT:
        raise Misuse("a PAIR epoch is a key and a salt.", code="illegal_step")
    own = {**workshop.arguments(given), "scalar": epoch[:_KEY]}
    state, accepted, salted = activation.answer(offer, terms, people, salt=epoch[_KEY:], **own)
    # In one reply: the salt is no answer yet, and whatever is must be asked for after the points.
    yield [accepted.to_bytes() + salted.to_bytes()]
    state = state.prepared(progress=workshop.progress)
    message = yield []
    returned, points = state.returned(AnalystPoints.from_bytes(message), progress=workshop.progress)
    return Finished([points.to_bytes()], returned, rows=places, publisher_ids=returned.id_rows)


def inquire(terms: ActivateTerms, given: QueryInput, workshop: Workshop) -> Inquiry:
    """The analyst's half."""
    (people,) = given.people
    own = {**workshop.arguments(given), "scalar": new_key(workshop.random)}
    offered, offer = activation.start(terms, people, **own)
    reply = yield offer.to_bytes()
    accepted = acceptance(terms, reply)
    salted = PairSalt.from_bytes(reply[-SALTED:])
    sent, points = offered.accepted(accepted).salted(salted, progress=workshop.progress)
    reply = yield points.to_bytes()
    activated = sent.joined(PairPoints.from_bytes(reply), progress=workshop.progress)
    return Outcome(activated, offer.commitment, accepted.commitment, publisher_ids=activated.ids.array)
