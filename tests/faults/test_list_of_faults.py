"""The documentation's list of faults is the list of what these tests go through."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_fault_in_the_list_has_the_test_it_names(faults):
    assert len(faults) >= 14
    for fault in faults.values():
        text = (ROOT / fault.test).read_text("utf-8")
        named = "counted(" in text and (fault.name in text or fault.name.split()[0] in ("EIO", "ENOSPC"))
        assert named, f"{fault.test} does not count {fault.name!r}"
