"""Commands on a node's directory: consent, log, mask; in process, on real files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from comity.cli import app
from consent.notes import VerifierKey
from privacy.signing import SigningKey

ALICE, ALICE_PHONE = "Alice.Somebody@Example.com", "138-0013-8000"


def invoke(*args: str | Path, stdin: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in args], input=stdin)
    return result.exit_code, result.stdout, result.stderr


def as_json(*args: str | Path, **more: Any) -> Any:
    code, out, err = invoke(*args, "--json", **more)
    assert code == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cli") / "bank"
    assert invoke("init", directory, "--port", "18442")[0] == 0
    return directory


def test_a_grant_a_refusal_and_a_withdrawal_decide(bank: Path) -> None:
    who = ["--email", ALICE, "--dir", bank]
    question = ["consent", "check", "--purpose", "overlap.reach", "--partner", "shop", *who]
    assert invoke(*question)[0] == 1
    assert as_json("consent", "grant", "--purpose", "overlap.reach", *who)["recorded"] == 1
    assert as_json(*question)["allowed"] is True
    assert invoke("consent", "withdraw", *who)[0] == 0
    code, out, _ = invoke(*question)
    assert (code, "not allowed" in out) == (1, True)
    assert invoke("consent", "refuse", "--purpose", "model", *who)[0] in (0, 2)
    history = as_json("consent", "show", *who)["history"]
    assert [h["type"] for h in history][:2] == ["consent.granted", "consent.withdrawn"]


def test_a_person_is_never_named_in_what_is_printed(bank: Path) -> None:
    who = ["--email", ALICE, "--phone", ALICE_PHONE, "--dir", bank]
    for args in (
        ["consent", "grant", "--purpose", "overlap.reach", *who],
        ["consent", "show", *who],
        ["consent", "check", "--purpose", "overlap.reach", "--partner", "x", *who],
        ["consent", "grant", "--purpose", "no.such.purpose", *who],
        [
            "consent",
            "grant",
            "--purpose",
            "overlap.reach",
            "--email",
            "not an address of alice",
            "--dir",
            bank,
        ],
        ["log", "show", "--dir", bank],
    ):
        for more in ([], ["--json"]):
            _, out, err = invoke(*args, *more)
            for form in ("alice", "Alice", "138-0013", "13800138000"):
                assert form not in out + err


def test_a_person_can_be_named_on_standard_input(bank: Path) -> None:
    done = invoke(
        "consent", "grant", "--purpose", "overlap.reach", "--email", "-", "--dir", bank, stdin="b@x.org\n"
    )
    assert done[0] == 0
    assert as_json("consent", "show", "--email", "b@x.org", "--dir", bank)["history"]


def test_unusable_questions_exit_with_two(bank: Path) -> None:
    for args in (
        ["consent", "grant", "--purpose", "overlap.reach", "--dir", bank],
        ["consent", "grant", "--purpose", "no.such", "--email", "a@x.org", "--dir", bank],
        ["consent", "check", "--purpose", "overlap.reach", "--partner", "s", "--email", "@@", "--dir", bank],
        ["consent", "receipt", "nosuch", "--dir", bank],
        ["consent", "import", bank / "nosuch.csv", "--dir", bank],
        ["log", "prove", "999999", "--dir", bank],
        ["log", "verify", bank / "log"],
        ["log", "verify", bank / "log", "--key", "nonsense"],
        ["log", "verify", bank / "nolog", "--key", "a+b+c"],
    ):
        code, _, err = invoke(*args)
        assert code == 2, (args, err)
        assert "Traceback" not in err
        assert "Unexpected" not in err


def test_a_table_of_decisions_is_imported_whole_or_not_at_all(bank: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.csv"
    good.write_text(
        "email,phone,decision,purpose\na1@x.org,13900000001,grant,overlap.reach\na2@x.org,,refuse,overlap\n"
    )
    report = as_json("consent", "import", good, "--dir", bank)
    assert (report["rows"], report["recorded"], report["rejected"]) == (2, 2, 0)
    bad = tmp_path / "bad.csv"
    bad.write_text("email,decision,purpose\na3@x.org,grant,overlap.reach\n@@@,grant,overlap.reach\n")
    size = as_json("log", "show", "--dir", bank)["size"]
    code, _, err = invoke("consent", "import", bad, "--dir", bank)
    assert code == 2
    assert "@@@" not in err
    assert as_json("log", "show", "--dir", bank)["size"] == size
    assert as_json("consent", "import", bad, "--keep-good", "--dir", bank)["recorded"] == 1
    pq.write_table(pa.table({"mail": ["a4@x.org"]}), tmp_path / "outs.parquet")
    done = invoke("consent", "import", tmp_path / "outs.parquet", "--decision", "withdraw", "--purpose", "*",
                  "--column", "mail=email", "--dir", bank)  # fmt: skip
    assert done[0] == 0, done
    (tmp_path / "latin.csv").write_bytes(b"email,decision,purpose\n\xe9@x.org,grant,overlap.reach\n")
    (tmp_path / "empty.csv").write_bytes(b"")
    for name in ("latin.csv", "empty.csv"):
        assert invoke("consent", "import", tmp_path / name, "--dir", bank)[0] == 2


def test_the_log_is_shown_proved_and_verified(bank: Path, tmp_path: Path) -> None:
    shown = as_json("log", "show", "--last", "3", "--dir", bank)
    assert len(shown["entries"]) == 3
    assert shown["checkpoint"].startswith(shown["origin"] + "\n")
    proof = as_json("log", "prove", "0", "--dir", bank)
    assert proof["vkey"] == shown["vkey"]
    assert as_json("log", "verify", "--dir", bank)["ok"] is True
    (tmp_path / "vkey").write_text(shown["vkey"])
    (tmp_path / "seen").write_text(shown["checkpoint"])
    args = ["log", "verify", bank / "log", "--key", tmp_path / "vkey"]
    assert as_json(*args, "--known", tmp_path / "seen", "--max-age", "1")["outcome"] == "ok"
    assert as_json("consent", "receipt", "--dir", bank) == {"receipts": []}
    # What is asked of the node's own log is asked, not passed over.
    own = ["log", "verify", "--dir", bank]
    assert as_json(*own, "--known", tmp_path / "seen", "--key", tmp_path / "vkey")["outcome"] == "ok"
    assert invoke(*own, "--max-age", "0")[0] == 6
    other = SigningKey.generate()
    forged = VerifierKey(shown["origin"], other.public.bytes32).to_text()
    assert invoke(*own, "--key", forged)[0] == 4


def test_a_changed_log_and_a_missing_file_have_their_own_exit_codes(bank: Path, tmp_path: Path) -> None:
    vkey = as_json("log", "show", "--dir", bank)["vkey"]
    for name, code, change in (("changed", 4, _flip), ("missing", 5, lambda p: p.unlink())):
        copy = tmp_path / name
        shutil.copytree(bank / "log", copy)
        bundles = [p for p in (copy / "tile" / "entries").rglob("*") if p.is_file()]
        change(max(bundles, key=lambda p: p.stat().st_size))
        found, _, err = invoke("log", "verify", copy, "--key", vkey)
        assert found == code, err
        assert len(err.strip().splitlines()) == 1
    assert invoke("log", "verify", "http://127.0.0.1:1/log", "--key", vkey)[0] == 3


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


POLICY = """\
version: 1
keys: {customer: "local:customer"}
columns:
  email: {class: email, op: token, key: customer}
  note: {op: redact}
"""


def test_a_table_is_masked_by_the_nodes_own_key_ring(bank: Path, tmp_path: Path) -> None:
    table, policy, out = tmp_path / "t.csv", tmp_path / "p.yaml", tmp_path / "out.parquet"
    table.write_text("email,note\nAlice@Example.com,call 13800138000\nalice@example.com,\n")
    policy.write_text(POLICY)
    report = as_json("mask", table, "-o", out, "-p", policy, "--dir", bank)
    assert (report["rows"], report["output"]) == (2, str(out))
    masked = pq.read_table(out).to_pydict()
    assert masked["email"][0] == masked["email"][1] != "alice@example.com"
    assert "13800138000" not in str(masked)
    assert as_json("mask", table, "-o", out, "-p", policy, "--keys", bank / "keys/ring.key")["rows"] == 2
    table.write_text("email,note,salary\na@x.org,n,5\n")
    code, _, err = invoke("mask", table, "-o", tmp_path / "more.parquet", "-p", policy, "--dir", bank)
    assert (code, (tmp_path / "more.parquet").exists()) == (1, False), err


def test_masking_needs_exactly_one_key_ring_and_an_input(bank: Path, tmp_path: Path) -> None:
    table, policy, out = tmp_path / "t.csv", tmp_path / "p.yaml", tmp_path / "out.csv"
    table.write_text("email,note\nalice@example.com,call 13800138000\n")
    policy.write_text("columns: {}\n")
    assert invoke("mask", table, "-o", out, "-p", policy)[0] == 2
    assert (
        invoke("mask", table, "-o", out, "-p", policy, "--dir", bank, "--keys", bank / "keys/ring.key")[0]
        == 2
    )
    assert invoke("mask", tmp_path / "no.csv", "-o", out, "-p", policy, "--dir", bank)[0] == 2
    assert invoke("mask", table, "-o", table, "-p", policy, "--dir", bank)[0] == 2
    assert invoke("mask", table, "-o", out, "-p", tmp_path / "no.yaml", "--dir", bank)[0] == 2
    assert not out.exists()
    assert table.read_text().startswith("email,note\nalice")


def test_the_doctor_of_match_rates_names_no_value(bank: Path, tmp_path: Path) -> None:
    from hashlib import sha256

    clear = [f"person{i}@mail.example.cn" for i in range(40)]
    hashed = [sha256(value.encode()).hexdigest() for value in clear]
    pq.write_table(pa.table({"email": clear}), tmp_path / "clear.parquet")
    pq.write_table(pa.table({"email": hashed}), tmp_path / "hashed.parquet")
    datasets = bank / "datasets.toml"
    before = ""
    for name in ("clear", "hashed"):
        source = tmp_path / f"{name}.parquet"
        before += f'\n[datasets.{name}]\nsource = "{source}"\nkeys = {{ email = "email" }}\n'
    datasets.write_text(before)
    assert as_json("overlap", "doctor", "clear", "--dir", bank)["reachable"] == 40
    code, out, _ = invoke("overlap", "doctor", "hashed", "--dir", bank)
    assert code == 1
    assert "stop: email: SHA-256" in out
    assert not any(value in out for value in (*clear, *hashed))
