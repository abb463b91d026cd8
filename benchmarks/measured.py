"""Run two parties at once and measure them alike, whoever wrote them.

A party is a command that prints READY when it is connected, begins when a line comes in, and prints one
line of JSON when it has its result. The clock runs from the start signal to the later of the two results.
"""

from __future__ import annotations

import json
import os
import platform
import select
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measured:
    """seconds: wall clock. peak_rss: per party, bytes, its whole process tree, sampled ten times a second.

    loopback: bytes through the loopback device meanwhile, headers and both directions, of everything that
    ran on the machine. answers: what the parties printed.
    """

    seconds: float
    peak_rss: tuple[int, ...]
    loopback: int
    answers: tuple[dict[str, Any], ...]


def machine() -> dict[str, Any]:
    """The facts without which a figure means nothing."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    model = next(
        (line.partition(": ")[2] for line in cpuinfo.splitlines() if line.startswith("model name")), ""
    )
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "avx512_ifma": " avx512ifma" in cpuinfo,
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def show_rows(rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows of the same columns as a Markdown table."""
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")


def loopback_bytes() -> int:
    """Bytes sent through the loopback device since the machine started."""
    path = Path("/sys/class/net/lo/statistics/tx_bytes")
    return int(path.read_text()) if path.exists() else 0


def tree_rss(roots: Sequence[int]) -> list[int]:
    """Resident bytes of the process tree below each of `roots`."""
    parents, rss = {}, {}
    page = os.sysconf("SC_PAGE_SIZE")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                rss[int(entry.name)] = int((entry / "statm").read_text().split()[1]) * page
            except OSError:
                continue

    def belongs(pid: int, root: int) -> bool:
        while pid not in (0, 1, root):
            pid = parents.get(pid, 0)
        return pid == root

    return [sum(size for pid, size in rss.items() if belongs(pid, root)) for root in roots]


def _line(party: subprocess.Popen[str], seconds: float, log: Path) -> str:
    assert party.stdout is not None
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if select.select([party.stdout], [], [], 1.0)[0]:
            line = party.stdout.readline()
            if not line:
                break
            if line.startswith(("READY", "{")):
                return line
    tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise SystemExit(f"A party ended or stalled without an answer. Its last words:\n{tail}")


def run(
    commands: Sequence[Sequence[str]], folder: Path, *, limit: float, env: dict[str, str] | None = None
) -> Measured:
    """Start the parties, let them go together, end them. Raises SystemExit with a party's last words."""
    logs = [folder / f"party{n}.log" for n in range(len(commands))]
    parties: list[subprocess.Popen[str]] = []
    peak = [0] * len(commands)
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.1):
            for n, size in enumerate(tree_rss([party.pid for party in parties])):
                peak[n] = max(peak[n], size)

    try:
        for command, log in zip(commands, logs, strict=True):
            with log.open("w", encoding="utf-8") as errors:
                parties.append(
                    subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                        cwd=folder, env={**os.environ, **(env or {})},
                    )
                )  # fmt: skip
        for party, log in zip(parties, logs, strict=True):
            _line(party, 120, log)
        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        before, started = loopback_bytes(), time.perf_counter()
        for party in parties:
            assert party.stdin is not None
            party.stdin.write("go\n")
            party.stdin.flush()
        answers = tuple(
            json.loads(_line(party, limit, log)) for party, log in zip(parties, logs, strict=True)
        )
        seconds, loopback = time.perf_counter() - started, loopback_bytes() - before
        over.set()
        sampler.join()
        for party in parties:
            party.wait(timeout=60)
        return Measured(seconds, tuple(peak), loopback, answers)
    finally:
        over.set()
        for party in parties:
            if party.poll() is None:
                party.kill()
            party.wait()
            for stream in (party.stdin, party.stdout):
                if stream is not None:
                    stream.close()
