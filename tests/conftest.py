"""Fixtures every room shares: real databases, one real demonstration, nothing faked.

`engine` is parametrised over SQLite and a real PostgreSQL. `COMITY_TEST_POSTGRES_URL` names a server to
use; without it a private cluster is started from the installed server package on a free port. Where
neither is there the PostgreSQL half is skipped on a developer's machine and fails in CI.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from tests.started import Starter

# Tests wait for hundreds of thousands of fsyncs, and none of them is about what a disk does with one: where
# there is memory to spare they write into it.
_MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 << 30:
    os.environ["TMPDIR"] = str(_MEMORY)
    tempfile.tempdir = None

# Interpreters are started by the hundred; compiling every module in each of them takes longer than the tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

settings.register_profile(
    "house", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("house")


# Files that take longest, longest first: else one worker ends with them while the other has nothing to do.
LONG = (
    "test_demo.py", "test_snippets.py", "test_resume.py", "test_crashes.py", "test_examples.py",
    "test_schema_conformance.py", "test_killed_nodes.py", "test_restored_node.py", "test_load.py",
    "test_feed_stateful.py", "test_stateful_ledger.py", "test_partners.py", "test_serve.py",
)  # fmt: skip
# What a file prepares is prepared once, so a file stays with one worker; these share even more, or nothing.
TOGETHER = {"test_demo.py": "demonstration", "test_snippets.py": "demonstration"}
APART = frozenset({"test_resume.py", "test_crashes.py", "test_killed_nodes.py"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first; the order is otherwise as it was."""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONG)))


class _ByFile(LoadScopeScheduling):
    """Hands out whole files, in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", maxsplit=1)[0]
        name = file.rsplit("/", 1)[-1]
        return nodeid if name in APART else TOGETHER.get(name, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByFile:
    """How the tests are shared out; pytest-xdist 3.8 does not see its own groups under pytest 9.2."""
    return _ByFile(config, log)


def _postgres_bin() -> Path | None:
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda p: int(p.parent.parent.name),
        reverse=True,
    )
    if installed:
        return installed[0].parent
    found = shutil.which("initdb")
    return Path(found).parent if found else None


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a PostgreSQL server (maintenance database) owned by this test run."""
    given = os.environ.get("COMITY_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    folder = _postgres_bin()
    if folder is None:
        message = "no PostgreSQL server: set COMITY_TEST_POSTGRES_URL or install the postgresql package"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    # PostgreSQL refuses to run as root, so a root test run hands the cluster to an unprivileged user.
    as_user: dict[str, object] = {}
    home = Path(tempfile.mkdtemp(prefix="comity-pg-"))
    if os.geteuid() == 0:
        import pwd

        account = next(
            (pwd.getpwnam(n) for n in ("postgres", "nobody") if n in {p.pw_name for p in pwd.getpwall()}),
            None,
        )
        if account is None:
            pytest.fail("running as root and no unprivileged account to run PostgreSQL as")
        os.chown(home, account.pw_uid, account.pw_gid)
        as_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data, port = home / "data", _free_port()
    where = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": home, **as_user}
    initdb = [folder / "initdb", "-D", data, "-U", "comity", "-A", "trust", "-E", "UTF8", "--locale=C"]
    subprocess.run(initdb, check=True, **where)
    server = subprocess.Popen(
        [
            folder / "postgres",
            "-D",
            data,
            "-p",
            str(port),
            "-k",
            home,
            "-h",
            "127.0.0.1",
            # The server's own durability is not under test: no test cuts its power.
            "-c",
            "fsync=off",
            "-c",
            "full_page_writes=off",
            "-c",
            "autovacuum=off",
        ],
        **where,
    )
    url = f"postgresql+psycopg://comity@127.0.0.1:{port}/postgres"
    try:
        probe = sa.create_engine(url)
        for _ in range(200):
            try:
                with probe.connect():
                    break
            except sa.exc.OperationalError:
                time.sleep(0.05)
        else:
            pytest.fail("the private PostgreSQL did not come up")
        probe.dispose()
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def prepared_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with every table, to be copied."""
    path = tmp_path_factory.mktemp("prepared") / "prepared.db"
    _prepare(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def prepared_postgres(postgres_url: str) -> Iterator[str]:
    """Name of a PostgreSQL database with every table, to be used as a template."""
    with _postgres_database(postgres_url, "prepared") as url:
        _prepare(url)
        yield str(sa.make_url(url).database)


def _prepare(url: str) -> None:
    from comity.database import all_metadata

    engine = sa.create_engine(url)
    for metadata in all_metadata():
        metadata.create_all(engine)
    engine.dispose()


@contextmanager
def _postgres_database(server: str, prefix: str, template: str = "template1") -> Iterator[str]:
    maintenance = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    name = f"{prefix}_{uuid.uuid4().hex}"
    with maintenance.connect() as c:
        c.execute(sa.text(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
    try:
        yield maintenance.url.set(database=name).render_as_string(hide_password=False)
    finally:
        with maintenance.connect() as c:
            c.execute(sa.text(f'DROP DATABASE "{name}" WITH (FORCE)'))
        maintenance.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database, once per engine kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'comity.db'}"
        return
    with _postgres_database(request.getfixturevalue("postgres_url"), "empty") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database with every table and no row; a storage test that takes it runs on both engines."""
    if request.param == "sqlite":
        shutil.copyfile(request.getfixturevalue("prepared_sqlite"), tmp_path / "comity.db")
        yield f"sqlite:///{tmp_path / 'comity.db'}"
        return
    template = request.getfixturevalue("prepared_postgres")
    with _postgres_database(request.getfixturevalue("postgres_url"), "test", template) as url:
        yield url


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """An SQLAlchemy engine on such a database."""
    e = sa.create_engine(database_url)
    yield e
    e.dispose()


@pytest.fixture(scope="session")
def starter() -> Iterator[Starter]:
    """Starts `comity` commands as processes of their own, without an interpreter's imports."""
    made = Starter()
    yield made
    made.close()


@dataclass(frozen=True)
class Demonstration:
    """One finished `comity demo`: its folder (kept/, outcome.json, report.html) and what it printed."""

    place: Path
    data: Path
    people: int
    printed: str
    seconds: float


@pytest.fixture(scope="session")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Demonstration:
    """A demonstration run once, as a user runs it, on synthetic data so that no network is needed."""
    source = Path(__file__).parent / "comity" / "demo" / "synthetic_credit.py"
    spec = importlib.util.spec_from_file_location("synthetic_credit", source)
    assert spec is not None and spec.loader is not None
    synthetic = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(synthetic)
    data = Path(synthetic.write_synthetic_credit(tmp_path_factory.mktemp("data") / "credit.csv", 2_600))
    place, people = tmp_path_factory.mktemp("demo"), 2_000
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", "from comity.cli import main; main()", "demo",
         "--data", data, "--people", str(people), "--keep", place / "kept",
         "--json", place / "outcome.json", "--report", place / "report.html"],
        capture_output=True, text=True, timeout=230, check=False, cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return Demonstration(place, data, people, done.stdout, time.monotonic() - began)
