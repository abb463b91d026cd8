"""Every example runs by itself, as its reader would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("folder", ["mask_a_table", "consent_ledger", "overlap_api"])
def test_an_example_runs_anywhere(folder: str, tmp_path: Path) -> None:
    before = sorted(EXAMPLES.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-B", EXAMPLES / folder / "run.py"],
        capture_output=True, text=True, timeout=180, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert list(tmp_path.iterdir()) == []
    assert sorted(EXAMPLES.rglob("*")) == before
