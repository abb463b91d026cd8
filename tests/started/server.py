"""Starts `comity` commands as forks of a process that has imported everything: `python server.py SOCKET`.

An interpreter takes two to three seconds to import a node, and the tests start some two hundred. What is
forked is a process of its own with its own arguments, folder, environment and standard streams, and it ends
as an interpreter ends; only the imports are behind it. Commands started from nothing are tested, too: by
tests/comity/test_cli.py and by the demonstration.

One connection a command: a line of JSON and three descriptors come in, `pid N` and in the end `exit N` go
out. Who hangs up, and whoever started this process by ending, has its commands killed.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import random
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

IMPORTED = (
    "alembic.command", "comity.app", "comity.bootstrap", "comity.cli", "comity.cli.audit",
    "comity.cli.collab", "comity.cli.consent", "comity.cli.init", "comity.cli.log", "comity.cli.overlap",
    "comity.cli.serve", "comity.doctor", "comity.migrations.comparison", "comity.scaffold",
    "comity.server", "consent.imports", "logging.config", "psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite", "uvicorn.lifespan.on", "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto", "xml.etree.ElementTree",
)  # fmt: skip
"""Wherever they exist; a module that is missing here only makes a command slower."""


@dataclass
class Command:
    """A child, and the line to whom it was started for."""

    pid: int
    line: socket.socket


def serve(path: str) -> Callable[[], None] | None:
    """Fork commands until standard input ends. In a child, returns what is to be run there."""
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test run, which ends us
    signal.set_wakeup_fd(wake)
    events = selectors.DefaultSelector()
    for source in (0, woken, listener):
        events.register(source, selectors.EVENT_READ)
    running: dict[int, Command] = {}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for key, _ in events.select():
            source: Any = key.fileobj
            if source == 0:
                for command in running.values():
                    os.kill(command.pid, signal.SIGKILL)
                return None
            if source == woken:
                os.read(woken, 512)
                _reap(running, events)
            elif source is listener:
                line, _ = listener.accept()
                started = _start(line)
                if started is None:
                    continue
                if not isinstance(started, Command):
                    events.close()
                    for other in (listener, line, *(command.line for command in running.values())):
                        other.close()
                    os.close(woken)
                    os.close(wake)
                    return started
                running[started.pid] = started
                events.register(line, selectors.EVENT_READ, started)
            else:
                events.unregister(source)  # nothing more is said on it: its other end is closed
                if key.data.pid in running:
                    os.kill(key.data.pid, signal.SIGKILL)


def _reap(running: dict[int, Command], events: selectors.BaseSelector) -> None:
    while running:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        command = running.pop(pid)
        try:
            command.line.sendall(b"exit %d\n" % os.waitstatus_to_exitcode(status))
            events.unregister(command.line)
        except (OSError, KeyError):
            pass
        command.line.close()


def _start(line: socket.socket) -> Command | Callable[[], None] | None:
    data, streams, _, _ = socket.recv_fds(line, 1 << 20, 3)
    while data and not data.endswith(b"\n"):
        data += line.recv(1 << 20)
    if not data:
        line.close()
        return None
    pid = os.fork()
    if pid == 0:
        return _become(json.loads(data), streams)
    for stream in streams:
        os.close(stream)
    line.sendall(b"pid %d\n" % pid)
    return Command(pid, line)


def _become(asked: dict[str, Any], streams: list[int]) -> Callable[[], None]:
    """Make this child what was asked for."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    random.seed()
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = open(number, "w", encoding="utf-8", closefd=False, buffering=1 if number == 2 else -1)  # noqa: SIM115
        setattr(sys, name, stream)
    sys.argv = ["comity", *asked["arguments"]]
    return _script if asked["arguments"] == ["-"] else _command


def _command() -> None:
    from comity.cli import main

    main()


def _script() -> None:
    """A program on standard input, as `python -` runs it."""
    sys.argv = ["-"]
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    sys.path.insert(0, "")
    exec(compile(sys.stdin.read(), "<stdin>", "exec"), module.__dict__)  # noqa: S102


def _finish(run: Callable[[], None]) -> None:
    """Run, and end as an interpreter does, but for taking apart what was imported."""
    code = 0
    try:
        run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are not daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    run = serve(sys.argv[1])
    if run is not None:
        _finish(run)
    os._exit(0)
