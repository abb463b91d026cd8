"""Two hundred clients at one node that meanwhile answers a partner and asks it: real HTTP, real processes.

What each may read is asked once while it is quiet; under load the answers must be those, and none a 500.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from comity.cli import app
from comity.identity import Identity
from comity.peers import HttpPeer, Peers
from comity.system import system_random, utc_now
from privacy.errors import ComityError
from privacy.signing import PublicKey, SigningKey

CLIENTS, ROUNDS = 200, 2
PEOPLE = 120
DATASETS = """[datasets.people]
source = "people.csv"
keys = { email = "email" }
[datasets.people.columns.spend]
lower = 0
upper = 100
"""
TERMS = {
    "purposes": ["overlap.reach", "overlap.measure"], "minimum_input": 10, "minimum_cell": 2,
    "epsilon_per_query": 1.0, "epsilon_per_month": 500.0,
}  # fmt: skip
CALLERS = ("analyst", "data_steward", "compliance_officer", "budgets only", "revoked", "nobody")


@dataclass
class Three:
    """bank, agreed with both shop and press, which know nothing of each other."""

    bank: Any
    shop: Any
    press: Any
    with_shop: str
    with_press: str
    keys: dict[str, str]

    def answered(self, agreement: str, kind: str, at: Any) -> dict[str, Any]:
        """A question from the bank's side or to it, and its outcome."""
        with at.client as client:
            asked = client.post("/v1/overlap-queries", json=question(agreement, kind))
            assert asked.status_code in (201, 202), asked.text
            return finished(client, asked.json()["id"])


def question(agreement: str, kind: str, **more: Any) -> dict[str, Any]:
    purpose = "overlap.reach" if kind == "overlap" else "overlap.measure"
    asked = {
        "kind": kind, "collaboration": agreement, "dataset": "people", "partner_dataset": "people",
        "purpose": purpose, **more,
    }  # fmt: skip
    return asked | ({"column": "spend"} if kind == "measure" else {})


def finished(client: httpx.Client, job: str) -> dict[str, Any]:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        found = dict(client.get(f"/v1/overlap-queries/{job}").json())
        if found["state"] in ("succeeded", "failed", "rejected", "timed_out", "cancelled"):
            return found
        time.sleep(0.05)
    raise AssertionError("the job did not end")


def comity(*words: str | Path) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def three(serve_module: Any) -> Three:
    nodes = {name: serve_module(name, datasets=DATASETS) for name in ("bank", "shop", "press")}
    for first, node in zip((0, 40, 60), nodes.values(), strict=True):
        emails = [f"person{i}@example.org" for i in range(first, first + PEOPLE)]
        rows = [f"{email},{i % 100}" for i, email in enumerate(emails)]
        (node.directory / "people.csv").write_text("\n".join(["email,spend", *rows]))
        grants = [{"email": email, "decision": "grant", "purpose": "overlap"} for email in emails]
        with node.client as client:
            answer = client.post("/v1/consents", json={"decisions": grants})
            assert answer.status_code == 201, answer.text
    bank = nodes["bank"]
    agreements = [agreed(bank, nodes[name], name) for name in ("shop", "press")]
    keys = {}
    for name in ("analyst", "data_steward", "compliance_officer"):
        made = comity("access", "create", name, "--role", name, "--dir", bank.directory)
        keys[name] = token(made)
    scoped = comity(
        "access", "create", "b", "--role", "analyst", "--scope", "/v1/budgets", "--dir", bank.directory
    )
    keys["budgets only"] = token(scoped)
    gone = token(comity("access", "create", "gone", "--role", "analyst", "--dir", bank.directory))
    comity("access", "revoke", gone.split("-")[1], "--dir", bank.directory)
    return Three(bank, nodes["shop"], nodes["press"], *agreements, keys | {"revoked": gone, "nobody": ""})


def token(shown: str) -> str:
    found = re.search(r"comity-[0-9a-f]{12}-[A-Za-z0-9_\-]{43}", shown)
    assert found is not None, shown
    return found[0]


def agreed(bank: Any, other: Any, name: str) -> str:
    with bank.client as at_bank, other.client as at_other:
        card = at_other.get("/v1/node").json()
        body = {
            "partner": name, "url": other.url, "key": card["public_key"], "terms": TERMS, "deliver": True,
        }  # fmt: skip
        invited = at_bank.post("/v1/collaborations", json=body)
        assert invited.status_code == 201, invited.text
        invitation = invited.json()["invitation"]["id"]
        accepted = at_other.post("/v1/collaborations:accept", json={"invitation": invitation})
        assert accepted.status_code == 200, accepted.text
        ends = time.monotonic() + 30
        while any(p["lease_expired"] for p in at_bank.get("/v1/optouts/status").json()["partners"]):
            assert time.monotonic() < ends
            time.sleep(0.1)
        return str(accepted.json()["id"])


class _Pin:
    def __init__(self, name: str, url: str, key: PublicKey) -> None:
        self.name, self.url, self.key = name, url, key


@contextmanager
def line(of: Any, name: str, to: Any) -> Iterator[HttpPeer]:
    """What a partner can send: requests signed with its real key."""
    identity = Identity(name, SigningKey.load(of.directory / "keys" / "identity.key"))
    card = httpx.get(f"{to.url}/v1/node", trust_env=False).json()
    peers = Peers(identity=identity, clock=utc_now, random=system_random, max_response_bytes=1 << 20)
    made = peers.connect(_Pin("bank", to.url, PublicKey.from_text(card["public_key"])))
    assert isinstance(made, HttpPeer)
    yield made
    peers.close()


def reads(job: str, receipt: str) -> list[str]:
    """What there is to read at the bank, of others too."""
    return [
        "/v1/overlap-queries", f"/v1/overlap-queries/{job}", "/v1/overlap-queries/" + "0" * 32,
        "/v1/collaborations", "/v1/datasets", "/v1/budgets", f"/v1/joint-receipts/{receipt}",
        "/v1/optouts/status", "/v1/preference-links", "/v1/audit-reports", "/v1/erasures", "/v1/receipts",
        f"/v1/peer/jobs/{job}", "/v1/feed?after=0&nonce=0123456789abcdef&wait=0", "/metrics",
    ]  # fmt: skip


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def test_two_hundred_clients_meet_no_failure_and_read_nothing_they_may_not(three: Three) -> None:
    before = three.answered(three.with_shop, "overlap", three.bank)
    assert before["state"] == "succeeded", before
    paths = reads(before["id"], before["receipt_id"] or "none")
    quiet: dict[tuple[str, str], int] = {}
    with httpx.Client(base_url=three.bank.url, trust_env=False, timeout=30) as client:
        for caller, path in itertools.product(CALLERS, paths):
            quiet[caller, path] = client.get(path, headers=bearer(three.keys[caller])).status_code
    assert {quiet["nobody", path] for path in paths if path != "/metrics"} == {401}
    assert {quiet["revoked", path] for path in paths if path != "/metrics"} == {401}
    assert {p for p in paths if quiet["budgets only", p] < 300} <= {"/v1/budgets", "/metrics"}

    async def one(number: int, client: httpx.AsyncClient, seen: Counter[tuple[str, str, int]]) -> None:
        caller = CALLERS[number % len(CALLERS)]
        for turn in range(ROUNDS):
            path = paths[(number // len(CALLERS) + turn * 4) % len(paths)]
            answer = await client.get(path, headers=bearer(three.keys[caller]))
            seen[caller, path, answer.status_code] += 1
        if number % 40 == 0:  # some ask, too; most of them again what another asked
            asked = question(three.with_press, "overlap" if number % 80 else "measure")
            answer = await client.post(
                "/v1/overlap-queries", json=asked, headers=bearer(three.keys["analyst"])
            )
            seen["analyst", "ask", answer.status_code] += 1
            seen[caller, "job", (await client.get("/v1/overlap-queries")).status_code] += 1

    async def crowd() -> Counter[tuple[str, str, int]]:
        seen: Counter[tuple[str, str, int]] = Counter()
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(
            base_url=three.bank.url, trust_env=False, timeout=90, limits=limits
        ) as client:
            work = asyncio.gather(*(one(n, client, seen) for n in range(CLIENTS)))
            jobs = [
                asyncio.to_thread(three.answered, agreement, kind, node)
                for agreement, kind, node in (
                    (three.with_shop, "measure", three.bank),
                    (three.with_shop, "overlap", three.shop),
                    (three.with_press, "measure", three.press),
                )
            ]
            ended = await asyncio.gather(*jobs)
            await work
        assert [job["state"] for job in ended] == ["succeeded"] * 3, ended
        return seen

    seen = asyncio.run(crowd())
    assert sum(seen.values()) >= CLIENTS * ROUNDS
    assert not [what for what in seen if what[2] >= 500]
    assert {status for caller, path, status in seen if path == "ask"} <= {200, 201, 202}
    strange = [w for w in seen if (w[0], w[1]) in quiet and w[2] != quiet[w[0], w[1]]]
    assert not strange
    with three.bank.client as client:
        page = client.get("/metrics").text
        for job in client.get("/v1/overlap-queries", params={"limit": 200}).json()["items"]:
            assert finished(client, job["id"])["state"] == "succeeded"
        assert sum(budget["reserved"] for budget in client.get("/v1/budgets").json()) == 0
    assert re.search(r'comity_event_loop_lag_seconds\{over="process"\} [0-9.e\-]+', page)
    assert not re.search(r'status="5\d\d"', page)
    assert "Traceback" not in three.bank.log


def test_a_partner_cannot_touch_the_job_of_another(three: Three) -> None:
    """It is told the same as of a job that there never was."""
    asked = three.answered(three.with_shop, "measure", three.shop)
    assert asked["state"] == "succeeded", asked
    steps = [
        ("GET", "", b""), ("PUT", "/messages/1/chunks/0", b"x"), ("POST", "/messages/1/finish", b"{}"),
        ("GET", "/replies/1/chunks/0", b""), ("POST", "/receipt", b"{}"),
        ("POST", "/cancel", b'{"code":"x"}'),
    ]  # fmt: skip
    with line(three.press, "press", three.bank) as press:

        def told(job: str, step: tuple[str, str, bytes]) -> str:
            method, path, body = step
            try:
                answer = press.request(
                    method, f"/v1/peer/jobs/{job}{path}", body=body, content_type="application/json"
                )
            except ComityError as error:
                return f"{type(error).__name__} {error.code} {error.detail}"
            return f"{answer.status} {answer.body!r}"

        for step in steps:
            assert told(asked["id"], step) == told("0" * 32, step), step
            assert asked["id"] not in told(asked["id"], step)
            assert "succeeded" not in told(asked["id"], step)
    with line(three.shop, "shop", three.bank) as shop:
        assert shop.request("GET", f"/v1/peer/jobs/{asked['id']}").status == 200
    with three.shop.client as client:
        assert client.get(f"/v1/overlap-queries/{asked['id']}").json()["state"] == "succeeded"
