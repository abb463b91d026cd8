from __future__ import annotations

import random
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.errors import InvalidProof
from consent.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    frontier,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from privacy.errors import Misuse

LEAVES = [leaf_hash(bytes([i])) for i in range(200)]


def subtree(level: int, index: int) -> bytes:
    return root_of(LEAVES[index << level : (index + 1) << level])


def defined(leaves: list[bytes]) -> bytes:
    """MTH written as RFC 6962 §2.1 writes it."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(defined(leaves[:k]), defined(leaves[k:]))


def test_roots_are_the_published_ones(vectors):
    known = vectors("rfc6962_roots.json")
    hashes = [leaf_hash(bytes.fromhex(entry)) for entry in known["entries"]]
    for size, root in enumerate(known["roots"]):
        assert root_of(hashes[:size]).hex() == root


def test_the_published_consistency_proof_verifies_and_is_made_here(vectors):
    known = vectors("rfc6962_roots.json")
    proof = [bytes.fromhex(p) for p in known["consistency_6_8"]]
    roots = [bytes.fromhex(r) for r in known["roots"]]
    hashes = [leaf_hash(bytes.fromhex(entry)) for entry in known["entries"]]
    verify_consistency(6, 8, roots[6], roots[8], proof)
    made = consistency_proof(6, 8, lambda level, i: root_of(hashes[i << level : (i + 1) << level]))
    assert made == proof


def test_the_linear_root_is_the_recursive_definition():
    for size in range(130):
        assert root_of(LEAVES[:size]) == defined(LEAVES[:size]) == tree_root(size, subtree)


def test_every_inclusion_proof_of_small_trees_verifies_and_only_for_its_leaf():
    for size in range(1, 66):
        root = root_of(LEAVES[:size])
        for index in range(size):
            proof = inclusion_proof(index, size, subtree)
            verify_inclusion(index, size, LEAVES[index], proof, root)
            for other in {(index + 1) % size, size - 1} - {index}:
                with pytest.raises(InvalidProof):
                    verify_inclusion(other, size, LEAVES[index], proof, root)
            with pytest.raises(InvalidProof):
                verify_inclusion(index, size, LEAVES[index + 100], proof, root)


def test_every_consistency_proof_of_small_trees_verifies_and_only_for_its_roots():
    roots = [root_of(LEAVES[:size]) for size in range(50)]
    for new in range(50):
        for old in range(new + 1):
            proof = consistency_proof(old, new, subtree)
            verify_consistency(old, new, roots[old], roots[new], proof)
            if 0 < old < new:
                with pytest.raises(InvalidProof):
                    verify_consistency(old, new, roots[old - 1], roots[new], proof)
                with pytest.raises(InvalidProof):
                    verify_consistency(old, new, roots[old], roots[old], proof)


@given(st.integers(1, 200), st.data())
def test_no_changed_proof_verifies(size, data):
    index = data.draw(st.integers(0, size - 1))
    root = root_of(LEAVES[:size])
    proof = inclusion_proof(index, size, subtree)
    changes = [[*proof, LEAVES[0]], proof[:-1]] if proof else [[LEAVES[0]]]
    if proof:
        at, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
        changed = bytearray(proof[at])
        changed[bit // 8] ^= 1 << bit % 8
        changes.append([*proof[:at], bytes(changed), *proof[at + 1 :]])
    for wrong in changes:
        with pytest.raises(InvalidProof):
            verify_inclusion(index, size, LEAVES[index], wrong, root)


def test_malformed_proofs_are_refused_and_not_crashed_on():
    root = root_of(LEAVES[:5])
    for proof in ([b""], [b"short"], [LEAVES[0]] * 65, [LEAVES[0] + b"x"]):
        with pytest.raises(InvalidProof):
            verify_inclusion(0, 5, LEAVES[0], proof, root)
        with pytest.raises(InvalidProof):
            verify_consistency(2, 5, LEAVES[0], root, proof)
    with pytest.raises(InvalidProof):
        verify_inclusion(-1, 5, LEAVES[0], [], root)
    with pytest.raises(InvalidProof):
        verify_consistency(6, 5, root, root, [])
    with pytest.raises(InvalidProof):
        verify_consistency(0, 5, LEAVES[0], root, [])
    verify_consistency(0, 5, EMPTY_ROOT, root, [])
    with pytest.raises(Misuse):
        inclusion_proof(5, 5, subtree)
    with pytest.raises(Misuse):
        consistency_proof(6, 5, subtree)


def test_the_frontier_covers_the_tree_without_gaps():
    for size in [*range(40), random.Random(1).randrange(1 << 40)]:
        position = 0
        for level, index in frontier(size):
            assert index << level == position
            position += 1 << level
        assert position == size
