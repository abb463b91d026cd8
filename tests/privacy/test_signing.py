from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import BadInput, Misuse, Refused, StorageError, Tampered
from privacy.signing import PublicKey, SigningKey, signed_bytes

# RFC 8032 section 7.1, tests 1 and 3.
RFC8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.from_seed(bytes(range(32)))


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC8032)
def test_rfc_8032_vectors(seed: str, public: str, message: str, signature: str) -> None:
    key = SigningKey.from_seed(bytes.fromhex(seed))
    assert key.public.bytes32.hex() == public
    assert key.sign_raw(bytes.fromhex(message)).hex() == signature
    key.public.verify_raw(bytes.fromhex(message), bytes.fromhex(signature))


def test_what_is_signed_is_what_is_documented(key: SigningKey) -> None:
    assert signed_bytes("receipt", b"m") == b"comity/receipt/v1\nm"
    key.public.verify_raw(b"comity/receipt/v1\nm", key.sign("receipt", b"m"))


def test_a_signature_does_not_move_to_another_context_message_or_key(key: SigningKey) -> None:
    signature = key.sign("receipt", b"m")
    key.public.verify("receipt", b"m", signature)
    for context, message, public in [
        ("transcript", b"m", key.public),
        ("receipt", b"n", key.public),
        ("receipt", b"m", SigningKey.generate().public),
    ]:
        with pytest.raises(Tampered):
            public.verify(context, message, signature)


@given(position=st.integers(0, 63), bit=st.integers(0, 7))
def test_every_flipped_bit_is_noticed(position: int, bit: int) -> None:
    key = SigningKey.from_seed(bytes(range(32)))
    signature = bytearray(key.sign("receipt", b"m"))
    signature[position] ^= 1 << bit
    with pytest.raises(Tampered):
        key.public.verify("receipt", b"m", bytes(signature))


@pytest.mark.parametrize("signature", [b"", b"x" * 63, b"x" * 65, bytes(64)])
def test_signatures_of_wrong_shape_are_tampering(key: SigningKey, signature: bytes) -> None:
    with pytest.raises(Tampered):
        key.public.verify("receipt", b"m", signature)


@pytest.mark.parametrize("context", ["", "A", "a\nb", "a/b", "1a", "x" * 65, "a b"])
def test_contexts_are_plain_names(key: SigningKey, context: str) -> None:
    with pytest.raises(Misuse):
        key.sign(context, b"m")


def test_raw_signing_refuses_what_belongs_to_a_context(key: SigningKey) -> None:
    with pytest.raises(Misuse):
        key.sign_raw(b"comity/receipt/v1\nm")
    key.sign_raw(b"comity/bank/log\n17\nabc=\n")  # a checkpoint of a log whose origin starts like this


def test_public_key_text_round_trip(key: SigningKey) -> None:
    assert PublicKey.from_text(key.public.to_text()) == key.public
    assert PublicKey.from_text(f" {key.public.to_text()}\n") == key.public
    assert len(key.public.fingerprint) == 39


@pytest.mark.parametrize("text", ["", "abc", "ä" * 44, "A" * 43, "A" * 100, "=" * 44])
def test_public_key_text_of_wrong_shape(text: str) -> None:
    with pytest.raises(BadInput):
        PublicKey.from_text(text)


def test_save_and_load(key: SigningKey, tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path).public == key.public
    assert [p.name for p in tmp_path.iterdir()] == ["identity.pem"]


def test_a_key_is_never_written_over(key: SigningKey, tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    key.save(path)
    before = path.read_bytes()
    with pytest.raises(Refused) as refusal:
        SigningKey.generate().save(path)
    assert refusal.value.rule == "key_file_exists" and path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["identity.pem"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602])
def test_a_key_file_that_others_can_open_is_refused(key: SigningKey, tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.pem"
    key.save(path)
    path.chmod(mode)
    with pytest.raises(Refused) as refusal:
        SigningKey.load(path)
    assert refusal.value.rule == "key_file_permissions"


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\n", b"\x00" * 100, b"x" * 100_000]
)
def test_a_file_that_is_no_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BadInput):
        SigningKey.load(path)


def test_missing_file_and_missing_folder(key: SigningKey, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        SigningKey.load(tmp_path / "nothing.pem")
    with pytest.raises(BadInput):
        SigningKey.load(tmp_path)
    with pytest.raises(StorageError):
        key.save(tmp_path / "no" / "identity.pem")


def test_keys_do_not_show_or_pickle_themselves(key: SigningKey) -> None:
    assert repr(key) == "SigningKey()"
    with pytest.raises(Misuse):
        pickle.dumps(key)


def test_randomness_is_an_argument() -> None:
    assert SigningKey.generate(bytes).public == SigningKey.from_seed(bytes(32)).public
    assert SigningKey.generate().public != SigningKey.generate().public
