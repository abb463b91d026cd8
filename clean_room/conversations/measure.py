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

    def encrypted() -> bytes:
        made, columns = sums.offer_values(returned, values, progress=workshop.progress)
        return _pair(made.decryptor.secret(), columns.to_bytes())

    secret, columns = _parted(workshop.keep("columns", encrypted))
    offered = sums.offered_again(returned, ValueColumns.from_bytes(columns), secret)
    message = yield [points.to_bytes(), columns]
    rows, segments = terms.groups

    def drawn() -> bytes:
        scales = [column.magnitude / plan.sum_epsilon for column in terms.columns]
        return np.array([workshop.noise.sums(s, rows * segments) for s in scales], dtype="<i8").tobytes()

    kept = np.frombuffer(workshop.keep("sum-noise", drawn), dtype="<i8").astype(np.int64)
    noise = kept.reshape(len(terms.columns), -1).T.reshape(rows, segments, len(terms.columns))
    answered, decrypted = offered.masked(MaskedSums.from_bytes(message), noise)
    return Finished([decrypted.to_bytes()], answered)


def inquire(terms: MeasureTerms, given: QueryInput, workshop: Workshop) -> Inquiry:
    """The analyst's half."""
    joined = yield from join(terms, given, workshop)
    reply = yield None
    columns = ValueColumns.from_bytes(reply)

    def masked() -> bytes:
        made, message = sums.ask(joined.state, columns, progress=workshop.progress)
        return _pair(np.array(made.hidden, dtype="<u8").tobytes(), message.to_bytes())

    hidden, message = _parted(workshop.keep("masked", masked))
    masks = [int(r) for r in np.frombuffer(hidden, dtype="<u8")]
    asked = sums.asked_again(joined.state, MaskedSums.from_bytes(message), masks)
    reply = yield message
    measured = asked.answered(DecryptedSums.from_bytes(reply))
    return Outcome(
        measured,
        joined.offer.commitment,
        joined.accept.commitment,
        counts=joined.state.counts,
        sums=measured.sums / np.array([column.scale for column in terms.columns], dtype=np.float64),
    )


def _pair(one: bytes, other: bytes) -> bytes:
    return len(one).to_bytes(8, "big") + one + other


def _parted(pair: bytes) -> tuple[bytes, bytes]:
    end = 8 + int.from_bytes(pair[:8], "big")
    return pair[8:end], pair[end:]
