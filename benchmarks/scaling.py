"""`make bench-scaling`: how time, memory and bytes of an `overlap` grow with the number of people.

    python benchmarks/scaling.py                                10 k to 10 M people a side
    python benchmarks/scaling.py --sizes 10000 30000 100000     a first look

Comity alone, as in overlap.py. What lies beyond goes through `estimate` (estimate.py).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measured import machine
from overlap import comity, write_people


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = [10_000, 100_000, 1_000_000, 10_000_000]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, metavar="N")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--limit", type=float, default=7200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write every figure there")
    given = parser.parse_args()
    facts = {"at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), **machine()}
    print(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load_before']:.1f}", flush=True)
    print("| people a side | engine | seconds | µs/person | peak RSS MB | bytes/person |\n|-|-|-|-|-|-|")
    rows = []
    for size in given.sizes:
        with tempfile.TemporaryDirectory(prefix="comity-bench-") as name:
            truth = write_people(Path(name), size, given.seed, for_peers=False)
            result, engine = comity(Path(name), truth, given)
        row = {
            "people": size,
            "engine": engine,
            "seconds": round(result.seconds, 2),
            "us_a_person": round(result.seconds / size * 1e6, 1),
            "peak_rss_mb": [round(peak / 2**20) for peak in result.peak_rss],
            "bytes_per_person": round(sum(answer["sent"] for answer in result.answers) / size, 1),
            "stages": [answer["stages"] for answer in result.answers],
        }
        rows.append(row)
        print(
            f"| {size:,} | {engine} | {row['seconds']} | {row['us_a_person']} "
            f"| {' + '.join(map(str, row['peak_rss_mb']))} | {row['bytes_per_person']} |",
            flush=True,
        )
    if given.json:
        given.json.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
