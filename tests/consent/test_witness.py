"""The witness: C2SP's answers, in its order; nothing cosigned that was not persisted; contradictions kept."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from consent.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from consent.cosignatures import Cosigner, cosign, open_cosigned, witness_key
from consent.errors import InvalidNote
from consent.events import grant
from consent.feed_log import feed_origin
from consent.merkle import EMPTY_ROOT, consistency_proof, leaf_hash, root_of
from consent.notes import NoteSigner, VerifierKey, open_note, sign_note
from consent.routes.witness import create_router
from consent.split_views import FORK, UNPROVEN, SplitViews
from consent.trust_policy import PolicyLog, TrustPolicy
from consent.witness import (
    MAX_REQUEST,
    AddCheckpoint,
    KnownLogs,
    Witness,
    WitnessStore,
)
from consent.witness_client import ask_witness
from privacy.errors import BadInput, PeerViolation, StorageError
from privacy.signing import SigningKey

LOG_KEY = SigningKey.from_seed(b"\x11" * 32)
LOG = NoteSigner(VerifierKey("other.example/log", LOG_KEY.public.bytes32), LOG_KEY.sign_raw)


class Tree:
    """Another log, as a list of leaf hashes."""

    def __init__(self, signer: NoteSigner = LOG, salt: bytes = b"") -> None:
        self.signer = signer
        self.hashes = [leaf_hash(salt + b"%d" % i) for i in range(400)]

    def root(self, size: int) -> bytes:
        return root_of(self.hashes[:size])

    def checkpoint(self, size: int) -> Checkpoint:
        return sign_checkpoint(size, self.root(size), self.signer)

    def consistency(self, old: int, new: int) -> list[bytes]:
        def subtree(level: int, index: int) -> bytes:
            return root_of(self.hashes[index << level : (index + 1) << level])

        return consistency_proof(old, new, subtree)

    def request(self, old: int, new: int) -> bytes:
        proof = tuple(self.consistency(old, new)) if 0 < old <= new else ()
        return AddCheckpoint(old, proof, self.checkpoint(new).text).to_bytes()


def witness_of(node, ledger, policy=None):
    signer = Cosigner(witness_key(ledger.key), node.key.sign_raw)
    policy = policy or TrustPolicy(logs=(PolicyLog(LOG.key),))
    known = KnownLogs(ledger.store, ledger.key, policy)
    return Witness(ledger.store, signer, known, SplitViews(ledger), clock=ledger.clock)


@pytest.fixture
def sqlite_ledger(make_node):
    node = make_node("shop")
    return node, node.open()


@pytest.fixture
def witness(sqlite_ledger):
    return witness_of(*sqlite_ledger)


@pytest.fixture
def stored(node, ledger):
    """On SQLite and on PostgreSQL."""
    return witness_of(node, ledger)


def ask(witness, body):
    answer = witness.add_checkpoint(body)
    return int(answer.status), answer.body.decode()


def test_a_new_checkpoint_is_persisted_and_cosigned(stored, ledger, clock):
    tree, witness = Tree(), stored
    status, line = ask(witness, tree.request(0, 5))
    assert status == 200
    cosigned = open_cosigned(tree.checkpoint(5).text + line, LOG.key, [witness.key])
    assert cosigned.cosignatures[0].at == clock()
    row = WitnessStore(ledger.store).latest(LOG.key.name)
    assert (row.size, row.root) == (5, tree.root(5))
    assert open_cosigned(row.checkpoint, LOG.key, [witness.key]).cosignatures
    assert ask(witness, tree.request(5, 130))[0] == 200
    assert witness.store.latest(LOG.key.name).size == 130
    assert [row.origin for row in witness.store.all()] == [LOG.key.name]


def test_the_statuses_are_those_of_the_protocol(witness):
    tree, stranger = Tree(), Tree(NoteSigner(VerifierKey("who.example", LOG.key.public), LOG.sign))
    impostor_key = SigningKey.from_seed(b"\x12" * 32)
    impostor = Tree(NoteSigner(VerifierKey(LOG.key.name, impostor_key.public.bytes32), impostor_key.sign_raw))
    assert ask(witness, b"hello")[0] == 400
    assert ask(witness, stranger.request(0, 3))[0] == 404
    assert ask(witness, impostor.request(0, 3))[0] == 403
    broken = tree.checkpoint(3).text.replace("\n3\n", "\n4\n")
    assert ask(witness, AddCheckpoint(0, (), broken).to_bytes())[0] == 403
    assert ask(witness, AddCheckpoint(4, (), tree.checkpoint(3).text).to_bytes())[0] == 400
    assert ask(witness, tree.request(2, 3)) == (409, "0\n")
    assert ask(witness, AddCheckpoint(0, (b"x" * 32,), tree.checkpoint(3).text).to_bytes())[0] == 422
    assert ask(witness, tree.request(0, 3))[0] == 200
    assert ask(witness, tree.request(0, 7)) == (409, "3\n")
    assert ask(witness, tree.request(2, 7)) == (409, "3\n")
    assert ask(witness, AddCheckpoint(3, (), tree.checkpoint(7).text).to_bytes())[0] == 422
    proof = tree.consistency(3, 7)
    proof[0] = b"\x00" * 32
    assert ask(witness, AddCheckpoint(3, tuple(proof), tree.checkpoint(7).text).to_bytes())[0] == 422
    assert ask(witness, AddCheckpoint(3, (b"x" * 32,), tree.checkpoint(3).text).to_bytes())[0] == 422
    assert ask(witness, tree.request(3, 3))[0] == 200
    assert ask(witness, tree.request(3, 7))[0] == 200
    assert ask(witness, tree.request(3, 3)) == (409, "7\n")
    assert witness.store.latest(LOG.key.name).size == 7


def test_409_has_the_media_type_of_a_size(witness):
    answer = witness.add_checkpoint(Tree().request(1, 3))
    assert (answer.status, answer.content_type) == (409, "text/x.tlog.size")


def test_a_key_whose_second_signature_fails_is_not_heard(witness):
    tree = Tree()
    forged = tree.checkpoint(4).text.split("\n\n")[1]
    both = tree.checkpoint(3).text + forged
    assert ask(witness, AddCheckpoint(0, (), both).to_bytes())[0] == 403
    assert witness.store.latest(LOG.key.name) is None


def test_what_strangers_added_to_a_note_is_not_kept(witness):
    tree = Tree()
    other = SigningKey.from_seed(b"\x13" * 32)
    added = sign_note(
        tree.checkpoint(3).body, [NoteSigner(VerifierKey("x", other.public.bytes32), other.sign_raw)]
    )
    text = tree.checkpoint(3).text + added.split("\n\n")[1]
    assert ask(witness, AddCheckpoint(0, (), text).to_bytes())[0] == 200
    stored = witness.store.latest(LOG.key.name).checkpoint
    assert [s.name for s in open_note(stored, [LOG.key]).signatures] == [LOG.key.name, witness.key.name]


def test_the_empty_tree_has_one_root(witness):
    tree = Tree()
    assert ask(witness, AddCheckpoint(0, (), sign_checkpoint(0, b"\x01" * 32, LOG).text).to_bytes())[0] == 422
    assert ask(witness, AddCheckpoint(0, (), sign_checkpoint(0, EMPTY_ROOT, LOG).text).to_bytes())[0] == 200
    assert ask(witness, tree.request(0, 3))[0] == 200


def test_a_signed_note_that_is_no_checkpoint_is_malformed(witness):
    note = sign_note(f"{LOG.key.name}\nmany\nroots\n", [LOG])
    assert ask(witness, AddCheckpoint(0, (), note).to_bytes())[0] == 400


def test_extension_lines_are_cosigned_with_the_rest(witness):
    body = Tree().checkpoint(3).body + "an extension\n"
    note = sign_note(body, [LOG])
    status, line = ask(witness, AddCheckpoint(0, (), note).to_bytes())
    assert status == 200 and open_cosigned(note + line, LOG.key, [witness.key]).cosignatures
    with pytest.raises(InvalidNote):
        open_cosigned(note.replace("an ext", "no ext") + line, LOG.key, [witness.key])


def test_the_same_checkpoint_is_answered_again_and_renewed_after_a_while(witness, clock):
    tree = Tree()
    first = ask(witness, tree.request(0, 3))
    clock.move(seconds=5)
    assert ask(witness, tree.request(3, 3)) == first
    clock.move(minutes=5)
    again = ask(witness, tree.request(3, 3))
    assert again[0] == 200 and again != first
    assert witness.store.latest(LOG.key.name).seconds == int(clock().timestamp())


def test_time_never_goes_back_in_what_is_cosigned(witness, clock):
    tree = Tree()
    ask(witness, tree.request(0, 3))
    clock.move(days=-3)
    ask(witness, tree.request(3, 5))
    clock.move(days=3)
    assert witness.store.latest(LOG.key.name).seconds == int(clock().timestamp())


def test_nothing_is_cosigned_when_nothing_can_be_persisted(witness, monkeypatch):
    def fails():
        raise StorageError("The disk is full.")

    monkeypatch.setattr(witness._store, "write", fails)
    with pytest.raises(StorageError):
        witness.add_checkpoint(Tree().request(0, 3))
    assert witness.store.latest(LOG.key.name) is None


def test_of_requests_at_the_same_time_none_rolls_another_back(node, ledger):
    """Twenty sizes race from the same old one: exactly one wins each round, and the size only grows."""
    tree = Tree()
    witnesses = [witness_of(node, ledger) for _ in range(4)]
    size, barrier = 0, threading.Barrier(4)

    def submit(i: int, old: int) -> tuple[int, int]:
        barrier.wait()
        new = old + 1 + i
        return ask(witnesses[i], tree.request(old, new))[0], new

    with ThreadPoolExecutor(4) as pool:
        for _ in range(8):
            answers = list(pool.map(submit, range(4), [size] * 4))
            accepted = [new for status, new in answers if status == 200]
            assert len(accepted) == 1 and {status for status, _ in answers} == {200, 409}
            size = accepted[0]
            assert witnesses[0].store.latest(LOG.key.name).size == size


# evidence


def test_two_roots_of_one_size_are_kept_and_recorded(stored, ledger):
    tree, forked, witness = Tree(), Tree(salt=b"other"), stored
    ask(witness, tree.request(0, 9))
    before = ledger.head().size
    assert ask(witness, AddCheckpoint(9, (), forked.checkpoint(9).text).to_bytes())[0] == 422
    (row,) = SplitViews(ledger).listing()
    assert (row.kind, row.origin) == (FORK, LOG.key.name)
    first, second = (open_checkpoint(text, [LOG.key]) for text in (row.first, row.second))
    assert first.size == second.size == 9 and first.root != second.root
    assert ledger.head().size == before + 1 and row.idx == before
    assert ledger.prove(row.idx).verify(ledger.key)[0].type == "evidence.recorded"
    # Told again, whatever the old size says, it is the same evidence.
    assert ask(witness, forked.request(0, 9)) == (409, "9\n")
    assert len(SplitViews(ledger).listing()) == 1 and ledger.head().size == before + 1


def test_a_fork_beyond_what_was_seen_is_kept_as_unproven(stored, ledger, clock):
    tree, forked, witness = Tree(), Tree(salt=b"other"), stored
    ask(witness, tree.request(0, 9))
    size = ledger.head().size
    assert ask(witness, forked.request(9, 20))[0] == 422
    (row,) = SplitViews(ledger).listing(LOG.key.name)
    assert row.kind == UNPROVEN and row.idx is None and ledger.head().size == size
    assert ask(witness, forked.request(9, 21))[0] == 422
    assert open_checkpoint(SplitViews(ledger).listing()[0].second, [LOG.key]).size == 20
    clock.move(minutes=2)
    assert ask(witness, forked.request(9, 21))[0] == 422
    (row,) = SplitViews(ledger).listing()
    assert open_checkpoint(row.second, [LOG.key]).size == 21
    assert SplitViews(ledger).listing("nobody.example") == []


def test_a_log_that_signs_forks_without_end_does_not_fill_this_one(sqlite_ledger):
    witness, ledger = witness_of(*sqlite_ledger), sqlite_ledger[1]
    ask(witness, Tree().request(0, 3))
    before = ledger.head().size
    for i in range(20):
        ask(witness, Tree(salt=b"%d" % i).request(3, 3))
    assert ledger.head().size == before + 16 == before + len(SplitViews(ledger).listing())


def test_an_older_checkpoint_is_no_evidence(sqlite_ledger):
    tree, witness, ledger = Tree(), witness_of(*sqlite_ledger), sqlite_ledger[1]
    ask(witness, tree.request(0, 9))
    assert ask(witness, tree.request(0, 4)) == (409, "9\n")
    assert ask(witness, tree.request(4, 4)) == (409, "9\n")
    assert SplitViews(ledger).listing() == []


# which logs


def test_partners_main_logs_and_their_feeds_for_this_node_are_known(sqlite_ledger, make_node):
    _, ledger = sqlite_ledger
    bank = make_node("bank").open()
    ledger.join_partner("bank", bank.vkey)
    known = KnownLogs(ledger.store, ledger.key)
    assert known.keys(bank.origin) == (bank.key,)
    feed = feed_origin(bank.origin, ledger.origin)
    assert feed == f"{bank.origin}/feed/{sha256(ledger.origin.encode()).hexdigest()[:16]}"
    assert known.keys(feed) == (VerifierKey(feed, bank.key.public),)
    assert known.public(bank.origin) and not known.public(feed)
    for strange in (ledger.origin, feed_origin(bank.origin, "else.example"), bank.origin + "/x", "", "b"):
        assert known.keys(strange) == ()


def test_a_feed_log_is_witnessed_but_not_shown_to_everybody(sqlite_ledger, make_node):
    node, ledger = sqlite_ledger
    bank_node = make_node("bank")
    bank = bank_node.open()
    ledger.join_partner("bank", bank.vkey)
    witness = witness_of(node, ledger, TrustPolicy())
    feed = feed_origin(bank.origin, ledger.origin)
    signer = NoteSigner(VerifierKey(feed, bank.key.public), bank_node.key.sign_raw)
    assert ask(witness, Tree(signer).request(0, 3))[0] == 200
    main = NoteSigner(bank.key, bank_node.key.sign_raw)
    assert ask(witness, Tree(main).request(0, 3))[0] == 200
    assert witness.checkpoint(sha256(feed.encode()).hexdigest()) is None
    assert witness.checkpoint(sha256(bank.origin.encode()).hexdigest()) is not None


# over HTTP


class Anybody:
    def role(self, *roles):
        return lambda: "officer"

    def partner(self):
        return lambda: "partner"


@pytest.fixture
def http(sqlite_ledger):
    node, ledger = sqlite_ledger
    app = FastAPI()
    app.include_router(create_router(witness_of(node, ledger), SplitViews(ledger), Anybody()))
    with TestClient(app) as client:
        yield client


def test_the_call_over_http(http):
    tree = Tree()
    missing = http.get(f"/witness/{sha256(LOG.key.name.encode()).hexdigest()}/checkpoint")
    assert missing.status_code == 404
    conflict = http.post("/witness/add-checkpoint", content=tree.request(2, 3))
    assert (conflict.status_code, conflict.content) == (409, b"0\n")
    assert conflict.headers["content-type"] == "text/x.tlog.size"
    good = http.post("/witness/add-checkpoint", content=tree.request(0, 3))
    assert good.status_code == 200 and good.text.startswith("— shop.example/consent/witness ")
    shown = http.get(f"/witness/{sha256(LOG.key.name.encode()).hexdigest()}/checkpoint")
    assert shown.text == tree.checkpoint(3).text + good.text
    assert http.get("/witness/add-checkpoint").status_code == 405
    assert http.get("/witness/nonsense/checkpoint").status_code == 404
    http.post("/witness/add-checkpoint", content=Tree(salt=b"x").request(3, 3))
    (item,) = http.get("/v1/split-views").json()["split_views"]
    assert item["kind"] == "fork" and item["first"].startswith(LOG.key.name)


def test_a_body_larger_than_a_request_can_be_is_refused(http):
    assert http.post("/witness/add-checkpoint", content=b"o" * (MAX_REQUEST + 1)).status_code == 413
    assert http.post("/witness/add-checkpoint", content=b"").status_code == 400


GOOD = Tree().request(5, 300)
AT_300 = Tree().checkpoint(300).text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        b"\n\n",
        GOOD.replace(b"old 5", b"old 05"),
        GOOD.replace(b"old 5", b"old -5"),
        GOOD.replace(b"old 5", b"old  5"),
        GOOD.replace(b"old 5", b"Old 5"),
        GOOD.replace(b"old 5", b"old 9223372036854775808"),
        GOOD.replace(b"old 5", b"old 5 "),
        GOOD.replace(b"old 5\n", b"old 5\r\n"),
        GOOD.replace(b"old 5\n", b"\nold 5\n"),
        GOOD.replace(b"old 5\n", b"old 5\n!\n"),
        GOOD.replace(b"old 5\n", b"old 5\nAAAA\n"),
        GOOD.replace(b"old 5\n", b"old 5\n" + b"A" * 43 + b"=\n" * 1 + b"AAAB\n"),
        GOOD.replace(b"old 5\n", b"old 5\n" + (b"A" * 43 + b"=\n") * 64),
        GOOD.replace(b"\n\n", b"\n", 1),
        GOOD[:-1],
        GOOD + b"\n",
        GOOD + b"\x00",
        GOOD + b"\xff",
        b"\xff" * 1000,
        b"old 0\n\n" + "\U0001f600".encode() * 60_000,
        b"A" * (MAX_REQUEST + 1),
    ],
)
def test_what_is_not_exactly_a_request_is_malformed(body):
    class Nothing:
        """Neither storage nor keys are asked about a body that is malformed."""

    witness = Witness(Nothing(), Cosigner(witness_key(LOG.key), LOG.sign), Nothing(), Nothing(), clock=None)
    assert ask(witness, body)[0] == 400


@given(st.data())
def test_every_flipped_bit_of_a_request_is_noticed_or_means_the_same(data):
    raw = bytearray(GOOD)
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    try:
        request = AddCheckpoint.from_bytes(bytes(raw))
        checkpoint = open_checkpoint(request.note, [LOG.key])
    except (BadInput, InvalidNote):
        return
    assert checkpoint.text == AT_300
    assert request != AddCheckpoint.from_bytes(GOOD)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_malformed_and_never_crash(data):
    for body in (data, GOOD + data, data + GOOD):
        with contextlib.suppress(BadInput):
            assert AddCheckpoint.from_bytes(body).to_bytes() == body


# the log's side


class Line:
    """A connection straight into a witness."""

    def __init__(self, witness, key=None):
        self.witness, self.key, self.asked = witness, key or witness.key, []

    def add_checkpoint(self, body):
        self.asked.append(body)
        answer = self.witness.add_checkpoint(body)
        return int(answer.status), answer.content_type, answer.body


def test_a_log_learns_from_409_what_the_witness_has(witness):
    tree, line = Tree(), Line(witness)
    assert ask_witness(line, tree.checkpoint(5), tree.consistency).key == witness.key
    assert ask_witness(line, tree.checkpoint(77), tree.consistency).seconds > 0
    assert len(line.asked) == 3
    assert ask_witness(line, tree.checkpoint(78), tree.consistency, 77) and len(line.asked) == 4
    assert ask_witness(line, tree.checkpoint(78), tree.consistency, 300) and len(line.asked) == 5


def test_a_log_that_was_rolled_back_is_told_so_by_its_witness(witness):
    tree, line = Tree(), Line(witness)
    ask_witness(line, tree.checkpoint(77), tree.consistency)
    with pytest.raises(PeerViolation) as caught:
        ask_witness(line, tree.checkpoint(50), tree.consistency)
    assert caught.value.code == "witness_ahead"
    forked = Tree(salt=b"x")
    with pytest.raises(PeerViolation) as caught:
        ask_witness(line, forked.checkpoint(90), forked.consistency)
    assert caught.value.code == "witness_inconsistent"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((200, "text/plain", b""), "witness_malformed"),
        ((200, "text/plain", b"hello\n"), "witness_malformed"),
        ((200, "text/plain", "— x AAAAAAAA\n".encode()), "witness_malformed"),
        ((200, "text/plain", b"\xff" * 70_000), "witness_malformed"),
        ((409, "text/plain", b"3\n"), "witness_malformed"),
        ((409, "text/x.tlog.size", b"3"), "witness_malformed"),
        ((409, "text/x.tlog.size", b"03\n"), "witness_malformed"),
        ((409, "text/x.tlog.size", b"-1\n"), "witness_malformed"),
        ((409, "text/x.tlog.size", b""), "witness_malformed"),
        ((409, "text/x.tlog.size", b"1\n"), "witness_malformed"),
        ((409, "text/x.tlog.size", b"400\n"), "witness_ahead"),
        ((404, "text/plain", b""), "witness_unknown_log"),
        ((403, "text/plain", b""), "witness_wrong_key"),
        ((422, "text/plain", b""), "witness_inconsistent"),
        ((400, "text/plain", b""), "witness_refused"),
        ((301, "text/plain", b""), "witness_refused"),
        ((503, "text/plain", b""), "witness_failed"),
    ],
)
def test_a_witness_that_answers_nonsense_is_named_for_it(answer, code):
    class Stub:
        key = witness_key(LOG.key)

        def add_checkpoint(self, body):
            return answer

    tree = Tree()
    with pytest.raises(PeerViolation) as caught:
        ask_witness(Stub(), tree.checkpoint(5), tree.consistency)
    assert caught.value.code == code


def test_a_cosignature_of_another_checkpoint_is_not_taken(witness):
    tree, line = Tree(), Line(witness)
    other = witness.add_checkpoint(tree.request(0, 3)).body

    class Replays(Line):
        def add_checkpoint(self, body):
            return 200, "text/plain", other

    with pytest.raises(PeerViolation):
        ask_witness(Replays(witness), tree.checkpoint(5), tree.consistency)
    with pytest.raises(PeerViolation):
        ask_witness(Line(witness, witness_key(LOG.key)), tree.checkpoint(5), tree.consistency)
    assert ask_witness(line, tree.checkpoint(5), tree.consistency)


def test_cosignatures_are_published_with_the_checkpoint_and_survive_its_successors(sqlite_ledger, make_node):
    node, ledger = sqlite_ledger
    bank_node = make_node("bank")
    bank = bank_node.open()
    bank.join_partner("shop", ledger.vkey)
    line = Line(witness_of(bank_node, bank, TrustPolicy()))
    policy = TrustPolicy.any_of({"bank": line.key})

    def gather():
        head = ledger.head()
        made = ask_witness(line, head, ledger.log.consistency)
        ledger.log.add_cosignatures(head, [made.signature], policy)
        return head

    head = gather()
    folder = node.folder / "log"
    assert policy.open((folder / "checkpoint").read_bytes(), ledger.key)[1]
    assert policy.open(ledger.head().text, ledger.key)[1]
    assert ledger.log.cosigned().body == head.body
    ledger.record([grant([("email", b"a")], "overlap.reach")])
    assert not policy.open((folder / "checkpoint").read_bytes(), ledger.key)[1]
    assert ledger.log.cosigned().body == head.body
    assert node.open().log.cosigned().body == head.body
    newer = gather()
    assert ledger.log.cosigned().body == newer.body
    # What comes late for an older one changes nothing.
    ledger.log.add_cosignatures(head, [ask_witness_again(line, head)], policy)
    assert ledger.log.cosigned().body == newer.body
    assert policy.open((folder / "checkpoint").read_bytes(), ledger.key)[1]
    assert ledger.log.static.read("checkpoint.cosigned") == (folder / "checkpoint.cosigned").read_bytes()


def ask_witness_again(line, head):
    return cosign(head, line.witness._signer, 5).signature


def test_what_changes_is_not_served_as_if_it_never_did(sqlite_ledger):
    from consent.routes import log

    node, ledger = sqlite_ledger
    made = cosign(ledger.head(), Cosigner(witness_key(LOG.key), LOG.sign), 5)
    ledger.log.add_cosignatures(ledger.head(), [made.signature], TrustPolicy())
    app = FastAPI()
    app.include_router(log.create_router(ledger))
    with TestClient(app) as client:
        for path in ("checkpoint", "checkpoint.cosigned"):
            answer = client.get(f"/log/{path}")
            assert answer.status_code == 200 and "immutable" not in answer.headers["cache-control"]
            assert answer.content == (node.folder / "log" / path).read_bytes()
        assert client.get("/log/.lock").status_code == 404
