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

from tests.started import Started, Starter

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
    process: Started
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


class Nodes:
    """Makes and serves nodes below one folder; `stop` ends every process by its id."""

    def __init__(self, folder: Path, starter: Starter) -> None:
        self.folder, self.starter = folder, starter
        self.running: list[ServedNode] = []

    def __call__(
        self, name: str = "bank", *, database_url: str | None = None, datasets: str = ""
    ) -> ServedNode:
        from comity.scaffold import make_node
        from comity.system import system_random, utc_now

        directory = self.folder / name
        if not directory.exists():
            more = {} if database_url is None else {"database_url": database_url}
            make_node(directory, name=name, port=free_port(), clock=utc_now, random=system_random, **more)
            if datasets:
                (directory / "datasets.toml").write_text(datasets)
        log_file = self.folder / f"{name}.log"
        with log_file.open("a") as log:
            process = self.starter.start(["serve", directory, "--json"], stdout=subprocess.PIPE, stderr=log)
        try:
            ready = json.loads(_first_line(process, seconds=60))
        except BaseException:
            process.kill()
            process.wait()
            pytest.fail(f"the node did not come up: {log_file.read_text()}")
        operator = (directory / "keys/operator.key").read_text().strip()
        node = ServedNode(directory, ready["local_url"], process, log_file, operator)
        self.running.append(node)
        return node

    def stop(self) -> None:
        for node in self.running:
            node.stop()


@pytest.fixture
def serve(tmp_path: Path, starter: Starter) -> Iterator[Nodes]:
    """Nodes of one test."""
    nodes = Nodes(tmp_path, starter)
    yield nodes
    nodes.stop()


@pytest.fixture(scope="module")
def serve_module(tmp_path_factory: pytest.TempPathFactory, starter: Starter) -> Iterator[Nodes]:
    """Nodes shared by the tests of one module."""
    nodes = Nodes(tmp_path_factory.mktemp("nodes"), starter)
    yield nodes
    nodes.stop()


def _first_line(process: Started, *, seconds: float) -> str:
    assert process.stdout is not None
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and process.poll() is None:
        if select.select([process.stdout], [], [], 0.2)[0]:
            return process.stdout.readline()
    raise TimeoutError
