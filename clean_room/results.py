"""From what the analyst has learnt to what may be shown: minimum cell, error bars, rates.

    overlap   value, ci95, rate, cells[{analyst, contributor, value, ci95, suppressed}]
    measure   value (sum, count, mean, variance of the column over the shared people, or lift), ci95, count,
              noise_scale, cells
    estimate  value, ci95, rate, sample_rate, sampled, rows, cells (clean_room.sample_results)
    align     value (number of shared people, exact)
    activate  value (number of encrypted ids, after what the contributor left out), rate

Everywhere `suppressed` and `reason`, and `capped` where counts are lower bounds (clean_room.high_rates); a
suppressed value is null and never tells 0 from "below the minimum".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from clean_room.conversations import Outcome
from clean_room.errors import Misuse
from clean_room.high_rates import cap_high
from clean_room.jobs import Query
from clean_room.noise import NoisePlan
from clean_room.protocols.sampling import factor_of
from clean_room.protocols.terms import OverlapTerms, Terms
from clean_room.rules import Asked, release_cells, shown_rate
from clean_room.sample_results import estimated
from clean_room.statistics import MeasuredColumn, cells_of, interval_of
from clean_room.thinning import SIZES, guarantees

__all__ = ["released"]


def released(
    outcome: Outcome, asked: Asked, terms: Terms, plan: NoisePlan, sizes: Sequence[int]
) -> dict[str, Any]:
    """The result document of a query; `sizes` is how many of the analyst's own went into each own cell."""
    people = sum(sizes)
    if outcome.counts is None:
        shared = _revealed(outcome)
        hidden = shared < asked.agreement.terms.minimum_cell
        return {
            "value": None if hidden else shared,
            "ci95": None if hidden else [shared, shared],
            "rate": None if hidden else shown_rate(shared, people),
            "cells": [],
            "suppressed": hidden,
            "reason": "below_minimum_cell" if hidden else None,
            "epsilon_spent": 0.0,
        }
    if not isinstance(terms, OverlapTerms):
        raise Misuse("counts came out of terms that have none.")
    # Those let through by thinning, as an estimate of all: unbiased. A sample is widened by both at once.
    keep = 1.0 if asked.query.kind == "estimate" else plan.keep
    counts = np.rint(outcome.counts / keep).astype(np.int64)
    high = cap_high(counts, sizes)
    counts = high.counts
    release = release_cells(counts, asked.agreement.terms.minimum_cell)
    shown: dict[str, Any] = {
        "suppressed": release.suppressed,
        "reason": release.reason,
        "epsilon_spent": plan.epsilon,
        "delta_spent": plan.delta,
    }
    if plan.keep < 1:
        least = 0 if release.value is None else interval_of(release.value, plan, counts.size)[0]
        shown["thinning"] = {
            "keep": plan.keep,
            "alone": guarantees(plan.keep, plan.delta, SIZES if release.suppressed else (least,)),
        }
    if asked.query.kind == "measure":
        column = None if asked.query.column is None else asked.partners.column(asked.query.column)
        if column is None or outcome.sums is None:
            raise Misuse("a measure outcome without its column.")
        sums = outcome.sums / plan.keep
        if asked.query.statistic in {"mean", "variance"}:
            sums = sums * high.factors[:, None, None]  # the same mean of a cell, over a count that is capped
        measured = MeasuredColumn(column, asked.query.statistic, plan, counts, sums)
        if asked.query.holdout is not None:
            treated, held = _groups(terms.analyst_segments, asked.query)
            return high.marked(shown | measured.lift(release, sizes, treated, held), people=False)
        counted = asked.query.statistic == "count"
        return high.marked(shown | measured.document(release, terms), people=counted)
    if asked.query.kind == "estimate":
        if outcome.sample is None:
            raise Misuse("an estimate came out without its sample.", code="illegal_step")
        factor, capped = factor_of(outcome.sample)[0], np.floor(outcome.counts * high.factors[:, None])
        bounded = replace(outcome, counts=capped.astype(np.int64))
        found = shown | estimated(bounded, release, terms, plan, people)
        return high.marked(found, people=True, whole=lambda n: round(n * factor))
    value = release.value
    interval = None if value is None else interval_of(value, plan, counts.size)
    found = {
        "value": value,
        "ci95": interval,
        "rate": None if value is None else shown_rate(value, people),
        "cells": [
            {
                "analyst": terms.analyst_segments[i],
                "contributor": terms.contributor_segments[j],
                "value": int(counts[i, j]) if release.shown[i, j] else None,
                "ci95": interval_of(int(counts[i, j]), plan, 1) if release.shown[i, j] else None,
                "suppressed": not release.shown[i, j],
            }
            for i, j in cells_of(counts)
        ],
    }
    return high.marked(shown | found, people=True)


def _revealed(outcome: Outcome) -> int:
    """How many shared people an alignment or an activation came to."""
    found = outcome.publisher_ids if outcome.rows is None else outcome.rows
    return 0 if found is None else len(found)


def _groups(labels: Sequence[str], query: Query) -> tuple[list[int], list[int]]:
    """Which own cells were reached by the campaign, and which were held out."""
    held = [i for i, label in enumerate(labels) if label.endswith(f"{query.dimensions[0]}={query.holdout}")]
    treated = [i for i in range(len(labels)) if i not in held]
    if len(held) != 1 or not treated:
        raise Misuse("the dimension of a lift has the holdout and something else.", code="malformed_query")
    return treated, held
