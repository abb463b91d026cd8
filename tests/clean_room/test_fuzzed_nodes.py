"""Two nodes with everything that travels between them spoiled in turn, whatever the kind of question.

A good run is recorded for each kind; in later runs one of its exchanges is cut, lengthened, emptied, altered,
replaced by that of another job, or sent twice. The job must end on both sides, what was set aside of the
budget must be spent once or given back, nothing may be told of anybody, and the next question is answered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

import clean_room.storage
from privacy.errors import Misuse

KINDS: dict[str, dict[str, Any]] = {
    "overlap": {},
    "measure": {},
    "align": {},
    "several keys": {"fallback_keys": ("phone",)},
    "estimate": {"kind": "estimate", "sample": 0.5},
}
OVER = ("succeeded", "failed", "rejected", "cancelled", "timed_out")
LEAKS = ("person.", "@example", "86139", "139000", "spend", "91357", "secret", "email=", "\\x")


def flipped(body: bytes) -> bytes:
    at = len(body) * 2 // 3
    return body[:at] + bytes([body[at] ^ 0x20]) + body[at + 1 :]


SPOILS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "cut": lambda body, _: body[:-1],
    "half": lambda body, _: body[: len(body) // 2],
    "longer": lambda body, _: body + b"\0",
    "empty": lambda _body, _: b"",
    "flipped": lambda body, _: flipped(body),
    "zeros": lambda body, _: bytes(len(body)),
    "of another job": lambda _, other: other,
    "deep": lambda _body, _: b"[" * 100_000,
    "not a number": lambda body, _: body.replace(b":1", b":NaN").replace(b":0", b":1e999"),
}


@dataclass
class Recorded:
    """Bodies that went (`asked`) and came (`told`) in one run, where there were any."""

    asked: list[bytes] = field(default_factory=list)
    told: list[bytes] = field(default_factory=list)


def forget(pair: Any) -> None:
    """No question is a repeat of an earlier one."""
    for node in (pair.bank, pair.shop):
        with node.engine.begin() as connection:
            connection.execute(clean_room.storage.questions.delete())


def spent(pair: Any) -> tuple[float, float]:
    """ε set aside and ε spent at the contributor."""
    budgets = pair.shop.service.budgets()
    return sum(b.reserved.epsilon for b in budgets), sum(b.committed.epsilon for b in budgets)


def run(pair: Any, kind: str, spoil: Any = None, side: str = "asked", at: int = -1) -> tuple[Any, Recorded]:
    """Ask a question, and spoil the request, or the piece of a reply, number `at`."""
    forget(pair)
    seen = Recorded()

    def watch(which: str) -> Callable[[str, str, bytes], bytes]:
        bodies: list[bytes] = getattr(seen, which)

        def hook(method: str, path: str, body: bytes) -> bytes:
            if not body or "/peer/jobs" not in path or (which == "told" and "/replies/" not in path):
                return body
            bodies.append(body)
            return spoil(body) if which == side and len(bodies) - 1 == at else body

        return hook

    pair.wire.tamper, pair.wire.tamper_reply = watch("asked"), watch("told")
    try:
        job = pair.bank.run(question(pair, kind))
    finally:
        pair.wire.heal()
    return job, seen


def question(pair: Any, kind: str) -> Any:
    asked = pair.query(kind if kind in ("measure", "align") else "overlap")
    return replace(asked, **KINDS[kind])


@pytest.fixture(scope="module")
def pair(make_standing: Any) -> Any:
    types = ("overlap", "measure", "align", "estimate")
    return make_standing(terms={"epsilon_per_month": 10_000.0, "query_types": types, "minimum_input": 20})


@pytest.fixture(scope="module")
def recorded(pair: Any) -> dict[str, tuple[Recorded, Recorded]]:
    """Two good runs of each kind."""
    found = {}
    for kind in KINDS:
        runs = [run(pair, kind) for _ in range(2)]
        assert [job.state for job, _ in runs] == ["succeeded"] * 2, [job.error for job, _ in runs]
        found[kind] = (runs[0][1], runs[1][1])
    return found


def check(pair: Any, job: Any, before: tuple[float, float], spoiled: str) -> None:
    assert job.state in OVER, spoiled
    told = [job.error]
    with contextlib.suppress(Misuse):  # it may never have heard of the job
        theirs = pair.shop.wait(job.id)
        told.append(theirs.error)
        assert theirs.state == "succeeded" or job.state != "succeeded", spoiled
    shown = " ".join(f"{e!r} {e}" for e in told if e is not None).lower()
    assert not [leak for leak in LEAKS if leak in shown], f"{spoiled}: {shown}"
    reserved, committed = spent(pair)
    assert reserved == before[0] == 0, spoiled
    cost = committed - before[1]
    assert cost in (0.0, 1.0) or pytest.approx(1.0) == cost, spoiled
    if job.state == "succeeded":
        assert job.result is not None
    else:
        assert job.result is None and job.receipt_id is None, spoiled
    for node in (pair.bank, pair.shop):
        assert not list((node.directory / "artefacts").glob(f"*{job.id}*")), spoiled


@pytest.mark.parametrize("side", ["asked", "told"])
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_spoiled_the_job_ends_cleanly_and_the_next_one_works(
    pair: Any, recorded: Any, kind: str, side: str
) -> None:
    good, other = recorded[kind]
    bodies, others = getattr(good, side), getattr(other, side)
    names, failed, turns = list(SPOILS), 0, 2 if kind == "overlap" else 1
    places = range(0 if kind == "overlap" else len(side) % 2, len(bodies), 1 if kind == "overlap" else 2)
    for at in places:
        for turn in range(turns):  # ways of spoiling, one after the other, over the places
            name = names[(at * turns + turn + list(KINDS).index(kind)) % len(names)]
            before = spent(pair)
            job, _ = run(
                pair, kind, lambda b, name=name, at=at: SPOILS[name](b, others[at]), side=side, at=at
            )
            check(pair, job, before, f"{kind}, {side} {at}, {name}")
            failed += job.state != "succeeded"
    assert failed >= len(places) * turns // 2
    job, _ = run(pair, kind)
    assert job.state == "succeeded", job.error


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_sent_twice_is_taken_once(pair: Any, kind: str) -> None:
    """Every request is made twice over; the second answer is as good as the first."""
    forget(pair)
    before, uses = spent(pair), len(pair.shop.ledger.receipts(limit=10_000))
    sent: list[tuple[str, str]] = []
    answers: list[int] = []

    def twice(method: str, path: str, body: bytes) -> bytes:
        if method != "GET" and "/peer/jobs" in path:
            sent.append((method, path))
            kind_of = "application/json" if body[:1] in (b"{", b"") else "application/octet-stream"
            headers = {"x-partner": "bank", "content-type": kind_of}
            answers.append(pair.shop.client.request(method, path, content=body, headers=headers).status_code)
        return body

    pair.wire.tamper = twice
    try:
        job = pair.bank.run(question(pair, kind))
    finally:
        pair.wire.heal()
    assert job.state == "succeeded", job.error
    assert len(sent) > 3
    assert max(answers) < 300
    assert spent(pair)[0] == 0
    assert spent(pair)[1] - before[1] == pytest.approx(0.0 if kind == "align" else 1.0)
    keys = 2 if kind == "several keys" else 1  # the consent of each is checked by itself
    assert len(pair.shop.ledger.receipts(limit=10_000)) == uses + keys
