from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import BadInput, Misuse, Refused, Tampered
from privacy.keys import KeyManagement, KeyRing, hkdf_sha256, label_bytes

# RFC 5869 appendix A, test cases 1 to 3.
RFC5869 = [
    (
        "0b" * 22, "000102030405060708090a0b0c", "f0f1f2f3f4f5f6f7f8f9", 42,
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)).hex(), bytes(range(0x60, 0xB0)).hex(), bytes(range(0xB0, 0x100)).hex(), 82,
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    ("0b" * 22, "",
    "", 42, "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"),
]  # fmt: skip


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing.from_root(bytes(range(32)))


@pytest.mark.parametrize(("secret", "salt", "info", "length", "expected"), RFC5869)
def test_rfc_5869_vectors(secret: str, salt: str, info: str, length: int, expected: str) -> None:
    out = hkdf_sha256(
        bytes.fromhex(secret), salt=bytes.fromhex(salt), info=bytes.fromhex(info), length=length
    )
    assert out.hex() == expected


def test_the_ring_is_wired_to_hkdf(ring: KeyRing) -> None:
    info = label_bytes("comity/keyring/derive/v1", "pseudonym", b"x")
    assert ring.derive("pseudonym", b"x") == hkdf_sha256(bytes(range(32)), info=info)


@given(a=st.lists(st.binary(max_size=4), max_size=4), b=st.lists(st.binary(max_size=4), max_size=4))
def test_no_two_label_lists_share_an_encoding(a: list[bytes], b: list[bytes]) -> None:
    assert (label_bytes(*a) == label_bytes(*b)) == (a == b)


def test_derived_keys_are_stable_and_independent(ring: KeyRing) -> None:
    assert ring.derive("a", "b") == KeyRing.from_root(bytes(range(32))).derive("a", "b")
    keys = [ring.derive(*labels) for labels in (("a", "b"), ("ab",), ("a",), ("a", "b", ""), ("b", "a"))]
    assert len(set(keys)) == len(keys)
    assert len(ring.derive("a", length=64)) == 64


def test_derive_misuse(ring: KeyRing) -> None:
    for call in (
        ring.derive,
        lambda: ring.derive("a", length=0),
        lambda: ring.derive("a", length=8161),
        lambda: ring.derive("a", version=9),
    ):
        with pytest.raises(Misuse):
            call()


@given(plaintext=st.binary(max_size=200), aad=st.binary(max_size=50))
def test_open_returns_what_was_sealed(plaintext: bytes, aad: bytes) -> None:
    ring = KeyRing.from_root(bytes(range(32)))
    sealed = ring.seal(plaintext, aad)
    assert len(sealed) == len(plaintext) + 52 and ring.open(sealed, aad) == plaintext


def test_every_byte_of_a_sealed_message_counts(ring: KeyRing) -> None:
    sealed = ring.seal(b"thirteen byte", b"context")
    for i in range(len(sealed)):
        broken = bytearray(sealed)
        broken[i] ^= 1
        with pytest.raises(Tampered):
            ring.open(bytes(broken), b"context")
    for cut in range(len(sealed)):
        with pytest.raises(Tampered):
            ring.open(sealed[:cut], b"context")
    with pytest.raises(Tampered):
        ring.open(sealed + b"\x00", b"context")


def test_sealed_for_one_context_or_ring_opens_in_no_other(ring: KeyRing) -> None:
    sealed = ring.seal(b"m", b"a")
    for other, aad in ((ring, b"b"), (ring, b""), (KeyRing.from_root(bytes(32)), b"a")):
        with pytest.raises(Tampered):
            other.open(sealed, aad)


def test_the_same_message_is_never_sealed_the_same_way(ring: KeyRing) -> None:
    assert len({ring.seal(b"m") for _ in range(50)}) == 50


def test_wrapped_keys_are_bound_to_their_context(ring: KeyRing) -> None:
    service: KeyManagement = ring
    wrapped = service.wrap(bytes(32), b"job 1")
    assert service.unwrap(wrapped, b"job 1") == bytes(32)
    with pytest.raises(Tampered):
        service.unwrap(wrapped, b"job 2")
    with pytest.raises(Tampered):
        ring.open(wrapped, b"job 1")  # a wrapped key is not a sealed message


def test_create_and_load(tmp_path: Path) -> None:
    path = tmp_path / "ring.json"
    made = KeyRing.create(path)
    assert path.stat().st_mode & 0o777 == 0o600 and [p.name for p in tmp_path.iterdir()] == ["ring.json"]
    loaded = KeyRing.load(path)
    assert loaded.derive("a") == made.derive("a") and loaded.open(made.seal(b"m")) == b"m"
    with pytest.raises(Refused):
        KeyRing.create(path)
    path.chmod(0o644)
    with pytest.raises(Refused):
        KeyRing.load(path)


def test_a_ring_of_two_versions_opens_old_seals_and_makes_new_ones(tmp_path: Path) -> None:
    old = KeyRing.from_root(bytes(32))
    path = tmp_path / "ring.json"
    roots = {"1": base64.b64encode(bytes(32)).decode(), "2": base64.b64encode(b"2" * 32).decode()}
    path.write_text(json.dumps({"format": "comity-keyring-1", "roots": roots}))
    path.chmod(0o600)
    both = KeyRing.load(path)
    assert both.version == 2 and both.open(old.seal(b"m")) == b"m"
    assert both.derive("a", version=1) == old.derive("a") != both.derive("a")
    with pytest.raises(Tampered):
        old.open(both.seal(b"m"))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"[]", b"null", b"\xff", b"[" * 60_000, b'{"format": "comity-keyring-1", "roots": {}}',
        b'{"format": "comity-keyring-1", "roots": {"1": "AAAA"}}', b'{"format": "other", "roots": {}}',
        b'{"format": "comity-keyring-1", "roots": {"x": "AAAA"}}',
        b'{"format": "comity-keyring-1", "roots": {"1": "!!!!"}}',
        b'{"format": "comity-keyring-1", "roots": []}',
        b'{"format": "comity-keyring-1", "roots": {"0": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}}',
    ],
)  # fmt: skip
def test_a_file_that_is_no_ring(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ring.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BadInput) as error:
        KeyRing.load(path)
    assert "AAAA" not in str(error.value)


def test_a_ring_does_not_show_or_pickle_itself(ring: KeyRing) -> None:
    assert repr(ring) == "KeyRing()"
    with pytest.raises(Misuse):
        pickle.dumps(ring)


def test_a_salt_is_shared_by_few_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privacy.keys._SHARED", 3)
    ring = KeyRing.from_root(bytes(32))
    salts = [ring.seal(b"m")[8:24] for _ in range(9)]
    assert [len(set(salts[n : n + 3])) for n in (0, 3, 6)] == [1, 1, 1] and len(set(salts)) == 3
    assert KeyRing.from_root(bytes(32)).seal(b"m")[8:24] not in salts


def test_more_salts_than_are_kept_can_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privacy.keys._KEPT", 2)
    sealed = [KeyRing.from_root(bytes(32)).seal(b"%d" % n) for n in range(5)]
    ring = KeyRing.from_root(bytes(32))
    for _ in range(2):
        assert [ring.open(message) for message in sealed] == [b"%d" % n for n in range(5)]
