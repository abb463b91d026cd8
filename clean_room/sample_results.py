"""What an `estimate` shows: the counts of the sample, widened to the whole, each with its interval.

Whether a cell may be shown is decided on the people counted in the sample, not on what they stand for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clean_room.conversations import Outcome
from clean_room.errors import Misuse
from clean_room.noise import NoisePlan
from clean_room.protocols.sampling import SampleFacts, factor_of, sampled_interval
from clean_room.protocols.terms import OverlapTerms
from clean_room.rules import CellRelease, shown_rate
from clean_room.statistics import cells_of, interval_of

__all__ = ["estimated"]

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


def _whole(count: int, facts: SampleFacts, keep: float) -> int:
    return max(0, round(count / keep * factor_of(facts)[0]))
