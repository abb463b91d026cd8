"""Two nodes as processes of their own; either is killed in the middle of a query and started again."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clean_room.agreements import Terms
from clean_room.client import Comity
from clean_room.schemas import AcceptIn, InviteIn, QueryIn
from comity.demo.nodes import NodeProcess, free_ports

PEOPLE = 2_000
SHARED = 1_500
DATASETS = '[datasets.people]\nsource = "people.csv"\nkeys = { email = "email" }\n'


def comity(*arguments: str | Path) -> Any:
    argv = [sys.executable, "-c", "from comity.cli import main; main()", *map(str, arguments), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def make(place: Path, name: str, partner: str, port: int, first: int) -> Any:
    directory = place / name
    card = comity("init", directory, "--name", name, "--port", str(port))
    with (directory / "people.csv").open("w") as people, (directory / "consents.csv").open("w") as consents:
        rows, granted = csv.writer(people), csv.writer(consents)
        rows.writerow(["email"])
        granted.writerow(["email", "decision", "purpose", "partner"])
        for i in range(first, first + PEOPLE):
            rows.writerow([f"person{i}@example.com"])
            granted.writerow([f"person{i}@example.com", "grant", "overlap.reach", partner])
    (directory / "datasets.toml").write_text(DATASETS)
    comity("consent", "import", directory / "consents.csv", "--dir", directory)
    return SimpleNamespace(name=name, directory=directory, url=card["url"], card=card)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    place, ports = tmp_path_factory.mktemp("killed"), free_ports(2)
    sides = {
        "ann": make(place, "ann", "bob", ports[0], 0),
        "bob": make(place, "bob", "ann", ports[1], PEOPLE - SHARED),
    }
    running: dict[str, NodeProcess] = {}

    def start(name: str) -> None:
        side = sides[name]
        running[name] = NodeProcess.of(name, side.directory, side.url)
        running[name].__enter__()
        running[name].wait_ready()

    def kill(name: str) -> None:
        os.kill(running[name].command.pid, signal.SIGKILL)
        running[name].__exit__(None, None, None)

    try:
        for name in sides:
            start(name)
        keys = {n: (s.directory / "keys" / "operator.key").read_text().strip() for n, s in sides.items()}
        with Comity(sides["ann"].url, keys["ann"]) as ann, Comity(sides["bob"].url, keys["bob"]) as bob:
            terms = Terms(purposes=("overlap.reach",), epsilon_per_month=8.0).document()
            invitation = ann.invite(
                InviteIn(
                    partner="bob", url=sides["bob"].url, key=sides["bob"].card["public_key"], terms=terms
                )
            )
            key = sides["ann"].card["public_key"]
            agreed = bob.accept(AcceptIn(invitation=invitation.model_dump(), inviter_key=key))
            asked = itertools.count(1)

            def ask() -> Any:
                return ann.ask(
                    QueryIn(
                        collaboration=agreed.id,
                        dataset="people",
                        partner_dataset="people",
                        purpose="overlap.reach",
                        epsilon=0.5 + next(asked) / 64,
                    )
                )

            yield SimpleNamespace(ann=ann, bob=bob, start=start, kill=kill, ask=ask, sides=sides)
    finally:
        for node in running.values():
            node.__exit__(None, None, None)


@pytest.mark.parametrize(("side", "stage"), [("bob", "contributed"), ("ann", "invited")])
def test_a_query_survives_the_death_of_either_node(world, side, stage):
    charged = sum(b.committed for b in world.bob.budgets())
    for _ in range(5):
        job = world.ask()
        spent = job.query["epsilon"]
        while (found := world.ann.job(job.id)).stage not in {stage, "transformed", "joined"}:
            assert found.error is None, found.error
            time.sleep(0.005)
        if found.state != "succeeded":
            world.kill(side)
            break
        charged += spent
    else:
        pytest.fail("the query was over before the node could be killed")
    world.start(side)
    ended = world.ann.wait(job.id, timeout=120)
    assert ended.state == "succeeded", ended.error
    low, high = ended.result["ci95"]
    assert low - 40 <= SHARED <= high + 40
    (budget,) = world.bob.budgets()
    assert (budget.reserved, budget.committed) == (0, pytest.approx(charged + spent))
    assert world.bob.job(job.id).state == "succeeded"
    assert world.ann.receipt(ended.receipt_id).verified
    assert world.bob.receipt(ended.receipt_id) == world.ann.receipt(ended.receipt_id)
    left = [p.name for s in world.sides.values() for p in s.directory.rglob("*.sealed") if job.id in str(p)]
    assert left == ["answer.sealed"]
