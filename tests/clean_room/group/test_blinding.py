from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clean_room.errors import EngineUnavailable, Misuse, PeerViolation
from clean_room.group import CryptographyBlinder, choose_blinder, engines, hash_to_curve, new_scalar
from clean_room.group.blinding import BASE_POINT, check_canonical
from clean_room.group.engines import EngineDisagreement, cross_check

VECTORS = Path(__file__).parents[2] / "vectors"
RFC7748 = json.loads((VECTORS / "x25519_rfc7748.json").read_text())
WYCHEPROOF = json.loads((VECTORS / "wycheproof_x25519.json").read_text())["vectors"]
ENGINE = CryptographyBlinder()
P = 2**255 - 19


@pytest.mark.parametrize("vector", RFC7748["vectors"], ids=lambda v: v["output"][:8])
def test_the_rfc_7748_vectors_pass(vector: dict[str, str]) -> None:
    point = bytes.fromhex(vector["input"])
    if int.from_bytes(point, "little") >= P:
        # The RFC masks the top bit of this input; a join refuses it, and takes the masked form.
        with pytest.raises(PeerViolation):
            ENGINE.blind(bytes.fromhex(vector["scalar"]), point)
        point = point[:31] + bytes([point[31] & 127])
    assert ENGINE.blind(bytes.fromhex(vector["scalar"]), point).hex() == vector["output"]


def test_the_iterated_rfc_7748_vectors_pass() -> None:
    wanted = {v["times"]: v["key"] for v in RFC7748["iterated"]}
    k = u = BASE_POINT
    for n in range(1, 1001):
        masked = u[:31] + bytes([u[31] & 127])
        k, u = ENGINE.blind(k, masked), k
        if n in wanted:
            assert k.hex() == wanted[n]


@pytest.mark.parametrize("vector", WYCHEPROOF, ids=lambda v: str(v["tcId"]))
def test_the_wycheproof_cases_end_as_stated(vector: dict[str, str]) -> None:
    scalar, point = bytes.fromhex(vector["private"]), bytes.fromhex(vector["public"])
    if vector["expected"] == "valid":
        assert ENGINE.blind(scalar, point).hex() == vector["shared"]
        return
    with pytest.raises(PeerViolation) as caught:
        ENGINE.blind(scalar, BASE_POINT * 3 + point)
    assert vector["public"] not in str(caught.value)
    expected = "low order" if vector["expected"] == "low_order" else "canonical"
    assert expected in caught.value.detail


def test_wycheproof_brings_twist_low_order_and_non_canonical_cases() -> None:
    assert sum("twist" in v["comment"] for v in WYCHEPROOF) == 12
    assert {v["expected"] for v in WYCHEPROOF} == {"valid", "low_order", "non_canonical"}


@given(st.integers(0, 2**256 - 1))
def test_exactly_the_coordinates_below_the_prime_are_canonical(u: int) -> None:
    if u < P:
        check_canonical(u.to_bytes(32, "little"))
    else:
        with pytest.raises(PeerViolation):
            check_canonical(bytes(32) + u.to_bytes(32, "little"))


@pytest.mark.parametrize("u", [P - 1, P - 2, 2**255 - 20, 0, 2**254, P - 2**64, P - 2**192])
def test_the_last_coordinates_below_the_prime_are_canonical(u: int) -> None:
    check_canonical(u.to_bytes(32, "little"))


@pytest.mark.parametrize("u", [P, P + 1, P + 18, 2**255, 2**255 + 9, 2**256 - 1])
def test_the_first_coordinates_from_the_prime_on_are_not(u: int) -> None:
    with pytest.raises(PeerViolation):
        check_canonical(u.to_bytes(32, "little"))


@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.lists(st.binary(), max_size=5),
)
def test_blinding_commutes(a: bytes, b: bytes, people: list[bytes]) -> None:
    points = hash_to_curve(people)
    assert ENGINE.blind(a, ENGINE.blind(b, points)) == ENGINE.blind(b, ENGINE.blind(a, points))


def test_a_new_scalar_is_clamped() -> None:
    for fill in (b"\0", b"\xff", b"\xa5"):
        k = new_scalar(lambda n, fill=fill: fill * n)  # type: ignore[misc]
        assert k[0] & 7 == 0 and k[31] & 0xC0 == 0x40
    with pytest.raises(Misuse):
        new_scalar(lambda n: b"")


def test_impossible_lengths_are_refused() -> None:
    for scalar, points in (
        (bytes(31), b""),
        (bytes(33), b""),
        (bytes(32), bytes(31)),
        (bytes(32), bytes(33)),
    ):
        with pytest.raises(Misuse):
            ENGINE.blind(scalar, points)
    assert ENGINE.blind(bytes(32), b"") == b""


def test_any_kind_of_buffer_will_do() -> None:
    k, points = new_scalar(os.urandom), hash_to_curve([b"a", b"b"])
    wide = memoryview(bytearray(b"x" * 32 + points))[32:]
    assert ENGINE.blind(k, wide) == ENGINE.blind(k, points) == ENGINE.blind(k, bytearray(points))


class Wrong:
    """Right but for one thing, as a broken engine would be."""

    name = "ipp"

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def blind(self, scalar: bytes, points: bytes) -> bytes:
        if self.fault == "takes low order" and bytes(32) in (points[-32:],):
            return points
        if self.fault == "takes non-canonical":
            points = points.replace(b"\xff" * 32, BASE_POINT)
        out = ENGINE.blind(scalar, points)
        if self.fault == "last lane" and len(points) // 32 % 8 == 1:
            return out[:-32] + BASE_POINT
        if self.fault == "one bit" and out:
            return out[:-1] + bytes([out[-1] ^ 1])
        if self.fault == "order":
            return b"".join(out[i : i + 32] for i in reversed(range(0, len(out), 32)))
        return out


@pytest.mark.parametrize("fault", ["last lane", "one bit", "order", "takes low order", "takes non-canonical"])
def test_an_engine_that_is_wrong_in_one_way_is_found_out(fault: str) -> None:
    with pytest.raises(EngineDisagreement):
        cross_check(Wrong(fault), ENGINE)


def test_an_engine_that_is_right_passes() -> None:
    cross_check(Wrong("none"), ENGINE)


def test_auto_falls_back_from_a_wrong_engine_and_a_named_one_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines._FAST, "ipp", lambda: Wrong("one bit"))
    assert choose_blinder("auto").name == "cryptography"
    with pytest.raises(EngineDisagreement):
        choose_blinder("ipp")


def test_auto_takes_a_fast_engine_that_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines._FAST, "ipp", lambda: Wrong("none"))
    assert choose_blinder("auto").name == "ipp"


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(EngineUnavailable):
        choose_blinder("abacus")
    assert choose_blinder("cryptography").name == "cryptography"
