"""The command line: help, exit codes, one-line errors, JSON; in process and as a real process."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comity.cli import app
from comity.cli.root import COMMANDS, exit_code
from comity.config import load_config
from privacy.errors import (
    BadInput,
    BudgetExhausted,
    ComityError,
    Misuse,
    PeerUnreachable,
    PeerViolation,
    Refused,
    StorageError,
    Tampered,
)

Run = Callable[..., subprocess.CompletedProcess[str]]


def invoke(*args: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in args], env={"COLUMNS": "100"})
    return result.exit_code, result.stdout, result.stderr


def subcommands(name: str) -> list[str]:
    import importlib

    import typer

    command = typer.main.get_command(importlib.import_module(f"comity.cli.{COMMANDS[name][0]}").app)
    return sorted(getattr(command, "commands", {}))


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    code, _, err = invoke("init", tmp_path / "bank", "--name", "bank", "--port", "18440")
    assert (code, err) == (0, "")
    return tmp_path / "bank"


def test_help_lists_every_command_without_importing_any() -> None:
    probe = (
        "import sys\nfrom comity.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = sys.modules.keys() & {'sqlalchemy', 'fastapi', 'pyarrow', 'numpy', 'flwr', 'httpx'}\n"
        "print('heavy:', sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", probe, "--help"], capture_output=True, text=True, check=True)
    assert "heavy: []" in done.stdout
    for name in ("init", "serve", "doctor", "mask", "consent", "log", "budget", "access"):
        assert f" {name} " in done.stdout


# What these print has one form whatever is asked for: JSON documents, and a program.
ONE_FORM = {("collab", "invite"), ("consent", "export"), ("log", "verifier")}


def test_every_command_has_help_that_says_something() -> None:
    code, listing, _ = invoke("--help")
    assert code == 0
    for name in COMMANDS:
        if f" {name} " not in listing:
            continue
        code, text, _ = invoke(name, "--help")
        assert code == 0
        assert "Usage" in text
        for child in subcommands(name):
            code, text, _ = invoke(name, child, "--help")
            assert code == 0, (name, child)
            assert "--json" in text or (name, child) in ONE_FORM


def test_the_version_is_told() -> None:
    assert invoke("--version")[1].startswith("comity 0.")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("x"), 1),
        (BudgetExhausted("x"), 1),
        (Misuse("x"), 2),
        (BadInput("x"), 2),
        (PeerUnreachable("x"), 3),
        (PeerViolation("x"), 3),
        (StorageError("x"), 3),
        (Tampered("x"), 4),
        (ComityError("x"), 3),
    ],
)
def test_each_branch_of_errors_has_its_exit_code(error: ComityError, code: int) -> None:
    assert exit_code(error) == code


def test_usage_errors_exit_with_two() -> None:
    for args in (
        ["nosuch"],
        ["init"],
        ["access", "create"],
        ["init", "x", "--port", "0"],
        ["access", "nosuch"],
    ):
        code, _, err = invoke(*args)
        assert code == 2, args
        assert "Traceback" not in err


def test_init_makes_a_node_whose_secrets_are_its_owners(bank: Path) -> None:
    config = load_config(bank)
    assert (config.name, config.server.port) == ("bank", 18440)
    for secret in (config.identity_key, config.ring_key, config.operator_key):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    for folder in (config.keys_dir, config.data_dir):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert config.operator_key.read_text().startswith("comity-")


def test_init_tells_what_a_partner_needs(tmp_path: Path) -> None:
    code, out, _ = invoke("init", tmp_path / "shop", "--json")
    value = json.loads(out)
    assert code == 0
    assert set(value) >= {"name", "url", "public_key", "fingerprint", "log_origin", "operator_key"}
    assert value["name"] == "shop"


def test_init_never_overwrites(bank: Path) -> None:
    before = (bank / "keys" / "identity.key").read_bytes()
    code, _, err = invoke("init", bank)
    assert code == 2
    assert "not empty" in err
    assert (bank / "keys" / "identity.key").read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [
        ["--name", "Not Good"],
        ["--log-origin", "https://x"],
        ["--database", "mysql://x"],
        ["--public-url", 'http://x"\nname="y'],
        ["--database", "sqlite:///no/such/folder/c.db"],
    ],
)
def test_an_init_that_fails_leaves_nothing(tmp_path: Path, options: list[str]) -> None:
    code, _, err = invoke("init", tmp_path / "node", *options)
    assert code in (2, 3)
    assert err.startswith("comity: ")
    assert not (tmp_path / "node").exists()


def test_init_in_an_existing_empty_folder_that_fails_leaves_it_empty(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    assert invoke("init", tmp_path / "node", "--name", "Not Good")[0] == 2
    assert list((tmp_path / "node").iterdir()) == []


def test_api_keys_are_made_listed_and_revoked(bank: Path) -> None:
    code, out, err = invoke("access", "create", "reports", "--role", "analyst", "--days", "30", "--dir", bank)
    assert code == 0
    token = out.strip()
    assert token.startswith("comity-")
    assert token not in err
    code, out, _ = invoke("access", "list", "--dir", bank, "--json")
    keys = sorted(json.loads(out)["keys"], key=lambda k: str(k["name"]))
    assert [(k["name"], k["role"], k["state"]) for k in keys] == [
        ("operator", "admin", "valid"),
        ("reports", "analyst", "valid"),
    ]
    assert token.rpartition("-")[2] not in out
    assert invoke("access", "revoke", keys[1]["id"], "--dir", bank)[0] == 0
    assert "revoked" in invoke("access", "list", "--dir", bank)[1]
    assert invoke("access", "revoke", "nosuch", "--dir", bank)[0] == 2
    assert invoke("access", "create", "x", "--role", "king", "--dir", bank)[0] == 2


def test_an_unused_budget_is_an_empty_table(bank: Path) -> None:
    assert "(none)" in invoke("budget", "show", "--dir", bank)[1]
    assert json.loads(invoke("budget", "show", "--dir", bank, "--json")[1]) == {"budgets": []}


def test_a_folder_without_a_node_is_a_usage_error_with_advice(tmp_path: Path) -> None:
    for args in (["budget", "show", "--dir"], ["access", "list", "--dir"], ["serve"]):
        code, _, err = invoke(*args, tmp_path)
        assert code == 2
        assert "comity init" in err


def test_errors_are_one_line_and_advice_without_a_traceback(run: Run) -> None:
    done = run("serve", "nowhere")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 2
    assert done.stderr.startswith("comity: There is no node.toml in nowhere.")


def test_serve_refuses_plain_http_beyond_loopback(tmp_path: Path) -> None:
    assert invoke("init", tmp_path / "open", "--host", "0.0.0.0", "--port", "18441")[0] == 0  # noqa: S104
    code, _, err = invoke("serve", tmp_path / "open")
    assert (code, "TLS" in err) == (2, True)


def test_serve_says_which_port_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert invoke("init", tmp_path / "node", "--port", str(port))[0] == 0
        code, _, err = invoke("serve", tmp_path / "node")
    assert (code, f"port {port}" in err) == (2, True)


def test_ctrl_c_during_init_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, comity.scaffold as s\n"
        "s.migrate = lambda engine: os.kill(os.getpid(), signal.SIGINT) or __import__('time').sleep(5)\n"
        "from comity.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "init", "node"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unexpected_error_is_one_line_too(tmp_path: Path) -> None:
    code = (
        "import comity.scaffold as s\n"
        "def boom(*a, **k): raise RuntimeError('alice@example.com')\n"
        "s.make_node = boom\n"
        "from comity.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "init", "node"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert "RuntimeError" in done.stderr
    assert "alice" not in done.stderr
    assert "Traceback" not in done.stderr
