"""What a query would cost and how sure its answer would be, before anything is sent.

Own rows are read and normalised (for an `estimate` only counted), not gated and not sent. The partner's size
is not known here, so bytes are those this side sends. Simulated attacks ("what could they learn") are not
part of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from clean_room.datasets import Dataset
from clean_room.estimates import sum_half_width
from clean_room.noise import NoisePlan, NoiseSource, plan, summed_columns
from clean_room.protocols.terms import Padding
from clean_room.reach_figures import ReachFigures
from clean_room.rules import Asked, cell_labels
from clean_room.sample_results import previewed
from clean_room.statistics import interval_of
from clean_room.thinning import guarantees
from privacy.identifiers import canonical_column

__all__ = ["preview"]


def preview(asked: Asked, dataset: Dataset, noise: NoiseSource) -> dict[str, Any]:
    """ε, expected half widths of the 95 % intervals, own rows and people, bytes this node would send."""
    query = asked.query
    spending = plan(asked, noise)
    if query.kind == "estimate":
        return previewed(asked, dataset, spending)
    extract = dataset.extract(query.key, dimensions=query.dimensions, segment=query.segment)
    canonical = canonical_column(
        query.key, extract.keys, asked.agreement.terms.key_profile, region=dataset.region
    )
    people = pc.count_distinct(canonical.values).as_py()
    cells = (
        len(cell_labels(asked.own, query.dimensions)),
        len(cell_labels(asked.partners, query.partner_dimensions)),
    )
    # At the largest answer there can be: with thinning, chance adds more to a larger one.
    _, total = interval_of(people, spending, cells[0] * cells[1])
    _, cell = interval_of(people, spending, 1)
    document: dict[str, Any] = {
        "epsilon": spending.epsilon,
        "delta": spending.delta,
        "cells": cells[0] * cells[1],
        "error_bar": total - people,
        "error_bar_cell": cell - people,
        "rows": len(extract.keys),
        "people": people,
        "minimum_input": asked.agreement.terms.minimum_input,
        "minimum_cell": asked.agreement.terms.minimum_cell,
        "bytes_sent": 32
        * (1 + len(query.fallback_keys))
        * (Padding().padded(people) + (cells[0] - 1) * Padding().minimum),
    }
    if spending.keep < 1:
        document["thinning"] = {
            "keep": spending.keep,
            "alone": guarantees(spending.keep, spending.delta),
        }
    if query.kind == "reach":
        document |= _reach(spending, len(query.others) + 2, people)
    columns = summed_columns(asked)
    if columns:
        fixed = columns[0]
        scale = fixed.magnitude / spending.sum_epsilon / fixed.scale / spending.keep
        document["noise_scale"] = scale
        document["error_bar_sum"] = sum_half_width("laplace", scale)
    return document


def _reach(spending: NoisePlan, lists: int, people: int) -> dict[str, Any]:
    """Of a reach: cells are its regions. What is passed on between partners comes on top."""
    figures = ReachFigures(np.zeros(1 << lists, dtype=np.int64), spending)
    return {
        "cells": (1 << lists) - 1,
        "error_bar": figures.reach().half,
        "error_bar_cell": figures.region(0b11).half,
        "bytes_sent": 32 * (lists - 1) * Padding().padded(people),
    }
