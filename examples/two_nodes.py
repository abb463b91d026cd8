"""Two nodes that have agreed to work together, for the examples that ask something between them.

`ann` knows who was shown a campaign, `bob` what people spent. Each has 3,000 invented people, 2,000 of them
the other's as well, and every one of them agreed. Nodes of your own need none of this: an example needs
their URL, an API key, and the id of an agreement.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clean_room.agreements import Terms
from clean_room.client import Comity
from clean_room.schemas import AcceptIn, InviteIn
from comity.demo.nodes import NodeProcess, free_ports

PURPOSES = ("overlap.reach", "overlap.measure")
DATASETS = """
[datasets.people]
source = "people.csv"
keys = { email = "email" }

[datasets.people.dimensions.age_band]
sql = "CASE WHEN age < 40 THEN 'under 40' ELSE '40 and over' END"
values = ["under 40", "40 and over"]

[datasets.people.dimensions.campaign]
sql = "campaign"
values = ["shown", "held out"]

[datasets.people.columns.spent]
lower = 0
upper = 100
"""
Row = tuple[str, int, str, float]


@dataclass(frozen=True)
class TwoNodes:
    """Where the two are, an API key of each, and the id of their agreement."""

    ann_url: str
    ann_key: str = field(repr=False)
    bob_url: str
    bob_key: str = field(repr=False)
    agreement: str


def command(*arguments: str | Path) -> str:
    """Run a `comity` command; what it prints."""
    argv = [sys.executable, "-c", "from comity.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"comity {arguments[0]} ended with {done.returncode}: {done.stderr}{done.stdout}")
    return done.stdout


def comity(*arguments: str | Path) -> dict[str, Any]:
    """Run a `comity` command that answers with one JSON document."""
    answer: dict[str, Any] = json.loads(command(*arguments, "--json"))
    return answer


def people(first: int) -> list[Row]:
    """Three thousand from number `first` on; two of three were shown the campaign and spend a little more."""
    rows = []
    for i in range(first, first + 3_000):
        shown = i % 3 > 0
        rows.append((f"person{i}@example.com", 20 + i % 50, "shown" if shown else "held out",
                     i % 40 + (12.5 if shown else 0.0)))  # fmt: skip
    return rows


def write_csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def import_consents(directory: Path, partner: str, emails: Sequence[str]) -> None:
    """Put on record that these people agreed to both purposes with this partner."""
    rows = [(email, "grant", purpose, partner) for email in emails for purpose in PURPOSES]
    write_csv(directory / "consents.csv", [("email", "decision", "purpose", "partner"), *rows])
    comity("consent", "import", directory / "consents.csv", "--dir", directory)


def make_node(place: Path, name: str, partner: str, *, port: int, first: int) -> dict[str, str]:
    """A node that knows the people from number `first` on; the card it prints about itself."""
    directory = place / name
    card = comity("init", directory, "--name", name, "--port", str(port))
    known = people(first)
    write_csv(directory / "people.csv", [("email", "age", "campaign", "spent"), *known])
    (directory / "datasets.toml").write_text(DATASETS, encoding="utf-8")
    import_consents(directory, partner, [email for email, *_ in known])
    return card


@contextmanager
def serving(place: Path, cards: dict[str, dict[str, str]]) -> Iterator[None]:
    """Run the nodes of these names in `place` while inside."""
    with ExitStack() as running:
        nodes = [NodeProcess.of(name, place / name, card["url"]) for name, card in cards.items()]
        for node in nodes:
            running.enter_context(node)
        for node in nodes:
            node.wait_ready()
        yield


def operator_key(directory: Path) -> str:
    return (directory / "keys" / "operator.key").read_text(encoding="utf-8").strip()


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """The two, agreed and running; stopped and removed on leaving. `COMITY_TWO_NODES` names a file that says
    where two that run already are."""
    if running := os.environ.get("COMITY_TWO_NODES"):
        yield TwoNodes(**json.loads(Path(running).read_text(encoding="utf-8")))
        return
    with tempfile.TemporaryDirectory(prefix="comity-example-") as folder:
        place, ports = Path(folder), free_ports(2)
        with ThreadPoolExecutor(2) as both:
            made = both.submit(make_node, place, "ann", "bob", port=ports[0], first=0)
            bob = make_node(place, "bob", "ann", port=ports[1], first=1_000)
            ann = made.result()
        with serving(place, {"ann": ann, "bob": bob}):
            keys = {name: operator_key(place / name) for name in ("ann", "bob")}
            agreed = agree(ann, bob, keys)
            yield TwoNodes(ann["url"], keys["ann"], bob["url"], keys["bob"], agreed)


def agree(ann: dict[str, str], bob: dict[str, str], keys: dict[str, str]) -> str:
    """Ann invites, Bob accepts; the id of what they agreed."""
    with Comity(ann["url"], keys["ann"]) as inviter, Comity(bob["url"], keys["bob"]) as invited:
        terms = Terms(purposes=PURPOSES).document()
        invitation = inviter.invite(
            InviteIn(partner="bob", url=bob["url"], key=bob["public_key"], terms=terms)
        )
        agreed = invited.accept(AcceptIn(invitation=invitation.model_dump(), inviter_key=ann["public_key"]))
        return agreed.id


def write_place(found: TwoNodes, file: Path) -> None:
    """What `COMITY_TWO_NODES` is to name."""
    file.write_text(json.dumps(asdict(found)), encoding="utf-8")
