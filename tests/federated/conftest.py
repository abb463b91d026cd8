"""Two nodes in one process: real ledgers, gates, files, apps and HTTP routes; only the wire is short.

The partners' customers are synthetic. The clean room is played by a stand-in that knows the true overlap,
because alignment is that room's business and tested there.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sqlalchemy as sa
from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

import consent
import federated.storage
from clean_room.agreements import Agreement, DatasetOffer, Party, Terms
from clean_room.alignments import Alignment
from clean_room.collaboration import PartnerPin
from clean_room.datasets import Catalogue
from clean_room.jobs import Job, JobState, Query, Role
from consent import ConsentGate, Ledger, grant
from consent.events import withdraw
from consent.peers import PeerResponse
from federated.api import create_router
from federated.errors import ComityError, Misuse, PeerUnreachable, PeerViolation, Refused
from federated.runs import Run, TrainingRequest
from federated.runtime import TrainingService, TrainingSettings
from privacy.keys import KeyRing
from privacy.signing import PublicKey, SigningKey

PURPOSE = "model.credit"
BANK_COLUMNS = ("limit", "age")
SHOP_COLUMNS = ("late", "spent", "returns", "visits")
PEOPLE = 1200
FAMILIES: dict[str, type[ComityError]] = {
    "refused": Refused,
    "misuse": Misuse,
    "peer_violation": PeerViolation,
    "peer_unreachable": PeerUnreachable,
}


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass
class Wire:
    """Everything that passed between the nodes."""

    bodies: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    down: bool = False
    tamper: Callable[[str, str, bytes], bytes] | None = None


class Loopback:
    """A signed connection, as the receiving node's guards see it: by the caller's name."""

    def __init__(self, caller: str, partner: str, client: TestClient, wire: Wire) -> None:
        self.caller, self.partner, self.client, self.wire = caller, partner, client, wire

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        content_type: str = "application/octet-stream",
        timeout: float = 30.0,
    ) -> PeerResponse:
        if self.wire.down:
            raise PeerUnreachable("The partner is down.")
        headers = {"x-partner": self.caller, "content-type": content_type}
        answer = self.client.request(method, path, content=body, headers=headers)
        content = answer.content
        if self.wire.tamper is not None:
            content = self.wire.tamper(method, path, content)
        self.wire.paths.append(f"{method} {path}")
        self.wire.bodies += [body, content]
        if answer.status_code >= 400:
            problem = answer.json()
            raise FAMILIES.get(problem["family"], Refused)(problem["detail"], code=problem["code"])
        return PeerResponse(answer.status_code, dict(answer.headers), content)


class Guards:
    def role(self, *roles: str) -> Callable[..., str]:
        def principal(x_role: str = Header(default=""), authorization: str = Header(default="")) -> str:
            x_role = x_role or authorization.removeprefix("Bearer ")
            if x_role not in (*roles, "admin"):
                raise Refused("Not allowed.", code="not_authorised")
            return f"{x_role}@bank"

        return principal

    def partner(self) -> Callable[..., str]:
        def name(x_partner: str = Header(default="")) -> str:
            if not x_partner:
                raise Refused("Not a partner.", code="not_authenticated")
            return x_partner

        return name


class AlignedWorld:
    """Stands in for the clean room on both nodes: jobs end at once, with the true overlap."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.rows: dict[tuple[str, str], Alignment] = {}
        self.fail: str | None = None
        self.denied: set[int] = set()

    def at(self, node: Node, other: Node) -> Any:
        world = self

        class Side:
            def submit(self, query: Query, *, principal: str, idempotency_key: str | None = None) -> Job:
                name = os.urandom(8).hex()
                state = JobState.REJECTED if world.fail else JobState.SUCCEEDED
                for side, role in ((node, Role.ANALYST), (other, Role.CONTRIBUTOR)):
                    partner = other.name if side is node else node.name
                    job = Job(
                        name, role, query, partner, principal, state, now().isoformat(), "", progress=1.0
                    )
                    world.jobs[f"{side.name}/{name}"] = job
                    places = side.places()
                    shared = [i for i in range(PEOPLE) if i not in world.denied]
                    index = np.array([places[i] for i in shared], dtype=np.int64)
                    ids = np.zeros((len(index), 16), dtype=np.uint8)
                    world.rows[side.name, name] = Alignment(name, side.dataset, index, ids)
                return world.jobs[f"{node.name}/{name}"]

            def job(self, job: str) -> Job:
                if (found := world.jobs.get(f"{node.name}/{job}")) is None:
                    raise Misuse("No such job.", code="unknown_job")
                return found

            def cancel(self, job: str) -> Job:
                return self.job(job)

            def alignment(self, job: str) -> Alignment:
                return world.rows[node.name, job]

        return Side()


class Agreed:
    """The one collaboration of the two nodes."""

    def __init__(self, agreement: Agreement, partner: str, pin: PartnerPin) -> None:
        self._agreement, self._partner, self._pin = agreement, partner, pin
        self.line: Loopback | None = None

    def _check(self, collaboration: str) -> None:
        if collaboration != self._agreement.id:
            raise Misuse("no such collaboration.", code="unknown_collaboration")

    def agreement(self, collaboration: str) -> Agreement:
        self._check(collaboration)
        return self._agreement

    def partner(self, collaboration: str) -> PartnerPin:
        self._check(collaboration)
        return self._pin

    def connection(self, collaboration: str) -> Loopback:
        self._check(collaboration)
        assert self.line is not None
        return self.line


@dataclass
class Node:
    name: str
    dataset: str
    frame: pl.DataFrame
    key: SigningKey
    ledger: Ledger
    gate: ConsentGate
    engine: sa.Engine
    service: TrainingService = field(init=False)
    client: TestClient = field(init=False)
    agreed: Agreed = field(init=False)

    def places(self) -> dict[int, int]:
        return {person: row for row, person in enumerate(self.frame["person"].to_list())}

    def withdraw(self, people: list[int]) -> None:
        self.ledger.record([withdraw([("email", email(i).encode())], "*") for i in people])


@dataclass
class World:
    bank: Node
    shop: Node
    wire: Wire
    clean_room: AlignedWorld

    def request(self, **changes: Any) -> TrainingRequest:
        given = {
            "collaboration": "c1",
            "dataset": "customers",
            "partner_dataset": "shoppers",
            "label": "defaulted",
            "purpose": PURPOSE,
            "rounds": 2,
            "epochs": 3,
        }
        return TrainingRequest(**{**given, **changes})

    def train(self, **changes: Any) -> Run:
        run = self.bank.service.submit(self.request(**changes), principal="ann")
        return finished(self.bank.service, run.id)

    def columns(self, node: Node, names: tuple[str, ...], people: list[int]) -> np.ndarray:
        places = node.places()
        return node.frame.select(names).to_numpy()[[places[i] for i in people]].astype(float)


def finished(service: TrainingService, run: str, seconds: float = 60.0) -> Run:
    ends = time.monotonic() + seconds
    while not (found := service.run(run)).over:
        assert time.monotonic() < ends, f"still {found.state} at {found.stage}"
        time.sleep(0.02)
    return found


def email(person: int) -> str:
    return f"person{person}@example.org"


def people_tables() -> tuple[pl.DataFrame, pl.DataFrame]:
    draw = np.random.default_rng(11)
    n = PEOPLE
    late, limit = draw.normal(size=n), draw.normal(size=n)
    odds = 1.6 * late - 0.7 * limit - 0.8
    bank = pl.DataFrame(
        {
            "person": np.arange(n),
            "email": [email(i) for i in range(n)],
            "defaulted": (draw.random(n) < 1 / (1 + np.exp(-odds))).astype(np.int64),
            "limit": np.rint(limit * 5e10 + 1.67484e11).astype(np.int64),
            "age": draw.integers(21, 70, n) * 1_000_000_007,
            "secret": draw.integers(0, 9, n),
        }
    )
    shop = pl.DataFrame(
        {
            "person": np.arange(n),
            "email": [email(i).upper() for i in range(n)],
            "late": late * 1000.123456789,
            "spent": np.exp(draw.normal(size=n)) * 9876.54321,
            "returns": draw.integers(0, 5, n),
            "visits": draw.integers(0, 40, n) + 0.25,
        }
    )
    return bank, shop.sample(fraction=1.0, shuffle=True, seed=3)


DATASETS = {
    "customers": 'keys = { email = "email" }\nfeatures = ["defaulted", "limit", "age"]',
    "shoppers": 'keys = { email = "email" }\nfeatures = ["late", "spent", "returns", "visits"]',
}


def open_node(folder: Path, name: str, dataset: str, frame: pl.DataFrame) -> tuple[Node, Catalogue, KeyRing]:
    catalogue = Catalogue.parse(
        f'[datasets.{dataset}]\nsource = "{dataset}.parquet"\n{DATASETS[dataset]}\n', base=folder
    )
    engine = sa.create_engine(f"sqlite:///{folder}/comity.db", connect_args={"timeout": 30})
    ring, key = KeyRing.load(folder / "ring"), SigningKey.load(folder / "identity")
    ledger = Ledger.open(
        engine, keyring=ring, signing_key=key, origin=f"{name}.example/log", directory=folder / "log"
    )
    return Node(name, dataset, frame, key, ledger, ConsentGate(ledger), engine), catalogue, ring


NODES = (("bank", "customers"), ("shop", "shoppers"))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[pl.DataFrame, pl.DataFrame]]:
    """Both nodes' folders with data, keys and everybody's consent; each test works on a copy."""
    folder, frames = tmp_path_factory.mktemp("nodes"), people_tables()
    for (name, dataset), frame in zip(NODES, frames, strict=True):
        home, other = folder / name, "shop" if name == "bank" else "bank"
        home.mkdir()
        frame.drop("person").write_parquet(home / f"{dataset}.parquet")
        engine = sa.create_engine(f"sqlite:///{home}/comity.db")
        consent.metadata.create_all(engine)
        federated.storage.metadata.create_all(engine)
        engine.dispose()
        KeyRing.create(home / "ring")
        SigningKey.generate().save(home / "identity")
        node, _, _ = open_node(home, name, dataset, frame)
        node.ledger.record(
            [grant([("email", email(i).encode())], PURPOSE, partner=other) for i in range(PEOPLE)]
        )
        node.engine.dispose()
    return folder, frames


def make_app(service: TrainingService) -> FastAPI:
    app = FastAPI()
    app.include_router(create_router(service, Guards()))

    @app.exception_handler(ComityError)
    async def told(_request: Request, error: ComityError) -> JSONResponse:
        family = next((n for n, c in FAMILIES.items() if isinstance(error, c)), "refused")
        return JSONResponse({"code": error.code, "detail": error.detail, "family": family}, status_code=400)

    return app


@contextmanager
def two_nodes(here: Path, folder: Path, frames: tuple[pl.DataFrame, pl.DataFrame]) -> Iterator[World]:
    wire, rooms = Wire(), AlignedWorld()
    shutil.copytree(folder, here / "nodes")
    made = [
        open_node(here / "nodes" / name, name, dataset, frame)
        for (name, dataset), frame in zip(NODES, frames, strict=True)
    ]
    nodes = [m[0] for m in made]
    parties = tuple(Party(n.name, f"https://{n.name}.invalid", n.key.public.to_text()) for n in nodes)
    agreement = Agreement(
        id="c1",
        parties=parties,  # type: ignore[arg-type]
        terms=Terms(purposes=(PURPOSE, "model.other"), minimum_input=100),
        offers={n.name: (DatasetOffer(n.dataset, n.dataset, ("email",)),) for n in nodes},
        agreed_at=now().isoformat(),
    )
    for (node, catalogue, ring), other in zip(made, reversed(nodes), strict=True):
        pin = PartnerPin(other.name, "https://x.invalid", PublicKey(other.key.public.bytes32))
        node.agreed = Agreed(agreement, other.name, pin)
        node.service = TrainingService(
            node.engine,
            collaborations=node.agreed,
            catalogue=catalogue,
            clean_room=rooms.at(node, other),
            gate=node.gate,
            uses=node.ledger,
            identity=node.key,
            keyring=ring,
            clock=now,
            random=os.urandom,
            settings=TrainingSettings(round_seconds=60, align_seconds=20, silence_seconds=20),
        )
        node.client = TestClient(make_app(node.service))
    bank, shop = nodes
    bank.agreed.line = Loopback("bank", "shop", shop.client, wire)
    shop.agreed.line = Loopback("shop", "bank", bank.client, wire)
    for node in nodes:
        node.service.start()
    yield World(bank, shop, wire, rooms)
    for node in nodes:
        node.service.close()
        node.engine.dispose()
    assert not [t for t in threading.enumerate() if t.name.startswith("training-")]


Made = tuple[Path, tuple[pl.DataFrame, pl.DataFrame]]


@pytest.fixture
def world(tmp_path: Path, made_once: Made) -> Iterator[World]:
    """Two fresh nodes."""
    with two_nodes(tmp_path, *made_once) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory, made_once: Made) -> Iterator[tuple[World, Run]]:
    """Two nodes after one run that succeeded; for tests that only look, or only ask for what is refused."""
    with two_nodes(tmp_path_factory.mktemp("settled"), *made_once) as nodes:
        yield nodes, nodes.train()
