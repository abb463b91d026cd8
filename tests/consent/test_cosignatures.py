"""Cosignatures: made as C2SP says, believed only when they verify, counted once a witness."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.checkpoint import sign_checkpoint
from consent.cosignatures import (
    Cosigner,
    CosignerKey,
    accept_cosignature,
    add_signatures,
    cosign,
    open_cosigned,
    witness_key,
)
from consent.errors import InvalidNote
from consent.notes import NoteSigner, VerifierKey, open_note, sign_note
from privacy.errors import Misuse
from privacy.signing import SigningKey

AT = 1_772_000_000


def log_signer(name: str = "log.example/a", seed: int = 1) -> NoteSigner:
    key = SigningKey.from_seed(bytes([seed]) * 32)
    return NoteSigner(VerifierKey(name, key.public.bytes32), key.sign_raw)


def cosigner(name: str, seed: int) -> Cosigner:
    key = SigningKey.from_seed(bytes([seed]) * 32)
    return Cosigner(CosignerKey(name, key.public.bytes32), key.sign_raw)


LOG, W1, W2 = log_signer(), cosigner("w1.example", 2), cosigner("w2.example", 3)
HEAD = sign_checkpoint(7, b"\x05" * 32, LOG)


def cosigned(*made) -> str:
    return add_signatures(HEAD.text, [one.signature for one in made])


def test_a_cosignature_is_over_the_header_the_time_and_the_whole_text():
    seen = []

    def sign(message: bytes) -> bytes:
        seen.append(message)
        return W1.sign(message)

    made = cosign(HEAD, Cosigner(W1.key, sign), AT)
    assert seen == [b"cosignature/v1\ntime %d\n" % AT + HEAD.body.encode()]
    raw = base64.b64decode(made.to_line().split(" ")[2])
    assert raw[:4] == W1.key.key_id and int.from_bytes(raw[4:12], "big") == AT and len(raw) == 76
    assert made.at == datetime.fromtimestamp(AT, UTC)


def test_the_log_and_its_witnesses_are_found_in_one_checkpoint():
    text = cosigned(cosign(HEAD, W1, AT), cosign(HEAD, W2, AT + 1))
    opened = open_cosigned(text, LOG.key, [W1.key, W2.key])
    assert [(one.key, one.seconds) for one in opened.cosignatures] == [(W1.key, AT), (W2.key, AT + 1)]
    assert opened.checkpoint.root == HEAD.root and opened.checkpoint.body == HEAD.body
    assert [one.key for one in open_cosigned(text, LOG.key, [W2.key]).cosignatures] == [W2.key]
    assert open_cosigned(text, LOG.key, []).cosignatures == ()


def test_a_witness_counts_once_at_its_newest():
    lines = (
        cosign(HEAD, W1, AT).to_line() + cosign(HEAD, W1, AT + 9).to_line() + cosign(HEAD, W1, AT).to_line()
    )
    (only,) = open_cosigned(HEAD.text + lines, LOG.key, [W1.key]).cosignatures
    assert only.seconds == AT + 9


def test_one_bad_cosignature_by_a_known_witness_spoils_the_checkpoint_and_by_others_is_ignored():
    other = sign_checkpoint(8, b"\x05" * 32, LOG)
    wrong = cosign(other, W1, AT).to_line()
    for lines in (wrong, cosign(HEAD, W1, AT).to_line() + wrong, wrong + cosign(HEAD, W2, AT).to_line()):
        with pytest.raises(InvalidNote):
            open_cosigned(HEAD.text + lines, LOG.key, [W1.key, W2.key])
    assert open_cosigned(HEAD.text + wrong, LOG.key, [W2.key]).cosignatures == ()


def test_witnesses_without_the_log_make_no_checkpoint():
    bare = HEAD.body + "\n" + cosign(HEAD, W1, AT).to_line()
    with pytest.raises(InvalidNote) as caught:
        open_cosigned(bare, LOG.key, [W1.key])
    assert caught.value.code == "unknown_signer"


def test_a_cosignature_is_no_log_signature_and_a_log_signature_no_cosignature():
    """One pinned key under two names: neither kind can be passed off as the other."""
    log, key = LOG, witness_key(LOG.key)
    assert key.public == log.key.public and key.name == "log.example/a/witness"
    made = cosign(HEAD, Cosigner(key, log.sign), AT)
    as_log = made.to_line().replace("a/witness", "a")
    with pytest.raises(InvalidNote):
        open_note(HEAD.body + "\n" + as_log, [log.key])
    signature = open_note(HEAD.text, [log.key]).signatures[0].signature
    forged = base64.b64encode(key.key_id + AT.to_bytes(8, "big") + signature).decode()
    with pytest.raises(InvalidNote):
        open_cosigned(HEAD.text + f"— {key.name} {forged}\n", log.key, [key])


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw[:-1],
        lambda raw: raw + b"\x00",
        lambda raw: raw[:4] + (1 << 63 | AT).to_bytes(8, "big") + raw[12:],
        lambda raw: raw[:4] + (AT + 1).to_bytes(8, "big") + raw[12:],
        lambda raw: raw[:4] + raw[12:],
        lambda raw: raw[:5],
    ],
)
def test_a_mangled_cosignature_is_refused(change):
    raw = base64.b64decode(cosign(HEAD, W1, AT).to_line().split(" ")[2])
    line = f"— {W1.key.name} {base64.b64encode(change(raw)).decode()}\n"
    with pytest.raises(InvalidNote):
        open_cosigned(HEAD.text + line, LOG.key, [W1.key])


@given(st.data())
def test_every_flipped_bit_of_a_cosigned_checkpoint_is_noticed(data):
    raw = bytearray(cosigned(cosign(HEAD, W1, AT)).encode())
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    try:
        opened = open_cosigned(bytes(raw), LOG.key, [W1.key])
    except InvalidNote:
        return
    # Left is only a name or key id that is no longer the witness's: a signature by nobody known.
    assert opened.cosignatures == () and opened.checkpoint.body == HEAD.body


def test_an_answer_is_taken_from_the_witness_asked_alone():
    answer = (cosign(HEAD, W2, AT).to_line() + cosign(HEAD, W1, AT).to_line()).encode()
    assert accept_cosignature(HEAD, answer, W1.key).key == W1.key
    for wrong in (cosign(HEAD, W2, AT).to_line().encode(), b"", b"\n", b"\xff", answer[:-1], b"x" * 70_000):
        with pytest.raises(InvalidNote):
            accept_cosignature(HEAD, wrong, W1.key)


def test_merging_keeps_the_newest_and_what_strangers_signed():
    stranger = sign_note(HEAD.body, [log_signer("x.example", 9)]).split("\n\n")[1]
    text = add_signatures(HEAD.text + stranger, [cosign(HEAD, W1, AT).signature])
    assert text == HEAD.text + stranger + cosign(HEAD, W1, AT).to_line()
    newer, older = cosign(HEAD, W1, AT + 5).signature, cosign(HEAD, W1, AT - 5).signature
    assert add_signatures(text, [older]) == text
    assert add_signatures(text, [newer]) == HEAD.text + stranger + newer.to_line()
    assert add_signatures(text, []) == text
    with pytest.raises(InvalidNote):
        add_signatures(text, [cosign(HEAD, cosigner(f"w{i}.example", 5), AT).signature for i in range(100)])


def test_a_witness_key_has_a_text_form_of_its_own():
    text = W1.key.to_text()
    assert CosignerKey.from_text(text) == W1.key
    assert base64.b64decode(text.split("+", 2)[2])[0] == 4
    for wrong in (LOG.key.to_text(), text[:-4], "x" + text, text.replace("+", " "), ""):
        with pytest.raises(Misuse):
            CosignerKey.from_text(wrong)
    with pytest.raises(Misuse):
        VerifierKey.from_text(text)
    for size in (31, 33):
        with pytest.raises(Misuse):
            CosignerKey("w", b"x" * size)


def test_what_cannot_be_a_time_is_not_cosigned():
    for seconds in (0, -1, 1 << 63):
        with pytest.raises(Misuse):
            cosign(HEAD, W1, seconds)
