"""The node's check of its own database: rows removed, undone, invented.

Changed cells are in tests/faults/test_flipped_bits.py.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pytest
import sqlalchemy as sa

from consent import tables
from consent.checkpoint import sign_checkpoint
from consent.cosignatures import Cosigner, witness_key
from consent.events import Event, EventType, Identifier, grant, withdraw
from consent.gate import ConsentGate
from consent.ledger import Ledger
from consent.notes import NoteSigner, VerifierKey
from consent.purposes import PurposePolicy
from consent.receipts import UseReceipt
from consent.rows import RestrictionRow
from consent.split_views import SplitViews
from consent.sql import SqlStore
from consent.subjects import PSEUDONYM
from consent.trust_policy import PolicyLog, TrustPolicy
from consent.verify import Outcome, verify_ledger
from consent.witness import AddCheckpoint, KnownLogs, Witness
from privacy.errors import StorageError
from privacy.keys import KeyRing
from privacy.signing import SigningKey

# Tables whose every row is backed by the log.
CHECKED = (
    "consent_head", "consent_entries", "consent_tiles", "consent_side", "consent_subjects", "consent_aliases",
    "consent_state", "consent_policies", "consent_restrictions", "consent_receipts",
)  # fmt: skip


def opened(folder):
    """The ledger as it is in `folder`, without anything being written on opening."""
    engine = sa.create_engine(f"sqlite:///{folder}/comity.db")
    ledger = Ledger(
        SqlStore(engine),
        keyring=KeyRing.from_root(b"\x01" * 32),
        signing_key=SigningKey.from_seed(b"\x20" * 32),
        origin="shop.example/log",
        policy=PurposePolicy.default(),
        clock=lambda: datetime(2026, 3, 1, 9, tzinfo=UTC),
        random=os.urandom,
        static=None,
    )
    return engine, ledger


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A ledger with something in every table that is checked."""
    folder = tmp_path_factory.mktemp("made")
    engine, ledger = opened(folder)
    tables.metadata.create_all(engine)
    ledger.start()
    bank = SigningKey.from_seed(b"\x22" * 32)
    ledger.join_partner("bank", VerifierKey("bank.example/log", bank.public.bytes32).to_text())
    ledger.record([grant([("email", b"p%d" % i)], "overlap.reach", partner="bank") for i in range(260)])
    ledger.record([withdraw([("email", b"p1")]), grant([("phone", b"1")], "overlap.reach", partner="bank")])
    restrict(ledger, "bank", b"\x05" * 32, EventType.WITHDRAWN)
    restrict(ledger, "bank", b"\x06" * 32, EventType.WITHDRAWN)
    restrict(ledger, "bank", b"\x06" * 32, EventType.GRANTED)
    column = pa.array([b"p2", b"p3"])
    passed = ConsentGate(ledger).filter("email", column, purpose="overlap.reach", partner="bank")
    receipt = UseReceipt(
        id="r1", kind="overlap", purpose="overlap.reach", collaboration="c", job="j", round=None,
        partner="bank", evidence=passed.evidence, output_hash="0" * 64, transcript_hash="0" * 64,
        at=ledger.clock(),
    )  # fmt: skip
    ledger.record_use(receipt, passed.members)
    seen(ledger)
    assert verify_ledger(ledger).ok, verify_ledger(ledger)
    engine.dispose()
    return folder


@pytest.fixture
def full(made, tmp_path):
    """A copy of it that may be damaged."""
    source, copy = sqlite3.connect(made / "comity.db"), sqlite3.connect(tmp_path / "comity.db")
    with contextlib.closing(source), contextlib.closing(copy):
        source.backup(copy)
    engine, ledger = opened(tmp_path)
    yield Full(ledger, engine)
    engine.dispose()


@dataclass
class Full:
    ledger: Ledger
    engine: sa.Engine


def restrict(ledger, partner, pseudonym, type_):
    """What a partner's decision about somebody known by pseudonym leaves, as the feed writes it."""
    event = Event(
        type_,
        (Identifier(PSEUDONYM, partner.encode() + b"\x00email\x00" + pseudonym),),
        "overlap.reach",
        partner,
    )

    def beside(tx, first, now):
        old = tx.restrictions_of(partner, [pseudonym])
        row = old[0] if old else RestrictionRow(partner, "email", pseudonym, "overlap.reach", None, None, 0)
        change = {"lifted_at" if type_ is EventType.GRANTED else "restricted_at": now, "idx": first}
        tx.put_restrictions([row._replace(**change)])

    ledger.append_decisions([event], propagate=False, after=beside)


def seen(ledger):
    """A checkpoint of another log cosigned, and a second one of the same size."""
    key = SigningKey.from_seed(b"\x21" * 32)
    log = NoteSigner(VerifierKey("other.example/log", key.public.bytes32), key.sign_raw)
    known = KnownLogs(ledger.store, ledger.key, TrustPolicy(logs=(PolicyLog(log.key),)))
    signer = Cosigner(witness_key(ledger.key), SigningKey.from_seed(b"\x20" * 32).sign_raw)
    witness = Witness(ledger.store, signer, known, SplitViews(ledger), clock=ledger.clock)
    for root in (b"\x01", b"\x02"):
        witness.add_checkpoint(AddCheckpoint(0, (), sign_checkpoint(5, root * 32, log).text).to_bytes())
    assert len(SplitViews(ledger).listing()) == 1


def outcome(ledger):
    try:
        return verify_ledger(ledger).outcome
    except StorageError:
        return None  # a text that is no longer UTF-8 cannot be read at all


@pytest.mark.parametrize("name", CHECKED)
def test_a_row_taken_away_is_found(full, name):
    table = tables.metadata.tables[name]
    keys = [key.name for key in table.primary_key]
    with full.engine.begin() as c:
        row = c.execute(sa.select(*(table.c[key] for key in keys)).limit(3)).mappings().all()[-1]
        c.execute(sa.delete(table).where(*(table.c[key] == row[key] for key in keys)))
    assert outcome(full.ledger) in (Outcome.TAMPERED, None)


def test_a_restriction_that_a_partner_sent_cannot_be_made_to_disappear(full):
    """Not by deleting its row, which the gate reads, and not together with its standing."""
    with full.engine.begin() as c:
        c.execute(sa.text("DELETE FROM consent_restrictions WHERE lifted_at IS NULL"))
        c.execute(sa.text("DELETE FROM consent_state WHERE subject IN (SELECT subject FROM consent_aliases "
                          "WHERE kind = 'pseudonym')"))  # fmt: skip
    assert verify_ledger(full.ledger).outcome is Outcome.TAMPERED


def test_a_prolonged_agreement_of_a_partner_is_no_lifted_restriction(full):
    restrict(full.ledger, "bank", b"\x07" * 32, EventType.WITHDRAWN)
    place = Identifier(PSEUDONYM, b"bank\x00email\x00" + b"\x07" * 32)
    full.ledger.append_decisions(
        [Event(EventType.RENEWED, (place,), "overlap.reach", "bank")], propagate=False
    )
    assert verify_ledger(full.ledger).ok


def test_an_invented_partner_row_is_found(full):
    with full.engine.begin() as c:
        c.execute(sa.text("UPDATE consent_partners SET vkey = :v"), {"v": full.ledger.vkey})
    assert verify_ledger(full.ledger).outcome is Outcome.TAMPERED
