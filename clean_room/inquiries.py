"""The analyst's half of each kind of query, as a generator: a message out, the partner's reply in.

The first message is the offer; yielding None asks for the next reply without sending anything. It returns
an `Outcome`. Nothing here touches network, storage or clock.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clean_room.contributions import Workshop, id_rows
from clean_room.errors import Misuse
from clean_room.inputs import QueryInput
from clean_room.protocols import alignment, cardinality, sums
from clean_room.protocols.cardinality import AnalystSealing
from clean_room.protocols.messages import (
    Accept,
    AlignPoints,
    ContributorPoints,
    DecryptedSums,
    InputCommitment,
    Offer,
    Seal,
    ValueColumns,
)
from clean_room.protocols.terms import AlignTerms, MeasureTerms, OverlapTerms, Terms

__all__ = ["Inquiry", "Outcome", "inquire"]


class SealingState(Protocol):
    """A protocol state from which the analyst seals."""

    @property
    def transcript(self) -> bytes: ...

    def seal(self) -> tuple[AnalystSealing, Seal]: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the analyst has learnt, before release rules.

    `counts` int64 (A cells, C cells), noisy; `sums` float64 (A cells, C cells, columns) in the columns'
    units, noisy, for `measure`; `rows` int64 (n,) and `ids` uint8 (n, 16) for `align`.
    """

    state: SealingState = field(repr=False)
    own: InputCommitment
    theirs: InputCommitment
    counts: npt.NDArray[np.int64] | None = field(default=None, repr=False)
    sums: npt.NDArray[np.float64] | None = field(default=None, repr=False)
    rows: npt.NDArray[np.int64] | None = field(default=None, repr=False)
    ids: npt.NDArray[np.uint8] | None = field(default=None, repr=False)


Inquiry = Generator[bytes | None, bytes, Outcome]


def inquire(terms: Terms, given: QueryInput, workshop: Workshop) -> Inquiry:
    """The inquiry that terms of this type ask for."""
    if isinstance(terms, MeasureTerms):
        return _measure(terms, given, workshop)
    if isinstance(terms, OverlapTerms):
        return _overlap(terms, given, workshop)
    if isinstance(terms, AlignTerms):
        return _align(terms, given, workshop)
    raise Misuse("terms of a kind this version cannot ask.", code="illegal_step")


@dataclass(frozen=True, slots=True)
class _Joined:
    state: cardinality.AnalystJoined
    offer: Offer
    accept: Accept


def _joined(
    terms: OverlapTerms, given: QueryInput, workshop: Workshop
) -> Generator[bytes | None, bytes, _Joined]:
    offered, offer = cardinality.start(terms, given.people, **workshop.arguments(given))
    reply = yield offer.to_bytes()
    accept = Accept.from_bytes(reply)
    sent, points = offered.accepted(accept, progress=workshop.progress)
    reply = yield points.to_bytes()
    joined = sent.joined(ContributorPoints.from_bytes(reply), progress=workshop.progress)
    return _Joined(joined, offer, accept)


def _overlap(terms: OverlapTerms, given: QueryInput, workshop: Workshop) -> Inquiry:
    joined = yield from _joined(terms, given, workshop)
    return Outcome(
        joined.state, joined.offer.commitment, joined.accept.commitment, counts=joined.state.counts
    )


def _measure(terms: MeasureTerms, given: QueryInput, workshop: Workshop) -> Inquiry:
    joined = yield from _joined(terms, given, workshop)
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


def _align(terms: AlignTerms, given: QueryInput, workshop: Workshop) -> Inquiry:
    (people,), (places,) = given.people, given.rows
    offered, offer = alignment.start(terms, people, **workshop.arguments(given))
    reply = yield offer.to_bytes()
    accept = Accept.from_bytes(reply)
    sent, points = offered.accepted(accept, progress=workshop.progress)
    reply = yield points.to_bytes()
    aligned, rows = sent.joined(AlignPoints.from_bytes(reply), progress=workshop.progress)
    yield rows.to_bytes()
    return Outcome(
        aligned,
        offer.commitment,
        accept.commitment,
        rows=places[aligned.rows],
        ids=id_rows(aligned.ids),
    )
