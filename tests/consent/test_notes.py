from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.checkpoint import open_checkpoint, sign_checkpoint
from consent.errors import InvalidNote
from consent.notes import MAX_SIGNATURES, NoteSigner, VerifierKey, open_note, sign_note
from privacy.errors import ComityError, Misuse
from privacy.signing import SigningKey


def signer(name: str, seed: int) -> NoteSigner:
    key = SigningKey.from_seed(bytes([seed]) * 32)
    return NoteSigner(VerifierKey(name, key.public.bytes32), key.sign_raw)


LOG, OTHER = signer("log.example/a", 1), signer("witness.example", 2)


def test_the_published_note_opens_and_is_reproduced_byte_for_byte(vectors):
    known = vectors("tlog_note.json")
    key = VerifierKey.from_text(known["vkey"])
    note = known["text"] + "\n" + known["signature"]
    assert open_note(note, [key]).text == known["text"]
    seed = base64.b64decode(known["skey"].split("+", 4)[4])[1:]
    signing = SigningKey.from_seed(seed)
    assert sign_note(known["text"], [NoteSigner(key, signing.sign_raw)]) == note
    assert key.to_text() == known["vkey"]


def test_no_part_and_no_mangling_of_a_vkey_is_a_vkey(vectors):
    known = vectors("tlog_note.json")
    vkey = known["vkey"]
    wrong = list(known["cannot_be_keys"])
    wrong += [
        vkey[i:j] for i in range(len(vkey)) for j in range(i + 1, len(vkey) + 1) if (i, j) != (0, len(vkey))
    ]
    wrong += [vkey[:i] + chr(ord(vkey[i]) + 1) + vkey[i + 1 :] for i in range(len(vkey))]
    wrong += [vkey + "\n", " " + vkey, vkey.replace("c74f", "C74F")]
    for text in wrong:
        with pytest.raises(Misuse):
            VerifierKey.from_text(text)


def test_signatures_by_unknown_keys_are_ignored_even_malformed_ones_of_the_same_name():
    note = sign_note("text\n", [LOG, OTHER])
    assert open_note(note, [LOG.key]).signed_by == (LOG.key,)
    assert open_note(note, [OTHER.key]).signed_by == (OTHER.key,)
    strange = f"— log.example/a {base64.b64encode(b'idid' + b'x' * 5000).decode()}\n"
    assert open_note(note + strange, [LOG.key]).signed_by == (LOG.key,)


def test_a_note_without_a_trusted_signature_is_refused():
    with pytest.raises(InvalidNote):
        open_note(sign_note("text\n", [OTHER]), [LOG.key])


def test_a_trusted_keys_bad_signature_rejects_the_whole_note():
    good = sign_note("text\n", [LOG, OTHER])
    forged = sign_note("other\n", [LOG]).split("\n\n")[1]
    with pytest.raises(InvalidNote):
        open_note(
            "text\n\n" + forged + good.split("\n\n")[1].splitlines(keepends=True)[1], [LOG.key, OTHER.key]
        )


def test_a_repeated_signature_counts_once_and_is_verified_each_time():
    note = sign_note("text\n", [LOG])
    line = note.split("\n\n")[1]
    assert open_note(note + line, [LOG.key]).signed_by == (LOG.key,)
    forged = sign_note("other\n", [LOG]).split("\n\n")[1]
    for block in (line + forged, forged + line, forged):
        with pytest.raises(InvalidNote):
            open_note("text\n\n" + block, [LOG.key])


def test_sixteen_large_signatures_are_accepted_and_a_hundred_and_one_are_not():
    big = base64.b64encode(b"idid" + b"x" * 5000).decode()
    note = sign_note("text\n", [LOG])
    open_note(note + f"— q.example {big}\n" * 15, [LOG.key])
    small = base64.b64encode(b"ididx").decode()
    open_note(note + f"— q.example {small}\n" * (MAX_SIGNATURES - 1), [LOG.key])
    with pytest.raises(InvalidNote):
        open_note(note + f"— q.example {small}\n" * MAX_SIGNATURES, [LOG.key])
    with pytest.raises(InvalidNote):
        open_note("x" * 300_000 + "\n\n" + note.split("\n\n")[1], [LOG.key])


def test_the_text_may_hold_blank_lines_and_ends_at_the_last_one():
    note = sign_note("one\n\ntwo\n", [LOG])
    assert open_note(note, [LOG.key]).text == "one\n\ntwo\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n.rstrip("\n"),
        lambda n: n.replace("\n\n", "\n"),
        lambda n: n.replace("— ", "- "),
        lambda n: n.replace("— ", "—  "),
        lambda n: n.replace("text", "te\txt"),
        lambda n: n.replace("text", "te\x00xt"),
        lambda n: n.replace("\n", "\r\n"),
        lambda n: n + "\n",
        lambda n: n + "junk\n",
        lambda n: n.replace("=\n", "\n"),
        lambda n: n.replace("text", "Text"),
        lambda n: n.encode("utf-16"),
        lambda n: b"\xff" + n.encode(),
        lambda n: "",
        lambda n: "\n\n",
    ],
)
def test_malformed_notes_are_refused(change):
    with pytest.raises(InvalidNote):
        open_note(change(sign_note("text\n", [LOG])), [LOG.key])


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_open_and_never_crash(data):
    for body in (data, sign_note("text\n", [LOG]).encode() + data):
        with contextlib.suppress(InvalidNote):
            assert open_note(body, [LOG.key]).text == "text\n"
    with pytest.raises(ComityError):
        open_checkpoint(data, [LOG.key])


@given(st.data())
def test_every_flipped_bit_of_text_or_signature_is_noticed(data):
    checkpoint = sign_checkpoint(7, b"\x05" * 32, LOG)
    raw = bytearray(checkpoint.text.encode())
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidNote):
        open_checkpoint(bytes(raw), [LOG.key])


def test_a_checkpoint_round_trips_and_keeps_extension_lines():
    made = sign_checkpoint(70_000, b"\x09" * 32, LOG)
    assert open_checkpoint(made.text, [LOG.key]) == made
    extended = sign_note(made.text.split("\n\n")[0] + "\nextension one\n", [LOG])
    assert open_checkpoint(extended, [LOG.key]).extensions == ("extension one",)


@pytest.mark.parametrize(
    "body",
    [
        "log.example/a\n1\n",
        "log.example/a\n01\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n",
        "log.example/a\n-1\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n",
        "log.example/a\n1\nBQUF\n",
        "log.example/a\n١\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n",
        "log.example/a\n9999999999999999999\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n",
        "log.example/b\n1\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n",
        "log.example/a\n1\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n\nlate\n",
    ],
)
def test_a_signed_note_that_is_no_checkpoint_of_this_log_is_refused(body):
    with pytest.raises(InvalidNote):
        open_checkpoint(sign_note(body, [LOG]), [LOG.key])


def test_a_witness_alone_cannot_make_a_checkpoint():
    text = sign_checkpoint(1, b"\x05" * 32, LOG).text.split("\n\n")[0] + "\n"
    with pytest.raises(InvalidNote):
        open_checkpoint(sign_note(text, [OTHER]), [LOG.key, OTHER.key])


def test_what_cannot_be_a_note_is_not_signed():
    for text in ("no newline", "bell\x07\n", ""):
        with pytest.raises(Misuse):
            sign_note(text, [LOG])
    with pytest.raises(Misuse):
        VerifierKey("has space", b"x" * 32)
    with pytest.raises(Misuse):
        VerifierKey("plus+", b"x" * 32)
