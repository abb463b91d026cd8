"""Real nodes as processes of their own, for benchmarks: made in a folder, served, asked, ended by pid."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from comity.scaffold import make_node
from comity.system import system_random, utc_now

COMITY = [sys.executable, "-c", "from comity.cli import main; main()"]


class Served:
    """A node in a folder, and the process that serves it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder / name, name
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        make_node(self.folder, name=name, port=port, clock=utc_now, random=system_random)
        self.url = f"http://127.0.0.1:{port}"
        self.operator = (self.folder / "keys/operator.key").read_text().strip()
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        with (self.folder.parent / f"{self.name}.log").open("a") as log:
            self.process = subprocess.Popen(
                [*COMITY, "serve", str(self.folder), "--json"], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], 90)[0] or not self.process.stdout.readline():
            words = (self.folder.parent / f"{self.name}.log").read_text()[-2000:]
            raise SystemExit(f"{self.name} did not come up: {words}")

    def stop(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGTERM)
            self.process.wait(60)
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None

    def client(self) -> httpx.Client:
        key = {"authorization": f"Bearer {self.operator}"}
        return httpx.Client(base_url=self.url, headers=key, trust_env=False, timeout=60)

    def rows(self, query: str, **values: object) -> list[Any]:
        engine = sa.create_engine(f"sqlite:///{self.folder}/comity.db")
        try:
            with engine.connect() as c:
                return list(c.execute(sa.text(query), values))
        finally:
            engine.dispose()


def posted(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(path, json=body)
    if answer.status_code not in (200, 201):
        raise SystemExit(f"{path} answered {answer.status_code}: {answer.text[:400]}")
    found: dict[str, Any] = answer.json()
    return found
