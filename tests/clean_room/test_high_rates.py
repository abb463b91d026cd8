"""No number of a result tells rates above 85 % apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clean_room.high_rates import cap_high


def result(counts: Any, sizes: list[int]) -> dict[str, Any]:
    """What a run would show of these counts, without noise."""
    high = cap_high(np.array(counts), sizes)
    total = int(high.counts.sum())
    cells = [
        {"value": int(n), "ci95": [int(n), int(n)], "suppressed": False}
        for n in high.counts.reshape(-1).tolist()
    ]
    document = {"value": total, "ci95": [total, total], "rate": "?", "suppressed": False, "cells": cells}
    return high.marked(document, people=True)


@given(st.integers(861, 1000), st.integers(861, 1000))
def test_two_rates_above_the_cap_give_the_same_result(one: int, other: int) -> None:
    assert result([[one]], [1000]) == result([[other]], [1000])
    assert result([[one]], [1000])["rate"] == ">85 %"


def test_up_to_the_cap_nothing_is_changed() -> None:
    shown = result([[850], [10]], [1000, 1000])
    assert (shown["value"], shown["rate"]) == (860, "?")
    assert "capped" not in shown and not any("capped" in cell for cell in shown["cells"])


def test_a_capped_count_is_a_lower_bound_and_its_interval_reaches_to_all() -> None:
    shown = result([[99]], [100])
    assert (shown["value"], shown["ci95"], shown["capped"]) == (85, [85, 100], True)


@given(st.integers(870, 1000), st.integers(870, 1000))
def test_neither_the_total_nor_the_other_cells_bring_a_capped_one_back(one: int, other: int) -> None:
    counts = [[one], [300]], [[other], [300]]
    assert result(counts[0], [1000, 1000]) == result(counts[1], [1000, 1000])
    shown = result(counts[0], [1000, 1000])
    assert shown["value"] == sum(cell["value"] for cell in shown["cells"])
    assert shown["rate"].startswith("≥")
    assert [cell.get("capped", False) for cell in shown["cells"]] == [True, False]


def test_splitting_by_the_partners_dimension_does_not_get_around_it() -> None:
    shown = result([[500, 500]], [1000])
    assert [cell["value"] for cell in shown["cells"]] == [425, 425]
    assert shown["value"] == 850
    assert result([[480, 480]], [1000]) == shown


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400), st.integers(0, 500)), min_size=1, max_size=4)
)
def test_no_row_and_no_total_is_shown_above_the_cap(rows: list[tuple[int, int, int]]) -> None:
    counts, sizes = np.array([row[:2] for row in rows]), [row[2] for row in rows]
    high = cap_high(counts, sizes)
    for shown, before, size in zip(high.counts.sum(axis=1), counts.sum(axis=1), sizes, strict=True):
        assert shown <= before
        if size:
            assert round(100 * shown / size) <= 85
        else:
            assert shown == before


def test_a_hidden_result_stays_hidden() -> None:
    high = cap_high(np.array([[99]]), [100])
    hidden = {"value": None, "ci95": None, "rate": None, "suppressed": True, "cells": []}
    assert high.marked(hidden, people=True) == hidden


@pytest.fixture
def members(make_pair: Any, tables: Any) -> Any:
    """A pair in which everybody of the bank is the shop's."""
    return make_pair(bank=tables.bank.slice(80))


def test_a_whole_run_does_not_tell_that_everybody_is_shared(members: Any) -> None:
    found = members.bank.run(members.query()).result
    assert (found["value"], found["ci95"], found["rate"], found["capped"]) == (170, [170, 200], ">85 %", True)
    split = members.bank.run(members.query(dimensions=("age_band",), partner_dimensions=("spender",))).result
    assert split["value"] <= 170
    assert all(cell["capped"] for cell in split["cells"] if not cell["suppressed"])


def test_a_measured_mean_stays_true_and_its_count_does_not_tell(members: Any) -> None:
    spend = np.clip([i * 37 % 1000 for i in range(80, 280)], 0, 500)
    mean = members.bank.run(members.query("measure", statistic="mean")).result
    assert mean["value"] == pytest.approx(spend.mean(), abs=0.01)
    assert (mean["count"], mean["capped"]) == (170, True)
    total = members.bank.run(members.query("measure", statistic="sum")).result
    assert total["value"] == pytest.approx(spend.sum(), abs=0.5)
    assert total["count"] == 170
    count = members.bank.run(members.query("measure", statistic="count")).result
    assert (count["value"], count["ci95"][1]) == (170, 200)
