"""Commands about the policy, the terms of a decision, and preference signals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from comity.cli import app
from comity.config import ConfigError, parse_config

POLICY = """
policy: shop
version: 1
laws: [pipl]
purposes:
  overlap:
    since: 1
    title: {en: Overlap}
    traits: [provided]
    children: {reach: {since: 1, title: {en: Reach}}}
  ads: {since: 1, title: {en: Ads}, traits: [shared]}
notices:
  main: {version: 1, purposes: [overlap, ads], text: {en: We compare., zh: 我们比对。}}
"""


def invoke(*args: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in args])
    return result.exit_code, result.stdout, result.stderr


def as_json(*args: str | Path) -> Any:
    code, out, err = invoke(*args, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node with a policy of its own, which holds everything to a law."""
    directory = tmp_path_factory.mktemp("cli") / "shop"
    assert invoke("init", directory, "--port", "18446")[0] == 0
    (directory / "purposes.yaml").write_text(POLICY, "utf-8")
    with (directory / "node.toml").open("a", encoding="utf-8") as file:
        file.write('\n[consent]\npolicy = "purposes.yaml"\n')
    return directory


def test_a_node_works_under_its_own_policy(shop: Path) -> None:
    shown = as_json("consent", "policy", "--dir", shop)
    assert (shown["policy"], shown["laws"]) == ("shop", ["pipl"])
    asked = {p["purpose"]: p["consent_form"] for p in shown["purposes"]}
    assert asked == {name: ["pipl 23"] for name in ("overlap", "overlap.reach", "ads")}
    code, out, _ = invoke("consent", "policy", "--dir", shop)
    assert code == 0 and "overlap.reach" in out


def test_what_the_law_asks_for_can_be_given_on_the_command_line(shop: Path) -> None:
    grant = ["consent", "grant", "--email", "a@x.org", "--purpose", "overlap.reach", "--dir", shop]
    code, _, err = invoke(*grant)
    assert code == 1 and "notice" in err
    shown = ["--notice", "main", "--language", "zh"]
    code, _, err = invoke(*grant, *shown)
    assert code == 1 and "PIPL 23" in err
    assert invoke(*grant, *shown, "--consent-type", "loud")[0] == 2
    assert as_json(*grant, *shown, "--consent-type", "separate", "--recipient", "bank")["recorded"] == 1


def test_a_register_is_filled_in_on_the_command_line(shop: Path, tmp_path: Path) -> None:
    file = tmp_path / "register.csv"
    file.write_text(
        "email,decision,purpose,at\nb@x.org,grant,overlap,2026-01-01\nc@x.org,grant,ads,2026-01-01\n"
    )
    command = ["consent", "import", file, "--dir", shop]
    code, _, err = invoke(*command)
    assert code == 2 and "2 of 2 rows" in err
    assert invoke(*command, "--set", "notice")[0] == 2
    filled = ["--set", "notice=main", "--set", "language=en", "--set", "consent_type=separate"]
    assert as_json(*command, *filled)["recorded"] == 2
    assert as_json(*command, *filled)["repeated"] == 2


def test_a_signal_restricts_and_is_recorded_once(shop: Path) -> None:
    command = ["consent", "signal", "--email", "b@x.org", "--standard", "gpc", "--raw", "1", "--dir", shop]
    assert as_json(*command) == {"restricted": ["ads"], "recorded": 2}
    assert as_json(*command)["recorded"] == 0
    for wrong in (["--raw", "0"], ["--standard", "dnt"]):
        assert invoke(*command, *wrong)[0] == 2


def test_a_policy_is_checked_before_it_is_published(shop: Path, tmp_path: Path) -> None:
    def checked(text: str) -> tuple[int, str, str]:
        file = tmp_path / "next.yaml"
        file.write_text(text, "utf-8")
        return invoke("consent", "policy", file, "--dir", shop)

    assert checked(POLICY.replace("{en: Ads}", "{en: Advertising}"))[0] == 0
    code, _, err = checked(POLICY.replace("We compare.", "We take everything."))
    assert code == 2 and "notice main changed without a new version" in err
    code, _, err = checked(POLICY.replace("traits: [shared]", "traits: [stolen]"))
    assert code == 2 and "At ads" in err


def test_a_policy_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    for lines in ('policy = "none.yaml"', "vendor = 70000", 'colour = "red"'):
        with pytest.raises(ConfigError):
            parse_config(f'name = "shop"\n[consent]\n{lines}\n', tmp_path)
