"""The C2SP text form of a proof: read strictly, rebuilt into the leaf, refused in every other shape."""

from __future__ import annotations

import base64
from hashlib import sha256

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from consent.encoding import Leaf, commitment
from consent.errors import InvalidNote, InvalidProof
from consent.events import grant
from consent.history import open_entry
from consent.ledger import Ledger
from consent.notes import VerifierKey
from consent.sql import metadata
from consent.tlog_proof import OpenedEntry, TlogProof
from privacy.errors import Tampered
from privacy.keys import KeyRing
from privacy.signing import SigningKey


@pytest.fixture(scope="module")
def proved(tmp_path_factory):
    """A ledger of some entries, and the proof of one of them."""
    folder = tmp_path_factory.mktemp("log")
    engine = sa.create_engine(f"sqlite:///{folder}/comity.db")
    metadata.create_all(engine)
    ledger = Ledger.open(
        engine,
        keyring=KeyRing.from_root(b"\x01" * 32),
        signing_key=SigningKey.generate(),
        origin="shop.example/consent",
        directory=folder / "log",
    )
    for n in range(7):
        ledger.record([grant([("email", f"p{n}@example.org".encode())], "overlap.reach", partner="bank")])
    with ledger.store.read() as view:
        leaf, opening = open_entry(view, ledger.vault, 3)
    proof = ledger.prove(3)
    extra = OpenedEntry.of(leaf, opening.salt, opening.payload).to_bytes()
    yield ledger, TlogProof(3, proof.path, proof.checkpoint, extra)
    engine.dispose()


def test_the_text_form_reads_back_and_proves_the_opened_entry(proved):
    ledger, proof = proved
    text = proof.to_text()
    assert text.startswith("c2sp.org/tlog-proof@v1\nextra ")
    again = TlogProof.from_text(text)
    assert again == proof and again.to_text() == text
    opened, checkpoint = again.verify_opened([ledger.key])
    assert opened.type == "consent.granted" and opened.body()["purpose"] == "overlap.reach"
    assert checkpoint.size == ledger.head().size


def test_an_independent_check_in_a_few_lines_agrees(proved):
    # Written from the specification alone (C2SP tlog-proof, tlog-checkpoint, signed-note; RFC 6962).
    ledger, proof = proved
    head, _, note = proof.to_text().partition("\n\n")
    header, extra, index, *path = head.split("\n")
    body, _, signature = note.partition("\n\n")
    origin, size, root = body.split("\n")[:3]
    vkey = base64.b64decode(ledger.vkey.split("+", 2)[2])
    signed = base64.b64decode(signature.split("— ")[1].split(" ")[1])
    Ed25519PublicKey.from_public_bytes(vkey[1:]).verify(signed[4:], body.encode() + b"\n")
    import json

    opened = json.loads(base64.b64decode(extra.removeprefix("extra ")))
    commit = sha256(
        b"comity/consent/v1" + base64.b64decode(opened["salt"]) + base64.b64decode(opened["payload"])
    )
    leaf = (
        f'{{"commit":"{commit.hexdigest()}","id":"{opened["id"]}","policy_hash":"{opened["policy_hash"]}",'
        f'"recorded_at":"{opened["recorded_at"]}","type":"{opened["type"]}","v":1}}'
    )
    node, at, last = (
        sha256(b"\x00" + leaf.encode()).digest(),
        int(index.removeprefix("index ")),
        int(size) - 1,
    )
    for step in map(base64.b64decode, path):
        if at & 1 or at == last:
            node = sha256(b"\x01" + step + node).digest()
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            node = sha256(b"\x01" + node + step).digest()
        at, last = at >> 1, last >> 1
    assert header == "c2sp.org/tlog-proof@v1" and origin == ledger.origin
    assert base64.b64encode(node).decode() == root


def test_the_reader_tlog_scales_agrees(proved):
    from tlog_scales.signing import Vkey
    from tlog_scales.tlog import Checkpoint, InclusionProof

    ledger, proof = proved
    checkpoint = Checkpoint.from_text(proof.checkpoint)
    checkpoint.verify(Vkey.from_string(ledger.vkey))
    opened = OpenedEntry.from_bytes(proof.extra)
    leaf = sha256(b"\x00" + opened.leaf().to_bytes()).digest()
    InclusionProof(proof.index, checkpoint.size, list(proof.path)).check(leaf, checkpoint.root_hash)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "",
        lambda t: t.replace("@v1", "@v2", 1),
        lambda t: t.replace("index 3", "index 03", 1),
        lambda t: t.replace("index 3", "index -3", 1),
        lambda t: t.replace("index 3", "index ３", 1),
        lambda t: t.replace("index 3", "index 99999999999999999999", 1),
        lambda t: t.replace("index 3", "index 4", 1),
        lambda t: t.replace("index 3\n", "", 1),
        lambda t: t.replace("extra ", "extra  ", 1),
        lambda t: t.replace("extra ", "extra =", 1),
        lambda t: t.replace("\n\n", "\n", 1),
        lambda t: t.partition("\n\n")[0] + "\n\n",
        lambda t: t.replace("\n", "\r\n"),
        lambda t: t.replace("\n\n", "\nAAAA\n\n", 1),
        lambda t: t.replace("\n\n", "\n" + base64.b64encode(bytes(32)).decode() + "\n\n", 1),
        lambda t: t.replace("\n\n", "\n" + ("A" * 43 + "=\n") * 65 + "\n", 1),
        lambda t: t[:-20],
        lambda t: t + "x" * (9 << 20),
    ],
)
def test_another_spelling_or_another_entry_is_refused(proved, change):
    ledger, proof = proved
    with pytest.raises(Tampered):
        TlogProof.from_text(change(proof.to_text())).verify_opened([ledger.key])


def test_another_log_key_is_refused(proved):
    ledger, proof = proved
    other = VerifierKey(ledger.origin, SigningKey.generate().public.bytes32)
    with pytest.raises(InvalidNote):
        proof.verify_opened([other])


def test_a_proof_without_extra_data_proves_a_leaf_given_from_elsewhere(proved):
    ledger, proof = proved
    bare = TlogProof.from_text(TlogProof(proof.index, proof.path, proof.checkpoint).to_text())
    assert "extra" not in bare.to_text()
    leaf = OpenedEntry.from_bytes(proof.extra).leaf()
    bare.verify(sha256(b"\x00" + leaf.to_bytes()).digest(), [ledger.key])
    with pytest.raises(InvalidProof):
        bare.verify_opened([ledger.key])
    with pytest.raises(InvalidProof):
        bare.verify(bytes(32), [ledger.key])


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(place, bit):
    key = SigningKey.from_seed(bytes(range(32)))
    vkey = VerifierKey("x.example/log", key.public.bytes32)
    from consent.checkpoint import sign_checkpoint
    from consent.merkle import leaf_hash, node_hash
    from consent.notes import NoteSigner

    salt, payload = b"\x05" * 32, b'{"purpose":"overlap","v":1}'
    leaf = Leaf(
        "019f0000-0000-7000-8000-000000000000",
        "consent.granted",
        1_000_000,
        "ab" * 32,
        commitment(salt, payload),
    )
    other = leaf_hash(b"other")
    root = node_hash(leaf_hash(leaf.to_bytes()), other)
    checkpoint = sign_checkpoint(2, root, NoteSigner(vkey, key.sign_raw))
    proof = TlogProof(0, (other,), checkpoint.text, OpenedEntry.of(leaf, salt, payload).to_bytes())
    data = bytearray(proof.to_text().encode())
    proof.verify_opened([vkey])
    data[place % len(data)] ^= 1 << bit
    try:
        found, _ = TlogProof.from_text(bytes(data).decode()).verify_opened([vkey])
    except (Tampered, UnicodeDecodeError):
        return
    assert found.leaf() == leaf and found.payload == payload  # only what nobody reads may differ


def test_fields_smuggled_into_an_opened_entry_are_refused():
    good = {
        "id": "019f0000-0000-7000-8000-000000000000", "type": "consent.granted", "recorded_at": 1,
        "policy_hash": "ab" * 32, "salt": b"\x05" * 32, "payload": b"{}",
    }  # fmt: skip
    OpenedEntry(**good).leaf()
    for field, value in (
        ("type", 'x","v":1,"type":"y'),
        ("type", ""),
        ("id", "1"),
        ("policy_hash", "zz"),
        ("type", "a" * 2000),
    ):
        with pytest.raises(Tampered):
            OpenedEntry(**{**good, field: value}).leaf()
    for data in (b"", b"{}", b"[]", b"null", b"\xff", b'{"v":1}', b'{"a":' * 5000):
        with pytest.raises(InvalidProof):
            OpenedEntry.from_bytes(data)
