"""What an `estimate` shows: the counts of the sample, widened to the whole, each with its interval.

Whether a cell may be shown is decided on the people counted in the sample, not on what they stand for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clean_room.conversations import Outcome
from clean_room.datasets import Dataset
from clean_room.errors import Misuse
from clean_room.noise import NoisePlan
from clean_room.protocols.sampling import SampleFacts, factor_of, sampled_interval, step_of
from clean_room.protocols.terms import OverlapTerms, Padding
from clean_room.rules import Asked, CellRelease, cell_labels, shown_rate
from clean_room.statistics import cells_of, interval_of

__all__ = ["estimated", "previewed"]

_FAR = 1 << 40  # from the edge at 0, where intervals are cut off


def estimated(
    outcome: Outcome, release: CellRelease, terms: OverlapTerms, plan: NoisePlan, people: int
) -> dict[str, Any]:
    """value, ci95, rate, sample_rate, sampled (own people in it), rows (own, looked at) and cells.

    release: of the sample's counts; people: own people of the sample who went in.
    """
    facts, counts = outcome.sample, outcome.counts
    if facts is None or counts is None:
        raise Misuse("an estimate came out without its sample.", code="illegal_step")
    keep = terms.keep / 1000

    def whole(count: int, cells: int) -> dict[str, Any]:
        noise = interval_of(_FAR, replace(plan, keep=1.0), cells)[1] - _FAR
        low, high = sampled_interval(count, noise, facts, keep=keep)
        return {"value": _whole(count, facts, keep), "ci95": [int(low), -int(-high // 1)]}

    hidden = {"value": None, "ci95": None}
    value = release.value
    return {
        **(hidden if value is None else whole(value, counts.size)),
        "rate": None if value is None else shown_rate(round(value / keep), people),
        "sample_rate": facts.rate,
        "sampled": people,
        "rows": facts.rows,
        "cells": [
            {
                "analyst": terms.analyst_segments[i],
                "contributor": terms.contributor_segments[j],
                **(whole(int(counts[i, j]), 1) if release.shown[i, j] else hidden),
                "suppressed": not release.shown[i, j],
            }
            for i, j in cells_of(counts)
        ],
    }


def previewed(asked: Asked, dataset: Dataset, plan: NoisePlan) -> dict[str, Any]:
    """What an estimate would cost and how sure it would be if half of the own people are shared.

    Own rows are counted, not read; a row is taken for a person.
    """
    terms, rate = asked.agreement.terms, asked.query.sample or 1.0
    rows = dataset.count(asked.query.segment)
    sampled = round(rows * rate)
    facts = SampleFacts(step_of(rate), rows, sampled, sampled, 1)
    cells = tuple(
        len(cell_labels(offer, dimensions))
        for offer, dimensions in (
            (asked.own, asked.query.dimensions),
            (asked.partners, asked.query.partner_dimensions),
        )
    )

    def error(count: int, parts: int) -> int:
        low, high = sampled_interval(count, interval_of(_FAR, plan, parts)[1] - _FAR, facts)
        return int((high - low) / 2)

    parts = cells[0] * cells[1]
    return {
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "cells": parts,
        "error_bar": error(sampled // 2, parts),
        "error_bar_cell": error(sampled // 2 // parts, 1),
        "rows": rows,
        "people": rows,
        "sample_rate": rate,
        "sampled": sampled,
        "minimum_input": terms.minimum_input,
        "minimum_cell": terms.minimum_cell,
        "bytes_sent": 32 * (Padding().padded(sampled) + (cells[0] - 1) * Padding().minimum),
    }


def _whole(count: int, facts: SampleFacts, keep: float) -> int:
    return max(0, round(count / keep * factor_of(facts)[0]))
