"""Proof of absence, whole: every later use, under one pseudonym, and nothing left out."""

from __future__ import annotations

import base64
import copy
import json
import os
from dataclasses import replace

import pyarrow as pa
import pytest

from consent.absence import AbsenceService, verify_absence_bundle
from consent.events import grant
from consent.gate import ConsentGate
from consent.jws import sign_document, verify_document
from consent.notes import VerifierKey
from consent.receipt_files import check_file
from consent.receipts import PseudonymSet, UseReceipt
from consent.subject_receipts import STATEMENT_KIND, SubjectReceipts
from consent.verify import directory_reader
from privacy.errors import Misuse, PeerUnreachable, Tampered
from privacy.keys import KeyRing
from privacy.signing import SigningKey

ANN = [("email", b"ann@example.org")]
OTHERS = [f"p{n}@example.org".encode() for n in range(40)]


class House:
    """A ledger in which Ann is used, opts out, and is used no more."""

    def __init__(self, node):
        self.node = node
        self.ledger = node.open()
        self.gate = ConsentGate(self.ledger)
        self.receipts = SubjectReceipts(self.ledger, node.key)
        self.absences = AbsenceService(self.ledger, self.receipts)
        people = [ANN, *([("email", other)] for other in OTHERS)]
        self.ledger.record([grant(p, "overlap.reach", partner="bank") for p in people])
        self.ledger.record([grant(p, "overlap.measure", partner="bank") for p in people])

    def asked(self, purpose="overlap.reach", kind="email"):
        column = pa.array([ANN[0][1], *OTHERS] if kind == "email" else [b"+8613800138000"])
        return self.gate.filter(kind, column, purpose=purpose, partner="bank")

    def use(self, answer=None, purpose="overlap.reach"):
        answer = answer or self.asked(purpose)
        receipt = UseReceipt(
            self.ledger.new_receipt_id(), "overlap", answer.evidence.purpose, "c1", "job1", None, "bank",
            answer.evidence, "", "", self.ledger.clock(),
        )  # fmt: skip
        return self.ledger.record_use(receipt, answer.members)

    def bundle(self, opt_out=None):
        made = self.absences.bundle(self.receipts.subjects(ANN)[0], opt_out)
        return json.loads(json.dumps(made))

    def verify(self, bundle, log=True):
        reader = directory_reader(self.node.folder / "log") if log else None
        return verify_absence_bundle(bundle, [self.ledger.key], log=reader)


@pytest.fixture
def house(make_node):
    return House(make_node("shop"))


def test_a_person_is_proved_absent_from_every_later_use(house):
    house.use()
    house.use()
    opt_out = house.ledger.withdraw(ANN).first_index
    later = [house.use(), house.use(purpose="overlap.measure")]
    report = house.verify(house.bundle())
    assert report.opt_out.index == opt_out and report.holds and report.complete is True
    assert [(use.index, use.finding) for use in report.uses] == [(i, "absent") for i in later]
    assert report.anchors == 2


def test_it_holds_on_every_database(node):
    house = House(node)
    house.use()
    house.ledger.withdraw(ANN)
    house.use()
    report = house.verify(house.bundle())
    assert report.holds and report.count("absent") == 1 and report.anchors == 1


def test_uses_that_the_opt_out_does_not_reach_are_shown_and_not_counted(house):
    house.ledger.withdraw(ANN, "overlap.measure", "bank")
    house.use()
    house.use(purpose="overlap.measure")
    report = house.verify(house.bundle())
    assert [use.finding for use in report.uses] == ["not_reached", "absent"] and report.holds


def test_a_gate_asked_before_the_opt_out_is_named_as_such(house):
    asked = house.asked()
    house.ledger.withdraw(ANN)
    house.use(asked)
    report = house.verify(house.bundle())
    assert [use.finding for use in report.uses] == ["asked_before"] and not report.holds


def test_an_opt_out_that_was_not_kept_is_proved_against_the_node(house):
    present = house.asked()
    house.ledger.withdraw(ANN)
    absent = house.asked()
    forged = replace(absent.evidence, count=present.evidence.count, set_root=present.evidence.set_root,
                     set_salt=present.evidence.set_salt)  # fmt: skip
    receipt = UseReceipt(
        "r1", "overlap", "overlap.reach", "c1", "job1", None, "bank", forged, "", "", house.ledger.clock()
    )
    house.ledger.record_use(receipt, present.members)
    report = house.verify(house.bundle())
    assert [use.finding for use in report.uses] == ["present"] and not report.holds
    assert check_file(house.bundle(), [house.ledger.key]).holds is False


def test_who_agreed_again_may_be_in_what_followed(house):
    house.ledger.withdraw(ANN)
    house.use()
    house.node.clock.move(seconds=1)
    house.ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    house.use()
    report = house.verify(house.bundle())
    assert [use.finding for use in report.uses] == ["absent", "granted_again"] and report.holds
    cut = {**house.bundle(), "grants": []}
    assert [use.finding for use in house.verify(cut).uses] == ["absent", "present"]


def test_a_use_keyed_otherwise_cannot_be_told(house):
    house.ledger.withdraw(ANN)
    house.ledger.record([grant([("phone", b"+8613800138000")], "overlap.reach", partner="bank")])
    house.use(house.asked(kind="phone"))
    assert [use.finding for use in house.verify(house.bundle()).uses] == ["other_key"]


def test_the_opt_out_may_be_chosen(house):
    first = house.ledger.withdraw(ANN, "overlap.reach", "bank").first_index
    house.use()
    second = house.ledger.withdraw(ANN).first_index
    assert house.verify(house.bundle()).opt_out.index == second
    assert house.verify(house.bundle(first)).opt_out.index == first
    for index in (0, 1, 10_000):
        with pytest.raises(Misuse) as refused:
            house.bundle(index)
        assert refused.value.code == "no_opt_out"


def test_leaving_a_use_out_shows_where_the_log_is_at_hand(house):
    house.ledger.withdraw(ANN)
    house.use()
    house.use()
    bundle = house.bundle()
    for kept in (bundle["uses"][:1], bundle["uses"][1:], []):
        cut = {**bundle, "uses": kept}
        assert house.verify(cut).complete is False and not house.verify(cut).holds
        assert house.verify(cut, log=False).complete is None


def test_uses_after_the_bundle_was_made_do_not_make_it_incomplete(house):
    house.ledger.withdraw(ANN)
    house.use()
    bundle = house.bundle()
    house.use()
    assert house.verify(bundle).complete is True


def test_another_history_than_the_bundles_is_refused(house, make_node):
    house.ledger.withdraw(ANN)
    house.use()
    bundle = house.bundle()
    node = make_node("other")
    node.name, node.key = "shop", house.node.key  # the same log key, another history: a split view
    twin = House(node)
    twin.use()
    with pytest.raises(Tampered):
        verify_absence_bundle(bundle, [house.ledger.key], log=directory_reader(node.folder / "log"))
    with pytest.raises(Tampered):
        verify_absence_bundle(bundle, [house.ledger.key], log=lambda path: None)


def test_a_log_that_cannot_be_reached_is_no_tampering(house):
    house.ledger.withdraw(ANN)

    def gone(path):
        raise PeerUnreachable("The log's server does not answer.")

    with pytest.raises(PeerUnreachable):
        verify_absence_bundle(house.bundle(), [house.ledger.key], log=gone)


def test_every_part_of_a_bundle_counts(house):
    house.use()
    house.ledger.withdraw(ANN)
    house.use()
    house.use()
    bundle = house.bundle()
    house.verify(bundle)

    def changed(change):
        other = copy.deepcopy(bundle)
        change(other)
        return other

    proofs = [use["proofs"] for use in bundle["uses"]]
    changes = [
        lambda b: b.update(format="x"),
        lambda b: b.update(verifier_key="x"),
        lambda b: b.update(uses=b["uses"][::-1]),
        lambda b: b.update(uses=b["uses"] * 2),
        lambda b: b.update(uses=[None]),
        lambda b: b.update(uses="x"),
        lambda b: b["uses"][0].update(proofs=[]),
        lambda b: b["uses"][0].update(proofs=proofs[1]),
        lambda b: b["uses"][0].update(proofs=[{}]),
        lambda b: b["uses"][0].update(proofs=[{"absent": {}}]),
        lambda b: b["uses"][0].update(proofs=[{"absent": None, "present": None}]),
        lambda b: b["uses"][0]["proofs"][0]["absent"].update(count=1),
        lambda b: b["uses"][0]["proofs"][0]["absent"].update(left=None, right=None),
        lambda b: b["uses"][0]["receipt"].update(receipt=b["uses"][1]["receipt"]["receipt"]),
        lambda b: b["uses"][0]["receipt"]["receipt"].update(purpose="model.credit"),
        lambda b: b["uses"][0]["receipt"].update(salt="AAAA"),
        lambda b: b["uses"][0].update(receipt={}),
        lambda b: b.update(earlier=b["uses"]),
        lambda b: b.update(earlier=[b["uses"][0]]),
        lambda b: b["earlier"][0].update(proofs=[]),
        lambda b: b.update(opt_out=None),
        lambda b: b.update(opt_out={**b["opt_out"], "jws": b["pseudonyms"]}),
        lambda b: b.update(pseudonyms=b["opt_out"]["jws"]),
        lambda b: b.update(pseudonyms=None),
        lambda b: b.update(grants=[b["opt_out"]]),
    ]
    for number, change in enumerate(changes):
        with pytest.raises(Tampered):
            house.verify(changed(change))
            pytest.fail(f"change {number} went unnoticed")
    with pytest.raises(Tampered):
        verify_absence_bundle(
            bundle, [VerifierKey(house.ledger.origin, SigningKey.generate().public.bytes32)]
        )


def test_a_grant_is_no_opt_out(house):
    house.ledger.withdraw(ANN)
    bundle = house.bundle()
    granted = house.receipts.bundle(house.receipts.subjects(ANN)[0])["receipts"][0]
    with pytest.raises(Tampered, match="opt-out is not one"):
        house.verify({**bundle, "opt_out": granted})


def test_a_node_that_names_another_pseudonym_is_found_out(house):
    # The node signs a pseudonym that nobody has: absent from everything, but present in nothing before.
    house.use()
    house.ledger.withdraw(ANN)
    house.use()
    bundle = house.bundle()
    said = verify_document(bundle["pseudonyms"], house.node.key.public, STATEMENT_KIND)
    invented = base64.b64encode(bytes(32)).decode()
    lie = sign_document(house.node.key, STATEMENT_KIND, {**said, "pseudonyms": {"email": [invented]}})
    with pytest.raises(Tampered):
        house.verify({**bundle, "pseudonyms": lie})
    later = bundle["uses"]
    for use in later:
        index = use["receipt"]["receipt"]["id"]
        members: PseudonymSet = house.ledger.members(index)
        use["proofs"] = [{"absent": members.prove_absent(members.leaf(bytes(32))).to_dict()}]
    report = house.verify({**bundle, "pseudonyms": lie, "uses": later, "earlier": []})
    assert report.anchors == 0  # what remains is the node's word, and the report says so
    assert (
        "0 earlier uses anchor"
        in check_file({**bundle, "pseudonyms": lie, "earlier": []}, [house.ledger.key]).detail
    )


def test_a_ring_with_two_roots_hides_no_use(make_node):
    # The person has a pseudonym under each root; both must be answered for.
    node = make_node("shop")
    node.ring = KeyRing({1: b"\x01" * 32, 2: b"\x02" * 32}, os.urandom)
    house = House(node)
    house.use()
    house.ledger.withdraw(ANN)
    house.use()
    bundle = house.bundle()
    assert [len(use["proofs"]) for use in bundle["uses"]] == [2]
    assert house.verify(bundle).holds and house.verify(bundle).anchors == 1
    bundle["uses"][0]["proofs"].pop()
    with pytest.raises(Tampered, match="every pseudonym"):
        house.verify(bundle)
