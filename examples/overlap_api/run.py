"""Two nodes from nothing, and one question between them over the HTTP API.

    python examples/overlap_api/run.py

Makes two nodes in a temporary folder, gives each a table of 3,000 invented people and their consents, starts
both, agrees on terms, asks how many people they share by age, and stops both nodes again. With a key and
URLs of your own nodes, the part from `Comity(…)` on is all you need.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx

from clean_room.agreements import Terms
from clean_room.client import Comity
from clean_room.schemas import AcceptIn, InviteIn, QueryIn
from comity.demo.nodes import free_ports

COMITY = [sys.executable, "-c", "from comity.cli import main; main()"]
DATASETS = """
[datasets.people]
source = "people.csv"
keys = { email = "email" }

[datasets.people.dimensions.age_band]
sql = "CASE WHEN age < 40 THEN 'under 40' ELSE '40 and over' END"
values = ["under 40", "40 and over"]
"""


def comity(*arguments: str | Path) -> dict[str, str]:
    done = subprocess.run(
        [*COMITY, *map(str, arguments), "--json"], capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def make_node(place: Path, name: str, partner: str, *, port: int, first: int) -> dict[str, str]:
    """A node that knows the people first … first + 2999; every one of them agreed."""
    directory = place / name
    card = comity("init", directory, "--name", name, "--port", str(port))
    people = [(f"person{i}@example.com", 20 + i % 50) for i in range(first, first + 3_000)]
    with (directory / "people.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("email", "age"), *people])
    with (directory / "consents.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(email, "grant", "overlap.reach", partner) for email, _ in people]
        csv.writer(file).writerows([("email", "decision", "purpose", "partner"), *rows])
    (directory / "datasets.toml").write_text(DATASETS, encoding="utf-8")
    comity("consent", "import", directory / "consents.csv", "--dir", directory)
    return card


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        place, ports = Path(folder), free_ports(2)
        ann = make_node(place, "ann", "bob", port=ports[0], first=0)
        bob = make_node(place, "bob", "ann", port=ports[1], first=1_000)
        for name in ("ann", "bob"):
            log = running.enter_context((place / f"{name}.log").open("wb"))
            node = subprocess.Popen([*COMITY, "serve", str(place / name)], stdout=log, stderr=log)
            running.callback(node.wait)
            running.callback(node.terminate)
        for card in (ann, bob):
            wait_ready(card["url"])

        keys = {name: (place / name / "keys" / "operator.key").read_text().strip() for name in ("ann", "bob")}
        with Comity(ann["url"], keys["ann"]) as asker, Comity(bob["url"], keys["bob"]) as partner:
            terms = Terms(purposes=("overlap.reach",)).document()
            invitation = asker.invite(
                InviteIn(partner="bob", url=bob["url"], key=bob["public_key"], terms=terms)
            )
            agreed = partner.accept(
                AcceptIn(invitation=invitation.model_dump(), inviter_key=ann["public_key"])
            )
            question = QueryIn(
                collaboration=agreed.id, dataset="people", partner_dataset="people", purpose="overlap.reach",
                dimensions=("age_band",),
            )  # fmt: skip
            result = asker.wait(asker.ask(question).id).result or {}
        low, high = result["ci95"]
        print(f"people in common: {result['value']} (95 %: {low} to {high}; truly 2000)")
        for cell in result["cells"]:
            print(f"  {cell['analyst']}: {cell['value']}")


def wait_ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemExit(f"the node at {url} did not start")


if __name__ == "__main__":
    main()
