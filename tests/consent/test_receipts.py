from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.errors import InvalidProof, MemberPresent, UnknownReceipt
from consent.events import grant
from consent.gate import ConsentGate
from consent.proofs import EntryProof
from consent.receipts import (
    AbsenceProof,
    PseudonymSet,
    ReceiptProof,
    UseReceipt,
    verify_absence,
    verify_presence,
)
from privacy.errors import BadInput, ComityError, Misuse, StorageError, Tampered

SALT = b"\x03" * 32
PEOPLE = [("email", b"p%d" % i) for i in range(12)]


def use(ledger, job="job-1", names=None):
    names = names if names is not None else [canonical for _, canonical in PEOPLE]
    gated = ConsentGate(ledger).filter(
        "email", pa.array(names, pa.binary()), purpose="overlap.reach", partner="bank"
    )
    receipt = UseReceipt(
        id=ledger.new_receipt_id(),
        kind="overlap",
        purpose="overlap.reach",
        collaboration="c-1",
        job=job,
        round=None,
        partner="bank",
        evidence=gated.evidence,
        output_hash="0" * 64,
        transcript_hash="1" * 64,
        at=ledger.clock(),
    )
    return receipt, gated.members


@pytest.fixture
def granted(ledger):
    ledger.record([grant([person], "overlap.reach", partner="bank") for person in PEOPLE])
    return ledger


def test_after_an_opt_out_every_later_receipt_proves_absence(granted):
    before, members = use(granted)
    granted.record_use(before, members)
    granted.withdraw([PEOPLE[3]])
    after, members = use(granted, "job-2")
    granted.record_use(after, members)
    with pytest.raises(MemberPresent):
        granted.absence_proof(before.id, *PEOPLE[3])
    proof, receipt = granted.absence_proof(after.id, *PEOPLE[3])
    leaf = granted.member_leaf(after.id, *PEOPLE[3])
    proof = AbsenceProof.from_dict(json.loads(json.dumps(proof.to_dict())))
    verify_absence(proof, receipt.set_root, leaf)
    with pytest.raises(InvalidProof):
        verify_absence(proof, before.set_root, leaf)
    with pytest.raises(InvalidProof):
        verify_absence(proof, receipt.set_root, granted.member_leaf(after.id, *PEOPLE[4]))


def test_another_kind_of_identifier_than_the_uses_own_proves_nothing(granted):
    receipt, members = use(granted)
    granted.record_use(receipt, members)
    with pytest.raises(Misuse) as caught:
        granted.absence_proof(receipt.id, "phone", b"+8613800138000")
    assert caught.value.code == "wrong_key_kind"


def test_a_receipt_is_proved_from_the_log_alone(granted):
    receipt, members = use(granted)
    index = granted.record_use(receipt, members)
    proof = ReceiptProof.from_dict(json.loads(json.dumps(granted.receipt_proof(receipt.id).to_dict())))
    assert proof.receipt == receipt and proof.entry.index == index
    assert proof.verify(granted.key).size == granted.head().size


def test_a_receipt_changed_anywhere_does_not_verify(granted):
    receipt, members = use(granted)
    granted.record_use(receipt, members)
    good = granted.receipt_proof(receipt.id).to_dict()
    changes = [
        ("receipt", {**good["receipt"], "job": "another"}),
        ("receipt", {**good["receipt"], "evidence": {**good["receipt"]["evidence"], "count": 3}}),
        ("salt", "A" * 43 + "="),
        ("payload", "e30="),
        ("entry", {**good["entry"], "index": 1}),
        ("entry", {**good["entry"], "path": good["entry"]["path"][1:]}),
        ("entry", {**good["entry"], "checkpoint": good["entry"]["checkpoint"].replace("\n", "\n ", 1)}),
    ]
    for name, value in changes:
        with pytest.raises(Tampered):
            ReceiptProof.from_dict({**good, name: value}).verify(granted.key)


def test_receipts_are_listed_newest_first_and_paged(granted):
    made = []
    for i in range(5):
        receipt, members = use(granted, f"job-{i}")
        granted.record_use(receipt, members)
        made.append(receipt)
    first = granted.receipts(limit=3)
    rest = granted.receipts(limit=3, before=first[-1][0])
    assert [r for _, r in first + rest] == made[::-1]
    assert granted.receipts(kind="training") == [] and len(granted.receipts(partner="bank")) == 5
    assert granted.receipt(made[2].id)[1] == made[2]
    with pytest.raises(UnknownReceipt):
        granted.receipt("nothing")
    with pytest.raises(UnknownReceipt):
        granted.members("nothing")


def test_a_receipt_about_another_set_or_recorded_twice_is_refused(granted):
    receipt, members = use(granted)
    _, others = use(granted)
    with pytest.raises(Misuse):
        granted.record_use(receipt, others)
    granted.record_use(receipt, members)
    size = granted.log.publish().size
    with pytest.raises(StorageError):
        granted.record_use(receipt, members)
    assert granted.log.publish().size == size


def test_a_malformed_receipt_is_refused(granted):
    receipt, _ = use(granted)
    good = receipt.to_dict()
    for wrong in (
        {**good, "kind": "espionage"},
        {**good, "extra": 1},
        {k: v for k, v in good.items() if k != "job"},
        {**good, "round": "one"},
        {**good, "round": True},
        {**good, "at": "yesterday"},
        {**good, "purpose": "model.credit"},
        {**good, "evidence": {}},
        [],
    ):
        with pytest.raises(BadInput):
            UseReceipt.from_dict(wrong)


LOOKUPS = st.sets(st.binary(min_size=32, max_size=32), max_size=40)


@given(LOOKUPS, st.binary(min_size=32, max_size=32))
def test_everybody_is_provably_present_or_provably_absent(lookups, stranger):
    members = PseudonymSet.of_lookups(SALT, sorted(lookups))
    assert len(members) == len(lookups)
    for lookup in lookups:
        leaf = members.leaf(lookup)
        verify_presence(members.prove_present(leaf), members.root, leaf)
        with pytest.raises(MemberPresent):
            members.prove_absent(leaf)
    if stranger not in lookups:
        leaf = members.leaf(stranger)
        verify_absence(members.prove_absent(leaf), members.root, leaf)
        with pytest.raises(Misuse):
            members.prove_present(leaf)
    again = PseudonymSet.from_bytes(members.to_bytes())
    assert again.root == members.root and again.to_bytes() == members.to_bytes()


@given(st.data())
def test_no_absence_proof_can_be_bent_to_hide_a_member(data):
    from dataclasses import replace

    size = data.draw(st.integers(2, 20))
    members = PseudonymSet.of_lookups(SALT, [bytes([i]) * 32 for i in range(size)])
    leaves = [leaf.tobytes() for leaf in members._tree()[0]]
    hidden = data.draw(st.integers(0, size - 1))
    honest = [members._neighbour(i) for i in range(size)]
    left = data.draw(st.sampled_from([None, *honest[:hidden]]))
    right = data.draw(st.sampled_from([None, *honest[hidden + 1 :]]))
    proof = AbsenceProof(SALT, size, members.tree, left, right)
    for bent in (
        proof,
        replace(proof, count=hidden, right=None),
        replace(proof, count=size - 1),
        replace(proof, right=right and replace(right, index=hidden)),
        replace(proof, left=left and replace(left, index=hidden), right=right),
        AbsenceProof(SALT, 0, members.tree, None, None),
    ):
        with pytest.raises(InvalidProof):
            verify_absence(bent, members.root, leaves[hidden])


def test_sets_written_otherwise_are_refused():
    data = PseudonymSet.of_lookups(SALT, [b"a" * 32, b"b" * 32]).to_bytes()
    swapped = data[:36] + data[68:] + data[36:68]
    for wrong in (b"", data[:-1], data[:20], b"XXXX" + data[4:], swapped, data + data[36:68]):
        with pytest.raises(BadInput):
            PseudonymSet.from_bytes(wrong)
    with pytest.raises(Misuse):
        PseudonymSet(b"short", np.array([], dtype="S32"))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["index", "entry", "path", "left", "right", "salt", "count"]), inner
            )
        ),
        max_leaves=8,
    )
)
def test_arbitrary_json_is_no_proof_and_no_crash(value):
    if not isinstance(value, dict):
        value = {"index": value}
    for kind in (EntryProof, AbsenceProof, ReceiptProof):
        with pytest.raises(ComityError):
            kind.from_dict(value)
