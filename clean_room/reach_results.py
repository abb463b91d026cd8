"""What of a reach may be shown.

    value       people in any list, each counted once; ci95
    regions     [{parties, value, ci95, suppressed}] of two lists and more: people in exactly those
    exclusive   [{party, value, ci95, suppressed}]: people in that list alone
    exactly, at_least    [{lists, value, ci95, suppressed}]

A suppressed value is null and never tells 0 from "below the minimum".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clean_room.conversations.reach import ReachOutcome
from clean_room.noise import NoisePlan
from clean_room.reach_figures import Figure, ReachFigures, release_regions

__all__ = ["reached"]


def reached(outcome: ReachOutcome, parties: Sequence[str], plan: NoisePlan, minimum: int) -> dict[str, Any]:
    """The result document. `parties` are the names of all, in ring order; `minimum` the strictest cell."""
    figures = ReachFigures.of(outcome.state.counts, outcome.state.sizes, plan)
    release = release_regions(figures.regions, minimum, outcome.state.sizes[0])
    everybody, masks = range(1, figures.lists + 1), range(1, len(figures.regions))
    return {
        **_shown(figures.reach(), not release.suppressed),
        "reason": release.reason,
        "rate": None,
        "cells": [],
        "parties": list(parties),
        "regions": [
            {"parties": [name for number, name in enumerate(parties) if mask >> number & 1]}
            | _shown(figures.region(mask), bool(release.regions[mask]))
            for mask in sorted(masks, key=lambda mask: (mask.bit_count(), mask))
            if mask.bit_count() > 1
        ],
        "exclusive": [
            {"party": name} | _shown(figures.region(1 << number), bool(release.regions[1 << number]))
            for number, name in enumerate(parties)
        ],
        "exactly": [{"lists": k} | _shown(figures.exactly(k), k in release.totals) for k in everybody],
        "at_least": [{"lists": k} | _shown(figures.at_least(k), k in release.at_least) for k in everybody],
        "epsilon_spent": plan.epsilon,
        "delta_spent": plan.delta,
        "epsilon_of_size": plan.size_epsilon,
        "epsilon_of_regions": plan.count_epsilon,
    }


def _shown(figure: Figure, shown: bool) -> dict[str, Any]:
    if not shown:
        return {"value": None, "ci95": None, "suppressed": True}
    return {"value": figure.value, "ci95": figure.ci95, "suppressed": False}
