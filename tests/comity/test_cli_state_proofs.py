"""`comity log prove --state` and `comity log check-state`, in process, on real files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from comity.cli import app

PERSON = "Alice.Somebody@Example.com"
ASKED = ("--purpose", "overlap.reach", "--partner", "shop")


def invoke(*args: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in args])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cli") / "bank"
    assert invoke("init", directory, "--port", "18443")[0] == 0
    return directory


def proved(bank: Path, *who: str | Path) -> dict[str, Any]:
    code, out, err = invoke("log", "prove", "--state", *ASKED, *who, "--dir", bank, "--json")
    assert code == 0, err
    assert PERSON.lower() not in out.lower()
    return json.loads(out)  # type: ignore[no-any-return]


def checked(file: Path, document: dict[str, Any], vkey: str) -> tuple[int, dict[str, Any]]:
    file.write_text(json.dumps(document), "utf-8")
    code, out, _ = invoke("log", "check-state", file, "--key", vkey, *ASKED, "--json")
    return code, json.loads(out) if code == 0 else {}


def test_what_stands_is_proved_to_somebody_who_has_the_key_only(bank: Path, tmp_path: Path) -> None:
    who = ("--email", PERSON)
    for command, allowed in (("grant", True), ("withdraw", False)):
        assert invoke("consent", command, "--purpose", "overlap.reach", *who, "--dir", bank)[0] == 0
        document = proved(bank, *who)
        code, found = checked(tmp_path / "now.json", document, document["vkey"])
        assert (code, found["allowed"], found["entries_since"]) == (0, allowed, 0)
    by_handle = proved(bank, "--handle", document["proof"]["handle"])
    assert by_handle["proof"]["places"] == document["proof"]["places"]
    place = document["proof"]["places"][1]
    place["standing"]["restricted_at"], place["standing"]["restriction"] = None, None
    assert checked(tmp_path / "bent.json", document, document["vkey"])[0] == 4


def test_a_handle_that_nobody_has_is_provably_without_consent(bank: Path, tmp_path: Path) -> None:
    document = proved(bank, "--handle", "00" * 16)
    code, found = checked(tmp_path / "nobody.json", document, document["vkey"])
    assert (code, found["allowed"], found["reason"]) == (0, False, "no_record")


def test_questions_that_are_not_complete_are_refused(bank: Path, tmp_path: Path) -> None:
    assert invoke("log", "prove", "--dir", bank)[0] == 2
    assert invoke("log", "prove", "3", "--state", *ASKED, "--email", PERSON, "--dir", bank)[0] == 2
    assert invoke("log", "prove", "--state", "--email", PERSON, "--dir", bank)[0] == 2
    assert invoke("log", "prove", "--state", *ASKED, "--handle", "zz", "--dir", bank)[0] == 2
    (tmp_path / "x.json").write_text("[]", "utf-8")
    vkey = proved(bank, "--handle", "00" * 16)["vkey"]
    assert invoke("log", "check-state", tmp_path / "x.json", "--key", vkey)[0] == 4
