"""Reading partners' feeds by threads: what breaks is taken up again, what is slow holds nobody up."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import sqlalchemy as sa

from comity.feed_readers import FeedReaders
from comity.identity import Identity
from comity.system import system_random, utc_now
from consent.event_stream import render_event
from consent.events import grant
from consent.feed import ACKS_PATH, Feed
from consent.ledger import Ledger
from consent.peers import PeerResponse
from consent.sql import metadata
from privacy.errors import PeerUnreachable, PeerViolation
from privacy.keys import KeyRing
from privacy.signing import SigningKey

# These share processes that one module starts.
ANN = [("email", b"ann@example.org")]
TERMS = {"purposes": ["overlap.reach"], "minimum_input": 10}


class Key:
    def pair_key(self, partner: str) -> bytes | None:
        return b"\x07" * 32

    def pair_keys(self, partner: str) -> list[bytes]:
        found = self.pair_key(partner)
        return [] if found is None else [found]


class Line:
    """A `PeerConnection` straight into the partner's feed, with faults to order."""

    partner = "shop"

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.down = False
        self.no_streams = False
        self.tried: list[float] = []
        self.polled = 0
        self.broken = threading.Event()

    def _ask(self, path: str) -> Any:
        if self.down:
            self.tried.append(time.monotonic())
            raise PeerUnreachable("down")
        asked = parse_qs(urlsplit(path).query)
        return self.feed.outgoing.open("bank", int(asked["after"][0]), asked["nonce"][0])

    @contextmanager
    def stream(self, path: str, *, accept: str, idle: float = 10.0) -> Iterator[Iterator[bytes]]:
        delivery = self._ask(path)
        if self.no_streams:
            raise PeerViolation("no stream", code="not_a_stream")

        def told() -> Iterator[bytes]:
            while not self.down:
                yield render_event(self.feed.outgoing.message(delivery)[0])
                if self.broken.wait(0.05):
                    self.broken.clear()
                    raise PeerUnreachable("broken")

        try:
            yield told()
        finally:
            self.feed.outgoing.close(delivery)

    def request(self, method: str, path: str, *, body: bytes = b"", **_: Any) -> PeerResponse:
        if path == ACKS_PATH:
            if self.down:
                raise PeerUnreachable("down")
            self.feed.outgoing.acknowledge("bank", body)
            return PeerResponse(204, {}, b"")
        self.polled += 1
        return PeerResponse(200, {}, self.feed.outgoing.message(self._ask(path))[0])


class Two:
    """A shop that tells, a bank whose readers listen."""

    def __init__(self, folder: Path) -> None:
        self.engines = []
        ledgers = []
        keys = [SigningKey.generate(), SigningKey.generate()]
        for name, key in zip(("shop", "bank"), keys, strict=True):
            (folder / name).mkdir()
            engine = sa.create_engine(f"sqlite:///{folder / name}/comity.db")
            metadata.create_all(engine)
            self.engines.append(engine)
            ledgers.append(
                Ledger.open(
                    engine, keyring=KeyRing.create(folder / name / "ring"), signing_key=key,
                    origin=f"{name}.example/log", directory=folder / name / "log", pair_keys=Key(),
                )
            )  # fmt: skip
        self.shop, self.bank = ledgers
        self.shop.join_partner("bank", self.bank.vkey)
        self.bank.join_partner("shop", self.shop.vkey, timedelta(seconds=1))
        self.bank.record([grant(ANN, "overlap", partner="shop")])
        self.told = Feed(self.shop, signing_key=keys[0])
        self.heard = Feed(self.bank, signing_key=keys[1])
        self.line = Line(self.told)
        self.partners = ["shop"]
        self.readers = FeedReaders(
            self.heard, lambda: self.partners, lambda _: self.line, os.urandom, 0.05
        )  # fmt: skip

    def allowed(self) -> bool:
        return self.bank.check(ANN[0][1], "email", "overlap.reach", "shop").allowed


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    made = Two(tmp_path)
    made.readers.start()
    yield made
    made.readers.stop()
    for engine in made.engines:
        engine.dispose()


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if holds():
            return True
        time.sleep(0.02)
    return False


def test_an_opt_out_is_heard_enforced_and_acknowledged_by_itself(two: Two) -> None:
    assert within(20, two.allowed)
    two.shop.withdraw(ANN)
    assert within(20, lambda: not two.allowed())
    assert within(20, lambda: two.told.status("bank").queued == 0)
    assert two.told.status("bank").connected and two.readers.errors() == {"shop": ""}


def test_a_broken_connection_is_made_again_and_nothing_is_missed(two: Two) -> None:
    for i in range(4):
        two.shop.withdraw([("email", b"%d" % i)])
        two.line.broken.set()
    assert within(20, lambda: two.told.status("bank").queued == 0)
    assert two.bank.partner("shop").heard_seq == 4


def test_while_a_partner_is_down_it_is_tried_with_growing_pauses_and_denied(two: Two) -> None:
    assert within(20, two.allowed)
    two.line.down = True
    two.shop.withdraw([("email", b"meanwhile")])
    assert within(20, lambda: not two.allowed())
    assert two.heard.status("shop").lease_expired and two.readers.errors() == {"shop": "peer_unreachable"}
    assert within(20, lambda: len(two.line.tried) >= 5)
    pauses = [b - a for a, b in zip(two.line.tried, two.line.tried[1:], strict=False)]
    assert pauses[3] > pauses[0] and pauses[3] > 0.7
    two.line.down = False
    assert within(20, two.allowed) and within(20, lambda: two.told.status("bank").queued == 0)


def test_where_streams_are_held_back_the_feed_is_polled(two: Two) -> None:
    two.line.no_streams = True
    two.line.broken.set()
    two.shop.withdraw(ANN)
    assert within(20, lambda: two.told.status("bank").queued == 0)
    assert two.line.polled > 0


def test_an_enforcer_that_fails_is_tried_again_until_it_works(two: Two) -> None:
    tries: list[int] = []

    def enforcer(_: object) -> int:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("busy")
        return 1

    two.heard.enforcers.append(enforcer)
    two.shop.withdraw(ANN)
    assert within(20, lambda: two.told.status("bank").queued == 0)
    assert len(tries) == 3 and not two.allowed()


def test_a_partner_no_longer_named_is_not_read_any_more(two: Two) -> None:
    assert within(20, lambda: two.told.status("bank").connected)
    two.partners.clear()
    assert within(20, lambda: not two.told.status("bank").connected)
    two.partners.append("shop")
    assert within(20, lambda: two.told.status("bank").connected)


def test_stopping_takes_no_longer_than_a_message(two: Two) -> None:
    assert within(20, two.allowed)
    began = time.monotonic()
    two.readers.stop()
    assert time.monotonic() - began < 5
    assert not any(thread.name.startswith("feed") for thread in threading.enumerate())


# against a real node


@pytest.fixture(scope="module")
def agreed(serve_module: Any) -> Iterator[Any]:
    """A running bank that has agreed with a shop whose node does not run, and the shop's key.

    Some of its readers never read: it must come to an orderly end all the same.
    """
    bank, shop = serve_module("bank"), serve_module("shop")
    with bank.client as at_bank, shop.client as at_shop:
        key = at_shop.get("/v1/node").json()["public_key"]
        body = {"partner": "shop", "url": shop.url, "key": key, "terms": TERMS, "deliver": True}
        invitation = at_bank.post("/v1/collaborations", json=body).json()["invitation"]["id"]
        assert at_shop.post("/v1/collaborations:accept", json={"invitation": invitation}).status_code == 200
    assert shop.stop() == 0
    identity = Identity("shop", SigningKey.load(shop.directory / "keys/identity.key"))
    stalled = [ask(bank, identity) for _ in range(12)]
    yield bank, identity
    began = time.monotonic()
    assert bank.stop() == 0
    assert time.monotonic() - began < 9
    for line in stalled:
        line.close()


def ask(bank: Any, identity: Identity, stalled: bool = True) -> socket.socket:
    """A signed request for the event stream over a bare socket, whose answer nobody has to read."""
    path = f"/v1/feed?after=0&nonce={os.urandom(16).hex()}"
    signed = identity.sign_request(
        "GET", bank.url + path, b"", content_type="application/octet-stream", clock=utc_now,
        random=system_random,
    )  # fmt: skip
    where = urlsplit(bank.url)
    line = socket.socket()
    if stalled:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect((where.hostname, where.port))
    headers = "".join(f"{name}: {value}\r\n" for name, value in signed.headers.items())
    line.sendall(
        f"GET {path} HTTP/1.1\r\nhost: {where.netloc}\r\naccept: text/event-stream\r\n{headers}\r\n".encode()
    )
    return line


def test_readers_that_never_read_hold_up_nobody(agreed: Any) -> None:
    bank, identity = agreed
    people = [{"email": f"crowd{i}@example.org", "phone": f"+86138{i:08d}"} for i in range(2_000)]
    with bank.client as at_bank:
        assert at_bank.post("/v1/optouts", json={"people": people}).status_code == 201
        for _ in range(5):
            began = time.monotonic()
            assert at_bank.post("/v1/optouts", json={"people": people[:1]}).status_code == 201
            assert time.monotonic() - began < 5
        reading = ask(bank, identity, stalled=False)
        reading.settimeout(20)
        received = b""
        while received.count(b"\ndata: ") < 9:
            received += reading.recv(1 << 16)
        assert b"200 OK" in received and b"text/event-stream" in received
        assert at_bank.get("/healthz").status_code == 200
    reading.close()


def test_withdrawals_of_another_process_are_told_on_an_open_stream(agreed: Any, run: Any) -> None:
    bank, identity = agreed
    line = ask(bank, identity, stalled=False)
    line.settimeout(20)
    received = b""
    while b'"more":false' not in received:
        received += line.recv(1 << 16)
    received = b""
    done = run("consent", "withdraw", "--dir", bank.directory, "--email", "other@example.org")
    assert done.returncode == 0, done.stderr
    began = time.monotonic()
    while b'"leaf"' not in received:
        received += line.recv(1 << 16)
    assert time.monotonic() - began < 5
    line.close()


def test_a_stream_is_for_partners_only(agreed: Any) -> None:
    bank, _ = agreed
    path = f"{bank.url}/v1/feed?after=0&nonce=0123456789abcdef"
    for headers in ({}, {"authorization": f"Bearer {bank.operator}"}):
        answer = httpx.get(path, headers=headers, trust_env=False)
        assert answer.status_code == 401
    stranger = Identity("shop", SigningKey.generate())
    with ask(bank, stranger, stalled=False) as line:
        line.settimeout(20)
        assert b" 401 " in line.recv(4096)
