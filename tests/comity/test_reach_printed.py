from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from clean_room.noise import NoisePlan
from clean_room.protocols import circle
from clean_room.reach_results import reached
from clean_room.schemas import JobOut
from comity.cli.overlap.answers import lines_of

PARTIES = ["bank", "shop", "air"]


def printed(counts: list[int], sizes: tuple[int, ...], minimum: int) -> str:
    state = circle.ReachCounted((), np.array(counts, dtype=np.int64), sizes)
    outcome = SimpleNamespace(state=state)
    result = reached(
        outcome, PARTIES, NoisePlan(1.0, 1e-6, 0.59, 0.0, 23, size_epsilon=0.41, size_slack=32), minimum
    )
    result |= {"receipt_id": "a" * 32, "receipts": ["a" * 32, "b" * 32], "budget_left": 2.0}
    job = JobOut.model_validate(
        {
            "id": "1" * 32, "role": "analyst", "kind": "reach", "collaboration": "c", "partner": "shop",
            "query": {"dataset": "d", "partner_dataset": "e"}, "state": "succeeded", "stage": "joined",
            "progress": 1.0, "created_at": "", "updated_at": "", "input": {}, "result": result, "error": None,
            "receipt_id": "a" * 32,
        }
    )  # fmt: skip
    return "\n".join(lines_of(job))


def test_a_reach_is_printed_with_its_regions_and_every_receipt() -> None:
    text = printed([0, 0, 0, 700, 0, 600, 500, 400], (2700, 2400, 2200), 50)
    assert "4,700 people" in text
    assert "bank and shop and air" in text and "only air" in text and "2 or more lists" in text
    assert "hidden" not in text
    assert "a" * 32 in text and "b" * 32 in text
    assert "ε = 1, 2 left" in text


def test_what_is_withheld_is_printed_as_hidden() -> None:
    text = printed([0, 0, 0, 700, 0, 600, 500, 4], (2700, 2400, 2200), 50)
    assert "hidden" in text
    assert all(" 4 " not in line for line in text.splitlines() if line.startswith("bank and shop and air"))


def test_a_reach_below_the_minimum_says_so() -> None:
    assert "result        hidden" in printed([0] * 8, (10, 10, 10), 50)
