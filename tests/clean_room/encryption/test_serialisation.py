from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clean_room.encryption import SLOTS, Evaluator, Parameters, SecretKey
from clean_room.encryption.serialisation import Form, forms
from clean_room.errors import PeerViolation

SMALL, LARGE = Parameters(35_184_371_613_697), Parameters(281_474_976_694_273)
KINDS = ("key", "fresh", "answer")
HEADER = struct.Struct("<HBBBBHQ")


def objects(parameters: Parameters) -> dict[str, bytes]:
    key = SecretKey(parameters)
    answer, _ = Evaluator(parameters, key.public_key).hide(None, os.urandom)
    return {"key": key.public_key, "fresh": key.encrypt(np.arange(SLOTS)), "answer": answer}


@pytest.fixture(scope="module")
def ours() -> dict[str, bytes]:
    return objects(SMALL)


def sealed(form: Form) -> Form:
    """`form`, but SEAL must not be asked."""
    return replace(form, kind=lambda: pytest.fail("SEAL was given bytes that are not of the form"))


def test_every_object_has_the_length_its_kind_is_said_to_have(ours: dict[str, bytes]) -> None:
    lengths = {"key": 524_401, "fresh": 196_802, "answer": 131_185}
    for parameters in (SMALL, LARGE):
        assert {kind: len(data) for kind, data in objects(parameters).items()} == lengths
        assert {kind: getattr(forms(parameters), kind).length for kind in KINDS} == lengths


@pytest.mark.parametrize("kind", KINDS)
def test_a_partner_chooses_coefficients_and_a_seed_and_nothing_else(kind: str, ours: Any) -> None:
    form = getattr(forms(SMALL), kind)
    polynomials = {"key": 8, "fresh": 3, "answer": 2}[kind]
    free = form.length - sum(len(fixed) for _, fixed in form.frame)
    assert free == polynomials * SLOTS * 8 + (64 if kind == "fresh" else 0)
    assert form.load(SMALL, ours[kind]) is not None
    assert form.load(SMALL, memoryview(bytearray(ours[kind]))) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_anywhere_in_the_frame_is_refused_before_seal_is_asked(kind: str, ours: Any) -> None:
    form = getattr(forms(SMALL), kind)
    for start, fixed in form.frame:
        for at in range(start, start + len(fixed)):
            for bit in (1, 0x80):
                bad = bytearray(ours[kind])
                bad[at] ^= bit
                with pytest.raises(PeerViolation):
                    sealed(form).load(SMALL, bad)


def bombs(data: bytes) -> Iterator[bytes]:
    """Compressed bodies, in the outer header and in the inner one of the coefficients."""
    magic, size, major, minor, *_ = HEADER.unpack_from(data)
    bomb = pa.Codec("zstd").compress(bytes(64 << 20), asbytes=True)

    def wrapped(compression: int, body: bytes) -> bytes:
        return HEADER.pack(magic, size, major, minor, compression, 0, 16 + len(body)) + body

    for compression in (1, 2):
        yield wrapped(compression, bomb)
        yield wrapped(0, data[16:89] + wrapped(compression, bomb))
    yield wrapped(2, pa.Codec("zstd").compress(data[16:], asbytes=True))
    yield wrapped(2, bomb + bytes(len(data) - 16 - len(bomb)))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_a_partner_sends_is_inflated(kind: str, ours: Any) -> None:
    for bad in bombs(ours[kind]):
        with pytest.raises(PeerViolation):
            sealed(getattr(forms(SMALL), kind)).load(SMALL, bad)


@pytest.mark.parametrize("kind", KINDS)
def test_other_lengths_are_refused_before_seal_is_asked(kind: str, ours: Any) -> None:
    data = ours[kind]
    for bad in (b"", data[:16], data[:-1], data + b"\0", data * 2, bytes(len(data)), os.urandom(len(data))):
        with pytest.raises(PeerViolation):
            sealed(getattr(forms(SMALL), kind)).load(SMALL, bad)


@pytest.mark.parametrize("kind", KINDS)
def test_objects_under_another_plaintext_modulus_are_refused(kind: str, ours: Any) -> None:
    with pytest.raises(PeerViolation, match="agreed parameters"):
        sealed(getattr(forms(LARGE), kind)).load(LARGE, ours[kind])


def test_one_kind_is_not_taken_for_another(ours: dict[str, bytes]) -> None:
    for kind in KINDS:
        for other in set(KINDS) - {kind}:
            with pytest.raises(PeerViolation):
                sealed(getattr(forms(SMALL), kind)).load(SMALL, ours[other])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("polynomial", [0, 1])
def test_a_coefficient_out_of_range_is_refused_in_every_polynomial(
    kind: str, polynomial: int, ours: Any
) -> None:
    bad = bytearray(ours[kind])
    at = 113 + polynomial * SLOTS * 8 + 80
    bad[at : at + 8] = (1 << 60).to_bytes(8, "little")
    with pytest.raises(PeerViolation, match="out of range"):
        getattr(forms(SMALL), kind).load(SMALL, bad)


def test_an_answer_that_is_not_encrypted_is_refused(ours: dict[str, bytes]) -> None:
    transparent = ours["answer"][: -SLOTS * 8] + bytes(SLOTS * 8)
    with pytest.raises(PeerViolation, match="not encrypted"):
        forms(SMALL).answer.load(SMALL, transparent)


def test_two_encryptions_of_the_same_numbers_share_neither_coefficients_nor_seed() -> None:
    key = SecretKey(SMALL)
    one, two = (key.encrypt(np.arange(5)) for _ in range(2))
    assert one[-64:] != two[-64:]
    words = [np.frombuffer(data[113 : 113 + 3 * SLOTS * 8], dtype="<u8") for data in (one, two)]
    assert (words[0] == words[1]).sum() < 3
