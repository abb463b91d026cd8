from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clean_room.errors import PeerViolation
from clean_room.group import Points
from clean_room.protocols.messages import (
    MESSAGES,
    Accept,
    AlignedRows,
    AlignPoints,
    AnalystChange,
    AnalystPoints,
    AnalystRows,
    ContributorChange,
    ContributorPoints,
    ContributorRows,
    DecryptedSums,
    InputCommitment,
    MaskedSums,
    Offer,
    PairPoints,
    PairSalt,
    ReachList,
    ReachOwn,
    ReachSizes,
    Seal,
    ValueColumns,
    chain,
    parse_message,
)

PREVIOUS = bytes(range(32))
WHOLE, SHORT = Points(os.urandom(96)), Points(os.urandom(48), 16)
EXAMPLES: dict[str, Any] = {
    "Offer": Offer(b'{"a":1}', InputCommitment((1, 2), b"checkpoint", b"p" * 32), b"k" * 32, b"s" * 64),
    "Accept": Accept(PREVIOUS, InputCommitment((7,)), b"s" * 64),
    "AnalystPoints": AnalystPoints(PREVIOUS, (WHOLE, Points(b""))),
    "ContributorPoints": ContributorPoints(PREVIOUS, (SHORT,), (WHOLE, WHOLE)),
    "ValueColumns": ValueColumns(PREVIOUS, b"key", (((b"one", b"two"), ()), ((b"three", b"four"), ()))),
    "MaskedSums": MaskedSums(PREVIOUS, (b"one", b"two")),
    "DecryptedSums": DecryptedSums(PREVIOUS, (0, 1, 2**64 - 1)),
    "AlignPoints": AlignPoints(PREVIOUS, SHORT, WHOLE),
    "AlignedRows": AlignedRows(PREVIOUS, bytes(8), bytes(32)),
    "PairSalt": PairSalt(PREVIOUS, b"s" * 32),
    "PairPoints": PairPoints(PREVIOUS, WHOLE, Points(b"")),
    "AnalystRows": AnalystRows(PREVIOUS, ((WHOLE, WHOLE), (Points(b""), Points(b"")))),
    "ContributorRows": ContributorRows(PREVIOUS, ((SHORT, SHORT),), ((WHOLE, WHOLE),)),
    "AnalystChange": AnalystChange(PREVIOUS, (b"", bytes(8)), WHOLE),
    "ContributorChange": ContributorChange(PREVIOUS, (), SHORT, (bytes(4), b""), Points(b"")),
    "ReachSizes": ReachSizes(PREVIOUS, (1, 2, 2**32 - 1)),
    "ReachOwn": ReachOwn(PREVIOUS, 7, b"h" * 32, WHOLE),
    "ReachList": ReachList(PREVIOUS, 7, 1, b"h" * 32, WHOLE),
    "Seal": Seal(PREVIOUS, 2, b"s" * 64),
}
each = pytest.mark.parametrize("message", EXAMPLES.values(), ids=EXAMPLES)


def test_there_is_an_example_of_every_message() -> None:
    assert {type(m) for m in EXAMPLES.values()} == set(MESSAGES.values())
    assert all(kind == MESSAGES[kind].KIND for kind in MESSAGES)


@each
def test_reading_undoes_writing(message: Any) -> None:
    data = message.to_bytes()
    assert b"".join(message.to_parts()) == data
    for buffer in (data, bytearray(data), memoryview(b"x" + data)[1:]):
        again = parse_message(buffer)
        assert again == message
        assert again.to_bytes() == data
        assert chain(again) == chain(message)


@each
def test_every_truncation_is_a_violation(message: Any) -> None:
    data = message.to_bytes()
    for end in range(len(data)):
        with pytest.raises(PeerViolation):
            type(message).from_bytes(data[:end])
        with pytest.raises(PeerViolation):
            parse_message(data[:end])


@each
@given(more=st.binary(min_size=1, max_size=40))
def test_anything_added_is_a_violation(message: Any, more: bytes) -> None:
    with pytest.raises(PeerViolation):
        type(message).from_bytes(message.to_bytes() + more)


@each
def test_the_message_of_another_type_is_a_violation(message: Any) -> None:
    for other in MESSAGES.values():
        if other is not type(message):
            with pytest.raises(PeerViolation):
                other.from_bytes(message.to_bytes())


@each
@pytest.mark.parametrize("at", [0, 3, 4, 6, 7])
def test_a_strange_header_is_a_violation(message: Any, at: int) -> None:
    data = bytearray(message.to_bytes())
    data[at] ^= 0x80
    with pytest.raises(PeerViolation):
        parse_message(data)


@each
@given(data=st.data())
def test_a_changed_message_is_another_or_a_violation_and_never_a_crash(
    message: Any, data: st.DataObject
) -> None:
    raw = bytearray(message.to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    try:
        again = parse_message(raw)
    except PeerViolation:
        return
    assert again.to_bytes() == bytes(raw)


@given(st.binary(max_size=300))
def test_noise_is_a_violation(noise: bytes) -> None:
    with pytest.raises(PeerViolation):
        parse_message(noise)
    for kind in MESSAGES:
        with pytest.raises(PeerViolation):
            parse_message(b"CMTY" + bytes([1, kind, 0, 0]) + noise[:31])


@pytest.mark.parametrize("kind", [3, 4, 5, 6, 7, 8, 9])
def test_a_length_far_beyond_the_message_allocates_nothing(kind: int) -> None:
    for filler in (b"\xff" * 64, b"\x00\x01" + b"\xff" * 64, b"\x00\x01\x00\x01" + b"\xff" * 8):
        with pytest.raises(PeerViolation):
            parse_message(b"CMTY" + bytes([1, kind, 0, 0]) + PREVIOUS + filler)


@each
def test_an_error_names_the_field_and_never_its_value(message: Any) -> None:
    data = message.to_bytes()
    with pytest.raises(PeerViolation) as caught:
        type(message).from_bytes(data[:-1])
    assert type(message).__name__ in caught.value.detail
    assert "\\x" not in caught.value.detail and data[-40:-1].hex() not in caught.value.detail


def test_points_stay_where_the_message_is() -> None:
    data = bytearray(AnalystPoints(PREVIOUS, (WHOLE,)).to_bytes())
    points = AnalystPoints.from_bytes(data).lists[0]
    data[-1] ^= 1
    assert points.array[2, 31] == data[-1]
    assert any(part is WHOLE.buffer for part in AnalystPoints(PREVIOUS, (WHOLE,)).to_parts())


def test_the_signature_covers_everything_but_itself() -> None:
    offer = EXAMPLES["Offer"]
    signed_otherwise = Offer(offer.terms, offer.commitment, offer.key, b"t" * 64)
    assert offer.unsigned() == signed_otherwise.unsigned()
    assert offer.unsigned() != Offer(offer.terms, offer.commitment, b"j" * 32, b"s" * 64).unsigned()
    accept = EXAMPLES["Accept"]
    assert accept.unsigned() != Accept(bytes(32), accept.commitment, accept.signature).unsigned()
