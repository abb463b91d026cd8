"""A register as it grows over weeks: people who agree, refuse, leave; partners told; uses; erasures.

Everything is drawn from one seed. What happened is counted on the side, by the one who makes it happen.
"""

from __future__ import annotations

import base64
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa

from consent.audit.collect import collect
from consent.audit.report import AuditReport, sign
from consent.erasure import Erasure
from consent.events import Event, grant, refuse, withdraw
from consent.feed import Feed
from consent.feed_log import Frontier, leaf_of
from consent.gate import ConsentGate
from consent.ledger import Ledger
from consent.merkle import EMPTY_ROOT, leaf_hash
from consent.messages import ACK_CONTEXT, Acknowledgement
from consent.notes import VerifierKey
from consent.pseudonym_sets import PseudonymSet
from consent.receipts import UseReceipt
from consent.sql import metadata
from consent.terms import ConsentTerms, ConsentType
from privacy.keys import KeyRing
from privacy.signing import SigningKey

PARTNERS = ("harbour-bank", "lotus-retail")
PURPOSES = ("overlap.reach", "overlap.measure", "model.credit")


class MovingClock:
    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


class PairKeyOfAll:
    def pair_key(self, partner: str) -> bytes | None:
        return partner.encode().ljust(32, b".")

    def pair_keys(self, partner: str) -> list[bytes]:
        found = self.pair_key(partner)
        return [] if found is None else [found]


def person(number: int) -> list[tuple[str, bytes]]:
    return [("email", f"person{number}@example.org".encode())]


@dataclass
class Register:
    """A ledger under construction. `happened` counts what was done to it."""

    ledger: Ledger
    key: SigningKey
    clock: MovingClock
    dice: random.Random
    engine: sa.Engine
    partners: dict[str, SigningKey] = field(default_factory=dict)
    happened: Counter[str] = field(default_factory=Counter)

    def record(self, events: list[Event]) -> None:
        if events:
            self.ledger.record(events)
            self.happened.update(event.type.value for event in events)

    def use(self, people: list[int], purpose: str, partner: str, *, gate: bool = True) -> UseReceipt:
        """Use `people` as the gate lets through; without the gate, all of them, as a rogue node would."""
        column = pa.array([person(n)[0][1] for n in people], pa.binary())
        result = ConsentGate(self.ledger).filter("email", column, purpose=purpose, partner=partner)
        members, evidence = result.members, result.evidence
        if not gate:
            hashed = self.ledger.vault.lookup("email")
            members = PseudonymSet.of_lookups(members.salt, [hashed(person(n)[0][1]) for n in people])
            root = base64.b64encode(members.root).decode()
            evidence = replace(evidence, count=len(members), set_root=root)
        self.clock.move(seconds=self.dice.uniform(2, 40))
        kind = {"overlap.reach": "overlap", "overlap.measure": "measure", "model.credit": "training"}[purpose]
        receipt = UseReceipt(
            id=self.ledger.random(16).hex(),
            kind=kind,
            purpose=purpose,
            collaboration=f"shop-{partner}",
            job=self.ledger.random(8).hex(),
            round=None,
            partner=partner,
            evidence=evidence,
            output_hash="00" * 32,
            transcript_hash="11" * 32,
            at=self.clock(),
        )
        self.ledger.record_use(receipt, members)
        return receipt

    def acknowledge(self, *, slow: float = 0.01) -> None:
        """Let every partner sign, one by one and in believable times, for what it was told."""
        outgoing = Feed(self.ledger, signing_key=self.key).outgoing
        for name, key in self.partners.items():
            row = self.ledger.partner(name)
            with self.ledger.store.read() as view:
                waiting = view.feed_rows(name, 0, row.sent_seq)
            frontier = Frontier()
            for told in waiting:
                frontier = frontier.extended([leaf_hash(leaf_of(told).to_bytes())])
                if told.seq <= row.acked_seq:
                    continue
                took = self.dice.lognormvariate(11.9, 0.45)  # around 150 ms
                took *= 12 if self.dice.random() < slow else 1
                ack = Acknowledgement(
                    f"{name}.example/consent", self.ledger.origin, told.seq, told.seq, told.seq,
                    frontier.root, told.recorded_at + int(took * 0.4), told.recorded_at + int(took), 0,
                    0, EMPTY_ROOT,
                )  # fmt: skip
                self.clock.move(microseconds=took * 1.25)
                outgoing.acknowledge(name, ack.to_bytes(key.sign(ACK_CONTEXT, ack.signed_part())))


def open_register(folder: Path, seed: int = 7, start: datetime | None = None) -> Register:
    folder.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(f"sqlite:///{folder}/comity.db")
    metadata.create_all(engine)
    dice = random.Random(seed)
    clock = MovingClock(start or datetime(2026, 9, 1, 8, 0, tzinfo=UTC))
    key = SigningKey.from_seed(dice.randbytes(32))
    ledger = Ledger.open(
        engine,
        keyring=KeyRing.from_root(dice.randbytes(32), dice.randbytes),
        signing_key=key,
        origin="lotus.example/consent",
        directory=folder / "log",
        clock=clock,
        random=dice.randbytes,
        pair_keys=PairKeyOfAll(),
    )
    return Register(ledger, key, clock, dice, engine)


def terms(dice: random.Random, language: str, *, separate: float) -> ConsentTerms:
    abroad = dice.random() < 0.04
    return ConsentTerms(
        notice="general",
        language=language,
        jurisdiction="DE" if language == "en" and dice.random() < 0.5 else None,
        consent_type=ConsentType.SEPARATE if dice.random() < separate else ConsentType.EXPLICIT,
        transfer_country="SG" if abroad else None,
        transfer_route="standard_contract" if abroad else None,
    )


def grow(register: Register, people: int, days: int = 60) -> Register:
    """Weeks of a register's life. Ends with two opt-outs unacknowledged and one use past the gate."""
    r, dice = register, register.dice
    for name in PARTNERS:
        key = r.partners[name] = SigningKey.from_seed(dice.randbytes(32))
        r.ledger.join_partner(name, VerifierKey(f"{name}.example/consent", key.public.bytes32).to_text())
        r.clock.move(minutes=11)
    arrived = 0
    for day in range(days):
        coming = int(people * (day + 1) / days) - arrived
        events: list[Event] = []
        for number in range(arrived, arrived + coming):
            language = "zh" if dice.random() < 0.8 else "en"
            for purpose in PURPOSES:
                if dice.random() < 0.82:
                    ends = (
                        r.clock() + timedelta(days=dice.randrange(20, 400)) if dice.random() < 0.3 else None
                    )
                    given = terms(dice, language, separate=0.985) if dice.random() < 0.99 else None
                    events.append(
                        grant(person(number), purpose, expires_at=ends, terms=given, method="import")
                    )
                elif dice.random() < 0.6:
                    events.append(refuse(person(number), purpose, method="web"))
        arrived += coming
        r.record(events)
        for _ in range(int(coming * 0.06) or day % 3 == 2):
            r.clock.move(seconds=dice.uniform(20, 900))
            leaver = person(dice.randrange(arrived))
            if dice.random() < 0.5:
                r.record([withdraw(leaver, method="preference_link")])
            else:
                r.record(
                    [
                        withdraw(
                            leaver,
                            dice.choice(PURPOSES),
                            method="web",
                            actor=dice.choice(["subject"] * 9 + ["guardian"]),
                        )
                    ]
                )
        r.acknowledge()
        r.clock.move(hours=3)
        if day % 7 == 6:
            chosen = sorted(dice.sample(range(arrived), min(arrived, arrived * 3 // 4)))
            r.use(chosen, dice.choice(PURPOSES), dice.choice(PARTNERS))
        if day % 20 == 19:
            Erasure(r.ledger).erase(person(dice.randrange(arrived)), basis="request", method="web")
            r.acknowledge()
        r.clock.now = (r.clock.now + timedelta(days=1)).replace(hour=8, minute=0)
    return r


def misuse(register: Register, leavers: int = 3) -> UseReceipt:
    """People leave, and are used all the same, by a node that does not ask its gate."""
    r = register
    for number in range(leavers):
        r.record([grant(person(number), "overlap.reach"), withdraw(person(number), "overlap.reach")])
        if number == 0:
            r.acknowledge()
        r.clock.move(minutes=1)
    r.clock.move(minutes=30)
    return r.use(list(range(leavers)), "overlap.reach", PARTNERS[0], gate=False)


@pytest.fixture
def make_register(tmp_path: Path) -> Iterator[Callable[..., Register]]:
    """`make_register(name, people, days, seed)`: a register grown for that long; not at all for 0 days."""
    made: list[Register] = []

    def make(name: str = "lotus", people: int = 40, days: int = 14, seed: int = 7) -> Register:
        register = open_register(tmp_path / name, seed)
        made.append(register)
        return grow(register, people, days) if days else register

    yield make
    for register in made:
        register.engine.dispose()


@dataclass(frozen=True)
class Misused:
    """A register with three uses past the gate, a report about it, and the folder of its log."""

    register: Register
    report: AuditReport
    log: Path


@pytest.fixture(scope="module")
def misused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Misused]:
    folder = tmp_path_factory.mktemp("misused")
    register = grow(open_register(folder, 11), 40, 14)
    misuse(register)
    yield Misused(register, sign(collect(register.ledger), register.key), folder / "log")
    register.engine.dispose()
