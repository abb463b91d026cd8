"""The offline verifier, attacked: every stored object changed, removed, swapped, rolled back."""

from __future__ import annotations

import shutil

import pytest
import sqlalchemy as sa

from consent.checkpoint import open_checkpoint, sign_checkpoint
from consent.encoding import Leaf
from consent.events import grant
from consent.notes import NoteSigner, VerifierKey
from consent.tiles import encode_bundle
from consent.verify import Outcome, directory_reader, url_reader, verify_ledger, verify_log
from privacy.errors import Misuse, PeerUnreachable
from privacy.signing import SigningKey


@pytest.fixture
def published(make_node):
    node = make_node("shop")
    ledger = node.open()
    ledger.record([grant([("email", b"p%d" % i)], "overlap.reach") for i in range(515)])
    ledger.withdraw([("email", b"p1")])
    return ledger, node.folder / "log"


def check(ledger, folder, **options):
    return verify_log(directory_reader(folder), ledger.key, **options).outcome


def test_a_sound_log_verifies_and_says_how_much(published):
    ledger, folder = published
    counted = []
    report = verify_log(directory_reader(folder), ledger.key, each=counted.append)
    assert report.ok and report.size == counted[-1] == ledger.head().size
    assert report.root == ledger.head().root and report.newest is not None


def test_every_flipped_bit_in_every_file_is_found(published):
    ledger, folder = published
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]
    assert {p.relative_to(folder).parts[0] for p in files} == {"checkpoint", "tile"}
    checked = 0
    needed = {"checkpoint"} | {f"tile/{x}" for x in ("0/000", "0/001", "entries/000", "entries/001")}
    for path in files:
        data = path.read_bytes()
        size = ledger.head().size % 256
        if path.parent.name.endswith(".p") and path.name not in (str(size), "2"):
            continue  # partial tiles of older checkpoints are no longer promised
        for at in {0, len(data) // 3, len(data) // 2, len(data) - 1}:
            changed = bytearray(data)
            changed[at] ^= 1
            path.write_bytes(bytes(changed))
            outcome = check(ledger, folder)
            assert outcome in (Outcome.TAMPERED, Outcome.WRONG_KEY), path
            checked += 1
        path.write_bytes(data)
        needed.discard(str(path.relative_to(folder)))
    assert not needed and checked >= 20 and check(ledger, folder) is Outcome.OK


def test_a_missing_or_truncated_file_is_told_apart(published):
    ledger, folder = published
    for name in (
        "checkpoint",
        "tile/0/001",
        "tile/entries/000",
        f"tile/entries/002.p/{ledger.head().size % 256}",
    ):
        path = folder / name
        data = path.read_bytes()
        path.unlink()
        assert check(ledger, folder) is Outcome.INCOMPLETE
        path.write_bytes(data[:-1])
        assert check(ledger, folder) is Outcome.TAMPERED
        path.write_bytes(data + b"x")
        assert check(ledger, folder) is Outcome.TAMPERED
        path.write_bytes(data)
    assert check(ledger, folder / "nowhere") is Outcome.INCOMPLETE


def test_another_key_is_told_apart_from_tampering(published):
    ledger, folder = published
    other = VerifierKey(ledger.origin, SigningKey.generate().public.bytes32)
    assert verify_log(directory_reader(folder), other).outcome is Outcome.WRONG_KEY


def test_a_self_consistent_log_that_was_not_signed_is_not_believed(published):
    """Somebody rewrites an entry and every hash above it, but cannot sign."""
    ledger, folder = published
    bundle = folder / "tile/entries/000"
    from consent.tiles import decode_bundle

    entries = decode_bundle(bundle.read_bytes(), 256)
    leaf = Leaf.from_bytes(entries[5])
    entries[5] = Leaf(leaf.id, "consent.refused", leaf.recorded_at, leaf.policy_hash, leaf.commit).to_bytes()
    bundle.write_bytes(encode_bundle(entries))
    from consent.merkle import leaf_hash

    tile = folder / "tile/0/000"
    hashes = bytearray(tile.read_bytes())
    hashes[5 * 32 : 6 * 32] = leaf_hash(entries[5])
    tile.write_bytes(bytes(hashes))
    assert check(ledger, folder) is Outcome.TAMPERED


def test_a_signed_log_of_something_else_than_entries_is_not_believed(tmp_path):
    key = SigningKey.generate()
    signer = NoteSigner(VerifierKey("x.example", key.public.bytes32), key.sign_raw)
    from consent.merkle import leaf_hash

    entry = b'{"anything":"else"}'
    (tmp_path / "tile/0/000.p").mkdir(parents=True)
    (tmp_path / "tile/entries/000.p").mkdir(parents=True)
    (tmp_path / "tile/0/000.p/1").write_bytes(leaf_hash(entry))
    (tmp_path / "tile/entries/000.p/1").write_bytes(encode_bundle([entry]))
    (tmp_path / "checkpoint").write_text(sign_checkpoint(1, leaf_hash(entry), signer).text)
    assert verify_log(directory_reader(tmp_path), signer.key).outcome is Outcome.TAMPERED


def test_a_rolled_back_log_is_stale_and_a_rewritten_one_tampered(published, make_node, tmp_path):
    ledger, folder = published
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    before = ledger.head()
    ledger.withdraw([("email", b"p2")])
    assert check(ledger, folder, known=before) is Outcome.OK
    assert check(ledger, old, known=ledger.head()) is Outcome.STALE
    forged = open_checkpoint(
        sign_checkpoint(before.size, b"\x01" * 32, ledger.log._signer).text, [ledger.key]
    )
    assert check(ledger, folder, known=forged) is Outcome.TAMPERED


def test_extension_from_every_smaller_checkpoint_is_recognised(make_node):
    node = make_node("shop")
    ledger = node.open()
    seen = [ledger.head()]
    for i, count in enumerate((254, 1, 1, 255, 1, 3)):
        ledger.record([grant([("email", b"%d-%d" % (i, j))], "overlap.reach") for j in range(count)])
        seen.append(ledger.head())
    assert {256, 257, 512} <= {c.size for c in seen}
    for known in seen:
        assert check(ledger, node.folder / "log", known=known) is Outcome.OK
        wrong = sign_checkpoint(known.size, b"\x02" * 32, ledger.log._signer)
        assert check(ledger, node.folder / "log", known=wrong) is Outcome.TAMPERED


def test_an_old_log_is_stale_when_a_fresh_one_was_asked_for(published, clock):
    ledger, folder = published
    assert check(ledger, folder, not_older_than=clock()) is Outcome.OK
    clock.move(hours=1)
    assert check(ledger, folder, not_older_than=clock()) is Outcome.STALE


def test_an_oversized_checkpoint_is_not_read_as_one(published):
    ledger, folder = published
    (folder / "checkpoint").write_bytes(b"x" * 1_000_000)
    assert check(ledger, folder) is Outcome.TAMPERED


def test_a_log_is_read_over_http_the_same_way(published):
    ledger, folder = published
    asked = []

    def get(url):
        asked.append(url)
        path = folder / url.removeprefix("https://shop.example/log/")
        return (200, path.read_bytes()) if path.is_file() else (404, b"no")

    assert verify_log(url_reader("https://shop.example/log/", get), ledger.key).ok
    assert [url.rpartition("/")[2] for url in asked[:2]] == ["checkpoint.cosigned", "checkpoint"]
    assert verify_log(url_reader("https://shop.example/log", lambda u: (500, b"")), ledger.key).outcome is (
        Outcome.UNREACHABLE
    )

    def down(url):
        raise PeerUnreachable("down")

    assert verify_log(url_reader("http://shop.example", down), ledger.key).outcome is Outcome.UNREACHABLE
    with pytest.raises(Misuse):
        url_reader("file:///etc", get)


CHANGES = {
    "a leaf": "UPDATE consent_entries "
    "SET leaf = (SELECT leaf FROM consent_entries WHERE idx = 3) WHERE idx = 4",
    "a missing entry": "DELETE FROM consent_entries WHERE idx = 4",
    "an extra entry": "INSERT INTO consent_entries (idx, leaf, side) SELECT 100000, leaf, side "
    "FROM consent_entries WHERE idx = 2",
    "a tile": "UPDATE consent_tiles SET hashes = (SELECT root FROM consent_head) WHERE level = 0",
    "the head": "UPDATE consent_head SET size = size - 1",
    "a payload": "UPDATE consent_side SET sealed = (SELECT sealed FROM consent_side WHERE first_index = 2) "
    "WHERE first_index = 3",
    "a missing payload": "DELETE FROM consent_side WHERE first_index = 3",
    "whose payload it is": "UPDATE consent_side SET subject = (SELECT subject FROM consent_side "
    "WHERE first_index = 2) WHERE first_index = 3",
    "a restriction undone": "UPDATE consent_state SET restricted_at = NULL WHERE restricted_at IS NOT NULL",
    "a grant moved": "UPDATE consent_state SET granted_at = granted_at + 1",
    "a grant removed": "DELETE FROM consent_state WHERE granted_index = 3",
    "a grant for somebody else": "UPDATE consent_aliases SET subject = (SELECT subject FROM consent_side "
    "WHERE first_index = 2) WHERE subject = (SELECT subject FROM consent_side WHERE first_index = 3)",
    "a key": "UPDATE consent_subjects SET wrapped_key = (SELECT wrapped_key FROM consent_subjects LIMIT 1)",
    "a partner's restriction": "UPDATE consent_restrictions SET restricted_at = restricted_at - 1",
    "a partner's restriction lifted": "UPDATE consent_restrictions SET lifted_at = restricted_at + 1",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_changed_row_is_found(make_node, joined, change):
    node = make_node("shop")
    ledger = node.open()
    other = make_node("other")
    sender = other.open()
    wire = joined(sender, other, ledger, node)
    ledger.record([grant([("email", b"p%d" % i)], "overlap.reach") for i in range(9)])
    ledger.withdraw([("email", b"p1")])
    sender.withdraw([("email", b"p2")])
    assert wire.read() == 1
    assert verify_ledger(ledger).ok
    with node.engine.begin() as c:
        assert c.execute(sa.text(change)).rowcount > 0
    assert verify_ledger(ledger).outcome is Outcome.TAMPERED
