from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.encoding import (
    Leaf,
    canonical_json,
    commitment,
    from_micros,
    is_leaf,
    parse_json,
    parse_time,
    render_leaves,
    render_time,
    to_micros,
    uuid7,
)
from consent.events import Event, EventType, decision_payload
from privacy.errors import BadInput, Tampered

MICROS = st.integers(0, 4_000_000_000_000_000)
LEAF = Leaf(
    "0192f0c4-aaaa-7bbb-8ccc-0123456789ab", "consent.granted", 1_700_000_000_123_456, "a" * 64, b"\x01" * 32
)


def test_keys_are_sorted_and_text_is_not_escaped():
    # RFC 8785 §3.2.2 and §3.2.3.
    assert (
        canonical_json({"b": "é\u20ac", "a": [1, 1.5, True, None]})
        == '{"a":[1,1.5,true,null],"b":"é€"}'.encode()
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, 1 << 60, b"bytes", {1: 2}, "\ud800", object()])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(BadInput):
        canonical_json(value)


@given(MICROS, st.binary(min_size=42, max_size=42))
def test_a_leaf_is_canonical_json_and_reads_back(micros, random):
    leaf = Leaf(uuid7(micros, random[:10]), "use.receipt", micros, "0f" * 32, random[10:])
    data = leaf.to_bytes()
    assert data == canonical_json(json.loads(data)) and len(data) <= 1024
    assert Leaf.from_bytes(data) == leaf and is_leaf(data)
    assert json.loads(data)["id"][14] == "7" and json.loads(data)["id"][19] in "89ab"


@given(MICROS, MICROS | st.none(), st.integers(1, 9))
def test_a_payload_is_canonical_json(effective, expires, version):
    ends = None if expires is None else from_micros(expires)
    event = Event(EventType.GRANTED, (("email", b"a"),), "overlap.reach", "bank:a/b", expires_at=ends)
    payload = decision_payload(event, "00" * 16, version, effective, expires)
    assert payload == canonical_json(json.loads(payload))


def test_details_are_added_to_a_payload_and_cannot_replace_its_fields():
    event = Event(
        EventType.GRANTED, (("email", b"a"),), "overlap", details={"notice": "注意", "subject": "other"}
    )
    body = json.loads(decision_payload(event, "ab" * 16, 1, 0, None))
    assert body["notice"] == "注意" and body["subject"] == "ab" * 16


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.replace(b'"v":1', b'"v":2'),
        lambda d: d + b" ",
        lambda d: d.replace(b",", b", ", 1),
        lambda d: d.replace(b"01010101", b"0101010G", 1),
        lambda d: d.replace(b"2023-", b"2023-13", 1),
        lambda d: d.replace(b"2023-11", b"2023-99"),
        lambda d: d.replace(b"consent.granted", b"Consent"),
        lambda d: d.replace(b"consent.granted", b"a" * 2000),
        lambda d: b"",
    ],
)
def test_anything_else_is_no_leaf(change):
    with pytest.raises(Tampered):
        Leaf.from_bytes(change(LEAF.to_bytes()))


def test_the_commitment_is_the_labelled_hash():
    from hashlib import sha256

    assert commitment(b"s" * 32, b"p") == sha256(b"comity/consent/v1" + b"s" * 32 + b"p").digest()
    with pytest.raises(BadInput):
        commitment(b"short", b"p")


@given(MICROS)
def test_times_round_trip_to_the_microsecond(micros):
    assert parse_time(render_time(micros)) == micros == to_micros(from_micros(micros))


def test_times_without_offset_or_in_another_form_are_refused():
    with pytest.raises(BadInput):
        to_micros(datetime(2026, 1, 1))
    assert to_micros(datetime(1970, 1, 1, tzinfo=UTC)) == 0
    for text in ("2026-01-01", "2026-01-01T00:00:00Z", "2026-02-30T00:00:00.000000Z", ""):
        with pytest.raises(BadInput):
            parse_time(text)


@pytest.mark.parametrize(
    "data", [b'{"secret":1,"secret":2}', b"NaN", b"\xff", b"{secret", b"[" * 100_000, b""]
)
def test_json_that_is_ambiguous_or_broken_is_refused_without_quoting_it(data):
    with pytest.raises(BadInput) as caught:
        parse_json(data, limit=1 << 20)
    assert "secret" not in str(caught.value)


def test_json_larger_than_the_limit_is_refused():
    with pytest.raises(BadInput) as caught:
        parse_json(b'"' + b"x" * 100 + b'"', limit=50)
    assert caught.value.code == "too_large"


@given(
    st.integers(0, 1 << 52),
    st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.binary(min_size=10, max_size=10)), max_size=5),
)
def test_many_leaves_are_written_as_one_is(micros, items):
    policy, random = "ab" * 32, b"".join(r for _, r in items)
    written = render_leaves(micros, random, [("consent.granted", commit, policy) for commit, _ in items])
    assert written == [
        Leaf(uuid7(micros, r), "consent.granted", micros, policy, commit).to_bytes() for commit, r in items
    ]
