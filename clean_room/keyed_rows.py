"""The input of an overlap on several keys: one row a person, with every key it has.

A row goes in only if the consent gate denies none of its keys: somebody who opted out under a phone number
is not let in by an e-mail address, whether or not the ledger knows that both are one person's. A value of
the first key is one person, so of two rows with it the first in file order stands. A value of a later key
that several rows share, such as a family's phone, stays with the first of them; the others go in without it,
and a row left without any key does not go in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from clean_room.datasets import Dataset
from clean_room.errors import ConsentStale
from consent.subjects import IDENTIFIER_PROFILE
from privacy.errors import BadInput
from privacy.identifiers import canonical_column

if TYPE_CHECKING:
    from clean_room.inputs import OtherKey
    from consent.gate import ConsentGate, GateResult

__all__ = ["KeyedRows", "consented"]

_ROUNDS = 8
Booleans = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class KeyedRows:
    """All rows of a dataset by kind of key, in file order: canonical for the join, and for the ledger."""

    canonical: Mapping[str, pa.BinaryArray] = field(repr=False)
    known: Mapping[str, pa.BinaryArray] = field(repr=False)
    rejected: Mapping[str, int]

    @classmethod
    def of(cls, dataset: Dataset, texts: Mapping[str, pa.Array], profile: str) -> KeyedRows:
        """Normalise the text of every key, the first one first.

        Raises `BadInput(no_usable_identifiers)` when not one row has a key that is one.
        """
        canonical, known, rejected = {}, {}, {}
        for kind, text in texts.items():
            column = canonical_column(kind, text, profile, region=dataset.region)
            canonical[kind] = known[kind] = column.values
            rejected[kind] = dict(column.rejected)
            if profile != IDENTIFIER_PROFILE:
                known[kind] = canonical_column(kind, text, IDENTIFIER_PROFILE, region=dataset.region).values
        rows = cls(canonical, known, next(iter(rejected.values())))
        if not rows.usable().any():
            raise BadInput(
                f"dataset {dataset.name} has no usable {' or '.join(texts)} in any row.",
                code="no_usable_identifiers",
                advice="Check that the key columns in datasets.toml are the right ones.",
            )
        return rows

    def usable(self) -> Booleans:
        """Rows that have a key."""
        return np.asarray(np.logical_or.reduce([_valid(values) for values in self.canonical.values()]))

    def first(self) -> Booleans:
        """Rows whose first key is in no row before them, or that have none."""
        values = next(iter(self.canonical.values()))
        return pl.Series("k", values).is_first_distinct().to_numpy() | ~_valid(values)

    def shared_out(self, places: Places) -> tuple[Places, dict[str, Booleans]]:
        """Of the rows at `places`: those that keep a key, and by kind which of these hold its value."""
        held = {}
        for kind, values in self.canonical.items():
            column = values.take(pa.array(places))
            held[kind] = pl.Series("k", column).is_first_distinct().to_numpy() & _valid(column)
        any_key = np.asarray(np.logical_or.reduce(list(held.values())))
        return places[any_key], {kind: mask[any_key] for kind, mask in held.items()}

    def columns(self, places: Places, held: Mapping[str, Booleans]) -> pa.StructArray:
        """The tuples of the rows at `places`, in order: a struct with one binary child a kind."""
        children = [
            pc.if_else(pa.array(held[kind]), values.take(pa.array(places)).cast(pa.binary()), None)
            for kind, values in self.canonical.items()
        ]
        return pa.StructArray.from_arrays(children, names=list(self.canonical))

    def gated(self, places: Places, gate: ConsentGate, purpose: str, partner: str) -> _Gated:
        """Ask the gate for every key of the rows at `places`."""
        allowed, answers = np.ones(len(places), dtype=np.bool_), []
        for kind, values in self.canonical.items():
            index = pa.array(places)
            has = _valid(values.take(index))
            known = self.known[kind].take(index).filter(pa.array(has))
            answer = gate.filter(kind, known, purpose=purpose, partner=partner)
            allowed[np.flatnonzero(has)] &= np.asarray(answer.mask, dtype=np.bool_)
            answers.append((kind, answer, known))
        return _Gated(allowed, answers)


@dataclass(frozen=True, slots=True)
class _Gated:
    allowed: Booleans
    answers: list[tuple[str, GateResult, pa.BinaryArray]]


def consented(
    rows: KeyedRows, places: Places, gate: ConsentGate, *, purpose: str, also_for: Sequence[str], partner: str
) -> tuple[Places, pa.StructArray, list[OtherKey]]:
    """Who of the rows at `places` goes in: their places, their tuples, and the evidence for every key.

    The evidence is over exactly the keys of these rows. Raises `ConsentStale` if consents change faster than
    they can be asked for.
    """
    for further in also_for:
        places = places[rows.gated(places, gate, further, partner).allowed]
    for _ in range(_ROUNDS):
        gated = rows.gated(places, gate, purpose, partner)
        places = places[gated.allowed]
        kept, held = rows.shared_out(places)
        if gated.allowed.all() and len(kept) == len(places):
            evidence = [(kind, found.evidence, found.members, known) for kind, found, known in gated.answers]
            return kept, rows.columns(kept, held), evidence
        places = kept
    raise ConsentStale("consents kept changing while people were read.", advice="Ask again.")


def _valid(values: pa.Array) -> Booleans:
    return np.asarray(pc.is_valid(values).to_numpy(zero_copy_only=False), dtype=np.bool_)
