"""`make bench-nodes`: an overlap and a measure between two whole nodes: HTTP, jobs, consent gate and all.

    python benchmarks/nodes.py                    a million people a side
    python benchmarks/nodes.py --people 20000     a first look
    python benchmarks/nodes.py --json FILE        also write every figure

Two `comity serve` processes on loopback, SQLite, Parquet files. Beside them, in the same run and on the same
machine, the bare protocol of `overlap.py` between two processes: what is above it is the node.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import polars as pl
from measured import loopback_bytes, machine, show_rows, tree_rss
from overlap import comity, write_people
from served import Served, posted

from comity.bootstrap import open_records
from comity.config import load_config
from comity.database import migrate, open_engine
from comity.system import system_random, utc_now
from consent.events import grant
from privacy.identifiers import canonical

PURPOSES = ["overlap.reach", "overlap.measure"]
TERMS = {
    "purposes": PURPOSES, "query_types": ["overlap", "measure", "estimate"],
    "epsilon_per_query": 1.0, "epsilon_per_month": 50.0, "lease_seconds": 60,
}  # fmt: skip
DATASETS = """[datasets.people]
source = "people.parquet"
keys = { email = "email" }
[datasets.people.columns.spend]
lower = 0
upper = 1000
"""


def consent(node: Served, partner: str, people: int) -> float:
    """Everybody in the node's table has agreed to both purposes; events a second."""
    config = load_config(node.folder)
    engine = open_engine(config.database_url)
    migrate(engine)
    engine.dispose()
    records = open_records(config, clock=utc_now, random=system_random)
    emails = pl.read_parquet(node.folder / "people.parquet", columns=["email"])["email"].to_list()
    began = time.perf_counter()
    try:
        for start in range(0, people, 5_000):
            chosen = [canonical("email", text) for text in emails[start : start + 5_000]]
            records.ledger.record(
                [
                    grant([("email", one)], "overlap", partner=partner)
                    for one in chosen
                    if isinstance(one, bytes)
                ]
            )
    finally:
        records.close()
    return people / (time.perf_counter() - began)


def asked(node: Served, query: dict[str, Any], trees: list[int], limit: float) -> dict[str, Any]:
    """Ask, wait, and what it cost: seconds from submitting to the result, peak memory, bytes on loopback."""
    over, peak = threading.Event(), [0] * len(trees)

    def sample() -> None:
        while not over.wait(0.2):
            for n, size in enumerate(tree_rss(trees)):
                peak[n] = max(peak[n], size)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    bytes_before, began = loopback_bytes(), time.perf_counter()
    with node.client() as client:
        job = client.post("/v1/overlap-queries", json=query).json()
        while job.get("state") not in {"succeeded", "failed", "rejected", "timed_out", "cancelled"}:
            if time.perf_counter() - began > limit or "id" not in job:
                raise SystemExit(f"The query did not end: {job}")
            time.sleep(0.1)
            job = client.get(f"/v1/overlap-queries/{job['id']}").json()
    seconds = time.perf_counter() - began
    over.set()
    sampler.join()
    if job["state"] != "succeeded":
        raise SystemExit(f"The query ended as {job['state']}: {job['error']}")
    sent = loopback_bytes() - bytes_before
    return {"seconds": seconds, "peak_rss": peak, "bytes": sent, "result": job["result"]}


def settled(node: Served, limit: float, done: Callable[[dict[str, Any]], bool]) -> None:
    began = time.perf_counter()
    while time.perf_counter() - began < limit:
        with node.client() as client:
            (status,) = client.get("/v1/optouts/status").json()["partners"]
        if done(status):
            return
        time.sleep(0.2)
    raise SystemExit("The nodes did not hear each other out.")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--limit", type=float, default=3600)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--no-floor", action="store_true", help="leave the bare protocol out")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    facts = machine()
    print(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load_before']:.1f}", flush=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="comity-bench-") as name:
        folder = Path(name)
        truth = write_people(folder, given.people, 1)
        floor = None if given.no_floor else comity(folder, truth, given)[0].seconds
        here, there = Served(folder, "here"), Served(folder, "there")
        rates = []
        for node, other, table in ((here, "there", "a"), (there, "here", "c")):
            people = pl.read_parquet(folder / f"{table}.parquet")
            spend = pl.int_range(people.height, eager=True) % 1000
            people.with_columns(spend=spend.cast(pl.Float64)).write_parquet(node.folder / "people.parquet")
            (node.folder / "datasets.toml").write_text(DATASETS)
            rates.append(consent(node, other, given.people))
            print(f"consents of {node.name} recorded at {rates[-1]:,.0f} a second", flush=True)
        try:
            here.start()
            there.start()
            with here.client() as client, there.client() as partner:
                card = partner.get("/v1/node").json()
                invitation = posted(client, "/v1/collaborations", {
                    "partner": "there", "url": there.url, "key": card["public_key"], "terms": TERMS,
                    "deliver": True,
                })["invitation"]["id"]  # fmt: skip
                posted(partner, "/v1/collaborations:accept", {"invitation": invitation})
            for node in (here, there):
                settled(node, 120, lambda status: not status["lease_expired"])
            trees = [node.process.pid for node in (here, there) if node.process is not None]
            query = {
                "collaboration": invitation, "dataset": "people", "partner_dataset": "people",
                "purpose": PURPOSES[0],
            }  # fmt: skip
            cold = asked(here, query, trees, given.limit)
            measure = asked(
                here,
                query | {"kind": "measure", "purpose": PURPOSES[1], "column": "spend"},
                trees, given.limit,
            )  # fmt: skip
        finally:
            here.stop()
            there.stop()
    off = abs(cold["result"]["value"] - truth)
    if off > 60:
        raise SystemExit(f"The nodes found {cold['result']['value']}; the truth is {truth}.")
    for what, found in (("overlap", cold), ("measure", measure)):
        rows.append(
            {
                "what": what,
                "people a side": f"{given.people:,}",
                "seconds": f"{found['seconds']:.1f}",
                "÷ bare overlap": "–" if floor is None else f"{found['seconds'] / floor:.2f}",
                "peak RSS MB": " + ".join(f"{size / 2**20:.0f}" for size in found["peak_rss"]),
                "bytes/person": f"{found['bytes'] / given.people:.1f}",
            }
        )
    show_rows(rows)
    if given.json:
        figures = {"machine": facts, "floor": floor, "consents_per_second": rates, "overlap": cold,
                   "measure": measure}  # fmt: skip
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
