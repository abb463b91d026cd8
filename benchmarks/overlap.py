"""`make bench-overlap`: Comity's overlap against SecretFlow's ECDH PSI, same people, same machine, same run.

    python benchmarks/overlap.py                             20 k, 100 k and 1 M people a side, against peers
    python benchmarks/overlap.py --sizes 20000 --no-peers    Comity alone
    python benchmarks/overlap.py --json FILE                 also write every figure

See benchmarks/README.md for what is and is not in a figure.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))

from environments import peer_python
from loopback import free_ports
from measured import Measured, machine, run

HERE = Path(__file__).parent


def write_people(folder: Path, size: int, seed: int, *, for_peers: bool = True) -> int:
    """Two parties of `size` people, half of them shared, as Parquet and the same as CSV; the truth.

    The Parquet is spelled as people spell (capitals, spaces); the CSV holds canonical addresses, because
    the peer compares bytes as they are.
    """
    rng = np.random.default_rng(seed)
    shared = size // 2
    for name, first in (("a", 0), ("c", size - shared)):
        numbers = rng.permutation(np.arange(first, first + size))
        people = [f"{n * 2654435761 % 2**32:08x}.{n}@example.org" for n in numbers.tolist()]
        if for_peers:
            with (folder / f"{name}.csv").open("w", newline="") as out:
                csv.writer(out).writerows([["email"], *([person] for person in people)])
        spelled = [p.upper() if n % 7 == 0 else f" {p}" if n % 11 == 0 else p for n, p in enumerate(people)]
        pq.write_table(pa.table({"email": spelled}), folder / f"{name}.parquet")
    return shared


def comity(
    folder: Path, truth: int, given: argparse.Namespace, *, cached: bool = False
) -> tuple[Measured, str]:
    """Run both parties, hashed points kept of an earlier run or not.

    Checks that the value is the truth plus the very noise drawn.
    """
    (port,) = free_ports(1)
    commands = [
        [
            sys.executable, str(HERE / "overlap_party.py"), "--role", role, "--port", str(port),
            "--input", str(folder / f"{name}.parquet"), "--workers", str(given.workers),
            "--engine", given.engine,
        ]
        for role, name in (("analyst", "a"), ("contributor", "c"))
    ]  # fmt: skip
    if cached:
        for command, name in zip(commands, "ac", strict=True):
            (folder / f"kept-{name}").mkdir()
            command += ["--points", str(folder / f"kept-{name}")]
    result = run(commands, folder, limit=given.limit, env={"PYTHONPATH": str(HERE.parent)})
    analyst, contributor = result.answers
    if analyst["value"] - contributor["noise"] != truth:
        raise SystemExit(
            f"Comity found {analyst['value']}, noise {contributor['noise']}; the truth is {truth}."
        )
    return result, analyst["engine"]


def peer(folder: Path, truth: int, curve: str, limit: float) -> Measured:
    """Run both parties of the peer; checks its answer."""
    ports = [str(port) for port in free_ports(2)]
    commands = [
        [
            str(peer_python("spu")), str(HERE / "peers" / "spu_psi.py"), "--rank", str(rank),
            "--ports", *ports,
            "--input", str(folder / f"{name}.csv"), "--output", str(folder / f"{name}.out.csv"),
            "--curve", curve,
        ]
        for rank, name in enumerate("ac")
    ]  # fmt: skip
    result = run(commands, folder, limit=limit)
    if result.answers[0]["value"] != truth:
        raise SystemExit(f"The peer found {result.answers[0]['value']}; the truth is {truth}.")
    return result


def openmined(folder: Path, truth: int) -> Measured:
    """OpenMined's PSI, both parties one after the other in one process; checks its answer."""
    command = [str(peer_python("openmined")), str(HERE / "peers" / "openmined_psi.py")]
    command += ["--client", str(folder / "a.csv"), "--server", str(folder / "c.csv")]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    if said["value"] != truth:
        raise SystemExit(f"OpenMined's PSI found {said['value']}; the truth is {truth}.")
    return Measured(said["seconds"], (), said["sent"], (said,))


def row(
    system: str, engine: str, size: int, result: Measured, *, base: float, sent: int | None = None
) -> dict[str, Any]:
    """One line of the table and of the JSON."""
    return {
        "system": system,
        "engine": engine,
        "people": size,
        "seconds": round(result.seconds, 2),
        "comity_over_this": round(base / result.seconds, 3),
        "peak_rss_mb": [round(size / 2**20) for size in result.peak_rss],
        "bytes_per_person": None if sent is None else round(sent / size, 1),
        "loopback_bytes_per_person": round(result.loopback / size, 1),
        "stages": [answer.get("stages") for answer in result.answers],
    }


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    head = ("people a side", "system", "engine", "seconds", "Comity ÷ this", "peak RSS MB", "bytes/person")
    lines = []
    for r in rows:
        sent = r["bytes_per_person"]
        lines.append(
            (
                f"{r['people']:,}",
                r["system"],
                r["engine"],
                f"{r['seconds']:.2f}",
                f"{r['comity_over_this']:.2f}",
                " + ".join(map(str, r["peak_rss_mb"])),
                f"{sent}" if sent is not None else f"≈ {r['loopback_bytes_per_person']}",
            )
        )
    widths = [max(len(line[n]) for line in (head, *lines)) for n in range(len(head))]
    for line in (head, tuple("-" * width for width in widths), *lines):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[20_000, 100_000, 1_000_000],
        metavar="N",
        help="people a side",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="blinding processes a party")
    parser.add_argument("--engine", default="auto", help="auto, cryptography or ipp")
    parser.add_argument("--no-peers", action="store_true", help="do not install or run the peer")
    parser.add_argument(
        "--elligator-up-to", type=int, default=100_000, metavar="N", help="skip the slow curve above N"
    )
    parser.add_argument(
        "--openmined-up-to", type=int, default=20_000, metavar="N", help="run OpenMined's PSI up to N"
    )
    parser.add_argument("--limit", type=float, default=3600, help="seconds a run may take")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write every figure there")
    given = parser.parse_args()

    facts = {"at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), **machine()}
    ifma = "with" if facts["avx512_ifma"] else "without"
    print(
        f"{facts['cpu']}, {facts['cores']} cores, {ifma} AVX-512 IFMA, load {facts['load_before']:.1f}",
        flush=True,
    )
    if not given.no_peers:
        peer_python("spu")
        peer_python("openmined")
    rows: list[dict[str, Any]] = []
    for size in given.sizes:
        with tempfile.TemporaryDirectory(prefix="comity-bench-") as name:
            folder = Path(name)
            truth = write_people(folder, size, given.seed)
            result, engine = comity(folder, truth, given)
            base = result.seconds
            sent = sum(answer["sent"] for answer in result.answers)
            rows.append(row("Comity overlap", engine, size, result, base=base, sent=sent))
            kept, _ = comity(folder, truth, given, cached=True)
            sent = sum(answer["sent"] for answer in kept.answers)
            rows.append(row("Comity, points kept", engine, size, kept, base=base, sent=sent))
            curves = [] if given.no_peers else ["CURVE_25519"]
            if curves and size <= given.elligator_up_to:
                curves.append("CURVE_25519_ELLIGATOR2")
            for curve in curves:
                theirs = peer(folder, truth, curve, given.limit)
                rows.append(row("SecretFlow ECDH PSI", curve, size, theirs, base=base))
            if not given.no_peers and size <= given.openmined_up_to:
                theirs = openmined(folder, truth)
                rows.append(row("OpenMined PSI", "P-256", size, theirs, base=base, sent=theirs.loopback))
    show(rows)
    if given.json:
        given.json.write_text(
            json.dumps({"machine": facts, "workers": given.workers, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
