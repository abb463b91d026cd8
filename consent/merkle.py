"""The Merkle tree of RFC 6962 and the proof checks of RFC 9162; integers and bytes only.

    empty        SHA-256("")
    leaf(d)      SHA-256(0x00 ‖ d)
    node(l, r)   SHA-256(0x01 ‖ l ‖ r)

A *perfect* subtree `(level, index)` covers leaves `[index·2^level, (index+1)·2^level)`. Proofs are built
from a function that gives the hash of a perfect subtree, so the caller decides where hashes are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256

from consent.errors import InvalidProof
from privacy.errors import Misuse

__all__ = [
    "EMPTY_ROOT",
    "HASH_SIZE",
    "PerfectSubtree",
    "consistency_proof",
    "fold_frontier",
    "frontier",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "root_of",
    "tree_root",
    "verify_consistency",
    "verify_inclusion",
]

HASH_SIZE = 32
EMPTY_ROOT = sha256(b"").digest()
MAX_PROOF = 64

PerfectSubtree = Callable[[int, int], bytes]
"""`(level, index) -> hash` of the perfect subtree there."""


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """RFC 6962 §2.1 `MTH` over leaf hashes (not entries), in time linear in their number."""
    level = list(hashes)
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:
        # An odd node at the end moves up unchanged: the same tree as the recursive definition.
        odd = [level.pop()] if len(level) & 1 else []
        pairs = iter(level)
        level = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
        level += odd
    return level[0]


def frontier(size: int) -> Iterator[tuple[int, int]]:
    """The perfect subtrees that cover `[0, size)`, largest first."""
    start = 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            yield level, start >> level
            start += 1 << level


def fold_frontier(hashes: Sequence[bytes]) -> bytes:
    """The root of the tree whose frontier has these hashes, largest first."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def tree_root(size: int, subtree: PerfectSubtree) -> bytes:
    return fold_frontier([subtree(level, index) for level, index in frontier(size)])


def _range_hash(start: int, end: int, subtree: PerfectSubtree) -> bytes:
    """`MTH(D[start:end])`, where start is aligned as RFC 6962's recursion aligns it."""
    parts = []
    while start < end:
        level = min((start & -start).bit_length() - 1 if start else 63, (end - start).bit_length() - 1)
        parts.append(subtree(level, start >> level))
        start += 1 << level
    return fold_frontier(parts)


def _split(size: int) -> int:
    """The largest power of two smaller than `size` (size > 1)."""
    return 1 << (size - 1).bit_length() - 1


def inclusion_proof(index: int, size: int, subtree: PerfectSubtree) -> list[bytes]:
    """RFC 9162 §2.1.3.1 `PATH(index, D[size])`, lowest sibling first."""
    if not 0 <= index < size:
        raise Misuse("An inclusion proof needs an index inside the tree.")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_range_hash(middle, end, subtree))
            end = middle
        else:
            path.append(_range_hash(start, middle, subtree))
            start = middle
    path.reverse()
    return path


def consistency_proof(old: int, new: int, subtree: PerfectSubtree) -> list[bytes]:
    """RFC 9162 §2.1.4.1 `PROOF(old, D[new])`; empty for equal sizes and for an empty old tree."""
    if not 0 <= old <= new:
        raise Misuse("A consistency proof needs two sizes in order.")
    if old in (0, new):
        return []
    path: list[bytes] = []
    start, end, whole = 0, new, True
    while start + old != end:
        middle = _split(end - start)
        if old <= middle:
            path.append(_range_hash(start + middle, end, subtree))
            end = start + middle
        else:
            path.append(_range_hash(start, start + middle, subtree))
            start += middle
            old -= middle
            whole = False
    if not whole:
        path.append(_range_hash(start, end, subtree))
    path.reverse()
    return path


def _well_formed(proof: Sequence[bytes]) -> None:
    if len(proof) > MAX_PROOF or any(len(item) != HASH_SIZE for item in proof):
        raise InvalidProof("The proof is not a short list of 32-byte hashes.")


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """RFC 9162 §2.1.3.2. `leaf` is the leaf hash. Raises InvalidProof; returns nothing."""
    _well_formed([*proof, leaf, root])
    if not 0 <= index < size:
        raise InvalidProof("The proof is for an index outside the tree.")
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        if sn == 0:
            raise InvalidProof("The inclusion proof is too long.")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            if not fn & 1:
                while fn and not fn & 1:
                    fn >>= 1
                    sn >>= 1
        else:
            r = node_hash(r, p)
        fn >>= 1
        sn >>= 1
    if sn != 0 or r != root:
        raise InvalidProof("The inclusion proof does not lead to the root.")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """RFC 9162 §2.1.4.2, and the two trivial cases it leaves out. Raises InvalidProof."""
    _well_formed([*proof, old_root, new_root])
    if not 0 <= old <= new:
        raise InvalidProof("The newer tree is smaller than the older one.")
    if old == new:
        if proof or old_root != new_root:
            raise InvalidProof("Two different trees claim the same size.")
        return
    if old == 0:
        if proof or old_root != EMPTY_ROOT:
            raise InvalidProof("An empty tree has one root and an empty proof.")
        return
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise InvalidProof("The consistency proof is empty.")
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            raise InvalidProof("The consistency proof is too long.")
        if fn & 1 or fn == sn:
            fr = node_hash(c, fr)
            sr = node_hash(c, sr)
            if not fn & 1:
                while fn and not fn & 1:
                    fn >>= 1
                    sn >>= 1
        else:
            sr = node_hash(sr, c)
        fn >>= 1
        sn >>= 1
    if fr != old_root or sr != new_root or sn != 0:
        raise InvalidProof("The consistency proof does not connect the two roots.")
