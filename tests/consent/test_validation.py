"""What may not be recorded, and the code that says why."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from consent.actors import signed_by_actor
from consent.errors import InvalidConsent, UnknownPurpose
from consent.events import grant, object_to, present, refuse, renew, withdraw
from consent.history import open_entry
from consent.laws import Trait
from consent.purposes import PurposePolicy
from consent.terms import ConsentTerms, ConsentType
from consent.validation import checked, demanded
from privacy.errors import BadInput, ComityError
from privacy.signing import SigningKey

NOW = datetime(2026, 3, 1, 9, tzinfo=UTC)
ANN = [("email", b"ann@example.org")]
POLICY = PurposePolicy.parse(
    """
policy: test
version: 3
categories:
  contact: {title: {en: Contact}, fields: [email]}
  finance: {title: {en: Money}, fields: [balance], sensitive: [pipl]}
purposes:
  share:
    since: 1
    title: {en: Sharing}
    traits: [provided]
    bases: {pipl: [consent, contract], gdpr: [consent]}
    data: [contact]
    children:
      score: {since: 1, title: {en: Scores}, traits: [automated], data: [contact, finance]}
      kids: {since: 2, title: {en: Kids}, traits: [minors]}
      bare: {since: 3, title: {en: Without a notice}}
  shown: {since: 1, title: {en: Shown}, notice: required}
  count: {since: 1, title: {en: Counting}}
notices:
  main: {version: 2, since: 2, material: true, purposes: [share], text: {en: We share., zh: 我们共享。}}
  small: {version: 1, purposes: [shown, count], text: {en: We count.}}
"""
)
CN = ConsentTerms(notice="main", language="zh", jurisdiction="CN", data_categories=("contact",))
SEPARATE = replace(CN, consent_type=ConsentType.SEPARATE)


def record(*events, policy=POLICY):
    return checked(policy, events, NOW + timedelta(minutes=5))


def code_of(*events, policy=POLICY):
    with pytest.raises(ComityError) as caught:
        record(*events, policy=policy)
    assert "ann@" not in str(caught.value) and len(str(caught.value)) < 300
    return caught.value.code


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (grant(ANN, "share.sms"), "unknown_purpose"),
        (grant(ANN, "share.kids", purpose_version=1), "unknown_purpose_version"),
        (grant(ANN, "count", purpose_version=4), "unknown_purpose_version"),
        (withdraw(ANN, "share.sms"), "unknown_purpose"),
        (grant(ANN, "count", effective_at=NOW + timedelta(minutes=6)), "future_event"),
        (grant(ANN, "count", effective_at=datetime(2026, 1, 1)), "bad_input"),
        (grant(ANN, "count", expires_at=datetime(2026, 1, 1)), "bad_input"),
        (grant(ANN, "share.bare"), "notice_required"),
        (grant(ANN, "shown"), "notice_required"),
        (renew(ANN, "shown"), "notice_required"),
        (grant(ANN, "shown", terms=ConsentTerms(jurisdiction="GB")), "notice_required"),
        (grant(ANN, "count", terms=ConsentTerms(jurisdiction="CN")), "notice_required"),
        (grant(ANN, "count", terms=ConsentTerms(notice="main")), "notice_required"),
        (grant(ANN, "count", terms=ConsentTerms(notice="absent")), "unknown_notice"),
        (grant(ANN, "count", terms=ConsentTerms(notice="small", notice_version=2)), "unknown_notice_version"),
        (grant(ANN, "count", terms=ConsentTerms(notice="small", language="fr")), "unknown_language"),
        (
            grant(ANN, "count", terms=ConsentTerms(notice="small", language="en", notice_hash="00" * 32)),
            "notice_mismatch",
        ),
        (grant(ANN, "count", terms=ConsentTerms(notice="small", notice_hash="00" * 32)), "notice_mismatch"),
        (grant(ANN, "count", terms=ConsentTerms(data_categories=("wealth",))), "unknown_category"),
        (grant(ANN, "share", terms=CN), "separate_consent_required"),
        (
            grant(ANN, "share", terms=replace(CN, consent_type=ConsentType.EXPLICIT)),
            "separate_consent_required",
        ),
        (grant(ANN, "share.score", terms=replace(CN, jurisdiction="DE")), "explicit_consent_required"),
        (grant(ANN, "share.kids", terms=SEPARATE), "guardian_required"),
        (
            grant(ANN, "share.score", terms=replace(SEPARATE, transfer_country="SG")),
            "transfer_route_required",
        ),
        (grant(ANN, "share.score", terms=replace(SEPARATE, transfer_route="by_ship")), "unknown_route"),
        (grant(ANN, "share", basis="legitimate_interest", terms=CN), "unknown_basis"),
        (
            grant(ANN, "share", basis="contract", terms=replace(CN, jurisdiction="DE")),
            "basis_not_allowed",
        ),
    ],
)
def test_what_may_not_be_recorded_is_refused_by_its_code(event, code):
    assert code_of(event) == code
    assert isinstance(_raised(event), UnknownPurpose | BadInput | InvalidConsent)


def _raised(event):
    with pytest.raises(ComityError) as caught:
        record(grant(ANN, "count"), event)
    assert caught.value.position == 1
    return caught.value


@pytest.mark.parametrize(
    "event",
    [
        grant(ANN, "count"),
        grant(ANN, "share"),
        grant(ANN, "count", terms=ConsentTerms(jurisdiction="GB")),
        grant(ANN, "share.score", terms=SEPARATE),
        grant(ANN, "share.score", terms=replace(SEPARATE, consent_type=ConsentType.WRITTEN)),
        grant(ANN, "share", basis="contract", terms=CN),
        grant(ANN, "share.kids", actor="guardian", terms=SEPARATE),
        grant(
            ANN, "share.score",
            terms=replace(SEPARATE, transfer_country="SG", transfer_route="standard_contract"),
        ),
        grant(ANN, "share.score", terms=replace(SEPARATE, transfer_country="CN")),
        refuse(ANN, "share.bare"), withdraw(ANN, "shown"), withdraw(ANN), object_to(ANN, "share.kids"),
        refuse(ANN, "share", terms=replace(CN, consent_type=None)),
    ],
)  # fmt: skip
def test_what_may_be_recorded_is_not_in_the_way_of_a_restriction(event):
    assert len(record(event)) == 1


def test_what_the_policy_knows_of_a_notice_is_filled_in():
    (made,) = record(grant(ANN, "share", terms=SEPARATE))
    notice = POLICY.notices["main"]
    assert made.terms.notice_version == 2 and made.terms.notice_hash == notice.hash("zh")
    (shown,) = record(present(ANN, "shown", ConsentTerms(notice="small", language="en")))
    assert shown.terms.notice_hash == POLICY.notices["small"].hash("en")
    plain = grant(ANN, "count")
    assert record(plain)[0] is plain


def test_consent_to_a_notice_that_has_changed_materially_is_refused_unless_it_was_given_then():
    policy = PurposePolicy.parse(
        "policy: p\nversion: 3\npurposes: {a: {since: 1, title: {en: A}}}\nnotices:\n  n:\n    version: 3\n"
        "    since: 3\n    purposes: [a]\n    text: {en: New.}\n    earlier:\n"
        f"    - {{version: 2, since: 2, material: true, text: {{en: '{'22' * 32}'}}}}\n"
        f"    - {{version: 1, text: {{en: '{'11' * 32}'}}}}\n"
    )
    shown = {n: ConsentTerms(notice="n", notice_version=n, language="en") for n in (1, 2, 3)}
    assert code_of(grant(ANN, "a", terms=shown[1]), policy=policy) == "notice_outdated"
    (old,) = record(grant(ANN, "a", terms=shown[1], purpose_version=1), policy=policy)
    assert old.terms.notice_hash == "11" * 32
    for version in (2, 3):
        assert record(grant(ANN, "a", terms=shown[version]), policy=policy)


def test_a_policy_can_hold_everything_to_a_law():
    text = json.loads(json.dumps(POLICY.document)) | {"laws": ["pipl"]}
    strict = PurposePolicy.from_document(text)
    assert code_of(grant(ANN, "share"), policy=strict) == "notice_required"
    shown = ConsentTerms(notice="main", language="en", data_categories=("contact",))
    assert code_of(grant(ANN, "share", terms=shown), policy=strict) == "separate_consent_required"
    # A decision that names a place is held to the law of that place instead.
    assert record(grant(ANN, "count", terms=ConsentTerms(jurisdiction="GB")), policy=strict)


def test_a_grant_of_a_parent_is_held_to_what_its_children_need():
    rules = {rule.id for _, rule in demanded(POLICY, grant(ANN, "share", terms=CN))}
    assert {"provision", "automated_decisions", "minors"} <= rules
    old = {rule.id for _, rule in demanded(POLICY, grant(ANN, "share", terms=CN, purpose_version=1))}
    assert "minors" not in old  # that child came later and is not covered


def test_sensitive_data_are_told_from_the_categories_named_or_else_needed():
    for terms, sensitive in (
        (CN, False),
        (replace(CN, data_categories=()), True),
        (replace(CN, data_categories=("finance",)), True),
        (replace(CN, data_categories=("finance",), jurisdiction="DE"), False),
    ):
        rules = {rule.id for _, rule in demanded(POLICY, grant(ANN, "share.score", terms=terms))}
        assert ("sensitive" in rules) is sensitive
    assert Trait.SENSITIVE not in POLICY.purposes["share.score"].traits


def test_a_wrong_signature_of_the_actor_is_refused_and_a_right_one_recorded_as_it_was_signed(make_node):
    ledger = make_node("shop").open()
    key = SigningKey.generate()
    event = grant(
        ANN, "overlap.reach", partner="bank", effective_at=ledger.clock(), purpose_version=1,
        actor="agent", terms=ConsentTerms(notice="general", language="zh"),
    )  # fmt: skip
    signed = signed_by_actor(event, key)
    with pytest.raises(InvalidConsent) as caught:
        ledger.record([replace(signed, partner="*")])
    assert caught.value.code == "bad_actor_signature" and ledger.head().size == 1
    done = ledger.record([signed])
    with ledger.store.read() as view:
        body = json.loads(open_entry(view, ledger.vault, done.first_index)[1].payload)
    assert body["actor_key"] == key.public.to_text() and "notice_hash" not in body
    assert ledger.check(b"ann@example.org", "email", "overlap.reach", "bank").allowed
