"""Two clean rooms side by side: real ledgers, real files, real requests through each other's router.

Only the network is replaced: a `WirePeer` hands each request to the partner's application in this process
and keeps every byte that would have travelled.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import sqlalchemy as sa
from fastapi import FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

import clean_room.storage
import consent.sql
import privacy.budget
from clean_room.agreements import Terms
from clean_room.api import create_router
from clean_room.collaboration import Collaborations, PartnerPin
from clean_room.datasets import Catalogue
from clean_room.group.pool import BlindingPool
from clean_room.jobs import Job, Query
from clean_room.service import CleanRoom, Settings
from clean_room.storage import CollaborationStore
from comity.problems import from_problem, problem
from consent.events import grant
from consent.gate import ConsentGate
from consent.ledger import Ledger
from consent.peers import PeerResponse
from privacy.budget import BudgetLedger, Cost
from privacy.errors import ComityError, PeerUnreachable, Refused
from privacy.identifiers import canonical
from privacy.keys import KeyRing
from privacy.signing import SigningKey

BANK_PEOPLE = range(280)
SHOP_PEOPLE = range(80, 380)
PURPOSES = ("overlap.reach", "overlap.measure", "overlap.align")


class UnsafeNoNoise:
    """Exact answers, to compare with sums in the clear. Never to be used outside tests."""

    def half_width(self, epsilon: float, delta: float) -> int:
        return 0

    def matching(self, epsilon: float, half_width: int, shape: tuple[int, int]) -> np.ndarray:
        return np.zeros(shape, dtype=np.int64)

    def sums(self, scale: float, size: int) -> list[int]:
        return [0] * size


class Clock:
    """Real time, which a test can push forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class HeaderGuards:
    """Guards that believe a header: who signs requests is comity's business, not this room's."""

    def role(self, *roles: str) -> Callable[..., str]:
        def principal(x_principal: str = Header(default="tester")) -> str:
            return x_principal

        return principal

    def partner(self) -> Callable[..., str]:
        def name(request: Request, x_partner: str = Header(default="")) -> str:
            if x_partner not in request.app.state.partners():
                raise Refused("the partner's key is not known here.", code="unknown_partner")
            return x_partner

        return name


@dataclass
class Wire:
    """Everything that travelled, and the means to break it."""

    captured: list[bytes] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    down: bool = False
    tamper: Callable[[str, str, bytes], bytes] | None = None
    tamper_reply: Callable[[str, str, bytes], bytes] | None = None
    on_request: Callable[[str, str], None] | None = None

    def heal(self) -> None:
        """As new."""
        self.down, self.tamper, self.tamper_reply, self.on_request = False, None, None, None
        self.captured.clear()
        self.requests.clear()


@dataclass
class WirePeer:
    """A `PeerConnection` to an application in this process."""

    partner: str
    me: str
    client: TestClient
    wire: Wire

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        content_type: str = "application/octet-stream",
        timeout: float = 30.0,
    ) -> PeerResponse:
        if self.wire.on_request is not None:
            self.wire.on_request(method, path)
        if self.wire.down:
            raise PeerUnreachable("the partner does not answer.")
        if self.wire.tamper is not None:
            body = self.wire.tamper(method, path, body)
        headers = {"x-partner": self.me, "content-type": content_type}
        answer = self.client.request(method, path, content=body, headers=headers)
        self.wire.requests.append((method, path))
        self.wire.captured += [path.encode(), body, answer.content, repr(answer.headers).encode()]
        if answer.status_code >= 300:
            raise from_problem(self.partner, answer.status_code, answer.json())
        content = answer.content
        if self.wire.tamper_reply is not None:
            content = self.wire.tamper_reply(method, path, content)
        return PeerResponse(answer.status_code, dict(answer.headers), content)


@dataclass
class Node:
    """One partner, whole."""

    name: str
    directory: Path
    identity: SigningKey
    ledger: Ledger
    catalogue: Catalogue
    collaborations: Collaborations
    service: CleanRoom
    app: FastAPI
    engine: sa.Engine
    clock: Clock

    @property
    def client(self) -> TestClient:
        return TestClient(self.app)

    def run(self, query: Query, **more: Any) -> Job:
        """Submit and wait for the end."""
        return self.wait(self.service.submit(query, principal="ana", **more).id)

    def wait(self, job: str, seconds: float = 30.0) -> Job:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.service.job(job)
            if found.over:
                return found
            time.sleep(0.01)
        raise AssertionError(f"job still {found.state} at stage {found.stage}")


def person(number: int) -> dict[str, Any]:
    """Somebody with an e-mail address, a mobile number, an age and a spending."""
    return {
        "email": f"person.{number}@example.org",
        "mobile": f"+86139{number:08d}",
        "age": 18 + number * 7 % 60,
        "spend": float(number * 37 % 1000),
    }


def bank_table() -> pl.DataFrame:
    """The bank writes addresses in capitals with stray spaces, and mobiles without country code."""
    people = [person(i) for i in BANK_PEOPLE]
    return pl.DataFrame(
        {
            "email": [f"  {p['email'].upper()} " for p in people],
            "mobile": [p["mobile"][3:] for p in people],
            "age": [p["age"] for p in people],
        }
    )


def shop_table() -> pl.DataFrame:
    people = [person(i) for i in SHOP_PEOPLE]
    return pl.DataFrame(
        {
            "mail": [p["email"].title() for p in people],
            "phone": [f"{p['mobile'][:3]} {p['mobile'][3:6]}-{p['mobile'][6:]}" for p in people],
            "spend": [p["spend"] for p in people],
            "secret_score": [91_357_000 + i for i in SHOP_PEOPLE],
        }
    )


BANK_DATASETS = """
[datasets.customers]
source = "customers.parquet"
keys = { email = "email", phone = "mobile" }
lineage = "bank-customers"
features = ["age"]
[datasets.customers.dimensions.age_band]
sql = "CASE WHEN age < 40 THEN 'young' WHEN age < 60 THEN 'middle' ELSE 'old' END"
values = ["young", "middle", "old"]
[datasets.customers.segments]
adults_40 = "age >= 40"
nobody = "age > 200"
old = "age > 70"
"""
SHOP_DATASETS = """
[datasets.shoppers]
source = "shoppers.parquet"
keys = { email = "mail", phone = "phone" }
lineage = "shop-people"
[datasets.shoppers.columns.spend]
lower = 0
upper = 500
[datasets.shoppers.dimensions.spender]
sql = "CASE WHEN spend < 300 THEN 'low' ELSE 'high' END"
values = ["low", "high"]
[datasets.shoppers.segments]
spenders = "spend > 900"
"""


@dataclass
class Pair:
    bank: Node
    shop: Node
    wire: Wire
    collaboration: str = ""

    def query(self, kind: str = "overlap", **more: Any) -> Query:
        purposes = {"overlap": PURPOSES[0], "measure": PURPOSES[1], "align": PURPOSES[2]}
        fields: dict[str, Any] = {
            "kind": kind,
            "collaboration": self.collaboration,
            "dataset": "customers",
            "partner_dataset": "shoppers",
            "purpose": purposes[kind],
        }
        if kind == "measure":
            fields["column"] = "spend"
        return Query(**(fields | more))

    def agree_anew(self, **terms: Any) -> str:
        """Leave the agreement in force and make another."""
        self.bank.service.leave(self.collaboration)
        return self.agree(**terms)

    def identifiers(self, number: int) -> list[tuple[str, bytes]]:
        """Canonical identifiers of a person of the tables."""
        return identifiers(number)

    def agree(self, **terms: Any) -> str:
        stated: dict[str, Any] = {
            "purposes": PURPOSES,
            "minimum_input": 100,
            "minimum_cell": 10,
            "epsilon_per_query": 1.0,
            "epsilon_per_month": 5.0,
        }
        document = self.bank.collaborations.invite(
            partner="shop",
            url="https://shop.test",
            key=self.shop.identity.public.to_text(),
            terms=Terms(**(stated | terms)),
        )
        self.collaboration = self.shop.collaborations.accept(document).id
        return self.collaboration


def consent_all(node: Node, people: range, partner: str) -> None:
    node.ledger.record([grant(identifiers(i), "overlap", partner=partner) for i in people])


def identifiers(number: int) -> list[tuple[str, bytes]]:
    known = person(number)
    email, phone = canonical("email", known["email"]), canonical("phone", known["mobile"])
    assert isinstance(email, bytes)
    assert isinstance(phone, bytes)
    return [("email", email), ("phone", phone)]


def make_engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": 30} if url.startswith("sqlite") else {})
    if url.startswith("sqlite"):

        @sa.event.listens_for(engine, "connect")
        def prepare(connection: Any, _: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=OFF")

    for metadata in (clean_room.storage.metadata, consent.sql.metadata, privacy.budget.metadata):
        metadata.create_all(engine)
    return engine


def make_node(
    name: str,
    directory: Path,
    datasets: str,
    connect: Callable[[PartnerPin], Any],
    pool: BlindingPool,
    *,
    noise: Any = None,
    limit: float = 100_000.0,
) -> Node:
    engine, clock = make_engine(f"sqlite:///{directory / 'node.db'}"), Clock()
    (directory / "datasets.toml").write_text(datasets)
    identity, keyring = SigningKey.generate(), KeyRing.create(directory / "ring")
    ledger = Ledger.open(
        engine,
        keyring=keyring,
        signing_key=identity,
        origin=f"{name}.test/log",
        directory=directory / "log",
        clock=clock,
    )
    catalogue = Catalogue.load(directory / "datasets.toml")
    collaborations = Collaborations(
        CollaborationStore(engine),
        name=name,
        url=f"https://{name}.test",
        identity=identity,
        keyring=keyring,
        catalogue=catalogue,
        connect=connect,
        ledger=ledger,
        clock=clock,
        random=os.urandom,
    )
    ledger.pair_keys = collaborations
    settings = Settings(poll_seconds=0.02, attempts=2, pause_seconds=0.01, silence_seconds=1, threads=2)
    service = CleanRoom(
        engine,
        collaborations=collaborations,
        catalogue=catalogue,
        gate=ConsentGate(ledger),
        uses=ledger,
        budget=BudgetLedger(engine, limit=Cost(limit, 0.01)),
        identity=identity,
        keyring=keyring,
        pool=pool,
        artefacts=directory / "artefacts",
        clock=clock,
        random=os.urandom,
        settings=settings,
        noise=noise,
    )
    app = FastAPI()
    app.state.partners = lambda: {pin.name for pin in collaborations.pins()}
    app.include_router(create_router(service, HeaderGuards()))

    @app.exception_handler(ComityError)
    def on_purpose(request: Request, error: ComityError) -> JSONResponse:
        document = problem(error, from_partner=request.url.path.startswith("/v1/peer/"))
        return JSONResponse(document, int(str(document["status"])))

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"code": "malformed_request"}, 422)

    # Routes are put together at the first request, which several threads' clients may send at once.
    TestClient(app).get("/")
    return Node(name, directory, identity, ledger, catalogue, collaborations, service, app, engine, clock)


@pytest.fixture(scope="session")
def pool() -> Iterator[BlindingPool]:
    with BlindingPool(workers=0) as made:
        yield made


@pytest.fixture
def tables() -> SimpleNamespace:
    """The two partners' tables and what their datasets.toml say, for tests that change them."""
    return SimpleNamespace(
        bank=bank_table(),
        shop=shop_table(),
        bank_datasets=BANK_DATASETS,
        shop_datasets=SHOP_DATASETS,
        people=[person(i) for i in range(SHOP_PEOPLE.stop)],
        no_noise=UnsafeNoNoise,
        make_engine=make_engine,
        consent_all=consent_all,
    )


class Workshop:
    """Builds pairs in folders of their own and ends them."""

    def __init__(self, folder: Path, pool: BlindingPool) -> None:
        self._folder, self._pool = folder, pool
        self._made: list[Pair] = []

    def __call__(
        self,
        *,
        noise: Any = None,
        agree: bool = True,
        terms: dict[str, Any] | None = None,
        bank: pl.DataFrame | None = None,
        shop: pl.DataFrame | None = None,
        bank_datasets: str = BANK_DATASETS,
        shop_datasets: str = SHOP_DATASETS,
        consent: bool = True,
    ) -> Pair:
        wire, nodes = Wire(), {}

        def connect(me: str) -> Callable[[PartnerPin], WirePeer]:
            return lambda pin: WirePeer(pin.name, me, TestClient(nodes[pin.name].app), wire)

        parts = (
            ("bank", "customers.parquet", bank_table() if bank is None else bank, bank_datasets),
            ("shop", "shoppers.parquet", shop_table() if shop is None else shop, shop_datasets),
        )
        for name, file, table, datasets in parts:
            home = self._folder / f"{len(self._made)}-{name}"
            home.mkdir()
            table.write_parquet(home / file)
            drawn = UnsafeNoNoise() if noise is None else noise
            nodes[name] = make_node(name, home, datasets, connect(name), self._pool, noise=drawn)
        pair = Pair(nodes["bank"], nodes["shop"], wire)
        self._made.append(pair)
        if consent:
            consent_all(pair.bank, BANK_PEOPLE, "shop")
            consent_all(pair.shop, SHOP_PEOPLE, "bank")
        if agree:
            pair.agree(**(terms or {}))
        return pair

    def close(self) -> None:
        for pair in self._made:
            pair.wire.heal()
            pair.wire.down = True
            for node in (pair.bank, pair.shop):
                node.service.close()
                node.engine.dispose()


@pytest.fixture
def make_pair(tmp_path: Path, pool: BlindingPool) -> Iterator[Workshop]:
    """Makes a pair of nodes as the test wants them."""
    workshop = Workshop(tmp_path, pool)
    yield workshop
    workshop.close()


@pytest.fixture
def fresh(make_pair: Workshop) -> Pair:
    """A pair of this test's own."""
    return make_pair()


@pytest.fixture(scope="session")
def make_standing(tmp_path_factory: pytest.TempPathFactory, pool: BlindingPool) -> Iterator[Workshop]:
    """Makes pairs that many tests share."""
    workshop = Workshop(tmp_path_factory.mktemp("standing"), pool)
    yield workshop
    workshop.close()


@pytest.fixture(scope="session")
def standing(make_standing: Workshop) -> Pair:
    return make_standing(terms={"epsilon_per_month": 10_000.0})


@pytest.fixture
def pair(standing: Pair) -> Iterator[Pair]:
    """A pair shared by tests that leave agreement, consents and files as they are.

    No test's question is a repeat of another test's.
    """
    yield standing
    standing.wire.heal()
    for node in (standing.bank, standing.shop):
        with node.engine.begin() as connection:
            connection.execute(clean_room.storage.questions.delete())
