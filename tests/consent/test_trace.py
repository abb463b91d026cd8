"""Blast radius: which past uses somebody was in, found without reading every set whole."""

from __future__ import annotations

import secrets
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.bulk_hashing import as_rows
from consent.events import grant, withdraw
from consent.gate import ConsentGate
from consent.proofs import to_base64
from consent.receipts import PseudonymSet, UseReceipt
from consent.subject_receipts import SubjectReceipts
from consent.trace import Consequence, Trace, is_member
from privacy.errors import Misuse

ANN = [("email", b"ann@example.org")]


def use_of(ledger, members, answer, *, purpose="overlap.reach", partner="bank", job="job1"):
    evidence = replace(
        answer.evidence, purpose=purpose, partner=partner, count=len(members),
        set_root=to_base64(members.root), set_salt=to_base64(members.salt),
    )  # fmt: skip
    receipt = UseReceipt(
        ledger.new_receipt_id(),
        "overlap",
        purpose,
        "c1",
        job,
        None,
        partner,
        evidence,
        "",
        "",
        ledger.clock(),
    )
    return ledger.record_use(receipt, members)


class Room:
    def __init__(self):
        self.asked = []

    def of_use(self, use):
        self.asked.append(use.id)
        return [Consequence("result", "released", use.job, "Nobody can be read off it.")]


@pytest.fixture
def world(ledger, node):
    ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    answer = ConsentGate(ledger).filter(
        "email", pa.array([ANN[0][1]]), purpose="overlap.reach", partner="bank"
    )
    lookup = ledger.vault.lookup("email")(ANN[0][1])
    return ledger, answer, lookup, SubjectReceipts(ledger, node.key).subjects(ANN)[0]


def strangers(n):
    return [secrets.token_bytes(32) for _ in range(n)]


def test_a_person_is_found_in_every_use_they_were_in_and_in_no_other(world):
    ledger, answer, lookup, subject = world
    expected = []
    for size in (0, 1, 2, 3, 17, 500, 3000):
        salt = secrets.token_bytes(32)
        expected.append(use_of(ledger, PseudonymSet.of_lookups(salt, [*strangers(size), lookup]), answer))
        use_of(ledger, PseudonymSet.of_lookups(salt, strangers(size)), answer)
    room = Room()
    report = Trace(ledger, [room]).of_subject(subject)
    assert [use.index for use in report.uses] == expected
    assert report.looked_at == 14 and report.next is None and report.other_key == 0
    assert room.asked == [use.receipt.id for use in report.uses]
    assert report.uses[0].consequences[0].status == "released"


def test_an_opt_out_reaches_what_it_is_about_and_tells_late_uses_apart(world):
    ledger, answer, lookup, _ = world
    members = PseudonymSet.of_lookups(secrets.token_bytes(32), [lookup])
    reach = use_of(ledger, members, answer)
    use_of(ledger, members, answer, purpose="model.credit")
    use_of(ledger, members, answer, partner="insurer")
    opt_out = ledger.record([withdraw(ANN, "overlap", partner="bank")]).first_index
    raced = use_of(ledger, members, answer)  # its gate was asked before
    late = replace(answer, evidence=replace(answer.evidence, log_size=opt_out + 1))
    kept_on = use_of(ledger, members, late)
    report = Trace(ledger).of_opt_out(opt_out)
    assert [(use.index, use.after_opt_out) for use in report.uses] == [
        (reach, False), (raced, False), (kept_on, True),
    ]  # fmt: skip
    assert (report.purpose, report.partner, report.opt_out) == ("overlap", "bank", opt_out)


def test_a_trace_goes_on_where_a_page_ended(world):
    ledger, answer, lookup, subject = world
    members = PseudonymSet.of_lookups(secrets.token_bytes(32), [lookup])
    expected = [use_of(ledger, members, answer) for _ in range(7)]
    found, after, pages = [], -1, 0
    while after is not None:
        report = Trace(ledger).of_subject(subject, after=after, limit=3)
        found += [use.index for use in report.uses]
        after, pages = report.next, pages + 1
    assert found == expected and pages == 3


def test_uses_keyed_otherwise_are_counted_and_not_guessed(world):
    ledger, answer, lookup, subject = world
    by_phone = replace(answer, evidence=replace(answer.evidence, key_kind="phone"))
    use_of(ledger, PseudonymSet.of_lookups(secrets.token_bytes(32), [lookup]), by_phone)
    report = Trace(ledger).of_subject(subject)
    assert report.uses == () and report.other_key == 1


def test_entries_that_are_no_opt_out_cannot_be_traced(world):
    ledger, *_ = world
    for index, code in ((0, "no_opt_out"), (1, "no_opt_out"), (99, "not_found"), (-1, "not_found")):
        with pytest.raises(Misuse) as refused:
            Trace(ledger).of_opt_out(index)
        assert refused.value.code == code
    with pytest.raises(Misuse) as refused:
        Trace(ledger).of_subject(b"\x00" * 16)
    assert refused.value.code == "unknown_subject"


class Leaves:
    """A view that hands out pieces of one set, and counts how much was read."""

    def __init__(self, members):
        self.data = members.to_bytes()[36:]
        self.read = 0

    def member_leaves(self, index, start, count):
        self.read += count
        assert start >= 0 and start + count <= len(self.data) // 32
        return self.data[start * 32 : (start + count) * 32]


@given(size=st.integers(0, 400), seed=st.binary(min_size=4, max_size=4), skew=st.booleans())
def test_reading_a_piece_answers_as_reading_it_all(size, seed, skew):
    salt = sha256(seed).digest()
    lookups = [sha256(seed + i.to_bytes(4, "big")).digest() for i in range(size)]
    members = PseudonymSet.of_lookups(salt, lookups)
    if skew:  # a set that is not uniform at all: the answer must not rest on the statistics
        members = PseudonymSet(salt, as_rows(members.to_bytes()[36:])[: size // 2])

    class Use:
        class evidence:  # noqa: N801
            count = len(members)
            set_salt = to_base64(salt)

    view = Leaves(members)
    for lookup in [*lookups[:20], *strangers(5)]:
        assert is_member(view, 0, Use, lookup) is (members.leaf(lookup) in members)


def test_a_set_of_a_million_is_decided_by_one_short_read():
    rng = np.random.default_rng(7)
    members = PseudonymSet(bytes(32), as_rows(rng.bytes(32 * 1_000_000)))

    class Use:
        class evidence:  # noqa: N801
            count = len(members)
            set_salt = to_base64(bytes(32))

    view = Leaves(members)
    for lookup in strangers(20):
        assert is_member(view, 0, Use, lookup) is False
    assert view.read <= 20 * 5000
