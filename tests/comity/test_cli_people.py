"""`comity consent receipt|verify-receipt|absence|trace|link`: what an officer does for one person."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from comity.cli import app

ANN = "ann@example.org"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command line in a folder of the test's own: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def go(*args, stdin=None):
        result = CliRunner().invoke(app, [str(a) for a in args], input=stdin)
        return result.exit_code, result.stdout, result.stderr

    return go


@pytest.fixture
def shop(run):
    """`comity consent …` on a node in which Ann agreed to something and then said no."""
    assert run("init", "shop", "--port", "18443")[0] == 0

    def consent(*args, **more):
        return run("consent", *args, "--dir", "shop", **more)

    code, _, error = consent("grant", "--email", ANN, "--purpose", "overlap.reach", "--partner", "bank")
    assert code == 0, error
    assert consent("withdraw", "--email", "-", stdin=f"{ANN}\n")[0] == 0
    return consent


def test_receipts_are_written_checked_and_refused_when_touched(shop, run, tmp_path):
    code, out, error = shop("receipt", "--email", ANN, "--out", "receipts.json", "--json")
    assert code == 0, error
    value = json.loads(out)
    assert value["receipts"] == 2 and len(value["proofs"]) == 2
    # Elsewhere, with the key alone.
    key = value["verifier_key"]
    code, shown, error = run("consent", "verify-receipt", "receipts.json", "--key", key)
    assert code == 0 and "consent.withdrawn" in shown, error
    code, proof, error = run("consent", "verify-receipt", value["proofs"][0], "--key", key, "--json")
    assert code == 0 and json.loads(proof)["kind"] == "proof", error
    text = (tmp_path / "receipts.json").read_text()
    (tmp_path / "touched.json").write_text(text.replace("index 1", "index 2"))
    assert run("consent", "verify-receipt", "touched.json", "--key", key)[0] == 4
    other = key.replace(key.split("+")[1], "00000000")
    assert run("consent", "verify-receipt", "receipts.json", "--key", other)[0] == 2
    (tmp_path / "none.json").write_text("[]")
    for name in ("none.json", "missing.json"):
        code, _, error = run("consent", "verify-receipt", name, "--key", key)
        assert code == 2 and "Unexpected" not in error
    assert not any(ANN in printed for printed in (out, shown, proof, text))


def test_absence_trace_and_link_answer_without_naming_the_person(shop):
    code, absent, error = shop("absence", "--email", ANN, "--out", "absence.json")
    assert code == 0 and "no receipt of use was left out" in absent, error
    code, again, error = shop("verify-receipt", "absence.json", "--log", "shop/log", "--json")
    assert code == 0 and json.loads(again)["holds"] is True, error
    code, traced, error = shop("trace", "--opt-out", "2", "--json")
    assert code == 0 and json.loads(traced)["looked_at"] == 0, error
    code, link, error = shop("link", "--email", ANN, "--purpose", "activation", "--json")
    value = json.loads(link)
    assert code == 0 and "/preferences/" in value["url"], error
    code, ended, error = shop("link", "--revoke", value["link"]["id"])
    assert code == 0 and value["link"]["id"] in ended, error
    assert not any(ANN in printed for printed in (absent, again, traced, link, ended))
    code, _, error = shop("absence", "--email", "nobody@example.org")
    assert code == 2 and "nobody@" not in error
    assert shop("trace")[0] == 2
