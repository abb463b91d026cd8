"""Whatever bytes come, what reads them answers with a message or a PeerViolation, and with nothing else."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clean_room.encryption.parameters import Parameters
from clean_room.encryption.serialisation import forms
from clean_room.errors import Misuse, PeerViolation
from clean_room.protocols import (
    ActivateTerms,
    AlignTerms,
    ColumnTerms,
    EstimateTerms,
    MeasureTerms,
    OverlapTerms,
    parse_message,
)
from clean_room.protocols.messages import MESSAGES
from clean_room.protocols.terms import parse_terms
from clean_room.transport import Manifest, post_document
from consent.peers import PeerResponse

SMALL = Parameters(35_184_371_613_697)
HEADER = struct.Struct("!4sBBH32s")
sizes = st.one_of(st.integers(0, 4), st.sampled_from([255, 256, 257, 1 << 14, 1 << 16, 1 << 20, 1 << 31]))
number = st.one_of(
    sizes.map(lambda n: struct.pack("!H", n & 0xFFFF)),
    sizes.map(lambda n: struct.pack("!I", n & 0xFFFFFFFF)),
    st.sampled_from([bytes(8), b"\xff" * 8, b"\x00\x01\x00\x00\x00\x01"]),
)
body = st.lists(st.one_of(number, st.binary(max_size=70)), max_size=12).map(b"".join)
kinds = st.sampled_from(sorted(MESSAGES))


@settings(max_examples=400)
@given(kind=kinds, body=body)
def test_anything_behind_a_good_header_is_a_message_or_a_violation(kind: int, body: bytes) -> None:
    data = HEADER.pack(b"CMTY", 1, kind, 0, bytes(32)) + body
    try:
        message = parse_message(data)
    except PeerViolation as error:
        assert not error.detail.isdigit()
        return
    assert kind == message.KIND
    assert message.to_bytes() == data


@settings(max_examples=100)
@given(st.binary(max_size=200))
@example(b"CMTY")
@example(b"CMTY\x01\x00\x00\x00" + bytes(32))
@example(b"CMTY\x01\xff\x00\x00" + bytes(32))
def test_anything_at_all_is_a_message_or_a_violation(data: bytes) -> None:
    try:
        assert parse_message(data).to_bytes() == data
    except PeerViolation:
        return


GIVEN: dict[str, Any] = {"job": "j", "purpose": "overlap.reach", "analyst": "bank", "contributor": "shop"}
GOOD = [
    OverlapTerms(**GIVEN, dummies=2, epsilon=1.0, delta=1e-6),
    EstimateTerms(**GIVEN, step=35, period="2026-11", sample="ab" * 16),
    MeasureTerms(**GIVEN, columns=(ColumnTerms("spend", -5, 500, 100),)),
    AlignTerms(**GIVEN),
    ActivateTerms(**GIVEN, profile="pair-1", keep=990),
]
leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=20),
    st.sampled_from([10**400, "x" * 300, "\ud800", "all", [], {}, [[]], {"a": {}}]),
)
anything = st.recursive(leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner))


def read(data: bytes) -> None:
    try:
        assert parse_terms(data).to_bytes() == data
    except PeerViolation:
        return


@pytest.mark.parametrize("terms", GOOD, ids=lambda t: t.PROTOCOL)
@settings(max_examples=70)
@given(data=st.data())
def test_terms_with_anything_in_a_member_are_terms_or_a_violation(terms: Any, data: st.DataObject) -> None:
    document = json.loads(terms.to_bytes())
    for name in data.draw(st.lists(st.sampled_from(sorted(document)), min_size=1, max_size=2)):
        document[name] = data.draw(anything)
    if data.draw(st.booleans()):
        document[data.draw(st.text(max_size=5))] = data.draw(leaf)
    text = json.dumps(document, ensure_ascii=data.draw(st.booleans()), sort_keys=True)
    read(text.encode("utf-8", "surrogatepass"))


@settings(max_examples=100)
@given(st.one_of(st.binary(max_size=100), anything.map(lambda v: json.dumps(v).encode())))
def test_any_bytes_in_place_of_terms_are_a_violation(data: bytes) -> None:
    with pytest.raises(PeerViolation):
        parse_terms(data)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1", "true", '"1"', "9" * 5000])
@pytest.mark.parametrize("member", ["epsilon", "delta", "dummies", "padding", "columns"])
def test_no_number_of_the_terms_is_other_than_finite(number: str, member: str) -> None:
    document = json.loads(GOOD[1].to_bytes())
    text = json.dumps(document | {member: "@"}, separators=(",", ":"), sort_keys=True)
    with pytest.raises(PeerViolation):
        parse_terms(text.replace('"@"', number).encode())
    with pytest.raises(PeerViolation):
        parse_terms(text.replace('"@"', "[" * 100_000).encode())


@pytest.mark.parametrize("number", [math.nan, math.inf, -1.0, -math.inf])
def test_own_terms_cannot_be_made_with_such_a_number(number: float) -> None:
    for name in ("epsilon", "delta"):
        with pytest.raises(Misuse):
            replace(GOOD[0], **{name: number})
    with pytest.raises(Misuse):
        ColumnTerms("spend", 0, number)  # type: ignore[arg-type]


manifests = st.fixed_dictionaries(
    {"size": st.one_of(st.integers(0, 1 << 22), leaf), "chunks": st.one_of(st.integers(0, 4), leaf)}
    | {"digest": st.one_of(st.text("0123456789abcdef", min_size=64, max_size=64), leaf)}
)


@settings(max_examples=100)
@given(st.one_of(anything, manifests))
def test_a_manifest_is_one_or_a_violation(document: Any) -> None:
    try:
        manifest = Manifest.from_document(document, limit=1 << 22)
    except PeerViolation:
        return
    assert manifest.document() == document
    assert 0 <= manifest.size <= 1 << 22


class Answering:
    """A partner that answers everything with the same bytes."""

    partner = "shop"

    def __init__(self, body: bytes) -> None:
        self.body = body

    def request(self, *_args: object, **_more: object) -> PeerResponse:
        return PeerResponse(200, {}, self.body)


@settings(max_examples=100)
@given(st.one_of(st.binary(max_size=80), anything.map(lambda v: json.dumps(v).encode())))
@example(b"[" * 200_000)
@example(b'{"a":' * 200_000)
@example(b"1" * 10_000)
@example(b"\xef\xbb\xbf{}")
@example(b" " * (1 << 20) + b"{}")
def test_an_answer_is_an_object_or_a_violation(body: bytes) -> None:
    try:
        document = post_document(Answering(body), "/v1/peer/jobs", {})
    except PeerViolation:
        return
    assert isinstance(document, dict)


@pytest.mark.parametrize("kind", ["key", "fresh", "answer"])
@settings(max_examples=60)
@given(data=st.data())
def test_a_key_or_a_ciphertext_is_one_or_a_violation(kind: str, data: st.DataObject) -> None:
    form = getattr(forms(SMALL), kind)
    raw = bytearray(data.draw(st.sampled_from([b"", bytes(form.length), bytes(16), b"\x5e\xa1"])))
    for at, fixed in form.frame:
        if len(raw) == form.length and data.draw(st.booleans()):
            raw[at : at + len(fixed)] = fixed
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(raw)))
        raw[at : at + 8] = data.draw(st.binary(min_size=1, max_size=8))
    with contextlib.suppress(PeerViolation):
        form.load(SMALL, bytes(raw))
