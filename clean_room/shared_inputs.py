"""The same people for several partners at once: whoever allowed it towards every one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clean_room.contributing import CHANGED
from clean_room.datasets import Dataset
from clean_room.errors import ConsentStale
from clean_room.inputs import QueryInput, prepare
from clean_room.rules import Asked

if TYPE_CHECKING:
    from consent.gate import ConsentGate

__all__ = ["prepared_for_all"]

_TRIES = 5


def prepared_for_all(dataset: Dataset, gate: ConsentGate, panel: Sequence[Asked]) -> list[QueryInput]:
    """The analyst's input of a reach, once for each of `panel`: the same people, the evidence of each.

    Raises what `prepare` raises.
    """
    query, partners = panel[0].query, [asked.contributor for asked in panel]
    given = prepare(
        dataset,
        gate,
        kind=query.key,
        purpose=query.purpose,
        also_for=query.also_for,
        partner=partners[0],
        profile=panel[0].agreement.terms.key_profile,
        segment=query.segment,
    )
    for _ in range(_TRIES):
        mask = np.ones(len(given.known), dtype=np.bool_)
        for partner in partners:
            for purpose in query.also_for:
                mask &= _allowed(gate.filter(query.key, given.known, purpose=purpose, partner=partner).mask)
        found = [
            gate.filter(query.key, given.known, purpose=query.purpose, partner=partner)
            for partner in partners
        ]
        for gated in found:
            mask &= _allowed(gated.mask)
        if mask.all():
            return [replace(given, evidence=gated.evidence, members=gated.members) for gated in found]
        given = _only(given, mask)
    raise ConsentStale("consents keep changing.", rule=CHANGED, advice="Ask again.")


def _allowed(mask: object) -> npt.NDArray[np.bool_]:
    return np.asarray(mask, dtype=np.bool_)


def _only(given: QueryInput, mask: npt.NDArray[np.bool_]) -> QueryInput:
    """Those of an undivided input that `mask` (in its order) keeps."""
    (people,), (rows,) = given.people, given.rows
    places = np.flatnonzero(mask)
    left_out = len(mask) - len(places)
    counts = replace(given.counts, denied=given.counts.denied + left_out, people=len(places))
    chosen = pa.array(places)
    return replace(
        given,
        people=(people.take(chosen),),
        rows=(rows[places],),
        known=given.known.take(chosen),
        counts=counts,
    )
