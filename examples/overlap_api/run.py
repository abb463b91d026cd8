"""Two nodes from nothing, and one question between them over the HTTP API.

    python examples/overlap_api/run.py

Makes two nodes in a temporary folder (see two_nodes.py beside this folder), starts both, agrees on terms,
asks how many people they share by age, and stops both nodes again. With a key and URLs of your own nodes,
the part from `Comity(…)` on is all you need.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from two_nodes import two_nodes

from clean_room.client import Comity
from clean_room.schemas import QueryIn


def main() -> None:
    with two_nodes() as nodes, Comity(nodes.ann_url, nodes.ann_key) as ann:
        question = QueryIn(
            collaboration=nodes.agreement, dataset="people", partner_dataset="people",
            purpose="overlap.reach", dimensions=("age_band",),
        )  # fmt: skip
        job = ann.wait(ann.ask(question).id)
        if job.result is None:
            raise SystemExit(f"the query ended as {job.state}: {job.error}")
        result = job.result
    low, high = result["ci95"]
    print(f"people in common: {result['value']} (95 %: {low} to {high}; truly 2000)")
    for cell in result["cells"]:
        print(f"  {cell['analyst']}: {cell['value']}")


if __name__ == "__main__":
    main()
