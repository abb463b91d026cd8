"""Opening a node's records for one command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comity.records import Records

__all__ = ["opened"]


@contextmanager
def opened(directory: Path, *, restoring: bool = False) -> Iterator[Records]:
    """The records of the node in `directory`; the node itself may be running or not.

    `restoring` also opens one that was restored from an old backup.
    """
    from comity.bootstrap import open_records
    from comity.config import load_config
    from comity.system import system_random, utc_now

    config = load_config(directory)
    records = open_records(config, clock=utc_now, random=system_random, restoring=restoring)
    try:
        yield records
    finally:
        records.close()
