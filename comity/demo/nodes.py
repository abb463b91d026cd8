"""Node processes of the demonstration: started, watched and ended by their process id, whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any

import httpx

from privacy.errors import ComityError, PeerUnreachable, Refused, Tampered

__all__ = ["Command", "NodeProcess", "free_ports", "interruptible", "run_together"]

# Should the demonstration itself be killed outright, the kernel ends its children (Linux; elsewhere a no-op).
_BOOT = """
import ctypes, signal, sys
try:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
except (OSError, AttributeError):
    pass
from comity.cli import main
sys.argv = ["comity", *sys.argv[1:]]
main()
"""
_ENDING_SECONDS = 15.0


def free_ports(count: int) -> list[int]:
    """Loopback ports nobody listens on at this moment, all different."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into the same orderly way out that Ctrl-C takes."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Command:
    """One `comity` command in a process group of its own; ended on leaving the context."""

    def __init__(self, arguments: Sequence[str], *, stdout: Path, stderr: Path) -> None:
        self.arguments = list(arguments)
        self.stdout, self.stderr = stdout, stderr
        self._process: subprocess.Popen[bytes] | None = None
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> Command:
        self._files = [self.stdout.open("wb"), self.stderr.open("ab")]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=self._files[0],
                stderr=self._files[1],
                start_new_session=True,
            )
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.end()
        finally:
            self._close()

    @property
    def pid(self) -> int:
        assert self._process is not None  # noqa: S101 - only asked for inside the context
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        assert self._process is not None  # noqa: S101
        return self._process.poll()

    def end(self) -> None:
        """Ask the process to stop, then make it; afterwards nothing of its group is left."""
        process = self._process
        if process is None:
            return
        with _uninterrupted():
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_ENDING_SECONDS)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _close(self) -> None:
        for file in self._files:
            file.close()

    def complaint(self) -> str:
        """What the command said last on standard error: its error line with the advice below it."""
        lines = self.stderr.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = [i for i, line in enumerate(lines) if line.startswith("comity: ")]
        told = lines[last[-1] :] if last else lines[-1:]
        return " ".join(line.strip().removeprefix("comity: ") for line in told) or "it said nothing"


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not leave a process behind."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_together(commands: Sequence[Command], *, timeout: float) -> list[Any]:
    """Run short commands side by side and return the JSON each printed (None for empty output).

    Raises the error family a failed command's exit code stands for; the others are ended.
    """
    with contextlib.ExitStack() as running:
        for command in commands:
            running.enter_context(command)
        deadline = time.monotonic() + timeout
        waiting = list(commands)
        while waiting:
            for command in list(waiting):
                code = command.poll()
                if code is None:
                    continue
                waiting.remove(command)
                if code != 0:
                    raise _failure(command, code)
            if time.monotonic() > deadline:
                raise PeerUnreachable(
                    f"comity {waiting[0].arguments[0]} took more than {timeout:.0f} seconds."
                )
            time.sleep(0.02)
    return [_document(command) for command in commands]


def _document(command: Command) -> Any:
    text = command.stdout.read_text(encoding="utf-8")
    return json.loads(text) if text.strip() else None


def _failure(command: Command, code: int) -> ComityError:
    told = f"comity {' '.join(command.arguments[:2])} ended with {code}: {command.complaint()}"
    kinds: dict[int, type[ComityError]] = {1: Refused, 4: Tampered}
    return kinds.get(code, PeerUnreachable)(told)


@dataclass(slots=True)
class NodeProcess:
    """A `comity serve DIR`, ready to answer inside the context."""

    name: str
    directory: Path
    url: str
    command: Command

    @classmethod
    def of(cls, name: str, directory: Path, url: str) -> NodeProcess:
        """The node in `directory`; its output goes to `serve.log` there."""
        serve = Command(
            ["serve", str(directory)], stdout=directory / "serve.out", stderr=directory / "serve.log"
        )
        return cls(name, directory, url, serve)

    def __enter__(self) -> NodeProcess:
        self.command.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.command.__exit__(kind, error, trace)

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Return once the node answers /readyz; raises PeerUnreachable when it ends or stays silent."""
        deadline = time.monotonic() + seconds
        with httpx.Client(base_url=self.url, trust_env=False, timeout=5.0) as client:
            while time.monotonic() < deadline:
                if self.command.poll() is not None:
                    raise PeerUnreachable(f"the node {self.name} did not start: {self.command.complaint()}")
                with contextlib.suppress(httpx.HTTPError):
                    if client.get("/readyz").status_code == httpx.codes.OK:
                        return
                time.sleep(0.05)
        raise PeerUnreachable(f"the node {self.name} was not ready after {seconds:.0f} seconds.")

    def check_running(self) -> None:
        """Raise PeerUnreachable if the process has ended."""
        if self.command.poll() is not None:
            raise PeerUnreachable(f"the node {self.name} has ended: {self.command.complaint()}")
