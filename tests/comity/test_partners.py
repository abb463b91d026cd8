"""Two nodes, two processes, one PostgreSQL and one SQLite: agree, opt out, be obeyed; and what the logs say.

The signed requests between them are real, and so is everything that is tried against them here.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from comity.cli import app
from comity.identity import Identity
from comity.peers import HttpPeer, Peers
from comity.system import system_random, utc_now
from consent.cosignatures import CosignerKey, witness_key
from consent.notes import VerifierKey
from privacy.errors import ComityError, PeerViolation, Refused
from privacy.signing import PublicKey, SigningKey

# These share processes that one module starts, and look at what all of them left there.
EMAIL, PHONE, STAYS = "Optout.Person+x@Example.com", "13912345678", "stays.person@example.com"
TERMS = {"purposes": ["overlap.reach"], "minimum_input": 10}
ASK = "/v1/feed?after=0&nonce=0123456789abcdef&wait=0"


@pytest.fixture(scope="module")
def bank_database(postgres_url: str) -> Iterator[str]:
    maintenance = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    name = f"test_{uuid.uuid4().hex}"
    with maintenance.connect() as connection:
        connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
    yield str(maintenance.url.set(database=name).render_as_string(hide_password=False))
    with maintenance.connect() as connection:
        connection.execute(sa.text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    maintenance.dispose()


@pytest.fixture(scope="module")
def nodes(serve_module: Any, bank_database: str) -> tuple[Any, Any]:
    """bank (PostgreSQL) and shop (SQLite), with an agreement made over the API."""
    bank, shop = serve_module("bank", database_url=bank_database), serve_module("shop")
    with bank.client as at_bank, shop.client as at_shop:
        shop_card = at_shop.get("/v1/node").json()
        body = {
            "partner": "shop", "url": shop.url, "key": shop_card["public_key"], "terms": TERMS,
            "deliver": True,
        }  # fmt: skip
        invited = at_bank.post("/v1/collaborations", json=body)
        assert invited.status_code == 201, invited.text
        invitation = invited.json()["invitation"]["id"]
        accepted = at_shop.post("/v1/collaborations:accept", json={"invitation": invitation})
        assert accepted.status_code == 200, accepted.text
        assert [c["state"] for c in at_bank.get("/v1/collaborations").json()] == ["agreed"]
    return bank, shop


@pytest.fixture
def as_shop(nodes: tuple[Any, Any]) -> Iterator[HttpPeer]:
    """A line to the bank that signs with the shop's real key."""
    bank, shop = nodes
    key = SigningKey.load(shop.directory / "keys" / "identity.key")
    peers = Peers(
        identity=Identity("shop", key), clock=utc_now, random=system_random, max_response_bytes=1 << 20
    )
    card = httpx.get(f"{bank.url}/v1/node", trust_env=False).json()
    line = peers.connect(_Pin("bank", bank.url, PublicKey.from_text(card["public_key"])))
    assert isinstance(line, HttpPeer)
    yield line
    peers.close()


class _Pin:
    def __init__(self, name: str, url: str, key: PublicKey) -> None:
        self.name, self.url, self.key = name, url, key


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if holds():
            return True
        time.sleep(0.1)
    return False


def agrees(client: httpx.Client, *people: dict[str, str]) -> None:
    grants = [{**person, "decision": "grant", "purpose": "overlap.reach"} for person in people]
    answer = client.post("/v1/consents", json={"decisions": grants})
    assert answer.status_code == 201, answer.text


def test_an_opt_out_at_one_node_is_enforced_at_the_other(nodes: tuple[Any, Any]) -> None:
    bank, shop = nodes
    question = {"purpose": "overlap.reach", "partner": "shop", "email": EMAIL}
    with bank.client as at_bank, shop.client as at_shop:
        for client in (at_bank, at_shop):
            agrees(client, {"email": EMAIL, "phone": PHONE}, {"email": STAYS})
        assert at_bank.post("/v1/consents/check", json=question).json()["allowed"] is True
        # Written another way at the other node: it is the same person all the same.
        out = {"people": [{"email": "optout.person+x@EXAMPLE.com", "phone": "+86 139-1234-5678"}]}
        assert at_shop.post("/v1/optouts", json=out).status_code == 201

        def told() -> bool:
            (status,) = at_shop.get("/v1/optouts/status").json()["partners"]
            return bool(status["queued"] == 0 and status["delivered"] == 1)

        assert within(20, told), at_shop.get("/v1/optouts/status").text
        answer = at_bank.post("/v1/consents/check", json=question).json()
        assert (answer["allowed"], answer["reason"]) == (False, "restricted_by_partner")
        stays = at_bank.post("/v1/consents/check", json={**question, "email": STAYS}).json()
        assert stays["allowed"] is True


def test_both_logs_verify_offline_and_over_http(nodes: tuple[Any, Any]) -> None:
    for node in nodes:
        vkey = httpx.get(f"{node.url}/v1/node", trust_env=False).json()["log_vkey"]
        for target in (str(node.directory / "log"), f"{node.url}/log"):
            code, out, err = _comity("log", "verify", target, "--key", vkey, "--json")
            assert code == 0, err
            assert json.loads(out)["outcome"] == "ok"
        assert _comity("log", "verify", "--dir", node.directory)[0] == 0
    wrong = VerifierKey("shop.comity.invalid/log", SigningKey.generate().public.bytes32).to_text()
    code, _, err = _comity("log", "verify", nodes[1].directory / "log", "--key", wrong)
    assert code == 4
    assert "wrong_key" in err


def test_doctor_reaches_the_partner_and_knows_its_key(nodes: tuple[Any, Any]) -> None:
    code, out, _ = _comity("doctor", nodes[0].directory)
    assert code == 0, out
    assert "ok    partner shop: reachable, right key, clocks agree" in out
    assert "ok    database: postgresql" in out


def test_a_strangers_a_replayed_and_a_stale_request_are_refused(
    nodes: tuple[Any, Any], as_shop: HttpPeer
) -> None:
    assert as_shop.request("GET", ASK).status == 200

    def refused(line: HttpPeer) -> str:
        with pytest.raises(ComityError) as caught:
            line.request("GET", ASK)
        assert isinstance(caught.value, Refused)
        return caught.value.code

    assert refused(replace(as_shop, identity=Identity("shop", SigningKey.generate()))) == "signature_invalid"
    assert refused(replace(as_shop, identity=Identity("nobody", SigningKey.generate()))) == "unknown_key"
    late = replace(as_shop, clock=lambda: utc_now() - dt.timedelta(minutes=5))
    assert refused(late) == "clock_skew"
    once = replace(as_shop, random=lambda n: b"\x07" * n)
    assert once.request("GET", ASK).status == 200
    assert refused(once) == "replayed_request"


def test_a_forged_acknowledgement_changes_nothing(nodes: tuple[Any, Any], as_shop: HttpPeer) -> None:
    bank, _ = nodes
    with bank.client as at_bank:
        before = at_bank.get("/log/checkpoint").text.splitlines()[1]
        for body in (b"", b"{", b"[]", b"{}", b"\xff" * 100, b'{"v":1}' * 1000):
            with pytest.raises(ComityError) as caught:
                as_shop.request("POST", "/v1/feed/acks", body=body, content_type="application/json")
            assert isinstance(caught.value, PeerViolation)
        assert at_bank.get("/log/checkpoint").text.splitlines()[1] == before


@pytest.mark.parametrize("turn", [0, 1])
def test_each_partner_witnesses_the_others_log(nodes: tuple[Any, Any], tmp_path: Path, turn: int) -> None:
    mine, other = nodes[turn], nodes[1 - turn]
    with mine.client as at_mine, other.client as at_other:
        card, witness = at_mine.get("/v1/node").json(), at_other.get("/v1/node").json()
        key = witness_key(VerifierKey.from_text(witness["log_vkey"]))
        policy = tmp_path / "witnesses.policy"
        policy.write_text(f"log {card['log_vkey']}\nwitness w {key.to_text()}\nquorum w\n")
        seen_at = f"/witness/{hashlib.sha256(card['log_origin'].encode()).hexdigest()}/checkpoint"

        def witnessed() -> bool:
            newest = at_mine.get("/log/checkpoint").text
            return key.name in newest and at_other.get(seen_at).text == newest

        assert within(30, witnessed), at_mine.get("/log/checkpoint").text
        assert f'comity_witness_size{{witness="{other.directory.name}"}} ' in at_mine.get("/metrics").text
    code, out, err = _comity("log", "verify", f"{mine.url}/log", "--policy", policy, "--json")
    assert code == 0, err
    assert list(json.loads(out)["witnesses"]) == [key.name]
    policy.write_text(policy.read_text().replace(key.to_text(), _stranger().to_text()))
    code, _, err = _comity("log", "verify", f"{mine.url}/log", "--policy", policy)
    assert code == 7 and "unwitnessed" in err
    _, said, _ = _comity("doctor", mine.directory)
    assert f"cosigned by {other.directory.name}" in said
    code, said, _ = _comity("log", "split-views", "--dir", mine.directory)
    assert code == 0 and "No log was caught" in said


def _stranger() -> CosignerKey:
    return CosignerKey("w.example", SigningKey.generate().public.bytes32)


def test_what_waits_for_a_partner_that_is_down_goes_out_when_it_is_back(
    nodes: tuple[Any, Any], serve_module: Any
) -> None:
    bank, shop = nodes
    with bank.client as at_bank:  # by itself: the nodes may be new ones since the tests above
        agrees(at_bank, {"email": STAYS})
    assert bank.stop() == 0
    with shop.client as at_shop:
        assert at_shop.post("/v1/optouts", json={"people": [{"email": STAYS}]}).status_code == 201

        def status() -> dict[str, Any]:
            found: dict[str, Any] = at_shop.get("/v1/optouts/status").json()["partners"][0]
            return found

        assert within(20, lambda: not status()["connected"])
        assert status()["queued"] == 1 and status()["oldest_waiting"] is not None
        # Nor may anybody be used with a partner who may have opt-outs that are not heard.
        question = {"purpose": "overlap.reach", "partner": "bank", "email": "held@example.com"}
        agrees(at_shop, {"email": "held@example.com"})
        asked = lambda: at_shop.post("/v1/consents/check", json=question).json()["reason"]  # noqa: E731
        assert within(20, lambda: asked() == "lease_expired"), asked()
        assert status()["lease_expired"]
        again = serve_module("bank")
        assert within(20, lambda: asked() == "granted"), asked()
        assert within(40, lambda: status()["queued"] == 0), status()
    question = {"purpose": "overlap.reach", "partner": "shop", "email": STAYS}
    with again.client as at_bank:
        asked = lambda: at_bank.post("/v1/consents/check", json=question).json()["reason"]  # noqa: E731
        assert within(20, lambda: asked() == "restricted_by_partner"), asked()


def test_no_log_line_holds_an_identifier_a_key_or_a_hash_of_one(nodes: tuple[Any, Any]) -> None:
    forms = [
        "optout.person", "Optout.Person", "stays.person", "13912345678", "1391234567", "139-1234",
    ]  # fmt: skip
    for text in ("optout.person+x@example.com", STAYS, "+8613912345678"):
        digest = hashlib.sha256(text.encode())
        forms += [digest.hexdigest(), base64.b64encode(digest.digest()).decode()]
    for node in nodes:
        forms.append(node.operator.rpartition("-")[2])
    for node in nodes:
        lines = node.log.splitlines()
        assert sum('"event": "request"' in line for line in lines) > 3
        for line in lines:
            assert isinstance(json.loads(line), dict)
        for form in forms:
            assert form not in node.log


def test_processes_are_gone_and_ports_are_free_afterwards(serve_module: Any) -> None:
    ports = {int(node.url.rpartition(":")[2]) for node in serve_module.running}
    serve_module.stop()
    for node in serve_module.running:
        assert node.process.poll() is not None
        with pytest.raises(ProcessLookupError):
            os.kill(node.process.pid, 0)
    for port in ports:
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))


def _comity(*args: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in args])
    return result.exit_code, result.stdout, result.stderr
