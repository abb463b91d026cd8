"""`make bench-load`: two hundred clients at a node that answers and asks a partner meanwhile.

    python benchmarks/load.py                     200 clients, 20,000 people a side
    python benchmarks/load.py --people 2000       a first look

Two `comity serve` processes on loopback. The clients poll, and every tenth asks for previews, as long as an
overlap and a measure go on between the two. Shown are requests a second, their times, answers of 500 and
above, and how long the node's event loop kept anybody waiting (`comity_event_loop_lag_seconds`), which is to
stay below 50 ms. Clients and both nodes share the machine: on two cores its queue is part of every figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx
import polars as pl
from measured import machine
from nodes import DATASETS, TERMS, consent
from served import Served, posted

POLLED = ("/v1/overlap-queries", "/v1/budgets", "/v1/collaborations", "/v1/datasets", "/healthz")


def lag(node: Served) -> float:
    """The largest lag of the node's event loop since it was started, in seconds."""
    with node.client() as client:
        page = client.get("/metrics").text
    found = re.search(r'comity_event_loop_lag_seconds\{over="process"\} (\S+)', page)
    if found is None:
        raise SystemExit("the node shows no lag")
    return float(found[1])


def agree(bank: Served, shop: Served) -> str:
    """An agreement between the two; its id."""
    with bank.client() as at_bank, shop.client() as at_shop:
        card = at_shop.get("/v1/node").json()
        body = {
            "partner": "shop",
            "url": shop.url,
            "key": card["public_key"],
            "terms": TERMS,
            "deliver": True,
        }
        invited = posted(at_bank, "/v1/collaborations", body)
        return str(
            posted(at_shop, "/v1/collaborations:accept", {"invitation": invited["invitation"]["id"]})["id"]
        )


def question_of(agreement: str, kind: str) -> dict[str, Any]:
    return {
        "kind": kind, "collaboration": agreement, "dataset": "people", "partner_dataset": "people",
        "purpose": "overlap.reach" if kind == "overlap" else "overlap.measure",
    } | ({"column": "spend"} if kind == "measure" else {})  # fmt: skip


def asked(node: Served, agreement: str, kind: str) -> dict[str, Any]:
    """One question from submission to its end."""
    question = question_of(agreement, kind)
    with node.client() as client:
        job = client.post("/v1/overlap-queries", json=question).json()["id"]
        while True:
            found: dict[str, Any] = client.get(f"/v1/overlap-queries/{job}").json()
            if found["state"] in ("succeeded", "failed", "rejected", "timed_out", "cancelled"):
                return found
            time.sleep(0.1)


async def crowd(
    node: Served, clients: int, question: dict[str, Any], over: threading.Event
) -> tuple[Counter[int], list[float]]:
    """Everybody polls until it is over: answers by status, and seconds of each."""
    statuses: Counter[int] = Counter()
    seconds: list[float] = []
    limits, key = httpx.Limits(max_connections=clients), {"authorization": f"Bearer {node.operator}"}
    async with httpx.AsyncClient(
        base_url=node.url, headers=key, trust_env=False, timeout=120, limits=limits
    ) as client:

        async def one(number: int) -> None:
            turn = number
            while not over.is_set():
                began = time.perf_counter()
                if number % 10 == 0:
                    answer = await client.post("/v1/overlap-queries:preview", json=question)
                else:
                    answer = await client.get(POLLED[turn % len(POLLED)])
                seconds.append(time.perf_counter() - began)
                statuses[answer.status_code] += 1
                turn += 1
                await asyncio.sleep(0.5)

        await asyncio.gather(*(one(number) for number in range(clients)))
    return statuses, seconds


def measure(folder: Path, people: int, clients: int) -> dict[str, Any]:
    """Everything, as plain figures."""
    bank, shop = Served(folder, "bank"), Served(folder, "shop")
    for number, node in enumerate((bank, shop)):
        numbers = range(number * people // 2, number * people // 2 + people)
        table = {"email": [f"person{n}@example.org" for n in numbers], "spend": [n % 1000 for n in numbers]}
        pl.DataFrame(table).write_parquet(node.folder / "people.parquet")
        (node.folder / "datasets.toml").write_text(DATASETS)
        consent(node, "shop" if node is bank else "bank", people)
    found: dict[str, Any] = {"people": people, "clients": clients, **machine()}
    try:
        bank.start()
        shop.start()
        agreement = agree(bank, shop)
        time.sleep(3)
        found["lag_quiet"] = lag(bank)
        over, question = threading.Event(), question_of(agreement, "overlap")
        outcome: list[Any] = []
        crowded = threading.Thread(
            target=lambda: outcome.append(asyncio.run(crowd(bank, clients, question, over)))
        )
        crowded.start()
        began = time.perf_counter()
        try:
            jobs = [asked(bank, agreement, "overlap"), asked(shop, agreement, "measure")]
        finally:
            over.set()
            crowded.join()
        took = time.perf_counter() - began
        statuses, seconds = outcome[0]
        seconds.sort()
        found |= {
            "states": [job["state"] for job in jobs],
            "seconds": took,
            "requests": len(seconds),
            "requests_a_second": len(seconds) / took,
            "median": seconds[len(seconds) // 2],
            "p99": seconds[len(seconds) * 99 // 100],
            "failures": sum(count for status, count in statuses.items() if status >= 500),
            "lag": lag(bank),
            "lag_partner": lag(shop),
        }
    finally:
        bank.stop()
        shop.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--people", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="comity-bench-") as folder:
        found = measure(Path(folder), given.people, given.clients)
    for name, value in found.items():
        print(f"{name:20} {value:.4f}" if isinstance(value, float) else f"{name:20} {value}")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
