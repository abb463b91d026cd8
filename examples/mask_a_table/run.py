"""Mask a table by a policy, and see that a number in free text joins with the column it came from.

    python examples/mask_a_table/run.py

The same from the command line: `comity mask customers.csv -o masked.csv --policy policy.yaml --dir NODE`.
"""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

from privacy.keys import KeyRing
from privacy.masking import Policy, mask_table

HERE = Path(__file__).parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        ring = Path(folder) / "ring.key"
        KeyRing.create(ring)
        masked = Path(folder) / "masked.csv"
        policy = Policy.load(HERE / "policy.yaml")
        manifest = mask_table(HERE / "customers.csv", masked, policy, KeyRing.load(ring))
        with masked.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    for row in rows:
        print(" | ".join(row.values()))
    first = rows[0]
    assert first["mobile"] in first["note"], "the number in the note has the token of the column"
    assert "13800138000" not in str(rows)
    print(f"policy {manifest.policy_hash[:16]}…, {manifest.rows} rows")


if __name__ == "__main__":
    main()
