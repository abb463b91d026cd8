"""The record on a receipt says what the payload says, under the names that `docs/consent-terms.md` gives."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from consent.consent_record import consent_record
from consent.encoding import Leaf, parse_json
from consent.events import EventType, decision_payload, grant, object_to, refuse, renew, withdraw
from consent.terms import ConsentTerms, ConsentType
from privacy.errors import Tampered
from privacy.signing import PublicKey

TABLES = (Path(__file__).parents[2] / "docs" / "consent-terms.md").read_text("utf-8")
ANN = [("email", b"ann@example.org")]
EVERYTHING = ConsentTerms(
    notice="general",
    notice_version=3,
    notice_hash="ab" * 32,
    language="zh-CN",
    ui_hash="cd" * 32,
    jurisdiction="CN",
    data_categories=("contact", "finance"),
    recipients=("Bank Ltd",),
    transfer_country="SG",
    transfer_route="standard_contract",
    consent_type=ConsentType.SEPARATE,
    previous=7,
    actor_key=PublicKey(b"\x01" * 32),
    actor_signature=b"\x02" * 64,
)


def record_of(event, type_=None, expires=None):
    payload = decision_payload(event, "00" * 16, 1, 1_000_000, expires)
    leaf = Leaf(
        "019f0000-0000-7000-8000-000000000000", type_ or event.type.value, 1_000_000, "ab" * 32, bytes(32)
    )
    return consent_record("shop.example/consent", leaf, parse_json(payload, limit=1 << 20))


def names_in(value):
    if isinstance(value, dict):
        return set(value) | {name for inner in value.values() for name in names_in(inner)}
    return {name for inner in value for name in names_in(inner)} if isinstance(value, list) else set()


def test_every_field_stands_under_the_name_the_table_gives_it():
    record = record_of(grant(ANN, "overlap.reach", partner="bank", terms=EVERYTHING), expires=2_000_000)
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| (\*ext\.\* )?`(\w+)` \|", TABLES, re.MULTILINE)
    named = {field: (name, bool(extension)) for field, extension, name in rows}
    written = {f.name for f in fields(ConsentTerms)} | {
        "v", "subject", "actor", "method", "effective_at", "expires_at", "purpose", "purpose_version",
        "partner", "basis",
    }  # fmt: skip
    assert written <= set(named)
    for field in written:
        name, extension = named[field]
        assert name in (record["extension"] if extension else names_in(record)), field


@pytest.mark.parametrize("make", [grant, renew, refuse, withdraw, object_to])
def test_every_kind_of_decision_has_the_state_the_table_gives_it(make):
    states = dict(re.findall(r"^\| `([a-z.]+)` \| (\w+) \| `dpv:", TABLES, re.MULTILINE))
    record = record_of(make(ANN, "overlap.reach"))
    assert record["events"][0]["event_state"] == states[record["events"][0]["event_type"]]


def test_an_applications_own_fields_are_kept_and_replace_nothing():
    record = record_of(grant(ANN, "overlap.reach", details={"campaign": "spring", "purpose": "x"}))
    assert (
        record["extension"] == {"campaign": "spring"} and record["purposes"][0]["purpose"] == "overlap.reach"
    )


def test_what_is_no_decision_has_no_record():
    for type_ in (EventType.USE_RECEIPT, EventType.NOTICE_PRESENTED, "no.type"):
        with pytest.raises(Tampered):
            record_of(grant(ANN, "overlap.reach"), str(type_))
    leaf = Leaf("019f0000-0000-7000-8000-000000000000", "consent.granted", 1, "ab" * 32, bytes(32))
    for body in ({}, {"effective_at": "x"}, json.loads('{"purpose": 1, "effective_at": "2026-01-01"}')):
        with pytest.raises(Tampered):
            consent_record("x", leaf, body)
