"""The log of what one partner must be told: its leaves, its name, and the frontier both sides keep.

Toward each partner a node keeps a feed log of its own (RFC 6962), so that no partner sees another's
entries. Entry n is the n-th thing this partner must be told; it names the entry of the main log that
recorded the decision, and holds no personal data: pseudonyms travel beside a leaf, never in it.

    leaf   canonical JSON {effective_at, entry, entry_hash, purposes, recorded_at, seq = n + 1, type, v}
    name   <origin of the sender's log>/feed/<16 hex digits of SHA-256(origin of the receiver's log)>

A leaf follows from what the sender stored when the decision was recorded, so the same feed log can be
derived again at any time, by any process. Who reads it from the start keeps the *frontier* only, appends
the leaves that come and compares roots: no further proof is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from consent.encoding import canonical_json, parse_json, parse_time, render_time
from consent.events import GRANTING, RESTRICTING, EventType
from consent.merkle import HASH_SIZE, fold_frontier, leaf_hash, node_hash
from consent.notes import VerifierKey
from consent.proofs import from_base64, integer_from, to_base64
from consent.rows import FeedRow
from privacy.errors import BadInput, Tampered

__all__ = ["MAX_FEED_LEAF", "MAX_PURPOSES", "FeedLeaf", "Frontier", "feed_key", "feed_origin", "leaf_of"]

MAX_PURPOSES = 128
"""Of one leaf; a decision about more is told in several."""
MAX_FEED_LEAF = 32 * 1024  # bytes
_FIELDS = {"v", "seq", "entry", "entry_hash", "type", "purposes", "effective_at", "recorded_at"}
_TYPES = {t.value for t in (*GRANTING, *RESTRICTING)}


def feed_origin(sender: str, receiver: str) -> str:
    """The origin of the feed log of the log `sender` toward the log `receiver`, and the name of its key."""
    return f"{sender}/feed/{sha256(receiver.encode()).hexdigest()[:16]}"


def feed_key(sender: VerifierKey, receiver: str) -> VerifierKey:
    """The sender's key under the feed log's name."""
    return VerifierKey(feed_origin(sender.name, receiver), sender.public)


@dataclass(frozen=True, slots=True)
class FeedLeaf:
    """One thing to tell. `entry_hash` is the 32-byte leaf hash of entry `entry`; times are microseconds."""

    seq: int
    entry: int
    entry_hash: bytes
    type: EventType
    purposes: tuple[str, ...]
    effective_at: int
    recorded_at: int

    def to_bytes(self) -> bytes:
        # Written out because all else is ASCII of a fixed shape; the tests hold it to canonical_json.
        return (
            b'{"effective_at":"%s","entry":%d,"entry_hash":"%s","purposes":%s,"recorded_at":"%s","seq":%d,'
            b'"type":"%s","v":1}'
        ) % (
            render_time(self.effective_at).encode(), self.entry, to_base64(self.entry_hash).encode(),
            canonical_json(list(self.purposes)), render_time(self.recorded_at).encode(), self.seq,
            self.type.value.encode(),
        )  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> FeedLeaf:
        """Raises BadInput for anything that `to_bytes` would not have written."""
        body = parse_json(data, limit=MAX_FEED_LEAF)
        if not isinstance(body, dict) or set(body) != _FIELDS or body["v"] != 1:
            raise BadInput("A feed leaf has missing or unknown fields.")
        purposes = body["purposes"]
        if (
            not isinstance(purposes, list)
            or not 1 <= len(purposes) <= MAX_PURPOSES
            or not all(isinstance(p, str) and 0 < len(p) <= 160 for p in purposes)
        ):
            raise BadInput("A feed leaf needs purposes.")
        if not isinstance(body["type"], str) or body["type"] not in _TYPES:
            raise BadInput("A feed leaf is not about a decision.")
        times = [body["effective_at"], body["recorded_at"]]
        if not all(isinstance(at, str) for at in times):
            raise BadInput("A feed leaf's time is not one.")
        leaf = cls(
            integer_from(body["seq"]),
            integer_from(body["entry"]),
            from_base64(body["entry_hash"], size=HASH_SIZE),
            EventType(body["type"]),
            tuple(purposes),
            parse_time(times[0]),
            parse_time(times[1]),
        )
        if leaf.to_bytes() != data:
            raise BadInput("A feed leaf is not in its canonical form.")
        return leaf


def leaf_of(row: FeedRow) -> FeedLeaf:
    """What the sender's stored row is in the feed log."""
    return FeedLeaf(
        row.seq,
        row.idx,
        leaf_hash(row.leaf),
        EventType(row.type),
        tuple(parse_json(row.purposes.encode(), limit=MAX_FEED_LEAF)),
        row.effective_at,
        row.recorded_at,
    )


@dataclass(frozen=True, slots=True)
class Frontier:
    """The hashes of the perfect subtrees that cover a tree of `size` leaves, largest first."""

    size: int = 0
    hashes: tuple[bytes, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.hashes) != self.size.bit_count():
            raise Tampered("A stored frontier does not fit its size.", code="bad_frontier")

    @property
    def root(self) -> bytes:
        """RFC 6962 root of the tree so far."""
        return fold_frontier(self.hashes)

    def extended(self, leaves: Iterable[bytes]) -> Frontier:
        """With these leaf hashes appended."""
        size, stack = self.size, list(self.hashes)
        for found in leaves:
            size += 1
            carried, ones = found, size
            while not ones & 1:
                carried = node_hash(stack.pop(), carried)
                ones >>= 1
            stack.append(carried)
        return Frontier(size, tuple(stack))

    def to_bytes(self) -> bytes:
        return self.size.to_bytes(8, "big") + b"".join(self.hashes)

    @classmethod
    def from_bytes(cls, data: bytes | None) -> Frontier:
        """Of None: the empty tree. Raises Tampered."""
        if data is None:
            return cls()
        rest = data[8:]
        if len(data) < 8 or len(rest) % HASH_SIZE:
            raise Tampered("A stored frontier is cut short.", code="bad_frontier")
        hashes = tuple(rest[i : i + HASH_SIZE] for i in range(0, len(rest), HASH_SIZE))
        return cls(int.from_bytes(data[:8], "big"), hashes)
