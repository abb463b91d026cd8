"""Drawing the sample of an `estimate` from a dataset, batch by batch, whatever its size.

Almost every row is thrown away, so as little as possible is done to it: an address that is canonical but for
case and spaces around is hashed as it stands (`privacy.plain_addresses`), and whether it is an address at all
is asked only of those kept. What needs a closer look gets its canonical form first.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clean_room.datasets import Dataset, Extract
from clean_room.errors import InputBelowMinimum, PeerViolation
from clean_room.jobs import Query
from clean_room.protocols.sampling import (
    SampleFacts,
    SamplingKey,
    month_of,
    planned_step,
    rate_of,
    step_of,
    threshold_of,
)
from clean_room.protocols.terms import EstimateTerms, Terms
from privacy.column_mac import ColumnMac
from privacy.identifiers import Kind, canonical_column
from privacy.plain_addresses import places, plain_addresses

__all__ = ["Sampler", "agreed_sampler", "draw", "own_sampler", "partners_sampler", "settled"]

_AT_ONCE = 1 << 14
_BATCHES_AHEAD = 2
_READ = 1 << 17
_AGO, _AHEAD = timedelta(days=7), timedelta(days=1)
"""How far the month of an offer may be from this node's: an approval takes time, and clocks differ."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """Who is in the sample: a key and a rate."""

    key: SamplingKey
    step: int
    _mac: ColumnMac = field(repr=False, compare=False)

    @classmethod
    def of(cls, key: SamplingKey, rate: float) -> Sampler:
        """At the smallest rate of the ladder that is not below `rate`."""
        return cls(key, step_of(rate), ColumnMac(key.key))

    def kept(self, kind: str, text: pa.StringArray, profile: str, region: str) -> _Kept:
        """Which rows of a column are in the sample; rows without an identifier count for nothing."""
        parts = [
            self._kept(kind, text.slice(start, _AT_ONCE), profile, region)
            for start in range(0, len(text), _AT_ONCE)
        ]
        if not parts:
            return _Kept(np.empty(0, np.int64), np.empty(0, np.uint64), 0)
        rows = [part.rows + number * _AT_ONCE for number, part in enumerate(parts)]
        words = np.concatenate([part.words for part in parts])
        return _Kept(np.concatenate(rows), words, sum(part.looked_at for part in parts))

    def _kept(self, kind: str, text: pa.StringArray, profile: str, region: str) -> _Kept:
        present = None
        if text.null_count:
            present = np.flatnonzero(text.is_valid().to_numpy(zero_copy_only=False))
            text = text.drop_null()
        usable = np.ones(len(text), dtype=np.bool_)
        if kind == Kind.EMAIL:
            written, sure = plain_addresses(text, profile)
        else:
            written, sure = text, ~usable
        words = self._words(written)
        unsure = np.flatnonzero(~sure)
        if len(unsure):
            exact = canonical_column(kind, text.take(places(unsure)), profile, region=region).values
            found = exact.is_valid().to_numpy(zero_copy_only=False)
            usable[unsure[~found]] = False
            words[unsure[found]] = self._words(exact.drop_null())
        inside = usable if self.step == 0 else usable & (words < np.uint64(threshold_of(self.step)))
        rows = np.flatnonzero(inside)
        return _Kept(rows if present is None else present[rows], words[rows], int(usable.sum()))

    def _words(self, column: pa.Array) -> npt.NDArray[np.uint64]:
        """The first 8 bytes of every row's tag, little-endian."""
        return np.array(self._mac.tags(column)[:, 0], dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class _Kept:
    rows: npt.NDArray[np.int64]
    words: npt.NDArray[np.uint64]
    looked_at: int


def draw(
    dataset: Dataset,
    sampler: Sampler,
    *,
    kind: str,
    profile: str,
    dimensions: Sequence[str] = (),
    segment: str | None = None,
) -> tuple[Extract, SampleFacts]:
    """The rows of the sample, and how the whole fell. Errors as `Dataset.extract`.

    InputBelowMinimum if not one row is in it.
    """
    found: list[tuple[Extract, _Kept]] = []
    looked_at = expired = 0

    def look(batch: Extract) -> _Kept:
        return sampler.kept(kind, batch.keys, profile, dataset.region)

    def taken(batch: Extract, work: Future[_Kept]) -> None:
        nonlocal looked_at, expired
        kept = work.result()
        looked_at += kept.looked_at
        expired += batch.expired
        found.append((_rows(batch, kept.rows), kept))

    # Reading goes on while earlier batches are looked at; not further ahead than the threads can follow.
    threads = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads, thread_name_prefix="sampling") as pool:
        waiting: deque[tuple[Extract, Future[_Kept]]] = deque()
        for batch in dataset.batches(kind, dimensions=dimensions, segment=segment, rows=_READ):
            waiting.append((batch, pool.submit(look, batch)))
            if len(waiting) > threads * _BATCHES_AHEAD:
                taken(*waiting.popleft())
        while waiting:
            taken(*waiting.popleft())
    words = np.concatenate([kept.words for _, kept in found])
    if not len(words):
        raise InputBelowMinimum(
            "nobody in the dataset is in the sample.", advice="Ask for a larger sample, or check the keys."
        )
    # Equal words are one person's rows: of n people two have the same with probability n² / 2⁶⁵.
    each = np.unique(words, return_counts=True)[1].astype(np.int64)
    facts = SampleFacts(sampler.step, looked_at, len(words), int((each * each).sum()), int(each.max()))
    parts = [part for part, _ in found]
    extract = Extract(
        keys=pa.concat_arrays([part.keys for part in parts]),
        row_index=np.concatenate([part.row_index for part in parts]),
        dimensions={d: pa.concat_arrays([part.dimensions[d] for part in parts]) for d in dimensions},
        values=None,
        expired=expired,
    )
    return extract, facts


def _rows(batch: Extract, rows: npt.NDArray[np.int64]) -> Extract:
    at = places(rows)
    dimensions = {name: column.take(at) for name, column in batch.dimensions.items()}
    return Extract(batch.keys.take(at), batch.row_index[rows], dimensions, None)


def settled(query: Query, dataset: Dataset, *, minimum: int, noise: float = 0.0) -> Query:
    """The query with its sample decided: of an estimate without one, such that half a percent is reached.

    noise: half width of the 95 % interval of the noise on a count. Other queries are returned as they are.
    """
    if query.kind != "estimate":
        return query
    if query.sample is None:
        step = planned_step(dataset.count(query.segment), minimum=minimum, noise=noise)
        return replace(query, sample=rate_of(step))
    return replace(query, sample=rate_of(step_of(query.sample)))


def own_sampler(query: Query, pair_key: bytes | None, agreement: str, now: datetime) -> Sampler | None:
    """The analyst's: of this month. None for what is no (settled) estimate."""
    if query.kind != "estimate" or query.sample is None or pair_key is None:
        return None
    return Sampler.of(SamplingKey.derive(pair_key, agreement, month_of(now)), query.sample)


def agreed_sampler(terms: Terms, pair_key: bytes | None, agreement: str) -> Sampler | None:
    """The sampler of terms both have agreed on; None for no estimate. PeerViolation for another key."""
    if not isinstance(terms, EstimateTerms):
        return None
    if pair_key is not None:
        key = SamplingKey.derive(pair_key, agreement, terms.period)
        if key.id == terms.sample:
            return Sampler.of(key, rate_of(terms.step))
    raise PeerViolation(
        "the partner samples by another key or for another month.",
        advice="Check both nodes' clocks, and that both have the same shared key.",
        code="sampling_key_differs",
    )


def partners_sampler(
    query: Query, pair_key: bytes | None, agreement: str, now: datetime, offered: Terms
) -> Sampler | None:
    """The contributor's: of the month the analyst is in, if that can be on this clock.

    Nothing is taken from the offer but which of the months it means. PeerViolation if the rest differs.
    """
    if query.kind != "estimate":
        return None
    if not isinstance(offered, EstimateTerms) or query.sample is None or pair_key is None:
        raise PeerViolation("an estimate was offered without its sample.")
    months = {month_of(now + slack) for slack in (timedelta(), -_AGO, _AHEAD)}
    if offered.period not in months or offered.step != step_of(query.sample):
        raise PeerViolation(
            "the partner samples for another month or at another rate than was asked.",
            advice="Check both nodes' clocks.",
            code="sampling_key_differs",
        )
    return agreed_sampler(offered, pair_key, agreement)
