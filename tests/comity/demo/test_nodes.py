"""Processes: ended by id whatever happens, and a failed command says why."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from comity.demo.nodes import Command, NodeProcess, free_ports, interruptible, run_together
from privacy.errors import PeerUnreachable


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def command(tmp_path: Path, *arguments: str) -> Command:
    return Command(arguments, stdout=tmp_path / "out", stderr=tmp_path / "err")


def test_free_ports_are_different_and_can_be_bound() -> None:
    ports = free_ports(8)
    assert len(set(ports)) == 8
    with socket.socket() as s:
        s.bind(("127.0.0.1", ports[0]))


def test_a_command_that_fails_says_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(PeerUnreachable, match=r"doctor.*ended with"):
        run_together([command(tmp_path, "doctor", "--no-such-option")], timeout=60)


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comity.demo.nodes._BOOT", "import time; time.sleep(60)")
    slow = command(tmp_path, "sleep")
    with pytest.raises(PeerUnreachable, match="took more than"):
        run_together([slow], timeout=0.2)
    assert gone(slow.pid)


def test_an_error_inside_the_context_ends_the_process_and_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    )
    monkeypatch.setattr("comity.demo.nodes._BOOT", f"{child}; print(p.pid, flush=True); p.wait()")
    running = command(tmp_path, "sleep")
    with pytest.raises(KeyError), running:
        deadline = time.monotonic() + 20
        while not running.stdout.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        raise KeyError
    assert gone(running.pid)
    grandchild = int(running.stdout.read_text())
    deadline = time.monotonic() + 5
    while not gone(grandchild) and time.monotonic() < deadline:
        # Adopted by the container's init, which may take a moment to collect it.
        if Path(f"/proc/{grandchild}/stat").read_text().split(") ")[1][0] == "Z":
            break
        time.sleep(0.02)
    else:
        assert gone(grandchild)


def test_a_process_that_ignores_being_asked_is_made_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    monkeypatch.setattr("comity.demo.nodes._BOOT", stubborn)
    monkeypatch.setattr("comity.demo.nodes._ENDING_SECONDS", 0.2)
    running = command(tmp_path, "sleep")
    with running:
        while not running.stdout.read_text():
            time.sleep(0.02)
    assert gone(running.pid)
    assert running.poll() == -signal.SIGKILL


def test_a_node_that_cannot_start_is_reported_with_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    node = NodeProcess.of("bank", tmp_path / "node", "http://127.0.0.1:9")
    with pytest.raises(PeerUnreachable, match="did not start"), node:
        node.wait_ready()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_being_told_to_stop_takes_the_orderly_way_out(number: int) -> None:
    with pytest.raises(SystemExit) as caught, interruptible():
        os.kill(os.getpid(), number)
        time.sleep(1)
    assert caught.value.code == 128 + number


def test_killing_the_parent_outright_leaves_no_orphan(tmp_path: Path) -> None:
    boot = "import comity.demo.nodes as n; b = n._BOOT.split('from comity')[0]"
    script = f"""
{boot}
n._BOOT = b + "import time; print(1, flush=True); time.sleep(60)"
import pathlib, time
folder = pathlib.Path({str(tmp_path)!r})
c = n.Command(["x"], stdout=folder / "out", stderr=folder / "err")
with c:
    while not c.stdout.read_text(): time.sleep(0.02)
    print(c.pid, flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    orphan = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if gone(orphan) or Path(f"/proc/{orphan}/stat").read_text().split(") ")[1][0] == "Z":
            return
        time.sleep(0.02)
    pytest.fail("the child outlived its parent")
