"""From a dataset to what goes into one query: canonical, consented, one row a person, split into cells.

A person listed twice goes in once, with the first of its rows in file order: its cell and its value are
that row's. (Adding the rows up would let one person count past the clip bound, and would change
attributes such as an age or a status that are not amounts.) How many were left out is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from clean_room.agreements import ColumnOffer
from clean_room.datasets import Dataset, Extract
from clean_room.keyed_rows import KeyedRows, consented
from clean_room.protocols.sampling import SampleFacts
from clean_room.samples import Sampler, draw
from consent.receipts import GateEvidence, PseudonymSet
from consent.subjects import IDENTIFIER_PROFILE
from privacy.errors import BadInput, Misuse
from privacy.identifiers import canonical_column

if TYPE_CHECKING:
    from consent.gate import ConsentGate

__all__ = ["InputCounts", "OtherKey", "QueryInput", "prepare", "still_allowed"]


@dataclass(frozen=True, slots=True)
class InputCounts:
    """What became of the rows; for this node's people only, never sent to the partner.

    `rows` are those that were read on; the `expired` ones, whose retention is over, come on top.
    """

    rows: int
    rejected: Mapping[str, int]
    duplicates: int
    denied: int
    outside_cells: int
    missing_value: int
    people: int
    expired: int = 0

    def document(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "rejected": dict(self.rejected),
            "duplicates": self.duplicates,
            "denied_by_consent": self.denied,
            "outside_cells": self.outside_cells,
            "missing_value": self.missing_value,
            "people": self.people,
            "expired": self.expired,
        }


OtherKey = tuple[str, GateEvidence, PseudonymSet, pa.BinaryArray]
"""Kind of a further key, the evidence for those who have it, their set, and themselves as the ledger knows
them."""


@dataclass(frozen=True, slots=True)
class QueryInput:
    """One side's people for one query, cell by cell.

    `people[i]` pa.BinaryArray of canonical identifiers, `rows[i]` int64 places in the file and `values[i]`
    float64 already clipped (None unless a column is measured), all of one order within cell i.
    `known` are the same people in file order, in the ledger's own profile. `sample` (`estimate`
    only) is how the whole list fell, of which these are the sample.

    Joined on several keys, `people[i]` is a struct column with one child a kind, in order of priority, and
    `evidence`, `members` and `known` are of the first kind; `others` are those of the other kinds.
    """

    people: tuple[pa.BinaryArray, ...] = field(repr=False)
    rows: tuple[npt.NDArray[np.int64], ...] = field(repr=False)
    values: tuple[npt.NDArray[np.float64], ...] | None = field(repr=False)
    evidence: GateEvidence
    members: PseudonymSet = field(repr=False)
    counts: InputCounts
    known: pa.BinaryArray = field(repr=False)
    sample: SampleFacts | None = None
    others: tuple[OtherKey, ...] = field(default=(), repr=False)

    @property
    def size(self) -> int:
        """How many people go in."""
        return self.counts.people


def prepare(
    dataset: Dataset,
    gate: ConsentGate,
    *,
    kind: str,
    purpose: str,
    partner: str,
    profile: str,
    also_for: Sequence[str] = (),
    dimensions: Sequence[str] = (),
    segment: str | None = None,
    column: ColumnOffer | None = None,
    sampler: Sampler | None = None,
    fallbacks: Sequence[str] = (),
) -> QueryInput:
    """Read, normalise, deduplicate, pass through the consent gate and split.

    The gate knows people by the ledger's own profile, whatever the partners join on. Who may go in is who
    allowed `purpose` and all of `also_for`; the evidence is of `purpose`, over exactly those people. With a
    `sampler` nobody outside its sample is looked at any further.
    Raises what `Dataset.extract` raises, and `BadInput(no_usable_identifiers)` when not one row has an
    identifier that is one.
    """
    if fallbacks:
        if sampler is not None or column is not None:
            raise Misuse("only an overlap is joined on several keys.", code="malformed_query")
        return _rows(
            dataset,
            gate,
            (kind, *fallbacks),
            purpose=purpose,
            partner=partner,
            profile=profile,
            also_for=also_for,
            dimensions=dimensions,
            segment=segment,
        )
    sample = None
    if sampler is None:
        name = None if column is None else column.name
        extract = dataset.extract(kind, dimensions=dimensions, segment=segment, column=name)
    else:
        extract, sample = draw(
            dataset, sampler, kind=kind, profile=profile, dimensions=dimensions, segment=segment
        )
    canonical = canonical_column(kind, extract.keys, profile, region=dataset.region)
    values: pa.BinaryArray = canonical.values
    usable = pc.is_valid(values).to_numpy(zero_copy_only=False)
    if not usable.any():
        raise BadInput(
            f"dataset {dataset.name} has no usable {kind} in any row.",
            code="no_usable_identifiers",
            advice="Check that the key column in datasets.toml is the right one.",
        )
    first = pl.Series("k", values).is_first_distinct().to_numpy() & usable
    duplicates = int(usable.sum() - first.sum())

    cell = _cells(dataset, extract, dimensions)
    keep = first & (cell >= 0)
    outside = int(first.sum() - keep.sum())
    numbers = None
    missing = 0
    if column is not None:
        if extract.values is None:
            raise BadInput(f"dataset {dataset.name} gave no values for the column.")
        valued = np.isfinite(extract.values)
        missing = int((keep & ~valued).sum())
        keep &= valued
        numbers = np.clip(extract.values, column.lower, column.upper)
    chosen = np.flatnonzero(keep)
    known = values
    if profile != IDENTIFIER_PROFILE:
        known = canonical_column(kind, extract.keys, IDENTIFIER_PROFILE, region=dataset.region).values
    asked = len(chosen)
    for further in also_for:
        before = gate.filter(kind, known.take(pa.array(chosen)), purpose=further, partner=partner)
        chosen = chosen[np.asarray(before.mask, dtype=np.bool_)]
    gated = gate.filter(kind, known.take(pa.array(chosen)), purpose=purpose, partner=partner)
    allowed = chosen[np.asarray(gated.mask, dtype=np.bool_)]

    groups = max(1, _cell_count(dataset, dimensions))
    by_cell = [allowed[cell[allowed] == i] for i in range(groups)]
    return QueryInput(
        people=tuple(values.take(pa.array(rows)) for rows in by_cell),
        rows=tuple(extract.row_index[rows] for rows in by_cell),
        values=None if numbers is None else tuple(numbers[rows] for rows in by_cell),
        evidence=gated.evidence,
        members=gated.members,
        counts=InputCounts(
            rows=len(values),
            rejected=dict(canonical.rejected),
            duplicates=duplicates,
            denied=asked - len(allowed),
            outside_cells=outside,
            missing_value=missing,
            people=len(allowed),
            expired=extract.expired,
        ),
        known=known.take(pa.array(allowed)),
        sample=sample,
    )


def _rows(
    dataset: Dataset,
    gate: ConsentGate,
    keys: Sequence[str],
    *,
    purpose: str,
    partner: str,
    profile: str,
    also_for: Sequence[str],
    dimensions: Sequence[str],
    segment: str | None,
) -> QueryInput:
    """As `prepare`, for rows with several keys (`clean_room.keyed_rows`)."""
    extract = dataset.extract(keys[0], dimensions=dimensions, segment=segment, fallbacks=keys[1:])
    rows = KeyedRows.of(dataset, {keys[0]: extract.keys, **extract.fallbacks}, profile)
    usable, cell = rows.usable(), _cells(dataset, extract, dimensions)
    first = usable & rows.first()
    chosen = np.flatnonzero(first & (cell >= 0))
    places, people, ((_, evidence, members, known), *others) = consented(
        rows, chosen, gate, purpose=purpose, also_for=also_for, partner=partner
    )
    by_cell = [
        np.flatnonzero(cell[places] == number) for number in range(max(1, _cell_count(dataset, dimensions)))
    ]
    return QueryInput(
        people=tuple(people.take(pa.array(at)) for at in by_cell),
        rows=tuple(extract.row_index[places[at]] for at in by_cell),
        values=None,
        evidence=evidence,
        members=members,
        counts=InputCounts(
            rows=len(usable),
            rejected=rows.rejected,
            duplicates=int(usable.sum() - first.sum()),
            denied=len(chosen) - len(places),
            outside_cells=int(first.sum()) - len(chosen),
            missing_value=0,
            people=len(places),
            expired=extract.expired,
        ),
        known=known,
        others=tuple(others),
    )


def still_allowed(
    given: QueryInput, gate: ConsentGate, *, kind: str, purposes: Sequence[str], partner: str
) -> bool:
    """Whether everybody in `given` may go in now as well."""
    known = [(kind, given.known), *((other, people) for other, _, _, people in given.others)]
    return all(
        bool(np.all(gate.filter(of, people, purpose=purpose, partner=partner).mask))
        for purpose in purposes
        for of, people in known
    )


def _cell_count(dataset: Dataset, dimensions: Sequence[str]) -> int:
    return int(np.prod([len(dataset.dimensions[d].values) for d in dimensions], dtype=np.int64))


def _cells(dataset: Dataset, extract: Extract, dimensions: Sequence[str]) -> npt.NDArray[np.int64]:
    """Cell number of every row, in the order of `rules.cell_labels`; -1 for a value that is not declared."""
    cell = np.zeros(len(extract.keys), dtype=np.int64)
    inside = np.ones(len(extract.keys), dtype=np.bool_)
    for name in dimensions:
        declared = pa.array(dataset.dimensions[name].values, pa.string())
        place = pc.fill_null(pc.index_in(extract.dimensions[name], value_set=declared), -1).to_numpy()
        inside &= place >= 0
        cell = cell * len(declared) + place
    return np.where(inside, cell, -1)
