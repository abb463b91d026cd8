"""A node restored from a backup, in real processes: it does not serve, it is repaired, and it goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from comity.cli import app

ADA, BEN = "ada.somebody@example.com", "ben.somebody@example.com"
TERMS = {"purposes": ["overlap.reach"], "minimum_input": 10}


def invoke(*args: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in args])
    return result.exit_code, result.stdout, result.stderr


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.05)


def agree(bank: Any, shop: Any) -> None:
    with bank.client as at_bank, shop.client as at_shop:
        body = {
            "partner": "shop", "url": shop.url, "key": at_shop.get("/v1/node").json()["public_key"],
            "terms": TERMS, "deliver": True,
        }  # fmt: skip
        invited = at_bank.post("/v1/collaborations", json=body)
        assert invited.status_code == 201, invited.text
        accepted = at_shop.post(
            "/v1/collaborations:accept", json={"invitation": invited.json()["invitation"]["id"]}
        )
        assert accepted.status_code == 200, accepted.text


def settled(node: Any) -> bool:
    with node.client as client:
        partners = client.get("/v1/optouts/status").json()["partners"]
    return all(p["queued"] == 0 and not p["lease_expired"] for p in partners)


def allowed(node: Any, email: str, partner: str) -> dict[str, Any]:
    with node.client as client:
        question = {"email": email, "purpose": "overlap.reach", "partner": partner}
        return dict(client.post("/v1/consents/check", json=question).json())


def copy_of(directory: Path, place: Path) -> None:
    """The whole folder of a stopped node, as a backup tool takes it."""
    shutil.copytree(directory, place)


def put_back(place: Path, directory: Path) -> None:
    shutil.rmtree(directory)
    shutil.copytree(place, directory)


def test_a_node_restored_from_a_backup_made_before_an_erasure_repeats_it_before_it_serves(
    serve: Any, tmp_path: Path
) -> None:
    bank, shop = serve("bank"), serve("shop")
    agree(bank, shop)
    for node in (bank, shop):
        with node.client as client:
            decisions = [{"email": e, "decision": "grant", "purpose": "overlap.reach"} for e in (ADA, BEN)]
            assert client.post("/v1/consents", json={"decisions": decisions}).status_code == 201
    until(lambda: settled(shop))
    shop.stop()
    copy_of(shop.directory, tmp_path / "backup")
    shop = serve("shop")
    with shop.client as client:
        done = client.post("/v1/erasures", json={"email": ADA, "basis": "gdpr.17"})
        assert done.status_code == 201, done.text
        assert client.post("/v1/optouts", json={"people": [{"email": BEN}]}).status_code == 201
    until(lambda: settled(shop))
    until(lambda: not allowed(bank, ADA, "shop")["allowed"])
    shop.stop()
    published = tmp_path / "published"
    shutil.copytree(shop.directory / "log", published)  # as a web server has it
    put_back(tmp_path / "backup", shop.directory)

    refused = subprocess.run(
        [*_comity(), "serve", str(shop.directory), "--json"],
        capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert refused.returncode == 4, refused.stderr
    assert "comity log restore" in refused.stderr
    assert '"ready"' not in refused.stdout

    code, out, err = invoke("log", "restore", "--dir", shop.directory, "--json")
    assert code == 4 and "--from" in err
    code, out, err = invoke(
        "log", "restore", "--from", published, "--dry-run", "--dir", shop.directory, "--json"
    )
    assert code == 0, err
    plan = json.loads(out)
    assert (plan["needed"], plan["erasures"], plan["unaccounted"], plan["restored"]) == (True, 1, 0, None)
    code, out, err = invoke("log", "restore", "--from", published, "--dir", shop.directory, "--json")
    assert code == 0, err
    assert json.loads(out)["restored"]["erased"] == 1

    shop = serve("shop")
    assert allowed(shop, ADA, "bank")["reason"] == "erased"
    assert allowed(shop, BEN, "bank")["reason"] == "restricted"
    until(lambda: settled(shop))
    shop.stop()
    code, out, err = invoke("log", "verify", "--dir", shop.directory)
    assert code == 0, err
    for file in (p for p in shop.directory.rglob("*") if p.is_file()):
        assert ADA.encode() not in file.read_bytes()


def test_a_partner_that_does_not_answer_is_held_back_and_not_waited_for(serve: Any) -> None:
    bank, shop = serve("bank"), serve("shop")
    agree(bank, shop)
    with shop.client as client:
        decisions = [{"email": ADA, "decision": "grant", "purpose": "overlap.reach"}]
        client.post("/v1/consents", json={"decisions": decisions})
    until(lambda: allowed(shop, ADA, "bank")["allowed"])
    bank.stop()
    shop.stop()
    shop = serve("shop")
    assert allowed(shop, ADA, "bank")["reason"] == "lease_expired"
    bank = serve("bank")
    until(lambda: allowed(shop, ADA, "bank")["allowed"])


def _comity() -> list[str]:
    import sys

    return [sys.executable, "-c", "from comity.cli import main; main()"]
