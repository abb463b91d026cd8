"""The typed client and the commands above it, against a node's real routes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

import comity.cli.train as commands
from clean_room.client import Comity
from federated.api import RunView, TrainingRunBody
from federated.client import TrainingClient, failure_of_run
from federated.errors import Misuse, PartnerFailed, PeerUnreachable, Refused, Tampered
from federated.runs import Run

from .conftest import World

Settled = tuple[World, Run]
ASK = ["--collab", "c1", "--dataset", "customers", "--partner-dataset", "shoppers", "--label", "defaulted"]


def client_of(world: World, role: str = "analyst") -> TrainingClient:
    return TrainingClient.over(Comity("http://testserver", role, transport=world.bank.client._transport))


@pytest.fixture
def command(settled: Settled, monkeypatch: pytest.MonkeyPatch) -> Any:
    @contextmanager
    def calling(*_: object) -> Iterator[Comity]:
        yield client_of(settled[0])

    monkeypatch.setattr(commands, "calling", calling)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(commands.app, list(arguments))

    return run


def test_the_client_trains_follows_and_reads(settled: Settled) -> None:
    node, seen = client_of(settled[0]), list[float]()
    body = TrainingRunBody(
        collaboration="c1", dataset="customers", partner_dataset="shoppers", label="defaulted",
        purpose="model.credit", rounds=1, epochs=2,
    )  # fmt: skip
    run = node.train(body, idempotency_key="once")
    assert node.train(body, idempotency_key="once").id == run.id
    ended = node.follow_run(run.id, timeout=60, seen=lambda r: seen.append(r.progress))
    assert (ended.state, seen[-1]) == ("succeeded", 1.0)
    assert seen == sorted(seen)
    assert failure_of_run(ended) is None
    assert len(node.round_receipts(run.id)) == 4
    assert node.card(run.id)["run"] == run.id
    assert run.id in {r.id for r in node.runs(limit=10).items}
    with pytest.raises(Misuse) as caught:
        node.run("nothing")
    assert caught.value.code == "unknown_run"
    with pytest.raises(Refused):
        client_of(settled[0], "nobody").runs()


@pytest.mark.parametrize(
    ("state", "code", "kind"),
    [
        ("cancelled", "cancelled", Refused),
        ("rejected", "purpose_not_agreed", Refused),
        ("failed", "receipt_invalid", PartnerFailed),
        ("failed", "peer_unreachable", PeerUnreachable),
        ("failed", "tampered", Tampered),
        ("timed_out", "peer_timeout", PeerUnreachable),
    ],
)
def test_every_end_without_a_model_is_an_error_of_its_kind(
    settled: Settled, state: str, code: str, kind: type[Exception]
) -> None:
    shown = settled[1].document() | {"state": state, "result": None}
    failure = failure_of_run(RunView(**shown | {"error": {"code": code, "detail": "d", "advice": "a"}}))
    assert type(failure) is kind
    assert failure is not None
    assert failure.code == code


def test_the_command_trains_and_prints_both_aucs(command: Any) -> None:
    done = command("run", *ASK, "--rounds", "1", "--epochs", "2", "--partner-feature", "late")
    assert done.exit_code == 0, done.output
    assert "alone" in done.output
    assert "joint" in done.output
    as_json = json.loads(command("run", *ASK, "--rounds", "1", "--epochs", "1", "--json").stdout)
    assert as_json["result"]["auc_joint"] > 0.5
    refused = command("run", *ASK, "--purpose", "ads.all")
    assert isinstance(refused.exception, Refused)
    rejected = command("run", *ASK, "--partner-feature", "email", "--json")
    assert isinstance(rejected.exception, Refused)
    assert json.loads(rejected.stdout)["state"] == "rejected"
    submitted = command("run", *ASK, "--rounds", "1", "--epochs", "1", "--no-wait")
    assert submitted.exit_code == 0


def test_the_commands_show_runs_and_cards(command: Any, settled: Settled) -> None:
    run = settled[1].id
    assert "joint" in command("show", run).output
    assert run in command("show").output
    assert json.loads(command("show", "--json", "--limit", "1").stdout)["next"]
    card = command("card", run)
    assert "score vectors" in card.output
    assert "bank.example/log" in card.output
    assert json.loads(command("card", run, "--json").stdout)["run"] == run
    assert "succeeded" in command("cancel", run).output
