"""A ledger is killed, starved of disk, or cut off from power at every write; what was acknowledged is there.

The work is done by `crash_lab`, a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from consent.events import grant
from consent.static import StaticLog, write_file
from consent.verify import directory_reader, verify_ledger, verify_log
from privacy.errors import StorageError

LAB = Path(__file__).parent / "crash_lab"


def lab(*arguments: object) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, LAB, *map(str, arguments)], capture_output=True, text=True, timeout=230, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout)
    assert isinstance(report, dict)
    assert report["wrong"] == []
    return report


def test_killed_before_any_system_call_it_loses_nothing_acknowledged_and_shows_nothing_half_written(
    tmp_path, counted
):
    report = lab("kill", tmp_path, "calls")
    if report["layer"] == "calls":
        assert {"pwrite64", "fdatasync", "write", "fsync", "rename", "mkdir"} <= set(report["writes"])
        counted(
            "`kill -9` before each system call of an append that writes (SQLite and the published files)",
            report["cases"],
        )


def test_killed_around_any_statement_or_file_it_loses_nothing_acknowledged(tmp_path, counted):
    report = lab("kill", tmp_path, "steps")
    assert {"statement", "commit", "file"} <= set(report["writes"])
    counted("`kill -9` around each statement, commit and file of an append (SQLite)", report["cases"])


def test_killed_while_it_talks_to_postgresql_it_loses_nothing_acknowledged(tmp_path, postgres_url, counted):
    maintenance = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    name = f"test_{uuid.uuid4().hex}"
    with maintenance.connect() as c:
        c.execute(sa.text(f'CREATE DATABASE "{name}"'))
    url = maintenance.url.set(database=name).render_as_string(hide_password=False)
    try:
        report = lab("kill", tmp_path, "calls", url)
    finally:
        with maintenance.connect() as c:
            c.execute(sa.text(f'DROP DATABASE "{name}" WITH (FORCE)'))
        maintenance.dispose()
    if report["layer"] == "calls":
        assert report["writes"]["sendto"] > 20
        counted("`kill -9` before every third send or write of an append (PostgreSQL)", report["cases"])


@pytest.mark.parametrize("fault", ["EIO", "ENOSPC"])
def test_a_write_that_fails_is_refused_and_the_same_process_goes_on(fault, tmp_path, counted):
    report = lab(fault, tmp_path, "calls")
    if report["layer"] == "calls":
        assert {"pwrite64", "fdatasync", "write", "fsync", "rename", "mkdir"} <= set(report["writes"])
        more = "that call alone" if fault == "EIO" else "and every later one, until there is space again"
        counted(f"{fault} from each system call of an append that writes, {more}", report["cases"])


def test_a_failed_publication_leaves_no_writer_behind_to_meet_the_next(make_node):
    """Its files are written several at a time: when one fails, the others are waited for."""
    node = make_node()
    ledger = node.open()
    running, late = threading.Event(), threading.Event()

    def write(path, data):
        if path.parent.name == "0":
            running.wait(5)
            raise OSError(28, "injected")
        if path.parent.name == "entries":
            running.set()
            time.sleep(0.3)
            late.set()
        write_file(path, data)

    ledger.log.static = StaticLog(node.log, ledger.key, write)
    with pytest.raises(StorageError):
        ledger.record([grant([("email", b"p%d" % (i % 5))], "overlap.reach") for i in range(300)])
    assert late.is_set()
    assert verify_log(directory_reader(node.log), ledger.key).ok
    assert verify_ledger(node.open()).ok


def test_after_a_power_cut_all_that_was_acknowledged_is_on_the_disk(tmp_path, counted):
    """Where children can be traced; elsewhere nobody knows what had been waited for."""
    report = lab("power", tmp_path, "calls")
    if report["layer"] == "calls":
        counted(
            "power cut before each write: unsynced writes lost, torn, or kept out of order", report["cases"]
        )
