"""`comity audit` from a shell: a report, its checks, a scan, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from comity.cli import app

NAMES = {"shop", "report.json", "report.html", "changed.json", "cut.json", "nowhere.json"}


def comity(*arguments: object, cwd: Path) -> Result:
    """A command as from a shell in `cwd`: arguments that name something there are paths."""
    named = [cwd / str(a) if str(a).split("/")[0] in NAMES else a for a in arguments]
    return CliRunner().invoke(app, [str(a) for a in named])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    for arguments in (
        ("init", "shop", "--log-origin", "shop.example/log"),
        ("consent", "grant", "--email", "li.lei@example.com", "--purpose", "overlap.reach", "--dir", "shop"),
        (
            "audit",
            "report",
            "--dir",
            "shop",
            "--lang",
            "zh",
            "--json",
            "report.json",
            "--html",
            "report.html",
        ),
    ):
        done = comity(*arguments, cwd=folder)
        assert done.exit_code == 0, done.stderr
    return folder


def vkey(place: Path) -> str:
    return str(json.loads((place / "report.json").read_text("utf-8"))["report"]["keys"]["vkey"])


def test_the_page_is_in_the_language_asked_for_and_the_figures_in_none(place: Path) -> None:
    assert '<html lang="zh-CN">' in (place / "report.html").read_text("utf-8")
    facts = json.loads((place / "report.json").read_text("utf-8"))["report"]
    assert facts["entries"]["by_type"] == {"consent.granted": 1, "policy.published": 1}
    assert facts["scan"]["counts"]["bad"] == 0


def test_it_holds_by_key_by_log_and_by_ledger(place: Path) -> None:
    for options in (
        ("--key", vkey(place)),
        ("--key", vkey(place), "--log", "shop/log"),
        ("--dir", "shop"),
    ):
        done = comity("audit", "verify", "report.json", *options, "--json", cwd=place)
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["ok"]


def test_a_changed_report_ends_with_four(place: Path) -> None:
    text = (place / "report.json").read_text("utf-8")
    (place / "changed.json").write_text(text.replace('"people": 1', '"people": 2'), "utf-8")
    (place / "cut.json").write_text(text[: len(text) // 2], "utf-8")
    for name in ("changed.json", "cut.json"):
        assert comity("audit", "verify", name, "--key", vkey(place), cwd=place).exit_code == 4
        assert comity("audit", "verify", name, "--dir", "shop", cwd=place).exit_code == 4


def test_usage_is_told_from_refusal(place: Path) -> None:
    assert comity("audit", "verify", "report.json", cwd=place).exit_code == 2
    assert comity("audit", "verify", "nowhere.json", "--key", vkey(place), cwd=place).exit_code == 2
    assert comity("audit", "report", "--dir", "shop", "--from", "soon", cwd=place).exit_code == 2
    assert comity("audit", "report", "--dir", "shop", "--law", "hipaa", cwd=place).exit_code == 2
    unreachable = ("--log", "http://127.0.0.1:9/log")
    assert (
        comity("audit", "verify", "report.json", "--key", vkey(place), *unreachable, cwd=place).exit_code == 3
    )


def test_a_scan_that_finds_a_breach_ends_with_one(place: Path) -> None:
    assert comity("audit", "scan", "--dir", "shop", cwd=place).exit_code == 0
    (place / "shop" / "d.csv").write_text("email,passport,note\na@example.org,X1,call 13800138000\n", "utf-8")
    (place / "shop" / "datasets.toml").write_text(
        '[datasets.people]\nsource = "d.csv"\nkeys = { email = "email" }\nfeatures = ["passport", "note"]\n',
        "utf-8",
    )
    done = comity("audit", "scan", "--dir", "shop", "--json", cwd=place)
    assert done.exit_code == 1
    found = {(f["rule"], f["column"]) for f in json.loads(done.stdout)["findings"]}
    assert {("red_line", "passport"), ("unmasked", "note")} <= found
    assert "13800138000" not in done.stdout
