"""Crash a ledger at every write it makes, look at what is left: `python crash_lab MODE FOLDER LAYER [URL]`.

MODE is `kill`, `EIO`, `ENOSPC` or `power`; LAYER is `calls` (system calls, where the kernel lets us trace a
child; else as the next) or `steps` (the ledger's own statements, commits and files).

A process of its own, since it waits for every child there is. Prints one JSON object: `layer` (what
counted the writes), `cases`, `writes` (of one undisturbed run, by call) and `wrong` (what was found).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from random import Random

from bench import Bench, Pipe, Seen
from images import Disk
from tracing import Call, Child, available, can_fail, trace

Decide = Callable[[int, Call], int | None]
Run = Callable[..., Child]
Report = dict[str, object]
BATCHES = ("a", "b")
"""The first fills a tile; the second starts the next one."""


def main() -> None:
    mode, folder = sys.argv[1], Path(sys.argv[2])
    layer, url = sys.argv[3], sys.argv[4] if len(sys.argv) > 4 else None
    traced = layer == "calls" and available()
    if mode == "power":
        report = power(folder) if traced else {"layer": "none", "cases": 0, "wrong": []}
    elif mode == "kill":
        report = kill(folder, url, calls if traced else steps)
    else:
        report = fail(folder, getattr(errno, mode), calls if traced and can_fail() else steps)
    sys.stdout.write(json.dumps(report))


def calls(bench: Bench, pipe: Pipe, names: Sequence[str], decide: Decide, **how: bool) -> Child:
    """Append in a child whose system calls are counted."""
    sockets = not bench.url.startswith("sqlite")
    return trace(lambda: bench.appends(pipe, names, **how), bench.folder, decide, sockets=sockets)


def steps(bench: Bench, pipe: Pipe, names: Sequence[str], decide: Decide, **how: bool) -> Child:
    """Append in a child that counts its own statements, commits and files: wherever there is Python."""
    taken = Pipe()
    pid = os.fork()
    if pid == 0:
        count = 0

        def step(name: str) -> None:
            nonlocal count
            count += 1
            taken.say(name)
            verdict = decide(count, Call(0, name, (), ()))
            if verdict == -1:
                os.kill(os.getpid(), signal.SIGKILL)
            elif verdict is not None:
                raise OSError(verdict, "injected") if name == "file" else sqlite3.OperationalError("injected")

        code = 1
        try:
            bench.appends(pipe, names, step=step, **how)()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    ended = Child(status, [(name, ()) for name in taken.heard()])
    taken.close()
    return ended


def _benches(folder: Path, url: str | None, every: int = 1) -> Iterator[tuple[int, Bench]]:
    """The same ledger again and again: a copy on SQLite, the one that goes on on PostgreSQL."""
    base = Bench(folder / "base", url)
    base.begin()
    for n in range(1, 2000, every):
        if url is not None:
            yield n, base
            continue
        copy = folder / f"case{n}"
        shutil.copytree(base.folder, copy)
        yield n, Bench(copy, None)
        shutil.rmtree(copy)
    raise AssertionError("an append has no end")


def kill(folder: Path, url: str | None, run: Run) -> Report:
    """kill -9 before the n-th write, for every n until it gets through; every third on PostgreSQL."""
    wrong: list[str] = []
    seen: Seen | None = None
    for cases, (n, bench) in enumerate(_benches(folder, url, 1 if url is None else 3), 1):
        seen, pipe = seen if seen and url is None else bench.look(), Pipe()
        names = [f"a{n}"]
        ended = run(bench, pipe, names, lambda at, _call, n=n: -1 if at == n else None)  # type: ignore[misc]
        said = pipe.heard()
        pipe.close()
        wrong += [f"killed before write {n} {ended.calls[-1]}: {x}" for x in bench.judge(seen, said, names)]
        if not ended.killed:
            return _report(run.__name__, cases, ended, wrong)
    raise AssertionError


def fail(folder: Path, number: int, run: Run) -> Report:
    """Every write fails in its turn: EIO that one alone, ENOSPC all from that one on until there is space."""
    wrong: list[str] = []
    names = ["a", "last"]
    seen: Seen | None = None
    for n, bench in _benches(folder, None):
        seen, pipe = seen or bench.look(), Pipe()

        def decide(at: int, _call: Call, n: int = n, pipe: Pipe = pipe) -> int | None:
            if pipe.lifted or at < n or (at > n and number != errno.ENOSPC):
                return None
            pipe.hit = True
            return number

        ended = run(bench, pipe, ["a"], decide, failing=True)
        said, hit = pipe.heard(), pipe.hit
        pipe.close()
        found = [f"raised {word}" for word in said if word.startswith("error:")]
        if ended.status or "last" not in said:
            found.append(f"the process could not go on (status {ended.status}): {said}")
        found += bench.judge(seen, [word for word in said if word in names], names)
        wrong += [f"{errno.errorcode[number]} at write {n} {ended.calls[n - 1 : n]}: {x}" for x in found]
        if not hit:
            return _report(run.__name__, n - 1, ended, wrong)
    raise AssertionError


def power(folder: Path) -> Report:
    """After every write the power goes: what nobody had waited for is gone, or is there in part."""
    _, bench = next(_benches(folder, None))
    seen, pipe = bench.look(), Pipe()
    disk = Disk(bench.folder, skip=lambda path: path.endswith(("-shm", ".lock")))
    wrong: list[str] = []
    judged: set[bytes] = set()

    def look(n: int, call: Call) -> None:
        acknowledged = pipe.heard()
        for random in (None, Random(n), Random(-n)):
            copy = folder / "image"
            copy.mkdir()
            disk.image(copy, random)
            digest = _digest(copy, acknowledged)
            if digest not in judged:
                judged.add(digest)
                left = Bench(copy, None)
                kept = "nothing" if random is None else "a part"
                place = f"power cut before write {n} ({call.name} {call.paths}), {kept} of the rest kept"
                wrong.extend(f"{place}: {x}" for x in left.judge(seen, acknowledged, BATCHES))
            shutil.rmtree(copy)

    ended = trace(
        lambda: bench.appends(pipe, BATCHES), bench.folder, look, done=disk.done,
        started=disk.start,
    )  # fmt: skip
    return _report("calls", len(judged), ended, wrong)


def _digest(folder: Path, acknowledged: list[str]) -> bytes:
    digest = sha256(repr(acknowledged).encode())
    for path in sorted(folder.rglob("*")):
        digest.update(
            f"{path.relative_to(folder)}\n".encode()
            + (sha256(path.read_bytes()).digest() if path.is_file() else b"")
        )
    return digest.digest()


def _report(layer: str, cases: int, ended: Child, wrong: list[str]) -> Report:
    writes = Counter(name for name, _ in ended.calls)
    return {"layer": layer, "cases": cases, "writes": writes, "wrong": wrong[:40]}


if __name__ == "__main__":
    main()
