"""ristretto255 against RFC 9496, and PAIR's byte recipe against its description."""

from __future__ import annotations

import os
from hashlib import sha256, sha512

import pytest
import rbcl
from hypothesis import given, settings
from hypothesis import strategies as st

from clean_room.errors import Misuse, PeerViolation
from clean_room.group.pool import BlindingPool
from clean_room.group.ristretto import decrypt, encrypt, hash_to_points, new_key
from privacy.identifiers import match_key

# RFC 9496, appendix A.1 (multiples of the generator) and A.3 (element derivation), A.2 (bad encodings).
GENERATOR = "e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76"
MULTIPLES = {
    2: "6a493210f7499cd17fecb510ae0cea23a110e8d5b901f8acadd3095c73a3b919",
    3: "94741f5d5d52755ece4f23f044ee27d5d1ea1e2bd196b462166b16152a9d0259",
}
DERIVED = {
    "5d1be09e3d0c82fc538112490e35701979d99e06ca3e2b5b54bffe8b4dc772c1"
    "4d98b696a1bbfb5ca32c436cc61c16563790306c79eaca7705668b47dffe5bb6": (
        "3066f82a1a747d45120d1740f14358531a8f04bbffe6a819f86dfe50f44a0a46"
    )
}
BAD = [
    "00ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "26948d35ca62e643e26a83177332e6b6afeb9d08e4268b650f1f5bbd8d81d371",
    "0000000000000000000000000000000000000000000000000000000000000000",
]


@pytest.mark.parametrize(("factor", "expected"), MULTIPLES.items())
def test_multiples_of_the_generator(factor: int, expected: str) -> None:
    assert encrypt(factor.to_bytes(32, "little"), bytes.fromhex(GENERATOR)).hex() == expected


@pytest.mark.parametrize(("uniform", "expected"), DERIVED.items())
def test_points_are_derived_as_the_standard_says(uniform: str, expected: str) -> None:
    assert rbcl.crypto_core_ristretto255_from_hash(bytes.fromhex(uniform)).hex() == expected


@pytest.mark.parametrize("bad", BAD)
def test_what_encodes_no_point_is_a_violation(bad: str) -> None:
    with pytest.raises(PeerViolation):
        encrypt(new_key(os.urandom), bytes.fromhex(GENERATOR) + bytes.fromhex(bad))


def test_the_recipe_is_that_of_pair() -> None:
    """As in github.com/Optable/match, pkg/pair/pair.go, PAIRSHA256Ristretto25519 (no fixed vectors there).

    `hash` writes the salt (32 bytes), then the data, to SHA-256; `Encrypt` takes SHA-512 of that, then
    FromUniformBytes and ScalarMult. The data are the hex digits of SHA-256, as in Optable's optable-pair-cli.
    """
    salt, address = bytes(range(32)), b"ann@example.org"
    key = sha256(address).hexdigest().encode()
    assert match_key(address, "pair-1") == key
    expected = rbcl.crypto_core_ristretto255_from_hash(sha512(sha256(salt + key).digest()).digest())
    assert hash_to_points([key], salt) == expected


scalars = st.integers(1, 2**252).map(lambda k: k.to_bytes(32, "little"))


@settings(max_examples=20)
@given(scalars, scalars)
def test_encryption_commutes_and_can_be_undone(a: bytes, p: bytes) -> None:
    points = hash_to_points([b"0" * 64, b"1" * 64], bytes(32))
    assert encrypt(a, encrypt(p, points)) == encrypt(p, encrypt(a, points))
    assert decrypt(a, encrypt(a, points)) == points


def test_a_new_key_is_never_zero() -> None:
    drawn = iter([bytes(64), b"\x01" + bytes(63)])
    assert new_key(lambda _: next(drawn)) == b"\x01" + bytes(31)


@pytest.mark.parametrize("key", [bytes(32), b"", b"x" * 31])
def test_a_key_that_is_none_is_misuse(key: bytes) -> None:
    with pytest.raises(Misuse):
        encrypt(key, b"")


def test_a_salt_or_list_of_the_wrong_length_is_misuse() -> None:
    with pytest.raises(Misuse):
        hash_to_points([b"0" * 64], b"short")
    with pytest.raises(Misuse):
        encrypt(new_key(os.urandom), bytes(33))


def test_worker_processes_give_what_this_process_gives() -> None:
    import pyarrow as pa

    people = pa.array([f"p{i}@example.org".encode() for i in range(700)], pa.binary())
    key, salt = new_key(os.urandom), os.urandom(32)
    with BlindingPool(0) as inline, BlindingPool(1) as pool:
        points = inline.pair_hash(people, key, salt)
        assert pool.pair_hash(people, key, salt) == points
        assert pool.pair_encrypt(key, points) == inline.pair_encrypt(key, points)
        with pytest.raises(PeerViolation):
            pool.pair_encrypt(key, points[:32] + bytes(32))
