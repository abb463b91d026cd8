"""Nodes for the roof's tests: made in a folder, and served by a real process on a free loopback port."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

COMITY = [sys.executable, "-c", "from comity.cli import main; main()"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class ServedNode:
    """A running node: its folder, address, operator key and process."""

    directory: Path
    url: str
    process: subprocess.Popen[str]
    log_file: Path
    operator: str = field(repr=False)

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {self.operator}"},
            trust_env=False,
            timeout=30,
        )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def stop(self) -> int:
        """End the process by its id and wait; returns its exit code."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
        code = self.process.wait(timeout=30)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line as a real process in a folder of the test's own."""

    def go(*args: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMITY, *map(str, args)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **more,
        )  # type: ignore[call-overload, no-any-return]

    return go


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., ServedNode]]:
    """Make (if need be) and serve a node; every process is ended by its id afterwards."""
    running: list[ServedNode] = []

    def start(name: str = "bank", *init: str) -> ServedNode:
        from comity.bootstrap import system_random, utc_now

        from comity.scaffold import make_node

        directory = tmp_path / name
        if not directory.exists():
            options = dict(zip(init[::2], init[1::2], strict=True))
            make_node(directory, name=name, port=free_port(), clock=utc_now, random=system_random, **options)
        log_file = tmp_path / f"{name}.log"
        with log_file.open("a") as log:
            process = subprocess.Popen(
                [*COMITY, "serve", str(directory), "--json"], stdout=subprocess.PIPE, stderr=log, text=True
            )
        try:
            line = _first_line(process, seconds=60)
            ready = json.loads(line)
        except BaseException:
            process.kill()
            process.wait()
            pytest.fail(f"the node did not come up: {log_file.read_text()}")
        node = ServedNode(
            directory,
            ready["local_url"],
            process,
            log_file,
            (directory / "keys/operator.key").read_text().strip(),
        )
        running.append(node)
        return node

    yield start
    for node in running:
        node.stop()


def _first_line(process: subprocess.Popen[str], *, seconds: float) -> str:
    assert process.stdout is not None
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and process.poll() is None:
        if select.select([process.stdout], [], [], 0.2)[0]:
            return process.stdout.readline()
    raise TimeoutError
