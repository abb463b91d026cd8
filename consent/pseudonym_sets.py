"""The people of one use, as a set of salted pseudonyms with proofs of presence and absence.

    leaf = SHA-256("comity/use/v1" ‖ salt32 ‖ HMAC-SHA256(K_lookup, kind ‖ 0x00 ‖ canonical))
    root = SHA-256("comity/use-set/v1" ‖ salt32 ‖ count as u64 ‖ MTH(sorted leaves))

The salt is fresh for each use, so sets of two uses cannot be joined by who reads them. `MTH` is RFC 6962's
tree with the salted leaves themselves as leaf hashes: their preimage starts with the label, never with the
0x01 of an inner node. The root binds the count, so that a proof about "the last leaf" means the last one.

Absence is shown by two neighbours in the sorted order that leave no room for the leaf.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from consent.bulk_hashing import Rows, as_rows, sha256_rows, sorted_unique
from consent.errors import InvalidProof, MemberPresent
from consent.merkle import EMPTY_ROOT, HASH_SIZE, verify_inclusion
from consent.proofs import from_base64, integer_from, path_from, to_base64
from privacy.errors import BadInput, Misuse, Tampered

__all__ = [
    "AbsenceProof",
    "Neighbour",
    "PresenceProof",
    "PseudonymSet",
    "use_leaf",
    "verify_absence",
    "verify_presence",
]

LEAF_LABEL = b"comity/use/v1"
SET_LABEL = b"comity/use-set/v1"
_MAGIC = b"CPS\x01"


def use_leaf(salt: bytes, lookup: bytes) -> bytes:
    """The leaf of the subject whose lookup HMAC (32 bytes) is given."""
    return sha256(LEAF_LABEL + salt + lookup).digest()


def _set_root(salt: bytes, count: int, tree: bytes) -> bytes:
    return sha256(SET_LABEL + salt + count.to_bytes(8, "big") + tree).digest()


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One leaf of a set with its place and inclusion path."""

    index: int
    leaf: bytes
    path: tuple[bytes, ...]

    def to_dict(self) -> dict[str, object]:
        return {"index": self.index, "leaf": to_base64(self.leaf), "path": [to_base64(p) for p in self.path]}

    @classmethod
    def from_dict(cls, value: object) -> Neighbour:
        if not isinstance(value, Mapping):
            raise Tampered("A set proof is malformed.", code="malformed_proof")
        return cls(
            integer_from(value.get("index")),
            from_base64(value.get("leaf"), size=32),
            path_from(value.get("path")),
        )


@dataclass(frozen=True, slots=True)
class AbsenceProof:
    """The two neighbours around where a leaf would be; None at an end of the set."""

    salt: bytes
    count: int
    tree: bytes
    left: Neighbour | None
    right: Neighbour | None

    def to_dict(self) -> dict[str, object]:
        return {
            "salt": to_base64(self.salt),
            "count": self.count,
            "tree": to_base64(self.tree),
            "left": self.left and self.left.to_dict(),
            "right": self.right and self.right.to_dict(),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, object]) -> AbsenceProof:
        left, right = value.get("left"), value.get("right")
        return cls(
            from_base64(value.get("salt"), size=32),
            integer_from(value.get("count")),
            from_base64(value.get("tree"), size=32),
            None if left is None else Neighbour.from_dict(left),
            None if right is None else Neighbour.from_dict(right),
        )


@dataclass(frozen=True, slots=True)
class PresenceProof:
    """A leaf of the set with its place in it."""

    salt: bytes
    count: int
    tree: bytes
    member: Neighbour

    def to_dict(self) -> dict[str, object]:
        return {
            "salt": to_base64(self.salt),
            "count": self.count,
            "tree": to_base64(self.tree),
            "member": self.member.to_dict(),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, object]) -> PresenceProof:
        """Raises Tampered for anything malformed."""
        return cls(
            from_base64(value.get("salt"), size=32),
            integer_from(value.get("count")),
            from_base64(value.get("tree"), size=32),
            Neighbour.from_dict(value.get("member")),
        )


def _bind(salt: bytes, count: int, tree: bytes, root: bytes) -> None:
    if len(salt) != 32 or len(tree) != 32 or not 0 <= count < 1 << 63 or _set_root(salt, count, tree) != root:
        raise InvalidProof("The proof is about another set.")


def verify_absence(proof: AbsenceProof, root: bytes, leaf: bytes) -> None:
    """Raises InvalidProof unless `leaf` is provably not in the set with this root (32 bytes each)."""
    _bind(proof.salt, proof.count, proof.tree, root)
    if len(leaf) != HASH_SIZE:
        raise InvalidProof("A leaf is 32 bytes.")
    left, right = proof.left, proof.right
    if proof.count == 0:
        if left or right or proof.tree != EMPTY_ROOT:
            raise InvalidProof("An empty set has no neighbours.")
        return
    if left is None and (right is None or right.index != 0):
        raise InvalidProof("Only the first leaf has nothing to its left.")
    if right is None and (left is None or left.index != proof.count - 1):
        raise InvalidProof("Only the last leaf has nothing to its right.")
    if left and right and right.index != left.index + 1:
        raise InvalidProof("The two leaves are not neighbours.")
    if (left and left.leaf >= leaf) or (right and right.leaf <= leaf):
        raise InvalidProof("The leaf does not fall between the two neighbours.")
    for neighbour in (left, right):
        if neighbour:
            verify_inclusion(neighbour.index, proof.count, neighbour.leaf, neighbour.path, proof.tree)


def verify_presence(proof: PresenceProof, root: bytes, leaf: bytes) -> None:
    """Raises InvalidProof unless `leaf` is provably in the set with this root."""
    _bind(proof.salt, proof.count, proof.tree, root)
    if proof.member.leaf != leaf:
        raise InvalidProof("The proof is about another leaf.")
    verify_inclusion(proof.member.index, proof.count, leaf, proof.member.path, proof.tree)


class PseudonymSet:
    """A set of salted leaves. `salt` is 32 bytes; `leaves` uint8 of shape (n, 32), in any order."""

    __slots__ = ("_leaves", "_levels", "salt")

    def __init__(self, salt: bytes, leaves: Rows) -> None:
        if len(salt) != 32:
            raise Misuse("The salt of a pseudonym set is 32 bytes.")
        self.salt = salt
        self._leaves = sorted_unique(leaves)
        self._levels: list[Rows] | None = None

    @classmethod
    def of_lookups(cls, salt: bytes, lookups: Sequence[bytes]) -> PseudonymSet:
        """The set of the subjects with these lookup HMACs (32 bytes each; duplicates count once)."""
        return cls.of_rows(salt, as_rows(b"".join(lookups)))

    @classmethod
    def of_rows(cls, salt: bytes, lookups: Rows) -> PseudonymSet:
        """As `of_lookups`, for lookups in rows: uint8 of shape (n, 32)."""
        prefix = LEAF_LABEL + salt
        rows = np.empty((len(lookups), len(prefix) + HASH_SIZE), np.uint8)
        rows[:, : len(prefix)] = np.frombuffer(prefix, np.uint8)
        rows[:, len(prefix) :] = lookups
        return cls(salt, sha256_rows(rows))

    def __len__(self) -> int:
        return len(self._leaves)

    def __repr__(self) -> str:
        return f"PseudonymSet({len(self)} leaves)"

    def _tree(self) -> list[Rows]:
        if self._levels is None:
            levels = [self._leaves]
            while len(levels[-1]) > 1:
                below = levels[-1]
                pairs = len(below) // 2
                rows = np.empty((pairs, 1 + 2 * HASH_SIZE), np.uint8)
                rows[:, 0] = 1
                rows[:, 1:] = below[: 2 * pairs].reshape(pairs, 2 * HASH_SIZE)
                # An odd node at the end moves up unchanged, as in RFC 6962.
                levels.append(np.concatenate([sha256_rows(rows), below[2 * pairs :]]))
            self._levels = levels
        return self._levels

    @property
    def tree(self) -> bytes:
        return self._tree()[-1][0].tobytes() if len(self) else EMPTY_ROOT

    @property
    def root(self) -> bytes:
        """32 bytes, binding salt, count and every leaf."""
        return _set_root(self.salt, len(self), self.tree)

    def leaf(self, lookup: bytes) -> bytes:
        return use_leaf(self.salt, lookup)

    def __contains__(self, leaf: bytes) -> bool:
        place = self._place(leaf)
        return place < len(self) and self._leaf(place) == leaf

    def _leaf(self, index: int) -> bytes:
        return bytes(self._leaves[index].tobytes())

    def _place(self, leaf: bytes) -> int:
        return bisect_left(range(len(self)), leaf, key=self._leaf)

    def _neighbour(self, index: int) -> Neighbour:
        path = []
        at = index
        for level in self._tree()[:-1]:
            sibling = at ^ 1
            if sibling < len(level):
                path.append(level[sibling].tobytes())
            at >>= 1
        return Neighbour(index, self._leaf(index), tuple(path))

    def prove_absent(self, leaf: bytes) -> AbsenceProof:
        """Raises MemberPresent when the leaf is in the set."""
        if leaf in self:
            raise MemberPresent("This person is in the set; there is no absence to prove.")
        place = self._place(leaf)
        left = self._neighbour(place - 1) if place > 0 else None
        right = self._neighbour(place) if place < len(self) else None
        return AbsenceProof(self.salt, len(self), self.tree, left, right)

    def prove_present(self, leaf: bytes) -> PresenceProof:
        """Raises Misuse when the leaf is not in the set."""
        if leaf not in self:
            raise Misuse("This person is not in the set.", code="not_a_member")
        return PresenceProof(self.salt, len(self), self.tree, self._neighbour(self._place(leaf)))

    def to_bytes(self) -> bytes:
        return _MAGIC + self.salt + self._leaves.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> PseudonymSet:
        """Raises BadInput unless `to_bytes` wrote it: strictly ascending leaves, no rest."""
        body = data[36:]
        if data[:4] != _MAGIC or len(data) < 36 or len(body) % 32:
            raise BadInput("These bytes are not a pseudonym set.")
        found = cls(data[4:36], as_rows(body))
        if found._leaves.tobytes() != body:
            raise BadInput("The leaves of a pseudonym set must be in ascending order.")
        return found
