"""The `comity` of a shell whose commands `server.py` forks: says what is wanted, passes signals, ends alike.

Runs without the site's packages; `comity` on the PATH is a line that hands over to `main`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys


def main(path: str, arguments: list[str]) -> None:
    """Have the command started, and end with it."""
    line = socket.socket(socket.AF_UNIX)
    line.connect(path)
    asked = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}  # noqa: PTH109
    socket.send_fds(line, [json.dumps(asked).encode() + b"\n"], [0, 1, 2])
    said = line.makefile("r")
    pid = int(said.readline().split()[1])

    def pass_on(number: int, _: object) -> None:
        os.kill(pid, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    words = said.readline().split()
    code = int(words[1]) if words else 1
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
