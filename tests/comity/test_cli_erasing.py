"""`comity consent erase`, `erasures` and `export`, in process, on a real node's directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from comity.cli import app

ADA, PHONE = "Ada.Somebody@Example.org", "+8613800138000"


def invoke(*args: str | Path, stdin: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in args], input=stdin)
    return result.exit_code, result.stdout, result.stderr


def as_json(*args: str | Path, **more: Any) -> Any:
    code, out, err = invoke(*args, "--json", **more)
    assert code == 0, err
    return json.loads(out)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    directory = tmp_path / "shop"
    assert invoke("init", directory, "--port", "18443")[0] == 0
    who = ["--email", ADA, "--phone", PHONE, "--dir", directory]
    assert invoke("consent", "grant", "--purpose", "overlap.reach", *who)[0] == 0
    return directory


def test_a_person_is_exported_previewed_and_erased(shop: Path) -> None:
    who = ["--email", "-", "--dir", shop]
    code, out, _ = invoke("consent", "export", *who, stdin=ADA + "\n")
    assert code == 0
    assert {i["value"] for i in json.loads(out)["identifiers"]} == {ADA.lower(), PHONE}
    would = as_json("consent", "erase", "--dry-run", *who, stdin=ADA + "\n")
    assert (would["known"], would["entries"]) == (True, 1)
    code, out, _ = invoke("consent", "erase", "--basis", "gdpr.17", "--compact", *who, stdin=ADA + "\n")
    assert code == 0 and out.startswith("Erased: 2 entries")
    assert ADA.lower() not in out.lower()
    check = ["consent", "check", "--purpose", "overlap.reach", "--partner", "bank", *who]
    code, out, _ = invoke(*check, stdin=ADA + "\n")
    assert (code, "erased" in out) == (1, True)
    again = as_json("consent", "erase", *who, stdin=ADA + "\n")
    assert again["already"] is True
    assert invoke("log", "verify", "--dir", shop)[0] == 0
    code, _, err = invoke("consent", "export", *who, stdin=ADA + "\n")
    assert code == 2 and "Nothing is recorded" in err


def test_no_file_of_the_node_holds_the_erased_person(shop: Path) -> None:
    from comity.cli.opening import opened

    with opened(shop) as records:
        lookups = [
            records.ledger.vault.lookup(k)(v)
            for k, v in (("email", ADA.lower().encode()), ("phone", PHONE.encode()))
        ]
        with records.ledger.store.read() as view:
            handle = view.find_subjects(lookups)[lookups[0]]
    needles = [form for n in (*lookups, handle) for form in (n, n.hex().encode())]
    needles += [ADA.encode(), ADA.lower().encode(), PHONE.encode()]

    def holding() -> list[Path]:
        return [p for p in shop.rglob("*") if p.is_file() and any(n in p.read_bytes() for n in needles)]

    assert holding()
    assert as_json("consent", "erase", "--phone", PHONE, "--dir", shop)["scrubbed"] is True
    assert holding() == []


def test_a_hold_is_listed_and_released(shop: Path) -> None:
    who = ["--email", ADA, "--dir", shop]
    held = as_json("consent", "erase", "--hold", "tax_law", "--until", "2031-01-01", *who)
    assert (held["state"], held["held_until"]) == ("held", "2031-01-01T00:00:00Z")
    listed = as_json("consent", "erasures", "--dir", shop)
    assert [e["state"] for e in listed["erasures"]] == ["held"]
    assert listed["carried_out"] == []
    done = as_json("consent", "erasures", "--release", held["request"], "--dir", shop)
    assert done["carried_out"] == [held["request"]]
    assert invoke("consent", "erasures", "--release", held["request"], "--dir", shop)[0] == 2


def test_an_end_without_a_hold_is_a_usage_error(shop: Path) -> None:
    assert invoke("consent", "erase", "--email", ADA, "--until", "2031-01-01", "--dir", shop)[0] == 2


def test_an_imported_list_does_not_bring_them_back(shop: Path, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text(f"email,decision,purpose\n{ADA},grant,overlap.reach\n", "utf-8")
    as_json("consent", "erase", "--email", ADA, "--dir", shop)
    report = as_json("consent", "import", file, "--keep-good", "--dir", shop)
    assert (report["recorded"], report["errors"][0]["code"]) == (0, "suppressed")


def test_the_key_ring_is_rotated_and_everybody_is_still_found(shop: Path) -> None:
    check = [
        "consent",
        "check",
        "--purpose",
        "overlap.reach",
        "--partner",
        "bank",
        "--email",
        ADA,
        "--dir",
        shop,
    ]
    assert as_json("keys", "show", "--dir", shop) == {"versions": [1], "lookups": 1}
    done = as_json("keys", "rotate", "--dir", shop)
    assert (done["version"], done["subjects"], done["versions"]) == (2, 1, [1, 2])
    assert invoke(*check)[0] == 0
    assert as_json("keys", "show", "--dir", shop)["lookups"] == 2
    assert invoke("log", "verify", "--dir", shop)[0] == 0


def test_records_are_merged_and_taken_apart(shop: Path) -> None:
    work = "ada@work.example"
    assert invoke("consent", "withdraw", "--email", work, "--dir", shop)[0] == 0
    done = as_json("consent", "merge", "--email", ADA, "--other-email", work, "--dir", shop)
    assert done["restrictions"] == 1
    check = ["consent", "check", "--purpose", "overlap.reach", "--partner", "bank", "--dir", shop]
    assert invoke(*check, "--email", ADA)[0] == 1
    assert invoke("consent", "merge", "--email", ADA, "--other-email", work, "--dir", shop)[0] == 2
    assert as_json("consent", "split", "--email", work, "--dir", shop)["undone"] is True
    assert invoke("consent", "split", "--email", work, "--dir", shop)[0] == 2
    assert invoke("log", "verify", "--dir", shop)[0] == 0
