"""A private PostgreSQL for a run, or the one that COMITY_BENCH_POSTGRES_URL names."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa


@contextmanager
def postgres() -> Iterator[str | None]:
    """The URL of an empty database, None where there is no server."""
    given = os.environ.get("COMITY_BENCH_POSTGRES_URL")
    if given:
        yield given
        return
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        yield None
        return
    folder = programs[-1].parent
    home = Path(tempfile.mkdtemp(prefix="comity-bench-pg-"))
    how: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": home}
    if os.geteuid() == 0:  # it refuses to run as root
        names = {entry.pw_name for entry in pwd.getpwall()}
        account = pwd.getpwnam(next(name for name in ("postgres", "nobody") if name in names))
        os.chown(home, account.pw_uid, account.pw_gid)
        how |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = ["-D", home / "data", "-U", "comity", "-A", "trust", "-E", "UTF8", "--locale=C"]
    subprocess.run([folder / "initdb", *made], check=True, **how)
    served = ["-D", home / "data", "-p", str(port), "-k", home, "-h", "127.0.0.1"]
    server = subprocess.Popen([folder / "postgres", *served], **how)
    url = f"postgresql+psycopg://comity@127.0.0.1:{port}/postgres"
    try:
        engine = sa.create_engine(url)
        for _ in range(200):
            try:
                with engine.connect():
                    break
            except sa.exc.OperationalError:
                time.sleep(0.05)
        engine.dispose()
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)
        shutil.rmtree(home, ignore_errors=True)
