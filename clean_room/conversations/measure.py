"""`measure`, both halves: an overlap, then the contributor's columns summed under encryption."""

from __future__ import annotations

import numpy as np

from clean_room.conversations.overlap import accept, join
from clean_room.conversations.workshop import Contribution, Finished, Inquiry, Outcome, Workshop
from clean_room.errors import Misuse
from clean_room.inputs import QueryInput
from clean_room.noise import NoisePlan, middle
from clean_room.protocols import sums
from clean_room.protocols.messages import AnalystPoints, DecryptedSums, MaskedSums, Offer, ValueColumns
from clean_room.protocols.terms import MeasureTerms

__all__ = ["contribute", "inquire"]


def contribute(
    offer: Offer, terms: MeasureTerms, given: QueryInput, plan: NoisePlan, workshop: Workshop
) -> Contribution:
    """The contributor's half."""
    if given.values is None:
        raise Misuse("a measure contribution needs the values of its column.")
    first, *squares = terms.columns
    values = [[first.fixed_point(cell) for cell in given.values]]
    values += [
        [column.fixed_point((cell - middle(first)) ** 2) for cell in given.values] for column in squares
    ]
    state, accepted = accept(offer, terms, given, plan, workshop)
    yield [accepted]
    state = state.prepared(progress=workshop.progress)
    message = yield []
    returned, points = state.returned(AnalystPoints.from_bytes(message), progress=workshop.progress)
    offered, columns = sums.offer_values(returned, values, progress=workshop.progress)
    message = yield [points.to_bytes(), columns.to_bytes()]
    rows, segments = terms.groups
    drawn = [workshop.noise.sums(c.magnitude / plan.sum_epsilon, rows * segments) for c in terms.columns]
    noise = np.array(drawn, dtype=np.int64).T.reshape(rows, segments, len(terms.columns))
    answered, decrypted = offered.masked(MaskedSums.from_bytes(message), noise)
    return Finished([decrypted.to_bytes()], answered)


def inquire(terms: MeasureTerms, given: QueryInput, workshop: Workshop) -> Inquiry:
    """The analyst's half."""
    joined = yield from join(terms, given, workshop)
    reply = yield None
    asked, masked = sums.ask(joined.state, ValueColumns.from_bytes(reply), progress=workshop.progress)
    reply = yield masked.to_bytes()
    measured = asked.answered(DecryptedSums.from_bytes(reply))
    return Outcome(
        measured,
        joined.offer.commitment,
        joined.accept.commitment,
        counts=joined.state.counts,
        sums=measured.sums / np.array([column.scale for column in terms.columns], dtype=np.float64),
    )
