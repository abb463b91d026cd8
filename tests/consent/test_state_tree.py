from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from consent.encoding import canonical_json, render_time
from consent.errors import InvalidProof
from consent.state import Standing
from consent.state_buckets import all_pairs, prove_key, root_node, update
from consent.state_tree import (
    EMPTY,
    Pair,
    TreeProof,
    prove,
    root,
    standing_json,
    standing_value,
    state_key,
    verify_path,
)
from privacy.errors import Misuse, Tampered

# Keys that share long prefixes are what a sparse tree can get wrong, so they are drawn close together.
KEYS = st.one_of(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 255).map(lambda n: bytes([n]) + bytes(31)),
    st.integers(0, 15).map(lambda n: bytes(31) + bytes([n])),
)
SETS = st.dictionaries(KEYS, st.binary(min_size=32, max_size=32), max_size=24)


def naive(entries, depth=0):
    """The definition, word for word."""
    if not entries:
        return bytes(32)
    if len(entries) == 1:
        ((key, value),) = entries.items()
        return sha256(b"\x00" + key + value).digest()
    halves = [
        {k: v for k, v in entries.items() if int.from_bytes(k, "big") >> (255 - depth) & 1 == side}
        for side in (0, 1)
    ]
    return sha256(b"\x01" + naive(halves[0], depth + 1) + naive(halves[1], depth + 1)).digest()


@given(SETS)
def test_the_root_is_that_of_the_definition(entries):
    assert root(entries) == naive(entries)


@given(SETS, KEYS)
def test_every_key_is_proved_present_or_absent(entries, key):
    for asked in (key, *entries):
        assert verify_path(prove(entries, asked), asked, root(entries)) == entries.get(asked)


@given(SETS, KEYS, st.binary(min_size=32, max_size=32))
def test_a_proof_holds_for_its_own_set_only(entries, key, value):
    other = {**entries, key: value}
    if other == entries:
        return
    with pytest.raises(InvalidProof):
        verify_path(prove(entries, key), key, root(other))


@given(SETS.filter(bool), KEYS, st.data())
def test_a_changed_proof_proves_nothing(entries, key, data):
    asked = data.draw(st.sampled_from([key, *entries]))
    proof, top = prove(entries, asked), root(entries)
    siblings = list(proof.siblings)
    changed = [
        TreeProof((*proof.siblings, data.draw(st.binary(min_size=32, max_size=32))), proof.end),
        replace(proof, end=None if proof.end else Pair(asked, bytes(32))),
        replace(proof, end=Pair(asked, b"\x05" * 32)) if entries.get(asked) != b"\x05" * 32 else None,
    ]
    for n in range(len(siblings)):
        flipped = bytes([siblings[n][0] ^ 1]) + siblings[n][1:]
        changed.append(replace(proof, siblings=(*siblings[:n], flipped, *siblings[n + 1 :])))
        changed.append(replace(proof, siblings=(*siblings[:n], *siblings[n + 1 :])))
    for bad in changed:
        if bad is not None:
            with pytest.raises(InvalidProof):
                verify_path(bad, asked, top)


def test_a_proof_of_one_key_is_not_one_of_another():
    entries = {bytes([n]) * 32: bytes(32) for n in (1, 2, 130, 200)}
    present = prove(entries, b"\x01" * 32)
    with pytest.raises(InvalidProof):
        verify_path(present, b"\xff" * 32, root(entries))
    # Where the way forks below the end, the neighbour proves the absence of what lies beside it.
    assert verify_path(present, b"\x01" * 31 + b"\x00", root(entries)) is None


@pytest.mark.parametrize(
    "proof",
    [
        TreeProof((bytes(32),) * 257, None),
        TreeProof((b"short",), None),
        TreeProof((), Pair(b"", bytes(32))),
        TreeProof((), Pair(bytes(32), bytes(31))),
        TreeProof((EMPTY,), Pair(bytes(32), bytes(32))),
    ],
)
def test_malformed_proofs_are_refused(proof):
    with pytest.raises(InvalidProof):
        verify_path(proof, bytes(32), bytes(32))


def test_keys_are_32_bytes():
    with pytest.raises(Misuse):
        prove({}, b"short")


class Rows:
    def __init__(self):
        self.rows = {}

    def read(self, paths):
        return {path: self.rows[path] for path in paths if path in self.rows}

    def write(self, rows):
        for path, data in rows.items():
            if data is None:
                self.rows.pop(path, None)
            else:
                self.rows[path] = data


UNIVERSE = [sha256(bytes([n % 251, n // 251])).digest() for n in range(400)] + [
    bytes(30) + n.to_bytes(2, "big") for n in range(200)
]


class StoredTree(RuleBasedStateMachine):
    """Rows on one side, a dictionary on the other."""

    def __init__(self):
        super().__init__()
        self.stored, self.model = Rows(), {}

    @rule(
        first=st.integers(0, 599), count=st.sampled_from([1, 3, 70, 300]), value=st.integers(0, 255),
        gone=st.sampled_from([0, 0, 1, 2]),
    )  # fmt: skip
    def change(self, first, count, value, gone):
        changes = {}
        for n in range(first, first + count):
            key = UNIVERSE[n % 600]
            keep = gone == 0 or (gone == 1 and n % 2)
            changes[key] = bytes([value]) * 32 if keep else None
        before = len(self.model)
        for key, new in changes.items():
            if new is None:
                self.model.pop(key, None)
            else:
                self.model[key] = new
        node, grown, rows = update(self.stored.read, changes)
        self.stored.write(rows)
        assert grown == len(self.model) - before
        assert node == root_node(self.stored.read)
        assert node.hash == root(self.model)

    def teardown(self):
        assert all_pairs(self.stored.read) == self.model

    @rule(which=st.integers(0, 599))
    def ask(self, which):
        key = UNIVERSE[which]
        proof = prove_key(self.stored.read, key)
        assert proof == prove(self.model, key)
        assert verify_path(proof, key, root(self.model)) == self.model.get(key)


TestStoredTree = StoredTree.TestCase
TestStoredTree.settings = settings(max_examples=20, stateful_step_count=12)


def test_one_change_touches_a_few_kilobytes():
    rows = Rows()
    many = {sha256(n.to_bytes(4, "big")).digest(): bytes(32) for n in range(20_000)}
    rows.write(update(rows.read, many)[2])
    touched = []

    def read(paths):
        found = rows.read(paths)
        touched.extend(found.values())
        return found

    _, grown, written = update(read, {sha256(b"one more").digest(): bytes(32)})
    assert grown == 1
    assert sum(map(len, touched)) < 8_000 and sum(len(data) for data in written.values() if data) < 8_000


def test_changed_rows_are_noticed():
    rows = Rows()
    rows.write(update(rows.read, {sha256(bytes([n])).digest(): bytes(32) for n in range(200)})[2])
    for path, data in list(rows.rows.items()):
        for place in {0, 1, len(data) // 2, len(data) - 1}:
            rows.rows[path] = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            try:
                top = root_node(rows.read) if path == "" else None
                all_pairs(rows.read)
            except Tampered:
                pass
            else:
                # The row at the top is held to the root by whoever asked.
                assert top is not None and top.hash != root(
                    {sha256(bytes([n])).digest(): bytes(32) for n in range(200)}
                )
            rows.rows[path] = data
    rows.rows[""] = rows.rows[""][:-1]
    with pytest.raises(Tampered):
        all_pairs(rows.read)


TIMES = st.none() | st.integers(0, 1 << 50)
STANDINGS = st.builds(
    Standing, TIMES, st.none() | st.integers(1, 1 << 31), TIMES, st.none() | st.integers(0, (1 << 53) - 1),
    TIMES, st.none() | st.sampled_from(["consent.withdrawn", "objection"]),
    st.none() | st.integers(0, (1 << 53) - 1),
)  # fmt: skip


@given(STANDINGS)
def test_a_standing_is_written_in_canonical_json(standing):
    fields = standing._asdict()
    for name in ("granted_at", "expires_at", "restricted_at"):
        fields[name] = None if fields[name] is None else render_time(fields[name])
    assert standing_json(standing) == canonical_json(fields)


def test_the_published_vectors_hold(vectors):
    """Made by the definition alone (`naive` above), for other implementations."""
    document = vectors("state_tree.json")
    for case in document["keys"]:
        handle = bytes.fromhex(case["handle"])
        assert state_key(handle, case["purpose"], case["partner"]).hex() == case["key"]
    for case in document["values"]:
        standing = Standing(**case["standing"])
        assert standing_json(standing).decode() == case["json"]
        assert standing_value(bytes.fromhex(case["salt"]), standing).hex() == case["value"]
    for case in document["roots"]:
        entries = {bytes.fromhex(k): bytes.fromhex(v) for k, v in case["entries"].items()}
        assert root(entries).hex() == naive(entries).hex() == case["root"]
    for case in document["proofs"]:
        end = case["end"]
        proof = TreeProof(
            tuple(map(bytes.fromhex, case["siblings"])),
            None if end is None else Pair(bytes.fromhex(end["key"]), bytes.fromhex(end["value"])),
        )
        key, top = bytes.fromhex(case["key"]), bytes.fromhex(case["root"])
        if case["expect"] == "invalid":
            with pytest.raises(InvalidProof):
                verify_path(proof, key, top)
        else:
            value = verify_path(proof, key, top)
            assert (None if value is None else value.hex()) == case["value"]
    assert {case["expect"] for case in document["proofs"]} == {"present", "absent", "invalid"}
    assert json.dumps(document)  # plain JSON, nothing else
