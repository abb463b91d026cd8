"""The state root: a compact sparse Merkle tree over the current state of every subject.

The log proves that a grant was recorded; only the state proves that nothing took it back since. So the
ledger commits, in entries of type `state.committed`, to the root of this tree.

Entries. For each subject, purpose and partner about which something was decided the tree holds one pair of
32-byte strings:

    key    = SHA-256("comity/state/v1" ‖ handle ‖ purpose ‖ 0x00 ‖ partner)
    value  = SHA-256("comity/standing/v1" ‖ salt ‖ standing)

`handle` is the subject's 16 random bytes; `purpose` and `partner` are ASCII as recorded, either may be `*`.
`salt` is 32 bytes that only the ledger can derive, another one for each key. `standing` is RFC 8785 JSON
with exactly these seven members, null where there is none, times as `2026-01-31T08:00:00.000000Z`:

    {"expires_at", "granted_at", "granted_index", "granted_version",
     "restricted_at", "restricted_index", "restriction"}

Tree. `root(S) = node(S, 0)`, where for a set S of pairs and a depth d

    node({}, d)            = 32 bytes of zero
    node({(key, value)}, d) = SHA-256(0x00 ‖ key ‖ value)
    node(S, d)             = SHA-256(0x01 ‖ node(S₀, d+1) ‖ node(S₁, d+1))     two pairs or more

and Sᵦ are the pairs of S whose key has bit d equal to b; bit 0 is the most significant bit of the first
byte. A pair stands where it is first alone, so the depth is about log₂ of the number of pairs. The root is
a function of the set only: neither the order nor the number of changes that led to it shows, and an erased
subject leaves nothing behind.

Proof for a key. The siblings on the way from the root, top first, and what the way ends at:

- nothing (32 bytes of zero): the key is absent;
- another pair (key′, value′): the key is absent, if key′ ≠ key and both agree in as many leading bits as
  there are siblings;
- the pair itself: the key is present with that value.

To verify, start from that end's hash and, for depth = number of siblings − 1 down to 0, hash it with the
sibling of that depth, on the left if bit `depth` of the key is 0 and on the right otherwise; the result must
be the root. There are at most 256 siblings, and the last one is not zero (a lone pair would stand higher).

What a proof shows of others: hashes of whole subtrees, and at most one neighbour's key and value, both of
which are pseudorandom to whoever does not hold that neighbour's handle and the ledger's keys.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from consent.encoding import render_time
from consent.errors import InvalidProof
from consent.state import Standing
from privacy.errors import Misuse

__all__ = [
    "EMPTY",
    "NOTHING",
    "Pair",
    "Subtree",
    "TreeProof",
    "join",
    "prove",
    "root",
    "standing_json",
    "standing_value",
    "state_key",
    "subtree",
    "verify_path",
]

KEY_LABEL = b"comity/state/v1"
VALUE_LABEL = b"comity/standing/v1"
KEY_BITS = 256
EMPTY = bytes(32)
"""The hash of no pairs."""


class Pair(NamedTuple):
    key: bytes
    value: bytes

    @property
    def hash(self) -> bytes:
        return sha256(b"\x00" + self.key + self.value).digest()


class Subtree(NamedTuple):
    """A node with what is needed to put it together with its sibling. `pairs` is 0, 1, or 2 for more."""

    hash: bytes
    pairs: int


NOTHING = Subtree(EMPTY, 0)


def state_key(handle: bytes, purpose: str, partner: str) -> bytes:
    """The key (32 bytes) of what a subject decided about a purpose and a partner."""
    return sha256(KEY_LABEL + handle + f"{purpose}\x00{partner}".encode()).digest()


def standing_json(standing: Standing) -> bytes:
    """The canonical form of a standing."""
    granted, version, expires, index, restricted, restriction, at = standing
    # Written out because it is rendered once for each change of anybody's state; the tests hold it to
    # canonical_json.
    return (
        f'{{"expires_at":{_time(expires)},"granted_at":{_time(granted)},"granted_index":{_number(index)},'
        f'"granted_version":{_number(version)},"restricted_at":{_time(restricted)},'
        f'"restricted_index":{_number(at)},"restriction":{_text(restriction)}}}'
    ).encode()


def _time(micros: int | None) -> str:
    return "null" if micros is None else f'"{render_time(micros)}"'


def _number(value: int | None) -> str:
    return "null" if value is None else str(value)


def _text(value: str | None) -> str:
    return "null" if value is None else f'"{value}"'


def standing_value(salt: bytes, standing: Standing) -> bytes:
    """The value (32 bytes) of a standing. `salt` is 32 bytes."""
    return sha256(VALUE_LABEL + salt + standing_json(standing)).digest()


def join(left: Subtree, right: Subtree) -> Subtree:
    """The node above two siblings."""
    if not left.pairs and right.pairs < 2:
        return right
    if not right.pairs and left.pairs < 2:
        return left
    return Subtree(sha256(b"\x01" + left.hash + right.hash).digest(), 2)


def subtree(pairs: Sequence[tuple[bytes, bytes]], depth: int = 0) -> Subtree:
    """The node of these pairs (sorted by key, keys unique) at a depth above which their keys agree."""
    if len(pairs) < 2:
        return Subtree(sha256(b"\x00" + pairs[0][0] + pairs[0][1]).digest(), 1) if pairs else NOTHING
    keys = [int.from_bytes(key, "big") for key, _ in pairs]
    hashes = [sha256(b"\x00" + key + value).digest() for key, value in pairs]

    def node(low: int, high: int, depth: int) -> bytes:
        if high - low == 1:
            return hashes[low]
        if low == high:
            return EMPTY
        place = KEY_BITS - 1 - depth
        middle = bisect_left(keys, (keys[low] >> place | 1) << place, low, high)
        return sha256(b"\x01" + node(low, middle, depth + 1) + node(middle, high, depth + 1)).digest()

    return Subtree(node(0, len(keys), depth), 2)


def root(entries: Mapping[bytes, bytes]) -> bytes:
    """The root of a set of key → value (32 bytes each)."""
    return subtree(sorted(entries.items())).hash


@dataclass(frozen=True, slots=True)
class TreeProof:
    """The siblings from the root downward, and the pair that the way ends at (None: at nothing)."""

    siblings: tuple[bytes, ...]
    end: Pair | None


def bit(key: bytes, depth: int) -> int:
    """Bit `depth` of a key, the first being the most significant."""
    return key[depth >> 3] >> (7 - (depth & 7)) & 1


def prove(entries: Mapping[bytes, bytes], key: bytes) -> TreeProof:
    """The proof of presence or absence of a key in a set held in memory."""
    if len(key) != len(EMPTY):
        raise Misuse("A key of the state tree is 32 bytes.")
    pairs = sorted(entries.items())
    siblings = []
    depth = 0
    while len(pairs) > 1:
        sides: tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]] = ([], [])
        for pair in pairs:
            sides[bit(pair[0], depth)].append(pair)
        turn = bit(key, depth)
        siblings.append(subtree(sides[1 - turn], depth + 1).hash)
        pairs = sides[turn]
        depth += 1
    return TreeProof(tuple(siblings), Pair(*pairs[0]) if pairs else None)


def verify_path(proof: TreeProof, key: bytes, root: bytes) -> bytes | None:
    """The value under `key` in the tree with this root, None if the key is provably not there.

    Raises InvalidProof when the proof shows neither.
    """
    siblings, end = proof.siblings, proof.end
    sizes = [*siblings, key, root, *(end or ())]
    if len(siblings) > KEY_BITS or any(len(item) != len(EMPTY) for item in sizes):
        raise InvalidProof("A state proof is at most 256 hashes of 32 bytes.")
    if siblings and siblings[-1] == EMPTY:
        raise InvalidProof("The last sibling of a state proof cannot be empty.")
    found = EMPTY
    if end is not None:
        whole, rest = divmod(len(siblings), 8)
        mask = 0xFF00 >> rest & 0xFF
        if end.key[:whole] != key[:whole] or (rest and (end.key[whole] ^ key[whole]) & mask):
            raise InvalidProof("The way of a state proof ends elsewhere.")
        found = end.hash
    for depth in range(len(siblings) - 1, -1, -1):
        left, right = (siblings[depth], found) if bit(key, depth) else (found, siblings[depth])
        found = sha256(b"\x01" + left + right).digest()
    if found != root:
        raise InvalidProof("The state proof does not lead to the root.")
    return end.value if end is not None and end.key == key else None
