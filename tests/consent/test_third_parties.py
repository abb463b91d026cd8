"""Other people's notes, tiles and proofs verify here, and logs written here with other people's readers.

The readers: `tlog_scales` here, Go's `sumdb/note` and `sumdb/tlog` in `.ci/run-third-party`.
"""

from __future__ import annotations

import base64
import time
from hashlib import sha256

import pytest
import tlog_scales.tiles
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader
from tlog_scales.signing import MLDSA44CosignatureSigner, PlainEd25519Signer, Vkey, VkeySet
from tlog_scales.tlog import Checkpoint as TheirCheckpoint
from tlog_scales.tlog import ConsistencyProof, InclusionProofInvalid
from tlog_scales.writer import TilesWriter

from consent.checkpoint import open_checkpoint, sign_checkpoint
from consent.cosignatures import Cosigner, CosignerKey, add_signatures, cosign, open_cosigned, witness_key
from consent.encoding import Leaf, uuid7
from consent.errors import InvalidNote
from consent.events import grant
from consent.merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from consent.notes import NoteSigner, VerifierKey, open_note, parse_signatures, sign_note
from consent.tiles import Tile, parse_path, subtree_from_tiles, tile_path, tiles_of
from consent.trust_policy import TrustPolicy
from consent.verify import Outcome, directory_reader, verify_log
from privacy.errors import Misuse
from privacy.signing import SigningKey

# their examples, here


def test_published_notes_open_and_changed_ones_do_not(vectors):
    known = vectors("c2sp_notes.json")
    for one in known["notes"]:
        key = VerifierKey.from_text(one["vkey"])
        assert key.to_text() == one["vkey"]
        assert open_note(one["note"], [key]).signed_by == (key,)
        for wrong in [one["note"].replace("e", "f", 1), *known["not_notes"]]:
            with pytest.raises(InvalidNote):
                open_note(wrong, [key])


def test_the_checkpoint_of_gos_module_log_is_one_of_another_name(vectors):
    """Its origin is not its key's name, which this ledger's own checkpoints are held to."""
    one = vectors("c2sp_notes.json")["notes"][1]
    with pytest.raises(InvalidNote) as caught:
        open_checkpoint(one["note"], [VerifierKey.from_text(one["vkey"])])
    assert caught.value.code == "other_log"


def test_the_published_cosignature_is_read_as_its_specification_says(vectors):
    known = vectors("c2sp_notes.json")["cosigned_example"]
    text, _, block = known["checkpoint"].rpartition("\n\n")
    lines = parse_signatures(block)
    assert [line.name for line in lines] == ["example.com/behind-the-sofa", "witness.example.com/w1"]
    assert len(lines[1].signature) == 72
    assert int.from_bytes(lines[1].signature[:8], "big") == known["seconds"]
    assert text.split("\n")[1] == "20852163"


def test_tiles_are_named_and_laid_out_as_published(vectors):
    known = vectors("c2sp_notes.json")
    for path, (level, index, width) in known["tile_paths"].items():
        assert parse_path(path) == Tile(level, index, width) and tile_path(Tile(level, index, width)) == path
    for path in known["not_tile_paths"]:
        with pytest.raises(Misuse):
            parse_path(path)
    for size, levels in known["tiles"].items():
        expected = {}
        for level, (full, partial) in levels.items():
            expected[int(level)] = [256] * full + ([partial] if partial else [])
        found: dict[int, list[int]] = {}
        for tile in tiles_of(int(size)):
            found.setdefault(tile.level, []).append(tile.width)
        assert found == expected


def test_gos_log_is_reproduced_hash_for_hash(vectors):
    known = vectors("go_tlog.json")
    count, key = known["count"], VerifierKey.from_text(known["vkey"])
    hashes = [leaf_hash(b"entry %d" % n) for n in range(count)]
    signing = SigningKey.from_seed(base64.b64decode(known["seed"]))
    head = open_checkpoint(known["checkpoint"], [key])
    assert (head.size, head.root) == (count, root_of(hashes))
    signer = NoteSigner(key, signing.sign_raw)
    assert sign_checkpoint(count, root_of(hashes), signer).text == known["checkpoint"]

    tiles = {}
    for tile in tiles_of(count):
        span, first = 256**tile.level, tile.index * 256
        data = [root_of(hashes[(first + i) * span : (first + i + 1) * span]) for i in range(tile.width)]
        tiles[tile.level, tile.index] = b"".join(data)
        assert known["tiles"][tile_path(tile)] == base64.b64encode(leaf_hash(b"".join(data))).decode()
    # Go stores the full tiles and the last partial one of each level; so it has all of these, or more.
    assert len(known["tiles"]) >= len(tiles)

    subtree = subtree_from_tiles(lambda level, index: tiles.get((level, index), b""))
    for one in known["sizes"]:
        size, root = one["size"], base64.b64decode(one["root"])
        consistency = [base64.b64decode(item) for item in one["consistency"]]
        inclusion = [base64.b64decode(item) for item in one["inclusion_of_last"]]
        verify_consistency(size, count, root, head.root, consistency)
        verify_inclusion(size - 1, count, hashes[size - 1], inclusion, head.root)
        assert consistency_proof(size, count, subtree) == consistency
        assert inclusion_proof(size - 1, count, subtree) == inclusion


def test_a_log_written_by_tlog_scales_has_the_roots_and_tiles_of_ours(tmp_path):
    writer = TilesWriter.create(tmp_path / "log", "other.example/log")
    signer = PlainEd25519Signer("other.example/log", b"\x03" * 32)
    leaves = []
    for batch in (1, 255, 40, 300):
        for _ in range(batch):
            i = len(leaves)
            leaves.append(
                Leaf(
                    uuid7(i, bytes(10)), "consent.granted", i, "0" * 64, sha256(b"%d" % i).digest()
                ).to_bytes()
            )
            writer.add_leaf(leaves[-1])
        writer.commit([signer])
    report = verify_log(directory_reader(tmp_path / "log"), VerifierKey.from_text(signer.vkey.serialize()))
    assert report.outcome is Outcome.OK and report.size == 596
    assert report.root == root_of([leaf_hash(leaf) for leaf in leaves])


# ours, with their reader


@pytest.fixture
def ours(make_node):
    node = make_node("shop")
    ledger = node.open()
    heads = [ledger.head()]
    for count in (1, 254, 300, 7):
        ledger.record([grant([("email", b"%d.%d" % (count, i))], "overlap.reach") for i in range(count)])
        heads.append(ledger.head())
    return ledger, node.folder / "log", heads


def test_a_log_written_here_verifies_with_tlog_scales(ours):
    ledger, folder, heads = ours
    reader = TilesReader(LocalBackend(folder))
    theirs = reader.get_checkpoint()
    theirs.verify(Vkey.from_string(ledger.vkey))
    assert (theirs.origin, theirs.size) == (ledger.origin, ledger.head().size)
    assert reader.calculate_root_hash() == theirs.root_hash == ledger.head().root
    for index in (0, 1, 255, 256, 300, theirs.size - 1):
        entry = reader.get_entry(index)
        assert entry == ledger.prove(index).entry
        proof = reader.get_inclusion_proof(index, theirs.size)
        proof.check(tlog_scales.tiles.leaf_hash(entry), theirs.root_hash)
        assert tuple(proof.node_hashes) == ledger.prove(index).path
    for old in heads:
        ours_ = ledger.log.consistency(old.size, theirs.size)
        assert reader.get_consistency_proof(old.size, theirs.size).node_hashes == ours_ or old.size == 0
        ConsistencyProof(old.size, theirs.size, ours_).check(old.root, theirs.root_hash)


def test_tlog_scales_notices_what_is_changed(ours):
    _, folder, _ = ours
    tile = folder / "tile/0/001"
    data = bytearray(tile.read_bytes())
    data[40] ^= 1
    tile.write_bytes(bytes(data))
    reader = TilesReader(LocalBackend(folder))
    theirs = reader.get_checkpoint()
    proof = reader.get_inclusion_proof(256, theirs.size)
    with pytest.raises(InclusionProofInvalid):
        proof.check(tlog_scales.tiles.leaf_hash(reader.get_entry(256)), theirs.root_hash)


def test_a_cosignature_made_here_verifies_with_tlog_scales(ours):
    ledger, _, _ = ours
    seed = SigningKey.from_seed(b"\x09" * 32)
    witness = Cosigner(witness_key(VerifierKey("bank.example/log", seed.public.bytes32)), seed.sign_raw)
    made = cosign(ledger.head(), witness, 1_772_000_000)
    theirs = TheirCheckpoint.from_text(add_signatures(ledger.head().text, [made.signature]))
    vkey = Vkey.from_string(witness.key.to_text())
    assert vkey.sig_type == 4 and vkey.key_id == int.from_bytes(witness.key.key_id, "big")
    theirs.verify(vkey)
    keys = VkeySet(vkey, Vkey.from_string(ledger.vkey))
    assert {key.name for key, _ in keys.verify(theirs.signatures, theirs)} == {vkey.name, ledger.origin}
    moved = TheirCheckpoint.from_text(theirs.serialize().replace(f"\n{theirs.size}\n", "\n1\n", 1))
    assert keys.verify(moved.signatures, moved) == set()


def test_an_ml_dsa_cosignature_by_tlog_scales_verifies_here(ours):
    ledger, _, _ = ours
    head = ledger.head()
    signer = MLDSA44CosignatureSigner("pq.example/w", MLDSA44PrivateKey.generate())
    line = signer.sign(TheirCheckpoint.from_text(head.text)).serialize() + "\n"
    key = CosignerKey.from_text(signer.vkey.serialize())
    assert key.algorithm == 6 and key.to_text() == signer.vkey.serialize()
    (made,) = open_cosigned(head.text + line, ledger.key, [key]).cosignatures
    assert abs(made.seconds - time.time()) < 60
    policy = TrustPolicy.parse(f"log {ledger.vkey}\nwitness pq {key.to_text()}\nquorum pq\n")
    assert policy.open(head.text + line, ledger.key)[1]
    other = sign_checkpoint(head.size + 1, head.root, ledger.log._signer)
    with pytest.raises(InvalidNote):
        policy.open(other.text + line, ledger.key)
    body = head.body.split("\n")
    odd = sign_note("\n".join(["x", *body[1:]]), [ledger.log._signer])
    with pytest.raises(InvalidNote):
        policy.open(odd + line, ledger.key)


def test_both_verifiers_take_an_ml_dsa_witness(ours, tmp_path):
    import importlib.util

    import consent.standalone

    ledger, folder, _ = ours
    signer = MLDSA44CosignatureSigner("pq.example/w", MLDSA44PrivateKey.generate())
    text = (folder / "checkpoint").read_text()
    line = signer.sign(TheirCheckpoint.from_text(text)).serialize() + "\n"
    (folder / "checkpoint").write_text(text + line)
    policy = tmp_path / "policy"
    policy.write_text(f"witness pq {signer.vkey.serialize()}\nquorum pq\n")
    trusted = TrustPolicy.parse(policy.read_bytes())
    assert verify_log(directory_reader(folder), ledger.key, policy=trusted).ok
    place = consent.standalone.__path__[0] + "/verify_log.py"
    spec = importlib.util.spec_from_file_location("one_file_verifier", place)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    asked = [str(folder), "--key", ledger.vkey, "--policy", str(policy)]
    assert program.main(asked) == 0
    raw = base64.b64decode(line.split(" ")[2])
    bad = base64.b64encode(raw[:-1] + bytes([raw[-1] ^ 1])).decode()
    (folder / "checkpoint").write_text(text + f"— pq.example/w {bad}\n")
    assert verify_log(directory_reader(folder), ledger.key, policy=trusted).outcome is Outcome.TAMPERED
    assert program.main(asked) == 4
