"""`make bench-optouts`: how soon an opt-out is in force at the partner, between two real nodes under load.

    python benchmarks/consent/optouts.py                     half a minute of load, a minute of outage
    python benchmarks/consent/optouts.py --seconds 10 --outage 0
    python benchmarks/consent/optouts.py --json FILE         also write every figure

Two `comity serve` processes on loopback, each on SQLite. At one of them 500 decisions a second are recorded
over its API, and people opt out one by one. Then the partner is down while the same goes on, and comes back.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from measured import machine
from served import Served, posted

PURPOSE = "overlap.reach"
TERMS = {"purposes": [PURPOSE], "minimum_input": 10, "lease_seconds": 5}
Row = dict[str, Any]


def address(kind: str, number: int) -> dict[str, str]:
    return {"email": f"{kind}.{number}@example.org"}


def agree(sender: Served, reader: Served) -> None:
    with sender.client() as here, reader.client() as there:
        card = there.get("/v1/node").json()
        body = {
            "partner": reader.name, "url": reader.url, "key": card["public_key"], "terms": TERMS,
            "deliver": True,
        }  # fmt: skip
        invitation = posted(here, "/v1/collaborations", body)["invitation"]["id"]
        posted(there, "/v1/collaborations:accept", {"invitation": invitation})


def agreed_to(node: Served, people: int) -> None:
    """Everybody who will opt out has agreed at this node."""
    with node.client() as client:
        for start in range(0, people, 200):
            grants = [
                {**address("out", n), "decision": "grant", "purpose": PURPOSE}
                for n in range(start, min(start + 200, people))
            ]
            posted(client, "/v1/consents", {"decisions": grants})


class Load:
    """Decisions of other people, `rate` a second in requests of ten on five connections, until ended."""

    def __init__(self, node: Served, rate: int) -> None:
        self._node, self._rate = node, rate
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._asked = self._recorded = 0
        self._began = time.perf_counter()
        self._threads = [threading.Thread(target=self._run) for _ in range(5)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        with self._node.client() as client:
            while not self._over.is_set():
                with self._lock:
                    number, self._asked = self._asked, self._asked + 1
                wait = self._began + number * 10 / self._rate - time.perf_counter()
                if wait > 0 and self._over.wait(wait):
                    return
                grants = [
                    {**address("load", time.time_ns() + n), "decision": "grant", "purpose": PURPOSE}
                    for n in range(10)
                ]
                posted(client, "/v1/consents", {"decisions": grants})
                with self._lock:
                    self._recorded += 10

    def end(self) -> float:
        """Stop; decisions a second that were recorded."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        return self._recorded / (time.perf_counter() - self._began)


def opt_out(client: httpx.Client, people: range, seconds: float) -> None:
    """These people one after another, evenly over `seconds`."""
    began = time.perf_counter()
    for i, number in enumerate(people):
        if (wait := began + i * seconds / len(people) - time.perf_counter()) > 0:
            time.sleep(wait)
        posted(client, "/v1/optouts", {"people": [address("out", number)]})


def settled(node: Served, count: int, limit: float) -> float:
    """Seconds until the partner has acknowledged `count` opt-outs; SystemExit after `limit`."""
    began = time.perf_counter()
    with node.client() as client:
        while time.perf_counter() - began < limit:
            (status,) = client.get("/v1/optouts/status").json()["partners"]
            if status["queued"] == 0 and status["delivered"] >= count:
                return time.perf_counter() - began
            time.sleep(0.05)
    raise SystemExit(f"Not everything was acknowledged within {limit} s: {status}")


def asked(node: Served, number: int, partner: str) -> str:
    """`granted`, or why not."""
    with node.client() as client:
        question = {"purpose": PURPOSE, "partner": partner, **address("out", number)}
        return str(posted(client, "/v1/consents/check", question)["reason"])


def spread(micros: list[int]) -> Row:
    micros.sort()
    ranked = {p: micros[max(-(-len(micros) * p // 100), 1) - 1] / 1000 for p in (50, 99)}
    return {"opt_outs": len(micros), "p50_ms": ranked[50], "p99_ms": ranked[99], "max_ms": micros[-1] / 1000}


def measured_between(sender: Served, first: int, last: int) -> list[Row]:
    """Recorded here → in force there, and → acknowledged here, of the opt-outs first … last."""
    rows = sender.rows(
        "SELECT recorded_at, enforced_at, acked_at FROM consent_outbox WHERE seq > :a AND seq <= :b",
        a=first, b=last,
    )  # fmt: skip
    return [
        {"to": "in force at the partner", **spread([enforced - at for at, enforced, _ in rows])},
        {"to": "acknowledged", **spread([acked - at for at, _, acked in rows])},
    ]


def outage(shop: Served, bank: Served, people: range, seconds: float, rate: int) -> Row:
    """The bank is down while people go on opting out at the shop, and comes back."""
    before = asked(shop, people.stop, "bank")
    bank.stop()
    load = Load(shop, rate)
    try:
        with shop.client() as client:
            opt_out(client, people, seconds)
        denied = asked(shop, people.stop, "bank")
    finally:
        recorded = load.end()
    bank.start()
    took = settled(shop, people.stop, 120)
    reasons = {asked(bank, number, "shop") for number in people}
    with shop.client() as client:
        (status,) = client.get("/v1/optouts/status").json()["partners"]
    (heard,) = bank.rows("SELECT count(*), max(seq) FROM consent_inbox")
    return {
        "seconds_down": seconds,
        "decisions_per_second_meanwhile": round(recorded),
        "opt_outs_meanwhile": len(people),
        "somebody_else_before": before,
        "somebody_else_while_down": denied,
        "seconds_to_catch_up": round(took, 2),
        "missed": people.stop - int(heard[0]),
        "gaps": int(heard[1]) - int(heard[0]),
        "reasons_at_the_partner": sorted(reasons),
        "somebody_else_after": asked(shop, people.stop, "bank"),
        "lease_expired_after": status["lease_expired"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=int, default=500, help="decisions a second recorded meanwhile")
    parser.add_argument("--seconds", type=float, default=30, help="of measuring under load")
    parser.add_argument("--opt-outs", type=int, default=300, help="people who opt out meanwhile")
    parser.add_argument("--outage", type=float, default=60, help="seconds the partner is down; 0 for none")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    count, later = options.opt_outs, max(int(options.outage), 1)
    figures: Row = {"machine": machine(), "rate": options.rate, "lease_seconds": TERMS["lease_seconds"]}
    with tempfile.TemporaryDirectory(prefix="comity-optouts-") as place:
        shop, bank = Served(Path(place), "shop"), Served(Path(place), "bank")
        try:
            shop.start()
            bank.start()
            agree(shop, bank)
            for node in (shop, bank):
                agreed_to(node, count + later + 1)
            load = Load(shop, options.rate)
            try:
                time.sleep(2)
                with shop.client() as client:
                    opt_out(client, range(count), options.seconds)
                settled(shop, count, 60)
            finally:
                figures["decisions_per_second"] = round(load.end())
            figures["latency"] = measured_between(shop, 0, count)
            if options.outage:
                figures["outage"] = outage(
                    shop, bank, range(count, count + later), options.outage, options.rate
                )
        finally:
            bank.stop()
            shop.stop()
    print(f"{figures['decisions_per_second']} decisions a second recorded at the shop meanwhile\n")
    print("| recorded at the shop →  | opt-outs | p50 ms | p99 ms | longest ms |")
    print("| ----------------------- | -------- | ------ | ------ | ---------- |")
    for row in figures["latency"]:
        print(
            f"| {row['to']:<23} | {row['opt_outs']:8d} | {row['p50_ms']:6.1f} | {row['p99_ms']:6.1f} "
            f"| {row['max_ms']:10.1f} |"
        )
    print(json.dumps(figures.get("outage", {}), indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
