"""Rotating the key ring: everybody is still found, old proofs still hold, the erased stay erased."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from consent.erasure import Erasure
from consent.errors import KeysRotated
from consent.events import grant, withdraw
from consent.gate import ConsentGate
from consent.ledger import Ledger
from consent.merging import Merging
from consent.receipts import UseReceipt, verify_absence
from consent.rekeying import rekey
from consent.state import Reason
from consent.suppression import Suppressed
from consent.verify import verify_ledger
from privacy.errors import Refused
from privacy.keys import KeyRing

ADA = [("email", b"ada@example.org"), ("phone", b"+8613800138000")]
BEN = [("email", b"ben@example.org")]
CYD = [("email", b"cyd@example.org")]


@pytest.fixture
def rings(node):
    """The ring in a file, so that it can gain roots."""
    path = node.folder / "ring.key"
    node.ring = KeyRing.create(path)
    return path


def rotated(node, rings, ledger):
    node.ring = KeyRing.load(rings).rotate(rings)
    again = node.open()
    return again, rekey(again)


def test_everybody_is_found_under_the_new_key_and_nobody_by_the_old(node, rings):
    ledger = node.open()
    ledger.record([grant(ADA, "overlap.reach"), withdraw(BEN)])
    old = [ledger.vault.lookup(k)(c) for k, c in (*ADA, *BEN)]
    again, done = rotated(node, rings, ledger)
    assert (done.version, done.subjects) == (2, 2)
    assert again.check(ADA[1][1], "phone", "overlap.reach", "bank").allowed
    assert again.check(BEN[0][1], "email", "overlap.reach", "bank").reason is Reason.RESTRICTED
    with again.store.read() as view:
        assert view.find_subjects(old) == {}
        assert view.lookup_versions()[-1] == (done.index, 2)
    column = pa.array([ADA[0][1], BEN[0][1]], pa.binary())
    assert ConsentGate(again).filter(
        "email", column, purpose="overlap.reach", partner="bank"
    ).mask.tolist() == [
        True,
        False,
    ]
    again.record([withdraw(ADA[:1])])
    assert not again.check(ADA[1][1], "phone", "overlap.reach", "bank").allowed
    report = verify_ledger(again)
    assert report.ok, report.detail
    assert verify_ledger(node.open()).ok


def test_a_ring_that_gained_a_root_alone_loses_nobody(node, rings):
    node.open().record([grant(ADA, "overlap.reach")])
    node.ring = KeyRing.load(rings).rotate(rings)
    again = node.open()  # the process was stopped before the lookups were moved
    assert again.vault.version == 1
    assert again.check(ADA[0][1], "email", "overlap.reach", "bank").allowed
    again.record([grant(BEN, "overlap.reach")])
    assert rekey(again).subjects == 2
    assert again.check(BEN[0][1], "email", "overlap.reach", "bank").allowed
    assert rekey(again).index is None
    assert verify_ledger(again).ok


def test_a_process_with_the_old_key_answers_and_records_nothing(node, rings):
    ledger = node.open()
    ledger.record([grant(ADA, "overlap.reach")])
    rotated(node, rings, ledger)
    column = pa.array([ADA[0][1]], pa.binary())
    for attempt in (
        lambda: ledger.check(ADA[0][1], "email", "overlap.reach", "bank"),
        lambda: ledger.record([withdraw(ADA)]),
        lambda: ConsentGate(ledger).filter("email", column, purpose="overlap.reach", partner="bank"),
    ):
        with pytest.raises(KeysRotated):
            attempt()


def test_the_erased_stay_erased_and_merged_people_stay_one(node, rings):
    ledger = node.open()
    ledger.record(
        [grant(ADA[:1], "overlap.reach"), grant(ADA[1:], "overlap.reach"), grant(CYD, "overlap.reach")]
    )
    Erasure(ledger).erase(CYD)
    Merging(ledger).merge(ADA[:1], ADA[1:])
    again, _ = rotated(node, rings, ledger)
    assert again.check(CYD[0][1], "email", "overlap.reach", "bank").reason is Reason.ERASED
    with pytest.raises(Suppressed):
        again.record([grant(CYD, "overlap.reach")], imported=True)
    Erasure(again).erase(BEN)
    again.record([withdraw(ADA[:1])])
    assert not again.check(ADA[1][1], "phone", "overlap.reach", "bank").allowed
    final, _ = rotated(node, rings, again)
    for person in (BEN, CYD):
        assert final.check(person[0][1], "email", "overlap.reach", "bank").reason is Reason.ERASED
    assert verify_ledger(final).ok


def test_absence_from_a_use_before_the_rotation_is_still_proved(node, rings):
    ledger = node.open()
    ledger.record([grant(ADA, "overlap.reach")])
    column = pa.array([ADA[0][1]], pa.binary())
    result = ConsentGate(ledger).filter("email", column, purpose="overlap.reach", partner="bank")
    receipt = UseReceipt(
        id=ledger.new_receipt_id(), kind="overlap", purpose="overlap.reach", collaboration="c", job="j",
        round=None, partner="bank", evidence=result.evidence, output_hash="0" * 64,
        transcript_hash="0" * 64, at=ledger.clock(),
    )  # fmt: skip
    ledger.record_use(receipt, result.members)
    again, _ = rotated(node, rings, ledger)
    proof, used = again.absence_proof(receipt.id, "email", BEN[0][1])
    verify_absence(proof, used.set_root, again.member_leaf(receipt.id, "email", BEN[0][1]))
    with pytest.raises(Refused) as caught:
        again.absence_proof(receipt.id, "email", ADA[0][1])
    assert caught.value.code == "member_present"
    from consent.access import access_copy

    assert [use["id"] for use in access_copy(again, ADA)["uses"]] == [receipt.id]


def test_an_interrupted_rotation_leaves_the_old_lookups_whole(node, rings, monkeypatch):
    ledger = node.open()
    ledger.record([grant(ADA, "overlap.reach"), grant(BEN, "overlap.reach")])
    node.ring = KeyRing.load(rings).rotate(rings)
    again = node.open()

    class Broken(RuntimeError):
        pass

    def broken(*_):
        raise Broken

    monkeypatch.setattr("consent.sql.entries.EntriesChanges.add_entries", broken)
    with pytest.raises(Broken):
        rekey(again)
    monkeypatch.undo()
    fresh = node.open()
    assert fresh.check(ADA[0][1], "email", "overlap.reach", "bank").allowed
    assert verify_ledger(fresh).ok
    assert rekey(fresh).subjects == 2


def test_a_ring_is_not_rotated_over_one_that_changed(tmp_path):
    path = tmp_path / "ring.key"
    first = KeyRing.create(path)
    second = first.rotate(path)
    assert second.versions == (1, 2)
    assert path.stat().st_mode & 0o077 == 0
    assert second.open(first.seal(b"kept")) == b"kept"
    assert json.loads(path.read_text())["roots"].keys() == {"1", "2"}
    with pytest.raises(Refused) as caught:
        first.rotate(path)
    assert caught.value.code == "key_ring_changed"
    assert KeyRing.load(path).versions == (1, 2)


def test_a_ledger_opened_without_the_version_in_use_says_so(node, rings):
    ledger = node.open()
    ledger.record([grant(ADA, "overlap.reach")])
    rotated(node, rings, ledger)
    node.ring = KeyRing.from_root(b"\x09" * 32)
    from privacy.errors import ComityError

    with pytest.raises(ComityError):
        Ledger.check(node.open(), ADA[0][1], "email", "overlap.reach", "bank")
