"""An application that asks a node by plain HTTP, in any language's terms: requests, statuses, JSON.

    python examples/overlap_over_http/run.py

POST with an Idempotency-Key, 202 and a Location, look there until the state is final; what is refused
comes as a problem document (RFC 9457) with a stable `code`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from two_nodes import two_nodes

FINAL = {"succeeded", "failed", "cancelled", "rejected", "timed_out"}


def submit(node: httpx.Client, question: dict[str, Any], key: str) -> str:
    """Submit a question and return where its answer will be. Safe to repeat with the same key."""
    for _ in range(5):
        try:
            answer = node.post("/v1/overlap-queries", json=question, headers={"Idempotency-Key": key})
        except httpx.TransportError:
            time.sleep(1)  # nobody knows whether it arrived: the key makes asking again harmless
            continue
        if answer.status_code == httpx.codes.ACCEPTED:
            return answer.headers["Location"]
        problem = answer.json()
        if not problem["retryable"]:
            raise SystemExit(f"{problem['code']}: {problem['detail']}")
        time.sleep(1)
    raise SystemExit("the node does not take the question")


def follow(node: httpx.Client, location: str) -> dict[str, Any]:
    """Look at a job, ever more slowly, until it is final."""
    wait, told = 0.1, ""
    while True:
        job: dict[str, Any] = node.get(location).raise_for_status().json()
        if job["state"] in FINAL:
            return job
        if told != (told := f"  {job['state']} {job['stage']}"):
            print(told)
        time.sleep(wait)
        wait = min(2.0, wait * 1.5)


def main() -> None:
    with two_nodes() as nodes:
        bearer = {"Authorization": f"Bearer {nodes.ann_key}"}
        with httpx.Client(base_url=nodes.ann_url, headers=bearer, trust_env=False, timeout=30) as node:
            question = {
                "collaboration": nodes.agreement, "dataset": "people", "partner_dataset": "people",
                "purpose": "overlap.reach", "dimensions": ["age_band"],
            }  # fmt: skip
            location = submit(node, question, "newsletter-2026-03")
            assert submit(node, question, "newsletter-2026-03") == location, "one key is one question"
            job = follow(node, location)
            if job["state"] != "succeeded":
                raise SystemExit(f"{job['state']}: {job['error']['code']}")
            result = job["result"]
            print(f"{result['value']} people in common, 95 % interval {result['ci95']}")

            refused = node.post("/v1/overlap-queries", json={**question, "purpose": "resale"})
            problem = refused.json()
            print(f"{refused.status_code} {refused.headers['Content-Type']}: {problem['code']}")
            print(f"  {problem['detail']}")
            assert refused.status_code >= 400


if __name__ == "__main__":
    main()
