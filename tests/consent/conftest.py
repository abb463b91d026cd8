"""Ledgers on real databases, a clock that can be moved, partners joined in memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from consent.feed import Delivery, Feed, Hearing
from consent.lease import Leases
from consent.ledger import Ledger
from consent.sql import metadata
from privacy.errors import PeerViolation
from privacy.keys import KeyRing
from privacy.signing import SigningKey

VECTORS = Path(__file__).parents[1] / "vectors"


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def steady(self) -> float:
        return self.now.timestamp()

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


class PairKey:
    def __init__(self, key: bytes | None = b"\x07" * 32) -> None:
        self.key = key
        self.retired: list[bytes] = []

    def pair_key(self, partner: str) -> bytes | None:
        return self.key

    def pair_keys(self, partner: str) -> list[bytes]:
        return [] if self.key is None else [self.key, *self.retired]


@dataclass
class Node:
    """One partner's ledger and everything needed to open it again."""

    name: str
    engine: sa.Engine
    folder: Path
    clock: Clock
    ring: KeyRing = field(default_factory=lambda: KeyRing.from_root(b"\x01" * 32))
    key: SigningKey = field(default_factory=SigningKey.generate)
    pair: PairKey = field(default_factory=PairKey)

    def open(self, **options: object) -> Ledger:
        ledger = Ledger.open(
            self.engine,
            keyring=self.ring,
            signing_key=self.key,
            origin=f"{self.name}.example/consent",
            directory=self.folder / "log",
            clock=self.clock,
            pair_keys=self.pair,
            **options,  # type: ignore[arg-type]
        )
        ledger.leases = Leases(getattr(self.clock, "steady", time.monotonic))
        return ledger


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node(engine: sa.Engine, tmp_path: Path, clock: Clock) -> Node:
    """A node on SQLite and on PostgreSQL."""
    metadata.create_all(engine)
    return Node("shop", engine, tmp_path, clock)


@pytest.fixture
def ledger(node: Node) -> Ledger:
    return node.open()


@pytest.fixture
def make_node(tmp_path: Path, clock: Clock) -> Iterator[Callable[[str], Node]]:
    """Nodes on SQLite, for what does not depend on the database."""
    made = []

    def make(name: str) -> Node:
        folder = tmp_path / name
        folder.mkdir()
        engine = sa.create_engine(f"sqlite:///{folder}/comity.db")
        metadata.create_all(engine)
        made.append(engine)
        return Node(name, engine, folder, clock, KeyRing.from_root(name.encode().ljust(32, b".")))

    yield make
    for engine in made:
        engine.dispose()


class Wire:
    """A reader's line to a sender's feed, in memory, with faults to order.

    `before` sees each message on its way and may replace it or raise; `after` sees each acknowledgement.
    """

    def __init__(self, sender: str, sender_feed: Feed, reader: str, reader_feed: Feed) -> None:
        self.sender, self.sender_feed = sender, sender_feed
        self.reader, self.reader_feed = reader, reader_feed
        self.before: Callable[[bytes], bytes] = lambda body: body
        self.after: Callable[[bytes], bytes] = lambda body: body
        self.bodies: list[bytes] = []
        self.acks: list[bytes] = []

    def connect(self) -> tuple[Hearing, Delivery]:
        hearing = self.reader_feed.incoming.open(self.sender)
        return hearing, self.sender_feed.outgoing.open(self.reader, hearing.after, hearing.nonce)

    def step(self, hearing: Hearing, delivery: Delivery) -> bool:
        """One message; whether more waits."""
        body, _ = self.sender_feed.outgoing.message(delivery)
        self.bodies.append(body)
        return self.reader_feed.incoming.apply(hearing, self.before(body))

    def hear(self) -> None:
        """One connection, until the reader is up to date."""
        hearing, delivery = self.connect()
        try:
            while self.step(hearing, delivery):
                pass
        finally:
            self.sender_feed.outgoing.close(delivery)

    def acknowledge(self) -> int:
        """Post what is due; how many rows that settled at the sender."""
        due = self.reader_feed.incoming.acknowledgement(self.sender)
        if due is None:
            return 0
        self.acks.append(due[1])
        try:
            settled = self.sender_feed.outgoing.acknowledge(self.reader, self.after(due[1]))
        except PeerViolation:
            self.reader_feed.incoming.unacknowledged(self.sender)
            raise
        self.reader_feed.incoming.acknowledged(self.sender, due[0])
        return settled

    def read(self) -> int:
        """Hear all there is and acknowledge it; how many rows that settled."""
        self.hear()
        return self.acknowledge()


@dataclass
class Pair:
    """A shop and a bank who joined each other."""

    shop: Ledger
    bank: Ledger
    shop_feed: Feed
    bank_feed: Feed
    wire: Wire
    shop_node: Node
    bank_node: Node


@pytest.fixture
def pair(make_node: Callable[[str], Node]) -> Pair:
    shop_node, bank_node = make_node("shop"), make_node("bank")
    shop, bank = shop_node.open(), bank_node.open()
    shop.join_partner("bank", bank.vkey)
    bank.join_partner("shop", shop.vkey)
    shop_feed, bank_feed = Feed(shop, signing_key=shop_node.key), Feed(bank, signing_key=bank_node.key)
    wire = Wire("shop", shop_feed, "bank", bank_feed)
    return Pair(shop, bank, shop_feed, bank_feed, wire, shop_node, bank_node)


@pytest.fixture
def joined() -> Callable[[Ledger, Node, Ledger, Node], Wire]:
    """Make two ledgers partners; returns the line on which the second hears the first."""

    def join(sender: Ledger, sender_node: Node, receiver: Ledger, receiver_node: Node) -> Wire:
        sender.join_partner(receiver_node.name, receiver.vkey)
        receiver.join_partner(sender_node.name, sender.vkey)
        told = Feed(sender, signing_key=sender_node.key)
        heard = Feed(receiver, signing_key=receiver_node.key)
        return Wire(sender_node.name, told, receiver_node.name, heard)

    return join


def vector(name: str) -> dict[str, object]:
    return json.loads((VECTORS / name).read_text("utf-8"))  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def vectors() -> Callable[[str], dict[str, object]]:
    return vector
