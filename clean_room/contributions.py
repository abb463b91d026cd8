"""The contributor's half of each kind of query, as a generator: partner's message in, replies out.

    next()   → [Accept]
    next()   → []            own people hashed and blinded while the analyst prepares
    send(m)  → replies …     until it returns `Finished`, whose last replies and seal remain to be sent

Nothing here touches network, storage or clock.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clean_room.errors import Misuse
from clean_room.group.blinding import new_scalar
from clean_room.group.points import Random
from clean_room.group.pool import BlindingPool, Progress
from clean_room.inputs import QueryInput
from clean_room.noise import NoisePlan, NoiseSource, middle
from clean_room.protocols import alignment, cardinality, sums
from clean_room.protocols.attestation import Attestation
from clean_room.protocols.messages import AlignedRows, AnalystPoints, MaskedSums, Offer, Seal
from clean_room.protocols.terms import AlignTerms, MeasureTerms, OverlapTerms, Terms
from clean_room.questions import commitment_document, policy_bytes

__all__ = ["Contribution", "Finished", "Workshop", "contribute", "id_rows"]


class Sealable(Protocol):
    """A protocol state from which the contributor can countersign."""

    @property
    def transcript(self) -> bytes: ...

    def sealed(self, message: Seal) -> tuple[object, Seal]: ...


@dataclass(frozen=True, slots=True)
class Finished:
    """The computing is over: `replies` still to be fetched, then the seals.

    `rows` (places in the file) and `ids` (n, 16) are for `align` only.
    """

    replies: list[bytes] = field(repr=False)
    state: Sealable = field(repr=False)
    rows: npt.NDArray[np.int64] | None = field(default=None, repr=False)
    ids: npt.NDArray[np.uint8] | None = field(default=None, repr=False)


Contribution = Generator[list[bytes], bytes, Finished]


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every run is done with, on either side."""

    pool: BlindingPool = field(repr=False)
    random: Random = field(repr=False)
    noise: NoiseSource = field(repr=False)
    attestation: Attestation = field(repr=False)
    progress: Progress = field(repr=False)

    def arguments(self, given: QueryInput) -> dict[str, Any]:
        """Keyword arguments of a protocol's first step; the scalar is fresh."""
        return {
            "scalar": new_scalar(self.random),
            "random": self.random,
            "pool": self.pool,
            "attestation": self.attestation,
            "consent": commitment_document(given.evidence),
            "policy": policy_bytes(given.evidence),
        }


def contribute(
    offer: Offer, terms: Terms, given: QueryInput, plan: NoisePlan, workshop: Workshop
) -> Contribution:
    """The contribution a query of these terms asks for."""
    if isinstance(terms, MeasureTerms):
        return _measure(offer, terms, given, plan, workshop)
    if isinstance(terms, OverlapTerms):
        return _overlap(offer, terms, given, plan, workshop)
    if isinstance(terms, AlignTerms):
        return _align(offer, terms, given, workshop)
    raise Misuse("terms of a kind this version cannot contribute to.", code="illegal_step")


def _answered(
    offer: Offer, terms: OverlapTerms, given: QueryInput, plan: NoisePlan, workshop: Workshop
) -> tuple[cardinality.ContributorAccepted, bytes]:
    matching = workshop.noise.matching(plan.count_epsilon, plan.half_width, terms.groups)
    state, accept = cardinality.answer(
        offer, terms, given.people, matching=matching, **workshop.arguments(given)
    )
    return state, accept.to_bytes()


def _overlap(
    offer: Offer, terms: OverlapTerms, given: QueryInput, plan: NoisePlan, workshop: Workshop
) -> Contribution:
    state, accept = _answered(offer, terms, given, plan, workshop)
    yield [accept]
    state = state.prepared(progress=workshop.progress)
    message = yield []
    returned, points = state.returned(AnalystPoints.from_bytes(message), progress=workshop.progress)
    return Finished([points.to_bytes()], returned)


def _measure(
    offer: Offer, terms: MeasureTerms, given: QueryInput, plan: NoisePlan, workshop: Workshop
) -> Contribution:
    if given.values is None:
        raise Misuse("a measure contribution needs the values of its column.")
    first, *squares = terms.columns
    values = [[first.fixed_point(cell) for cell in given.values]]
    values += [
        [column.fixed_point((cell - middle(first)) ** 2) for cell in given.values] for column in squares
    ]
    state, accept = _answered(offer, terms, given, plan, workshop)
    yield [accept]
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


def _align(offer: Offer, terms: AlignTerms, given: QueryInput, workshop: Workshop) -> Contribution:
    (people,), (places,) = given.people, given.rows
    state, accept = alignment.answer(offer, terms, people, **workshop.arguments(given))
    yield [accept.to_bytes()]
    state = state.prepared(progress=workshop.progress)
    message = yield []
    returned, points = state.returned(AnalystPoints.from_bytes(message), progress=workshop.progress)
    message = yield [points.to_bytes()]
    agreed = returned.aligned(AlignedRows.from_bytes(message))
    # The empty reply tells the analyst that its rows fit.
    return Finished([b""], agreed, places[agreed.rows], id_rows(agreed.ids))


def id_rows(ids: Any) -> npt.NDArray[np.uint8]:
    """An Arrow column of 16-byte row ids as uint8 (n, 16)."""
    return np.frombuffer(b"".join(ids.to_pylist()), dtype=np.uint8).reshape(-1, 16)
