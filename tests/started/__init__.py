"""`comity` commands in processes of their own, started without an interpreter's imports. See `server.py`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

__all__ = ["Started", "Starter"]

_HERE = Path(__file__).parent


class Started:
    """A running command, with as much of `subprocess.Popen` as the tests use."""

    def __init__(self, line: socket.socket, arguments: Sequence[str], stdout: IO[str] | None) -> None:
        self._line, self._heard = line, b""
        self.args, self.stdout = list(arguments), stdout
        self.pid = self._number(None)
        self.returncode: int | None = None

    def _number(self, timeout: float | None) -> int:
        self._line.settimeout(timeout)
        while b"\n" not in self._heard:
            more = self._line.recv(64)
            if not more:
                return 1
            self._heard += more
        first, self._heard = self._heard.split(b"\n", 1)
        return int(first.split()[1])

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        try:
            return self.wait(timeout=0.001)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended; negative the signal that ended it."""
        if self.returncode is None:
            try:
                self.returncode = self._number(timeout)
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._line.close()
        return self.returncode

    def kill(self) -> None:
        """End it at once."""
        if self.poll() is None:
            os.kill(self.pid, 9)

    def terminate(self) -> None:
        """Ask it to end."""
        if self.poll() is None:
            os.kill(self.pid, 15)


class Starter:
    """Starts commands by the process of `server.py`, which it starts when it is first asked to."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="comity-started-")
        self._socket = Path(self._folder.name) / "s"
        self._server: subprocess.Popen[str] | None = None

    def _up(self) -> None:
        if self._server is not None:
            return
        self._server = subprocess.Popen(
            [sys.executable, _HERE / "server.py", self._socket],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n"

    def start(self, arguments: Sequence[str | Path], *, stdout: int | IO[str], stderr: IO[str]) -> Started:
        """As `subprocess.Popen(["comity", …])`; `stdout` may be `subprocess.PIPE`."""
        self._up()
        words, out, mine = [str(a) for a in arguments], stdout, None
        if stdout == subprocess.PIPE:
            end, out = os.pipe()
            mine = os.fdopen(end)
        line = socket.socket(socket.AF_UNIX)
        line.connect(str(self._socket))
        asked = {"arguments": words, "folder": str(Path.cwd()), "environment": dict(os.environ)}
        with open(os.devnull) as nothing:  # noqa: PTH123
            streams = [f if isinstance(f, int) else f.fileno() for f in (nothing, out, stderr)]
            socket.send_fds(line, [json.dumps(asked).encode() + b"\n"], streams)
        started = Started(line, words, mine)
        if mine is not None:
            os.close(streams[1])
        return started

    def on_path(self) -> Path:
        """A folder with a `comity` and a `python` for a shell's PATH, whose commands are started here."""
        self._up()
        folder = Path(self._folder.name) / "bin"
        if not folder.exists():
            folder.mkdir()
            program = folder / "comity"
            program.write_text(
                f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {str(_HERE)!r})\n"
                f"from command import main\nmain({str(self._socket)!r}, sys.argv[1:])\n"
            )
            program.chmod(0o755)
        return folder

    def close(self) -> None:
        """End every command and the process that starts them."""
        if self._server is not None:
            assert self._server.stdin is not None
            assert self._server.stdout is not None
            self._server.stdin.close()
            self._server.wait(timeout=30)
            self._server.stdout.close()
        self._folder.cleanup()
