"""Ledgers to be broken, and the list of faults in docs/threat-model.md that these tests are held to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa

from consent.audit.archive import AuditReports
from consent.checkpoint import sign_checkpoint
from consent.cosignatures import Cosigner, witness_key
from consent.erasure import Erasure, Hold
from consent.events import grant, refuse, withdraw
from consent.feed import Feed
from consent.feed_log import feed_key
from consent.gate import ConsentGate
from consent.imports import import_table
from consent.journal import ErasureJournal
from consent.ledger import Ledger
from consent.messages import MESSAGE_CONTEXT, FeedMessage
from consent.notes import NoteSigner
from consent.preference_links import PreferenceLinks
from consent.receipts import UseReceipt
from consent.signals import read_gpc, record_signal
from consent.split_views import SplitViews
from consent.sql import metadata
from consent.state_roots import StateRoots
from consent.subject_receipts import SubjectReceipts
from consent.witness import AddCheckpoint, KnownLogs, Witness
from privacy.errors import ComityError
from privacy.keys import KeyRing
from privacy.signing import SigningKey

Person = list[tuple[str, bytes]]

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

    def pair_keys(self, partner: str) -> list[bytes]:
        found = self.pair_key(partner)
        return [] if found is None else [found]


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


def person(i: int) -> Person:
    """The i-th of the people of a lived-in pair: an address and a telephone, in canonical form."""
    return [("email", b"person.%03d@example.org" % i), ("phone", b"+8613800%06d" % i)]


@dataclass
class Lived:
    """A shop and a bank that have gone through everything the ledger does, and what was said meanwhile."""

    shop: Node
    bank: Node
    people: list[Person]
    said: list[bytes] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def listen(self, sender: Ledger, told: Feed, hearer: Ledger, heard: Feed, names: tuple[str, str]) -> None:
        """One connection of `hearer` to the feed of `sender`, and its acknowledgement."""
        hearing = heard.incoming.open(names[0])
        delivery = told.outgoing.open(names[1], hearing.after, hearing.nonce)
        more = True
        while more:
            body, _ = told.outgoing.message(delivery)
            self.said.append(body)
            more = heard.incoming.apply(hearing, body)
        told.outgoing.close(delivery)
        due = heard.incoming.acknowledgement(names[0])
        if due is not None:
            self.said.append(due[1])
            told.outgoing.acknowledge(names[1], due[1])
            heard.incoming.acknowledged(names[0], due[0])

    def provoke(self, call: Callable[[], object]) -> None:
        """Something that is refused; what the refusal says is kept."""
        with pytest.raises(ComityError) as caught:
            call()
        error = caught.value
        self.errors += [repr(error), str(error), str(error.detail), str(error.advice), str(vars(error))]


@pytest.fixture
def live() -> Callable[[Node, Node], Lived]:
    return _live


def _live(shop_node: Node, bank_node: Node) -> Lived:
    people = [person(i) for i in range(24)]
    lived = Lived(shop_node, bank_node, people)
    clock = shop_node.clock
    assert isinstance(clock, Clock)
    shop, bank = shop_node.open(), bank_node.open()
    shop.join_partner("bank", bank.vkey, timedelta(seconds=5))
    bank.join_partner("shop", shop.vkey, timedelta(seconds=5))
    told = {"shop": Feed(shop, signing_key=shop_node.key), "bank": Feed(bank, signing_key=bank_node.key)}

    def talk() -> None:
        clock.move(seconds=1)
        lived.listen(shop, told["shop"], bank, told["bank"], ("shop", "bank"))
        lived.listen(bank, told["bank"], shop, told["shop"], ("bank", "shop"))

    # decisions of every kind, singly, from a list, by a signal
    for ledger, partner in ((shop, "bank"), (bank, "shop")):
        ledger.record(
            [grant(p, "overlap", partner=partner, expires_at=clock() + timedelta(days=9)) for p in people]
        )
    clock.move(seconds=1)
    shop.record([refuse(people[0], "model"), withdraw(people[1]), withdraw(people[2][:1], "overlap.measure")])
    rows = pa.table(
        {
            "email": [people[4][0][1].decode(), "not an address", people[5][0][1].decode().upper()],
            "phone": ["138 0000 0004", "12", "+86 138-0000-0005"],
            "decision": ["withdraw", "grant", "grant"],
        }
    )
    report = import_table(shop, rows, purpose="model", partner="bank")
    lived.said.append(repr(report).encode())
    record_signal(shop, people[6], read_gpc("1"))
    bank.record([withdraw(people[7], "overlap.reach")])
    talk()
    shop.record([grant(people[1], "overlap.reach", partner="bank")])
    talk()
    # uses, receipts, state
    gated = ConsentGate(shop).filter(
        "email", pa.array([p[0][1] for p in people]), purpose="overlap.reach", partner="bank"
    )
    use = UseReceipt(
        "r1", "overlap", "overlap.reach", "c", "j", None, "bank", gated.evidence, "", "", shop.clock()
    )
    shop.record_use(use, gated.members)
    receipts = SubjectReceipts(shop, shop_node.key)
    (subject,) = receipts.subjects(people[8][:1])
    lived.said.append(repr(receipts.bundle(subject)).encode())
    StateRoots(shop).commit()
    # links, erasure at once and on hold, a report
    links = PreferenceLinks(shop, base_url="https://shop.example")
    link = links.create(people[9], partners=["bank"])
    lived.said.append(repr(link).encode())
    journal = ErasureJournal(shop_node.folder / "erasures.journal", shop_node.ring)
    erasure = Erasure(shop, journal=journal)
    lived.said.append(repr(erasure.erase(people[10])).encode())
    erasure.erase(people[11], hold=Hold("litigation", clock() + timedelta(days=30)))
    talk()
    shop.record([withdraw(people[12])])  # the partner has not heard of this one yet
    StateRoots(shop).commit()
    reports = AuditReports(shop, shop_node.key)
    _, audit = reports.create("pipl")
    lived.said.append(audit.to_json().encode())
    # the bank as a witness, and two heads of the shop's that cannot both be true
    signer = Cosigner(witness_key(bank.key), bank_node.key.sign_raw)
    views = SplitViews(bank)
    witness = Witness(bank.store, signer, KnownLogs(bank.store, bank.key), views, clock=clock)
    assert witness.add_checkpoint(AddCheckpoint(0, (), shop.head().text).to_bytes()).status == 200
    other = sign_checkpoint(shop.head().size, b"\x07" * 32, NoteSigner(shop.key, shop_node.key.sign_raw))
    views.keep(shop.origin, "fork", shop.head().text, other.text)
    lived.provoke(lambda: told["bank"].incoming.apply(*_split(lived, told, shop, bank)))
    # what is refused
    lived.provoke(
        lambda: shop.record([grant(people[1], "overlap.reach", effective_at=clock() - timedelta(days=1))])
    )
    lived.provoke(lambda: shop.record([grant(people[13], "no.such_purpose")]))
    lived.provoke(
        lambda: shop.record([grant(people[13], "overlap", effective_at=clock() + timedelta(days=1))])
    )
    lived.provoke(lambda: import_table(shop, rows, on_error="abort", purpose="model", partner="bank"))
    lived.provoke(lambda: grant([("email", people[13][0][1] * 40)], "overlap"))
    lived.provoke(lambda: shop.record([grant(people[13], "overlap", details={"note": "x" * 70_000})]))
    lived.provoke(lambda: shop.absence_proof("r1", "email", people[8][0][1]))
    lived.provoke(lambda: shop.record([grant(people[10], "overlap")], imported=True))
    shown = [gated, use, withdraw(people[14]), shop.history(people[15][0][1], "email"), shop, bank, told]
    lived.said.append(repr(shown).encode())
    return lived


def _split(lived: Lived, told: dict[str, Feed], shop: Ledger, bank: Ledger) -> tuple[object, bytes]:
    """A message of the shop's with a head of its feed log that does not extend what it signed before."""
    hearing = told["bank"].incoming.open("shop")
    size = bank.partner("shop").heard_seq
    key = lived.shop.key
    head = sign_checkpoint(size, b"\x05" * 32, NoteSigner(feed_key(shop.key, bank.origin), key.sign_raw))
    now = int(bank.clock().timestamp() * 1_000_000)
    message = FeedMessage(shop.origin, bank.origin, hearing.nonce, 0, now, 0, size, False, head.text)
    return hearing, message.to_bytes(key.sign(MESSAGE_CONTEXT, message.signed_part()))
