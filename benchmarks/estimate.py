"""`make bench-estimate`: the overlap of two very large lists by `estimate`, from Parquet to interval.

    python benchmarks/estimate.py                      100 M people a side; makes and removes 2 GB of data
    python benchmarks/estimate.py --people 2000000     a first look
    python benchmarks/estimate.py --floor 0            without the scan beside it

Beside it stands a bare scan of one list by DuckDB that draws a sample with SHA-256, without canonical form,
matching, privacy or partner: what anybody would do first.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).parent))

from loopback import free_ports
from measured import machine, run

HERE = Path(__file__).parent
# Three in ten write from Gmail, one of those with a dot that counts for nothing; some in capitals, some with
# a space in front.
_PEOPLE = """
    SELECT CASE (i + {party}) % 13 WHEN 0 THEN upper(e) WHEN 1 THEN ' ' || e ELSE e END AS email FROM (
        SELECT i, CASE i % 10
            WHEN 0 THEN printf('%08x.%d@gmail.com', h, i)
            WHEN 1 THEN printf('%08x%d@gmail.com', h, i)
            WHEN 2 THEN printf('%08x%d@gmail.com', h, i)
            WHEN 3 THEN printf('%d@qq.com', h)
            ELSE printf('%08x.%d@mail%d.example.org', h, i, i % 97) END AS e
        FROM (SELECT i, (i * 2654435761) % 4294967296 AS h FROM range({first}, {last}) AS t(i)))
"""


def write_people(folder: Path, size: int, shared: float) -> int:
    """Two lists of `size` people as Parquet; how many they share."""
    both = int(size * shared)
    for party, first in enumerate((0, size - both)):
        made = _PEOPLE.format(party=party, first=first, last=first + size)
        target = folder / f"{'ac'[party]}.parquet"
        duckdb.connect().execute(f"COPY ({made}) TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
    return both


def scan_floor(path: Path, rows: int) -> float:
    """Seconds a row of a scan that keeps one row in a thousand by SHA-256."""
    key = secrets.token_hex(16)
    sql = (
        f"SELECT count(*) FROM (SELECT email FROM read_parquet('{path}') LIMIT {rows}) "  # noqa: S608
        f"WHERE sha256('{key}' || email) < '00418937'"
    )
    began = time.perf_counter()
    duckdb.connect().sql(sql).fetchall()
    return (time.perf_counter() - began) / rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, default=100_000_000, metavar="N", help="people a side")
    parser.add_argument("--shared", type=float, default=0.5, help="share of the people of a side")
    parser.add_argument("--runs", type=int, default=1, help="with another key each")
    parser.add_argument("--floor", type=int, default=10_000_000, metavar="N", help="rows of the bare scan")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--limit", type=float, default=3600)
    parser.add_argument("--folder", type=Path, help="where the data goes meanwhile")
    parser.add_argument("--json", type=Path, help="write every figure there")
    given = parser.parse_args()

    facts = {"at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), **machine()}
    print(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load_before']:.1f}", flush=True)
    rows = []
    with tempfile.TemporaryDirectory(prefix="comity-bench-", dir=given.folder) as name:
        folder = Path(name)
        began = time.perf_counter()
        truth = write_people(folder, given.people, given.shared)
        print(f"two lists of {given.people:,} made in {time.perf_counter() - began:.0f} s", flush=True)
        if given.floor:
            rows_looked_at = min(given.floor, given.people)
            facts["scan_floor_ns"] = scan_floor(folder / "a.parquet", rows_looked_at) * 1e9
        for _ in range(given.runs):
            (port,), pair_key = free_ports(1), secrets.token_hex(32)
            commands = [
                [
                    sys.executable, str(HERE / "estimate_party.py"), "--role", role, "--port", str(port),
                    "--input", str(folder / f"{name}.parquet"), "--workers", str(given.workers),
                    "--engine", given.engine, "--pair-key", pair_key, "--rows", str(given.people),
                ]
                for role, name in (("analyst", "a"), ("contributor", "c"))
            ]  # fmt: skip
            result = run(commands, folder, limit=given.limit, env={"PYTHONPATH": str(HERE.parent)})
            analyst, contributor = result.answers
            low, high = analyst["ci95"]
            row = {
                "people": given.people,
                "truth": truth,
                "value": analyst["value"],
                "error": abs(analyst["value"] - truth) / truth,
                "half_width": (high - low) / 2 / analyst["value"],
                "holds": low <= truth <= high,
                "seconds": round(result.seconds, 2),
                "sampled": analyst["sampled"],
                "rate": analyst["rate"],
                "engine": analyst["engine"],
                "peak_rss_mb": [round(size / 2**20) for size in result.peak_rss],
                "bytes_sent": analyst["sent"] + contributor["sent"],
                "stages": [analyst["stages"], contributor["stages"]],
            }
            rows.append(row)
            show(row)
    if given.floor:
        scan = facts["scan_floor_ns"] * 2 * given.people / 1e9
        print(f"bare SHA-256 scan of both lists, one after the other: {scan:.1f} s")
    if given.json:
        given.json.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")


def show(row: dict[str, object]) -> None:
    """One run."""
    print(
        f"{row['people']:,} a side: {row['seconds']} s, engine {row['engine']}; value {row['value']:,} of "
        f"{row['truth']:,}, error {row['error']:.3%}, 95 % interval ± {row['half_width']:.3%} "
        f"({'holds' if row['holds'] else 'does not hold'} the truth)\n"
        f"  {row['sampled']:,} sampled (1 in {1 / float(str(row['rate'])):.0f}), "
        f"{int(str(row['bytes_sent'])) / 2**20:.1f} MiB sent, peak RSS {row['peak_rss_mb']} MB\n"
        f"  stages {row['stages']}",
        flush=True,
    )


if __name__ == "__main__":
    main()
