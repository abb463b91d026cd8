"""The terms of a decision, the payload they are written into, and the table that names them elsewhere."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.actors import signed_by_actor, statement, verify_actor
from consent.encoding import canonical_json
from consent.errors import InvalidConsent
from consent.events import (
    ACTORS,
    Event,
    EventType,
    Identifier,
    correct,
    decision_payload,
    expire,
    grant,
    invalidate,
    object_to,
    present,
    renew,
    signal,
    withdraw,
)  # fmt: skip
from consent.terms import ConsentTerms, ConsentType, members, plain
from privacy.errors import BadInput
from privacy.signing import SigningKey

ANN = [("email", b"ann@example.org")]
KEY = SigningKey.from_seed(b"\x05" * 32)
AT = datetime(2026, 3, 1, tzinfo=UTC)

HASH = st.text("0123456789abcdef", min_size=64, max_size=64)
TERMS = st.builds(
    ConsentTerms,
    notice=st.none() | st.sampled_from(["general", "ads_2"]),
    notice_version=st.none() | st.integers(0, 9),
    notice_hash=st.none() | HASH,
    language=st.none() | st.sampled_from(["zh", "en-GB", "zh-Hans-CN"]),
    ui_hash=st.none() | HASH,
    jurisdiction=st.none() | st.sampled_from(["CN", "EU", "US-CA"]),
    data_categories=st.sampled_from([(), ("contact",), ("contact", "finance")]),
    recipients=st.sampled_from([(), ('银行 "北京"',), ("a", "b\\c", "😀")]),
    transfer_country=st.none() | st.just("SG"),
    transfer_route=st.none() | st.just("standard_contract"),
    consent_type=st.none() | st.sampled_from(list(ConsentType)),
    previous=st.none() | st.integers(0, 1 << 53 - 1),
)


@given(TERMS, st.none() | st.dictionaries(st.sampled_from(["source", "campaign"]), st.text(max_size=20)))
def test_a_payload_with_terms_is_canonical_json_of_all_of_them(terms, details):
    event = grant(ANN, "overlap.reach", terms=terms, details=details, partner="bank")
    payload = decision_payload(event, "ab" * 16, 1, 5, 10)
    body = json.loads(payload)
    assert payload == canonical_json(body)
    base = json.loads(decision_payload(grant(ANN, "overlap.reach", partner="bank"), "ab" * 16, 1, 5, 10))
    assert body == {**(details or {}), **base, **plain(terms)}
    assert {name for name, _ in members(terms)} == set(plain(terms))


@pytest.mark.parametrize(
    "wrong",
    [
        {"notice": "No Spaces"}, {"notice": "x" * 65}, {"notice": 3}, {"notice_hash": "ab"},
        {"notice_hash": "AB" * 32}, {"ui_hash": "zz" * 32}, {"language": "Chinese!"}, {"language": "zh\n"},
        {"jurisdiction": "china"}, {"jurisdiction": "CN-"}, {"transfer_country": "USA"},
        {"transfer_route": "by ship"}, {"notice_version": -1}, {"notice_version": True},
        {"previous": 1 << 53}, {"previous": -1}, {"previous": "5"}, {"data_categories": ["contact"]},
        {"data_categories": ("Contact",)}, {"data_categories": ("a", "a")}, {"recipients": ("",)},
        {"recipients": ("x" * 201,)}, {"recipients": ("a\nb",)}, {"recipients": ("\ud800",)},
        {"recipients": tuple(str(i) for i in range(65))}, {"consent_type": "spoken"},
        {"actor_key": KEY.public}, {"actor_signature": b"x" * 64},
        {"actor_key": KEY.public, "actor_signature": b"short"},
    ],
)  # fmt: skip
def test_malformed_terms_are_refused_without_quoting_them(wrong):
    with pytest.raises(BadInput) as caught:
        ConsentTerms(**wrong)
    assert caught.value.code in ("bad_terms", "bad_actor_signature")
    assert not any(str(v) in str(caught.value) for v in wrong.values() if isinstance(v, str) and len(v) > 3)


def test_a_type_of_consent_is_every_weaker_one_too():
    order = [ConsentType.EXPLICIT, ConsentType.SEPARATE, ConsentType.WRITTEN]
    for i, one in enumerate(order):
        assert [one.satisfies(other) for other in order] == [j <= i for j in range(3)]


def test_details_of_a_megabyte_are_refused_where_the_event_is_made():
    with pytest.raises(BadInput) as caught:
        grant(ANN, "overlap", details={"blob": "x" * 1_000_000})
    assert caught.value.code == "too_large"
    for bad in ({"a": "\ud800"}, {"a": b"x"}, {"a": float("nan")}, {1: 2}):
        with pytest.raises(BadInput):
            grant(ANN, "overlap", details=bad)


def test_each_type_of_event_about_a_person_has_a_constructor():
    made = [
        renew(ANN, "overlap"), expire(ANN, "overlap"), invalidate(ANN, "overlap"), object_to(ANN, "model"),
        present(ANN, "overlap", ConsentTerms(notice="general")), signal(ANN, {"signal": {"raw": "1"}}),
        correct(ANN, 3, "mistyped"),
    ]  # fmt: skip
    assert [event.type.value for event in made] == [
        "consent.renewed", "consent.expired", "consent.invalidated", "objection", "notice.presented",
        "signal.received", "correction",
    ]  # fmt: skip
    assert made[-1].terms.previous == 3 and made[1].actor == "controller"
    with pytest.raises(BadInput):
        present(ANN, "overlap", ConsentTerms())
    with pytest.raises(BadInput):
        Event(EventType.SHARE_AUTHORISED, (Identifier("email", b"x"),), "overlap")
    for actor in ACTORS:
        assert withdraw(ANN, actor=actor).actor == actor
    with pytest.raises(BadInput):
        withdraw(ANN, actor="somebody")


def test_a_signature_of_the_actor_is_over_this_decision_and_no_other():
    event = grant(
        ANN, "overlap.reach", partner="bank", effective_at=AT, purpose_version=1, actor="guardian",
        terms=ConsentTerms(notice="general", language="zh", jurisdiction="CN"),
    )  # fmt: skip
    signed = signed_by_actor(event, KEY)
    verify_actor(signed)
    verify_actor(event)
    assert b"ann@example.org" not in decision_payload(signed, "ab" * 16, 1, 5, None)
    assert b"actor_signature" not in statement(signed)
    for change in (
        {"purpose": "overlap"}, {"partner": "*"}, {"actor": "subject"}, {"basis": "contract"},
        {"identifiers": (Identifier("email", b"bob@example.org"),)}, {"purpose_version": 2},
        {"effective_at": datetime(2026, 3, 2, tzinfo=UTC)}, {"expires_at": datetime(2027, 1, 1, tzinfo=UTC)},
        {"type": EventType.REFUSED},
        {"terms": replace(signed.terms, language="en")},
        {"terms": replace(signed.terms, actor_key=SigningKey.generate().public)},
        {"terms": replace(signed.terms, actor_signature=b"\x00" * 64)},
    ):  # fmt: skip
        with pytest.raises(InvalidConsent) as caught:
            verify_actor(replace(signed, **change))
        assert caught.value.code == "bad_actor_signature"
    for missing in ({"effective_at": None}, {"purpose_version": None}):
        with pytest.raises(InvalidConsent):
            signed_by_actor(replace(event, **missing), KEY)


DOCUMENT = (Path(__file__).parents[2] / "docs" / "consent-terms.md").read_text("utf-8")


def rows(heading):
    section = DOCUMENT.split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    return [row for row in cells if re.fullmatch(r"`[a-z_.]+`", row[0])]


def test_the_table_names_every_field_of_a_payload_once_and_one_to_one():
    event = grant(ANN, "overlap", expires_at=AT)
    base = set(json.loads(decision_payload(event, "ab" * 16, 1, 5, 10)))
    assert [row[0].strip("`") for row in rows("Terms, where they are known")] == [
        f.name for f in fields(ConsentTerms)
    ]
    assert {row[0].strip("`") for row in rows("In every record")} == base
    leaf = {"commit", "id", "policy_hash", "recorded_at", "type"}
    entry = rows("From the log entry")
    assert {row[0].strip("`") for row in entry if len(row) == 4} == leaf
    every = [
        *rows("In every record"),
        *rows("Terms, where they are known"),
        *(r for r in entry if len(r) == 4),
    ]
    for column in (2, 3):
        terms = [row[column] for row in every]
        assert all(re.fullmatch(r"(\*ext\.\* )?`([a-z]+:)?\w+`", term) for term in terms), terms
        assert len(set(terms)) == len(terms)


def test_the_table_names_every_decision():
    from consent.consent_record import _STATES
    from consent.events import GRANTING, RESTRICTING

    named = {row[0].strip("`"): row[1] for row in rows("From the log entry") if len(row) == 3}
    assert named == {type_.value: state for type_, state in _STATES.items()}
    assert set(named) == {t.value for t in GRANTING | RESTRICTING}
