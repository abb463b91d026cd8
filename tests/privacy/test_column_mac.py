from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given
from hypothesis import strategies as st

from privacy.column_mac import ColumnMac
from privacy.errors import BadInput, Misuse

KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
MESSAGE = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
# RFC 4493, section 4: lengths 0, 16, 40 and 64.
VECTORS = {
    0: "bb1d6929e95937287fa37d129b756746",
    16: "070a16b46b4d4144f79bdd9dd04a287c",
    40: "dfa66747de9ae63030ca32611497c827",
    64: "51f0bebf7e3b9d92fc49741779363cfe",
}


def tags(key: bytes, values: list[bytes]) -> list[bytes]:
    return [row.tobytes() for row in ColumnMac(key).tags(pa.array(values, pa.binary()))]


def test_tags_are_those_of_the_rfc() -> None:
    assert [t.hex() for t in tags(KEY, [MESSAGE[:n] for n in VECTORS])] == list(VECTORS.values())
    assert ColumnMac(KEY).one(MESSAGE).hex() == VECTORS[64]


@given(st.binary(min_size=16, max_size=16), st.lists(st.binary(max_size=300), max_size=40))
def test_a_column_is_hashed_as_its_rows_are_one_by_one(key: bytes, values: list[bytes]) -> None:
    expected = []
    for value in values:
        mac = CMAC(algorithms.AES(key))
        mac.update(value)
        expected.append(mac.finalize())
    assert tags(key, values) == expected


def test_every_length_around_the_block_and_slot_borders_is_right() -> None:
    values = [bytes(range(256)) * 2][:1] + [b"x" * n for n in range(270)]
    mac = ColumnMac(KEY)
    assert tags(KEY, values) == [mac.one(value) for value in values]


def test_a_slice_and_many_parts_are_hashed_like_the_whole() -> None:
    values = pa.array([f"person.{n}@example.org" for n in range(40_000)])
    mac = ColumnMac(KEY)
    whole = mac.tags(values)
    assert np.array_equal(mac.tags(values.slice(1234, 20_000)), whole[1234:21_234])
    assert len(mac.tags(values.slice(7, 0))) == 0


def test_missing_values_other_types_and_bad_keys_are_refused() -> None:
    with pytest.raises(BadInput):
        ColumnMac(KEY).tags(pa.array([b"a", None], pa.binary()))
    with pytest.raises(BadInput):
        ColumnMac(KEY).tags(pa.array([1, 2]))
    with pytest.raises(Misuse):
        ColumnMac(KEY + b"\0")
