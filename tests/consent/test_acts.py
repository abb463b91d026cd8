"""Acts about no single person: typed, checked, and holding nothing about anybody."""

from __future__ import annotations

import json

import pytest

from consent.acts import (
    correction,
    notice_presented,
    partner_key_rotated,
    partner_removed,
    share_authorised,
    signal_seen,
)  # fmt: skip
from consent.errors import InvalidConsent, UnknownPurpose
from consent.events import correct, grant, present
from consent.history import open_entry
from consent.purposes import PurposePolicy
from consent.terms import ConsentTerms
from consent.verify import verify_ledger
from privacy.errors import BadInput

ANN = [("email", b"ann@example.org")]
POLICY = PurposePolicy.default()
ABROAD = ConsentTerms(jurisdiction="CN", transfer_country="SG", transfer_route="standard_contract")


def body_of(ledger, index):
    with ledger.store.read() as view:
        leaf, opening = open_entry(view, ledger.vault, index)
    return leaf.type, json.loads(opening.payload)


def test_every_act_is_recorded_under_its_type(make_node):
    ledger = make_node("shop").open()
    acts = [
        notice_presented(POLICY, "general", "zh", channel="web", people=12),
        share_authorised(POLICY, "bank", "overlap.reach", basis="consent", authorised_by="officer"),
        share_authorised(POLICY, "bank", "model", basis="consent", authorised_by="officer", terms=ABROAD),
        partner_removed("bank", "the contract ended"),
        partner_key_rotated("bank", kind="log", old="aa", new="bb"),
        correction([0, 2], "the wrong notice"),
        signal_seen("gpc", restricted=["activation"]),
    ]
    found = [body_of(ledger, ledger.record_system(*act).first_index) for act in acts]
    assert [type_ for type_, _ in found] == [
        "notice.presented", "share.authorised", "share.authorised", "partner.removed", "partner.key_rotated",
        "correction", "signal.received",
    ]  # fmt: skip
    assert found[0][1]["notice_hash"] == POLICY.notices["general"].hash("zh")
    assert found[1][1]["recipients"] == ["bank"] and found[2][1]["transfer_route"] == "standard_contract"
    assert verify_ledger(ledger).ok


def authorised(**fields):
    given = {"basis": "consent", "authorised_by": "officer", "purpose": "model.credit", "partner": "bank"}
    return share_authorised(POLICY, **{**given, **fields})


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (lambda: authorised(purpose="model.none"), "unknown_purpose"),
        (lambda: authorised(purpose_version=9), "unknown_purpose_version"),
        (lambda: authorised(basis="hunch", terms=ConsentTerms(jurisdiction="DE")), "unknown_basis"),
        (lambda: authorised(basis="contract", terms=ConsentTerms(jurisdiction="DE")), "basis_not_allowed"),
        (
            lambda: authorised(terms=ConsentTerms(jurisdiction="CN", transfer_country="SG")),
            "transfer_route_required",
        ),
        (
            lambda: authorised(terms=ConsentTerms(jurisdiction="CN", transfer_route="by_ship")),
            "unknown_route",
        ),
        (lambda: authorised(authorised_by=" "), "bad_input"),
        (lambda: notice_presented(POLICY, "none", "zh", channel="web"), "unknown_notice"),
        (lambda: notice_presented(POLICY, "general", "fr", channel="web"), "unknown_language"),
        (lambda: notice_presented(POLICY, "general", "zh", channel="web", people=-1), "bad_input"),
        (lambda: partner_removed("bank", "a\nb"), "bad_input"),
        (lambda: partner_removed("x" * 3000, "r"), "bad_input"),
        (lambda: correction([], "nothing"), "bad_input"),
        (lambda: correction([True], "nothing"), "bad_input"),
    ],
)
def test_an_act_that_says_nothing_true_is_refused(act, code):
    with pytest.raises((BadInput, UnknownPurpose, InvalidConsent)) as caught:
        act()
    assert caught.value.code == code


def test_what_is_noted_about_a_person_decides_nothing(make_node):
    ledger = make_node("shop").open()
    first = ledger.record([grant(ANN, "overlap", partner="bank")]).first_index
    before = ledger.standings(ANN[0][1], "email")
    notes = [
        present(ANN, "overlap", ConsentTerms(notice="general", language="zh")),
        correct(ANN, first, "the wrong campaign", purpose="overlap"),
    ]
    done = ledger.record(notes)
    assert ledger.standings(ANN[0][1], "email") == before
    assert body_of(ledger, done.first_index)[1]["notice_version"] == 1
    kind, body = body_of(ledger, done.first_index + 1)
    assert (kind, body["previous"], body["reason"]) == ("correction", first, "the wrong campaign")
    assert verify_ledger(ledger).ok
    with pytest.raises(InvalidConsent):
        ledger.record([correct([("email", b"bob@example.org")], first, "not theirs")])
