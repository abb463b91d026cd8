"""Either node dies at any moment; started again, the job comes to the right answer, once."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from clean_room.api import create_router
from clean_room.service import CleanRoom, Settings
from clean_room.storage import ApprovalRow, Store
from comity.problems import problem
from consent.events import grant
from consent.gate import ConsentGate
from consent.receipts import verify_absence
from privacy.budget import BudgetLedger, Cost
from privacy.errors import ComityError, PeerUnreachable, PeerViolation
from privacy.keys import KeyRing

HALF_WIDTH = 3


class Killed(BaseException):
    """The process is gone: nothing in it runs on, whatever is caught there."""


class CountedNoise:
    """Noise that is another at every draw, and tells what was drawn for whom to compare with."""

    def __init__(self) -> None:
        self.matches: list[int] = []
        self.summed: list[int] = []

    def half_width(self, epsilon: float, delta: float) -> int:
        return HALF_WIDTH

    def matching(self, epsilon: float, half_width: int, shape: tuple[int, int]) -> np.ndarray:
        self.matches.append(len(self.matches) % (2 * HALF_WIDTH + 1))
        return np.full(shape, self.matches[-1], dtype=np.int64)

    def sums(self, scale: float, size: int) -> list[int]:
        self.summed.append(len(self.summed))
        return [self.summed[-1]] * size


class Life:
    """One process: what it seals, stores and records fails once it is over."""

    def __init__(self) -> None:
        self.over = False
        self.seals = 0
        self.dies_at_seal = 0
        self.died = threading.Event()

    def end(self) -> None:
        self.over = True
        self.died.set()

    def check(self) -> None:
        if self.over:
            raise Killed


class MortalRing:
    """A key ring of one life."""

    def __init__(self, ring: KeyRing, life: Life) -> None:
        self._ring, self._life = ring, life

    def seal(self, plaintext: bytes, aad: bytes = b"") -> bytes:
        self._life.check()
        self._life.seals += 1
        if self._life.seals == self._life.dies_at_seal:
            self._life.end()
            raise Killed
        return self._ring.seal(plaintext, aad)

    def __getattr__(self, name: str) -> Any:
        self._life.check()
        return getattr(self._ring, name)


class MortalRecorder:
    """The consent ledger as one life sees it."""

    def __init__(self, ledger: Any, life: Life) -> None:
        self._ledger, self._life = ledger, life

    def __getattr__(self, name: str) -> Any:
        self._life.check()
        return getattr(self._ledger, name)


class Switch:
    """The address of a node: leads to the process that lives there, or nowhere."""

    def __init__(self) -> None:
        self.app: FastAPI | None = None
        self.life = Life()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.app is None or self.life.over:
            raise PeerUnreachable("nobody is there.")
        try:
            await self.app(scope, receive, send)
        except Killed:
            raise PeerUnreachable("the connection broke.") from None
        if self.life.over:
            raise PeerUnreachable("the connection broke.")


class ByHeader:
    """Guards as in conftest."""

    def role(self, *roles: str) -> Callable[..., str]:
        return lambda: "tester"

    def partner(self) -> Callable[..., str]:
        def name(x_partner: str = Header(default="")) -> str:
            return x_partner

        return name


def live(node: Any, noise: Any, make_engine: Any, pool: Any, **settings: Any) -> Life:
    """Start a new process in the node's place, over the same folder, database and ledger."""
    life = Life()
    engine = make_engine(f"sqlite:///{node.directory / 'node.db'}")

    @sa.event.listens_for(engine, "before_cursor_execute")
    def mortal(*_: Any) -> None:
        life.check()

    defaults = {"poll_seconds": 0.02, "attempts": 1, "pause_seconds": 0.01, "silence_seconds": 30.0}
    service = CleanRoom(
        engine,
        collaborations=node.collaborations,
        catalogue=node.catalogue,
        gate=ConsentGate(node.ledger),
        uses=MortalRecorder(node.ledger, life),
        budget=BudgetLedger(engine, limit=Cost(100_000.0, 0.01)),
        identity=node.identity,
        keyring=MortalRing(KeyRing.load(node.directory / "ring"), life),
        pool=pool,
        artefacts=node.directory / "artefacts",
        clock=node.clock,
        random=os.urandom,
        settings=Settings(**(defaults | settings)),
        noise=noise,
    )
    app = FastAPI()
    app.include_router(create_router(service, ByHeader()))

    @app.exception_handler(ComityError)
    def on_purpose(request: Request, error: ComityError) -> JSONResponse:
        document = problem(error, from_partner=request.url.path.startswith("/v1/peer/"))
        return JSONResponse(document, int(str(document["status"])))

    TestClient(app).get("/")  # routes are put together at the first request
    node.service = service
    node.app.app, node.app.life = app, life
    service.recover()
    return life


@pytest.fixture(scope="module")
def world(make_standing: Any, pool: Any) -> Iterator[SimpleNamespace]:
    """A pair of nodes that die and come back."""

    noise = CountedNoise()
    pair = make_standing(noise=noise, terms={"epsilon_per_month": 10_000.0})
    made = SimpleNamespace(pair=pair, noise=noise, lives={})
    budgets = itertools.count(100)

    def query(kind: str = "overlap") -> Any:
        """A question that was not asked before: the same people for another ε."""
        more = {"statistic": "sum"} if kind == "measure" else {}
        return pair.query(kind, epsilon=next(budgets) / 512, **more)

    made.query = query

    def again(side: str) -> None:
        node = getattr(pair, side)
        made.lives[side] = live(node, noise, made.make_engine, pool, **made.settings)

    made.again, made.settings = again, {}
    made.make_engine = _engine
    for side in ("bank", "shop"):
        node = getattr(pair, side)
        node.service.close()
        node.app = Switch()
        again(side)
    yield made
    pair.wire.heal()


def _engine(url: str) -> Any:
    engine = sa.create_engine(url, connect_args={"timeout": 30})

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=OFF")

    return engine


def kill_at(world: Any, side: str, method: str, where: str, when: str) -> Life:
    """The node of `side` dies when the request is on its way (`before`) or when it was handled (`after`)."""
    wire, life = world.pair.wire, world.lives[side]

    def strike() -> None:
        life.end()
        if side == "bank":
            raise Killed
        raise PeerUnreachable("the partner is gone.")

    def matches(m: str, path: str) -> bool:
        return m == method and path.endswith(where) and not life.over

    def on_request(m: str, path: str) -> None:
        if when == "before" and matches(m, path):
            strike()

    def tamper_reply(m: str, path: str, content: bytes) -> bytes:
        if when == "after" and matches(m, path):
            strike()
        return content

    wire.on_request, wire.tamper_reply = on_request, tamper_reply
    return life


def spent(pair: Any) -> tuple[float, float]:
    statuses = pair.shop.service.budgets()
    return sum(s.reserved.epsilon for s in statuses), sum(s.committed.epsilon for s in statuses)


def exact_sum() -> float:
    return float(sum(min(i * 37 % 1000, 500) for i in range(80, 280)))


def settle(world: Any, job: str) -> Any:
    ended = world.pair.bank.wait(job, 60)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and left_of(world.pair.bank, job):
        time.sleep(0.01)
    return ended


def left_of(node: Any, job: str) -> list[str]:
    files = [p for p in (node.directory / "artefacts").rglob("*") if p.is_file() and job in str(p)]
    # What stays of a job that succeeded: its rows, and what later questions are compared with.
    stays = {".alignment", ".question"} if node.service.job(job).state == "succeeded" else set()
    return sorted(p.name for p in files if p.suffix not in stays)


def assert_right_and_once(
    world: Any, kind: str, ended: Any, before: tuple[Any, ...], *, lost: bool = False
) -> None:
    """`lost`: a draw may have died with the process that made it, before it was kept and so before anything
    that depends on it could leave; the answer is by the last draw."""
    pair, noise = world.pair, world.noise
    budget, matches, summed = before
    assert ended.state == "succeeded", ended.error
    if kind == "align":
        assert ended.result["value"] == 200
        ours, theirs = (n.service.alignment(ended.id) for n in (pair.bank, pair.shop))
        assert len(ours) == 200 and (ours.ids == theirs.ids).all()
    else:
        assert len(noise.matches) == matches + 1 or lost, "noise of the counts was drawn more than once"
        count = 200 + noise.matches[-1] - HALF_WIDTH
        assert ended.result["count" if kind == "measure" else "value"] == count
    if kind == "measure":
        assert len(noise.summed) == summed + 1 or lost, "noise of the sums was drawn more than once"
        assert ended.result["value"] == pytest.approx(exact_sum(), abs=1)
    assert spent(pair) == (0.0, pytest.approx(budget[1] + (0.0 if kind == "align" else ended.query.epsilon)))
    for node in (pair.bank, pair.shop):
        uses = [use for _, use in node.ledger.receipts(limit=10_000) if use.job == ended.id]
        assert [use.id for use in uses] == [ended.receipt_id]
    assert pair.bank.service.receipt(ended.receipt_id) == pair.shop.service.receipt(ended.receipt_id)
    assert pair.bank.service.verify_receipt(pair.bank.service.receipt(ended.receipt_id))
    assert pair.shop.service.job(ended.id).state == "succeeded"
    assert left_of(pair.bank, ended.id) == []
    assert left_of(pair.shop, ended.id) == ["answer.sealed"]


COMMON = [
    ("POST", "/v1/peer/jobs"),
    ("GET", "/replies/0/chunks/0"),
    ("PUT", "/messages/1/chunks/0"),
    ("POST", "/messages/1/finish"),
    ("GET", "/replies/1/chunks/0"),
    ("POST", "/receipt"),
]
LATER = {
    "overlap": COMMON,
    "measure": [
        ("GET", "/replies/2/chunks/0"),
        ("PUT", "/messages/2/chunks/0"),
        ("POST", "/messages/2/finish"),
        ("GET", "/replies/3/chunks/0"),
    ],
    "align": [("PUT", "/messages/2/chunks/0"), ("POST", "/messages/2/finish")],
}
POINTS = [
    (kind, *point, when)
    for kind, points in LATER.items()
    for point in points
    for when in (("before", "after") if kind == "overlap" else ("after",))
]


@pytest.mark.parametrize("side", ["bank", "shop"])
@pytest.mark.parametrize("point", POINTS, ids=" ".join)
def test_a_node_killed_at_any_stage_takes_the_job_up_again(world, point, side):
    pair, (kind, method, where, when) = world.pair, point
    before = spent(pair), len(world.noise.matches), len(world.noise.summed)
    life = kill_at(world, side, method, where, when)
    job = pair.bank.service.submit(world.query(kind), principal="ana")
    assert life.died.wait(30), pair.bank.service.job(job.id)
    pair.wire.heal()
    world.again(side)
    assert_right_and_once(world, kind, settle(world, job.id), before)


def is_over(pair: Any, job: str) -> bool:
    try:
        return bool(pair.bank.service.job(job).over)
    except Killed:
        return False


@pytest.mark.parametrize("kind", ["overlap", "measure"])
@pytest.mark.parametrize("side", ["bank", "shop"])
def test_a_node_killed_between_any_two_things_it_keeps_takes_the_job_up_again(world, kind, side):
    """The whole of a job, one more kept thing a life: it dies again and again, and gets through."""
    pair = world.pair
    before = spent(pair), len(world.noise.matches), len(world.noise.summed)
    world.lives[side].seals, world.lives[side].dies_at_seal = 0, 2
    job = pair.bank.service.submit(world.query(kind), principal="ana")
    for _ in range(60):
        life = world.lives[side]
        while not life.died.wait(0.02) and not is_over(pair, job.id):
            pass
        if not life.over:
            break
        world.again(side)
        world.lives[side].dies_at_seal = world.lives[side].seals + 3
    world.lives[side].dies_at_seal = 0
    assert_right_and_once(world, kind, settle(world, job.id), before, lost=True)


def test_both_nodes_die_and_come_back(world):
    pair = world.pair
    before = spent(pair), len(world.noise.matches), len(world.noise.summed)
    life = kill_at(world, "bank", "POST", "/messages/1/finish", "after")
    job = pair.bank.service.submit(world.query(), principal="ana")
    assert life.died.wait(30)
    world.lives["shop"].end()
    pair.wire.heal()
    world.again("bank")
    time.sleep(0.1)
    assert pair.bank.service.job(job.id).state == "started"
    world.again("shop")
    assert_right_and_once(world, "overlap", settle(world, job.id), before)


def test_a_partner_that_is_away_is_waited_for_and_the_job_says_so(world):
    pair = world.pair
    before = spent(pair), len(world.noise.matches), len(world.noise.summed)
    seen: list[str] = []
    life = kill_at(world, "shop", "PUT", "/messages/1/chunks/0", "before")
    job = pair.bank.service.submit(world.query(), principal="ana")
    assert life.died.wait(30)
    deadline = time.monotonic() + 20
    while "partner_away" not in seen and time.monotonic() < deadline:
        found = pair.bank.service.job(job.id)
        assert found.state == "started"
        seen.append(found.stage)
    assert seen[-1] == "partner_away"
    pair.wire.heal()
    world.again("shop")
    assert_right_and_once(world, "overlap", settle(world, job.id), before)


def test_every_request_may_come_twice(world):
    pair = world.pair
    before = spent(pair), len(world.noise.matches), len(world.noise.summed)
    repeated: set[str] = set()

    def twice(method: str, path: str, body: bytes) -> bytes:
        if f"{method} {path}" not in repeated:
            repeated.add(f"{method} {path}")
            line = pair.bank.collaborations.connection(pair.collaboration)
            line.request(method, path, body=body, content_type="application/json")
        return body

    pair.wire.tamper = twice
    job = pair.bank.service.submit(world.query("measure"), principal="ana")
    ended = settle(world, job.id)
    pair.wire.heal()
    assert {path.rsplit("/", 1)[-1] for path in repeated} >= {"jobs", "finish", "receipt", "0"}
    assert_right_and_once(world, "measure", ended, before)


def stopped_after_points(world: Any, kind: str = "overlap") -> Any:
    """A job whose analyst dies after its points came, and the contributor after it."""
    pair = world.pair
    life = kill_at(world, "bank", "POST", "/messages/1/finish", "after")
    job = pair.bank.service.submit(world.query(kind), principal="ana")
    assert life.died.wait(30)
    pair.wire.heal()
    world.lives["shop"].end()
    world.again("shop")
    return job


def test_another_message_for_a_step_is_a_breach_also_after_a_restart(world):
    before = spent(world.pair)
    job = stopped_after_points(world)
    desk = world.pair.shop.service.contributor
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            desk.chunk("bank", job.id, 1, 0, bytes(64))
        except PeerUnreachable:
            time.sleep(0.01)  # it is still working through what came before
        except PeerViolation:
            break
    assert world.pair.shop.service.job(job.id).state == "failed"
    assert spent(world.pair) == before
    assert left_of(world.pair.shop, job.id) == []
    world.again("bank")
    ended = settle(world, job.id)
    assert ended.state == "failed" and left_of(world.pair.bank, job.id) == []


def test_who_opts_out_while_both_nodes_are_down_is_not_in_the_result(world):
    pair = world.pair
    job = stopped_after_points(world, "align")
    kind, canonical = pair.identifiers(111)[0]
    pair.shop.ledger.withdraw([(kind, canonical)], partner="bank")
    head = pair.shop.ledger.head().size
    world.again("bank")
    ended = settle(world, job.id)
    assert ended.state == "succeeded", ended.error
    assert ended.result["value"] == 199
    (use,) = [use for _, use in pair.shop.ledger.receipts(limit=10_000) if use.job == ended.id]
    assert use.evidence.log_size >= head
    proof, shown = pair.shop.ledger.absence_proof(use.id, kind, canonical)
    verify_absence(proof, shown.set_root, pair.shop.ledger.member_leaf(use.id, kind, canonical))
    pair.shop.ledger.record([grant(pair.identifiers(111), "overlap", partner="bank")])


def test_an_analyst_that_never_comes_back_costs_nothing(world):
    pair = world.pair
    before = spent(pair)
    job = stopped_after_points(world)
    pair.shop.clock.ahead = timedelta(minutes=5)
    pair.shop.service.sweep()
    pair.shop.clock.ahead = timedelta()
    ended = pair.shop.service.job(job.id)
    assert (ended.state, ended.error.code) == ("timed_out", "timed_out")
    assert spent(pair) == before and left_of(pair.shop, job.id) == []
    world.again("bank")
    ours = settle(world, job.id)
    assert (ours.state, ours.error.code) == ("timed_out", "peer_timed_out")
    assert left_of(pair.bank, job.id) == []


def test_what_is_kept_is_sealed_and_for_the_owner_alone(world):
    pair = world.pair
    job = stopped_after_points(world)
    _, canonical = pair.identifiers(100)[0]
    for node in (pair.bank, pair.shop):
        files = [p for p in (node.directory / "artefacts" / "journal" / job.id).rglob("*") if p.is_file()]
        assert {"seed.sealed", "input.sealed"} <= {p.name for p in files}
        for path in files:
            assert path.stat().st_mode & 0o777 == 0o600
            assert canonical not in path.read_bytes()
    pair.shop.service.cancel(job.id)
    world.again("bank")
    assert settle(world, job.id).state == "failed"


def test_a_decision_outlives_the_node_it_was_made_at(world):
    """The node dies between the decision and what follows from it; then while everybody waits."""
    pair = world.pair
    world.settings = {"approval_poll_seconds": 0.0}
    for side in ("bank", "shop"):
        world.lives[side].end()
        world.again(side)
    pair.agree_anew(approval="person", epsilon_per_month=10_000.0)
    for decision, state in (("approved", "succeeded"), ("rejected", "rejected")):
        job = pair.bank.service.submit(world.query("align"), principal="ana")
        deadline = time.monotonic() + 20
        while pair.bank.service.job(job.id).state != "awaiting_approval" and time.monotonic() < deadline:
            time.sleep(0.01)
        row = ApprovalRow(job.id, decision, "stella", "for the record", "2026-01-01T00:00:00+00:00")
        Store(pair.shop.engine).approvals.add(row)
        for side in ("bank", "shop"):
            world.lives[side].end()
            world.again(side)
        assert pair.bank.service.job(job.id).state == "awaiting_approval"
        pair.bank.service.sweep()
        ended = settle(world, job.id)
        assert ended.state == state, ended.error
        assert pair.shop.service.job(job.id).state == state
