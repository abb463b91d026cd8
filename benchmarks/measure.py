"""`make bench-measure`: what summing a column adds to an overlap, beside Paillier, one ciphertext a row.

    python benchmarks/measure.py                   1 M people a side
    python benchmarks/measure.py --sizes 20000     a first look

Both parties as processes over loopback, as in overlap.py. "On top" is what the contributor takes to encrypt
its column, and the analyst from having joined to having the sum. The peer is the arithmetic alone that
Google's Private Join and Compute does for its sums, through `phe`: a ciphertext a row, no network, no join.
"""

from __future__ import annotations

import argparse
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
from measured import machine, run
from overlap import write_people

HERE = Path(__file__).parent
_A = ("waiting for columns", "masking", "sums decrypted there")
_C = ("encrypting",)


def with_values(path: Path, seed: int) -> tuple[list[str], np.ndarray[Any, np.dtype[np.float64]]]:
    """Give every person of a list a spending; who and how much."""
    table = pq.read_table(path)
    spend = np.round(np.random.default_rng(seed).gamma(2.0, 120.0, len(table)).clip(0, 1000), 2)
    pq.write_table(table.append_column("spend", pa.array(spend)), path)
    return [text.strip().lower() for text in table["email"].to_pylist()], spend


def comity(folder: Path, given: argparse.Namespace, truth: float) -> dict[str, Any]:
    """One run; checks that the sum is the truth plus the very noise drawn."""
    (port,) = free_ports(1)
    commands = [
        [
            sys.executable, str(HERE / "overlap_party.py"), "--role", role, "--port", str(port), "--measure",
            "--input", str(folder / f"{name}.parquet"), "--workers", str(given.workers),
            "--engine", given.engine,
        ]
        for role, name in (("analyst", "a"), ("contributor", "c"))
    ]  # fmt: skip
    result = run(commands, folder, limit=given.limit, env={"PYTHONPATH": str(HERE.parent)})
    analyst, contributor = result.answers
    off = abs(analyst["sum"] - contributor["sum_noise"] - truth)
    if off > 0.01:
        raise SystemExit(f"The sum is off by {off}.")
    a, c = analyst["stages"], contributor["stages"]
    # What the analyst waited for columns is encrypting there, and is counted there.
    return {
        "seconds": round(result.seconds, 2),
        "encrypting": c["encrypting"],
        "masking": a["masking"],
        "decrypting": a["sums decrypted there"],
        "on_top": round(c["encrypting"] + a["masking"] + a["sums decrypted there"], 2),
        "sent": analyst["sent"] + contributor["sent"],
        "engine": analyst["engine"],
        "peak_rss_mb": [round(size / 2**20) for size in result.peak_rss],
        "stages": [a, c],
    }


def paillier(rows: int, bits: int) -> dict[str, float]:
    """Seconds and bytes a row of the peer."""
    command = [str(peer_python("phe")), str(HERE / "peers" / "paillier_sum.py")]
    command += ["--rows", str(rows), "--bits", str(bits)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    return {
        "seconds_a_row": (said["encrypt"] + said["add"]) / said["rows"],
        "bytes_a_row": said["ciphertext"],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000], metavar="N")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--no-peers", action="store_true", help="do not install or run the peer")
    parser.add_argument("--peer-rows", type=int, default=2000, help="rows the peer is timed on")
    parser.add_argument("--peer-bits", type=int, default=1536, help="of the peer's modulus")
    parser.add_argument("--limit", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write every figure there")
    given = parser.parse_args()
    facts = {"at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), **machine()}
    print(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load_before']:.1f}", flush=True)
    rows = []
    for size in given.sizes:
        with tempfile.TemporaryDirectory(prefix="comity-bench-") as name:
            folder = Path(name)
            write_people(folder, size, given.seed)
            people, spend = with_values(folder / "c.parquet", given.seed)
            known = {
                text.strip().lower() for text in pq.read_table(folder / "a.parquet")["email"].to_pylist()
            }
            truth = float(sum(v for who, v in zip(people, spend.tolist(), strict=True) if who in known))
            row = {"people": size} | comity(folder, given, truth)
        rows.append(row)
        print(
            f"{size:,} a side, engine {row['engine']}: {row['seconds']} s in all; on top of the overlap "
            f"{row['on_top']} s (encrypting {row['encrypting']}, masking {row['masking']}, "
            f"decrypting {row['decrypting']}); {row['sent'] / size:.0f} bytes a person in all, "
            f"peak RSS {row['peak_rss_mb']} MB",
            flush=True,
        )
    if not given.no_peers:
        facts["paillier"] = peer = paillier(given.peer_rows, given.peer_bits)
        for row in rows:
            seconds, size = peer["seconds_a_row"] * row["people"], peer["bytes_a_row"] * row["people"]
            print(
                f"Paillier, {given.peer_bits} bits, {row['people']:,} rows on one core: {seconds:.0f} s, "
                f"{size / 2**20:.0f} MiB (from {given.peer_rows:,} rows); Comity ÷ this "
                f"{row['on_top'] / seconds:.4f}"
            )
    if given.json:
        given.json.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
