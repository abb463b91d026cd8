from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clean_room.errors import BadInput
from clean_room.group import DST, hash_to_curve
from clean_room.group.blinding import CryptographyBlinder, check_canonical
from clean_room.group.hash_to_curve import clear_cofactor, hash_column, hash_to_field, on_curve

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "rfc9380_curve25519_nu.json").read_text())
P = 2**255 - 19


def coordinates(points: bytes) -> list[int]:
    return [int.from_bytes(points[i : i + 32], "little") for i in range(0, len(points), 32)]


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda v: f"{len(v['msg'])}-bytes")
def test_the_rfc_vectors_pass(vector: dict[str, str]) -> None:
    message, dst = vector["msg"].encode(), VECTORS["dst"].encode()
    assert [int(u) for u in hash_to_field([message], dst)] == [int(vector["u"], 16)]
    (mapped,) = coordinates(hash_to_curve([message], dst))
    assert mapped == int(vector["Q_x"], 16)
    assert clear_cofactor(mapped) == int(vector["P_x"], 16)


def test_all_five_vectors_pass_as_one_batch() -> None:
    messages = [v["msg"].encode() for v in VECTORS["vectors"]]
    assert len(messages) == 5
    expected = [int(v["Q_x"], 16) for v in VECTORS["vectors"]]
    assert coordinates(hash_to_curve(messages, VECTORS["dst"].encode())) == expected


def test_clearing_the_cofactor_is_three_doublings_of_x25519() -> None:
    # X25519(k, P) with k = 8·m equals X25519 of the cleared point by m, so both ways of clearing agree.
    (point,) = coordinates(hash_to_curve([b"somebody"]))
    cleared = clear_cofactor(point)
    k = 2**254 + 8 * 12345
    direct = CryptographyBlinder().blind(k.to_bytes(32, "little"), point.to_bytes(32, "little"))
    assert int.from_bytes(direct, "little") == ladder(k // 8, cleared)


def ladder(k: int, u: int) -> int:
    """RFC 7748's ladder without clamping, as its pseudocode reads."""
    x2, z2, x3, z3, swap = 1, 0, u, 1, 0
    for t in reversed(range(255)):
        bit = (k >> t) & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, u * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, x3, z2, z3 = x3, x2, z3, z2
    return x2 * pow(z2, P - 2, P) % P


@given(st.lists(st.binary(max_size=64), max_size=20))
def test_every_hashed_point_is_canonical_and_on_the_curve_never_the_twist(messages: list[bytes]) -> None:
    points = hash_to_curve(messages)
    check_canonical(points)
    assert all(on_curve(u) for u in coordinates(points))


def test_the_raw_hash_would_have_leaked_a_bit_about_half_of_the_people() -> None:
    import hashlib

    raw = [int.from_bytes(hashlib.sha256(b"%d" % i).digest(), "little") % P for i in range(400)]
    assert 150 < sum(on_curve(u) for u in raw) < 250


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_a_batch_gives_what_its_members_give_alone(messages: list[bytes]) -> None:
    assert hash_to_curve(messages) == b"".join(hash_to_curve([m]) for m in messages)
    assert hash_column(pa.array(messages, pa.binary())) == hash_to_curve(messages)


def test_batches_longer_than_one_inversion_keep_their_order() -> None:
    messages = [b"%d" % i for i in range(4100)]
    points = hash_to_curve(messages)
    assert points[4095 * 32 : 4097 * 32] == hash_to_curve(messages[4095:4097])


def test_another_tag_gives_unrelated_points() -> None:
    assert DST.startswith(b"COMITY-V1-") and DST.endswith(b"curve25519_XMD:SHA-512_ELL2_NU_")
    assert hash_to_curve([b"a"]) != hash_to_curve([b"a"], b"other")


def test_missing_identifiers_and_impossible_tags_are_refused() -> None:
    with pytest.raises(BadInput):
        hash_column(pa.array([b"a", None], pa.binary()))
    for tag in (b"", bytes(256)):
        with pytest.raises(BadInput):
            hash_to_curve([b"a"], tag)


def test_a_point_of_low_order_has_no_cleared_form() -> None:
    for u in (0, 1, P - 1):
        with pytest.raises(BadInput):
            clear_cofactor(u)


def test_the_module_is_reachable_beside_the_function_of_its_name() -> None:
    assert sys.modules["clean_room.group.hash_to_curve"].hash_to_curve is hash_to_curve
