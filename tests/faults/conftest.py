"""Ledgers to be broken, and the list of faults in docs/threat-model.md that these tests are held to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from consent.ledger import Ledger
from consent.sql import metadata
from privacy.keys import KeyRing
from privacy.signing import SigningKey

LIST = Path(__file__).parents[2] / "docs" / "threat-model.md"
ROW = re.compile(r"^\| (?P<fault>[^|]+) \| (?P<cases>[\d,]+) \| `(?P<test>tests/[^`]+)` \|$", re.MULTILINE)


@dataclass(frozen=True)
class Fault:
    name: str
    cases: int
    test: str


def listed() -> dict[str, Fault]:
    """The table of faults as the documentation has it."""
    rows = [
        Fault(m["fault"], int(m["cases"].replace(",", "")), m["test"]) for m in ROW.finditer(LIST.read_text())
    ]
    return {row.name: row for row in rows}


@pytest.fixture
def faults() -> dict[str, Fault]:
    return listed()


@pytest.fixture
def counted(faults: dict[str, Fault], request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """`counted(fault, cases)`: this test went through at least as many cases as the documentation says."""

    def check(fault: str, cases: int) -> None:
        assert fault in faults, f"docs/threat-model.md does not list the fault {fault!r}"
        row = faults[fault]
        place = Path(str(request.node.path)).relative_to(LIST.parents[1])
        assert row.test == str(place)
        assert cases >= row.cases, f"{fault}: {cases} cases, the documentation says {row.cases}"

    return check


class Clock:
    """Goes on by a microsecond at each look; can be set to anything."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
        self.still = False

    def __call__(self) -> datetime:
        if not self.still:
            self.now += timedelta(microseconds=1)
        return self.now

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


class PairKey:
    def pair_key(self, partner: str) -> bytes | None:
        return b"\x07" * 32


@dataclass
class Node:
    """Everything needed to open one ledger again and again."""

    name: str
    engine: sa.Engine
    folder: Path
    clock: Callable[[], datetime]
    ring: KeyRing = field(default_factory=lambda: KeyRing.from_root(b"\x01" * 32))
    key: SigningKey = field(default_factory=lambda: SigningKey.from_seed(b"\x09" * 32))

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def open(self, **options: object) -> Ledger:
        return Ledger.open(
            self.engine, keyring=self.ring, signing_key=self.key, origin=f"{self.name}.example/consent",
            directory=self.log, clock=self.clock, pair_keys=PairKey(), **options,  # type: ignore[arg-type]
        )  # fmt: skip


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node(engine: sa.Engine, tmp_path: Path, clock: Clock) -> Node:
    """A node on SQLite, and on PostgreSQL."""
    metadata.create_all(engine)
    return Node("shop", engine, tmp_path, clock)


@pytest.fixture
def make_node(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Node]]:
    """Nodes on SQLite, for what does not depend on the database."""
    made: list[sa.Engine] = []

    def make(name: str = "shop") -> Node:
        folder = tmp_path / name
        folder.mkdir()
        engine = sa.create_engine(f"sqlite:///{folder}/comity.db")
        metadata.create_all(engine)
        made.append(engine)
        seed = name.encode().ljust(32, b".")
        return Node(name, engine, folder, clock, KeyRing.from_root(seed), SigningKey.from_seed(seed))

    yield make
    for engine in made:
        engine.dispose()
