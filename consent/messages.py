"""The messages of the opt-out feed: strict to read, canonical to write.

A batch carries, per opt-out, the pseudonyms that only the two partners can compute, the log entry that
recorded it, and the entry's proof in the sender's signed checkpoint. An acknowledgement is signed by the
receiver and says up to where, and since when, it enforces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from consent.encoding import canonical_json, parse_json, parse_time, render_time
from consent.events import GRANTING, RESTRICTING, EventType
from consent.proofs import from_base64, integer_from, path_from, to_base64
from privacy.errors import ComityError, PeerViolation

__all__ = ["ACK_CONTEXT", "MAX_BATCH", "Acknowledgement", "FeedBatch", "FeedItem"]

MAX_BATCH = 4 << 20  # bytes
MAX_ITEMS = 1_000
MAX_PSEUDONYMS = 1_024  # of one kind, for one person
ACK_CONTEXT = "delivery-ack"
_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_TYPES = {t.value for t in (*GRANTING, *RESTRICTING)}


def _wrong(what: str) -> PeerViolation:
    return PeerViolation(f"The partner's feed message is malformed: {what}.", code="feed_malformed")


def _object(value: object, fields: set[str], what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or set(value) != fields:
        raise _wrong(f"{what} has missing or unknown fields")
    return value


def _text(value: object, what: str, limit: int = 512) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= limit:
        raise _wrong(f"{what} is not a short text")
    return value


@dataclass(frozen=True, slots=True)
class FeedItem:
    """One decision. `pseudonyms` maps an identifier kind to 32-byte pseudonyms; times are microseconds."""

    seq: int
    index: int
    entry: bytes
    path: tuple[bytes, ...]
    type: EventType
    purposes: tuple[str, ...]
    effective_at: int
    pseudonyms: Mapping[str, tuple[bytes, ...]] = field(repr=False)

    def digest(self) -> bytes:
        """Of what the log entry fixes.

        The path depends on the tree size it was made for, the pseudonyms on the identifiers known and the
        pair key agreed when the item is sent: both may be others when it is sent again.
        """
        body = self.to_dict()
        return sha256(canonical_json({k: v for k, v in body.items() if k not in _VARYING})).digest()

    def to_dict(self) -> dict[str, object]:
        return {
            "seq": self.seq,
            "index": self.index,
            "entry": to_base64(self.entry),
            "path": [to_base64(p) for p in self.path],
            "type": self.type.value,
            "purposes": list(self.purposes),
            "effective_at": render_time(self.effective_at),
            "pseudonyms": {kind: [to_base64(p) for p in found] for kind, found in self.pseudonyms.items()},
        }

    @classmethod
    def from_dict(cls, value: object) -> FeedItem:
        body = _object(value, set(_ITEM), "an item")
        purposes, pseudonyms = body["purposes"], body["pseudonyms"]
        if not isinstance(purposes, list) or not 1 <= len(purposes) <= 256:
            raise _wrong("an item needs purposes")
        if not isinstance(pseudonyms, dict) or not 1 <= len(pseudonyms) <= 8:
            raise _wrong("an item needs pseudonyms")
        if body["type"] not in _TYPES:
            raise _wrong("an item is not a decision")
        found = {}
        for kind, values in pseudonyms.items():
            if not isinstance(values, list) or not 1 <= len(values) <= MAX_PSEUDONYMS:
                raise _wrong("an item needs pseudonyms")
            if _KIND.fullmatch(kind) is None:
                raise _wrong("a kind of identifier is not a name")
            found[kind] = tuple(from_base64(v, size=32) for v in values)
        return cls(
            integer_from(body["seq"]),
            integer_from(body["index"]),
            from_base64(body["entry"]),
            path_from(body["path"]),
            EventType(body["type"]),
            tuple(_text(p, "a purpose", 160) for p in purposes),
            parse_time(_text(body["effective_at"], "a time")),
            found,
        )


_VARYING = ("path", "pseudonyms")
_ITEM = ("seq", "index", "entry", "path", "type", "purposes", "effective_at", "pseudonyms")


@dataclass(frozen=True, slots=True)
class FeedBatch:
    """What one POST carries. `old_size` is the tree size that `consistency` starts from."""

    sender: str
    receiver: str
    old_size: int
    consistency: tuple[bytes, ...]
    checkpoint: str = field(repr=False)
    items: tuple[FeedItem, ...] = field(repr=False)

    def to_bytes(self) -> bytes:
        return canonical_json(
            {
                "v": 1,
                "from": self.sender,
                "to": self.receiver,
                "old_size": self.old_size,
                "consistency": [to_base64(p) for p in self.consistency],
                "checkpoint": self.checkpoint,
                "items": [item.to_dict() for item in self.items],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> FeedBatch:
        """Raises PeerViolation for anything but a well-formed batch with ascending sequence numbers."""
        try:
            fields = {"v", "from", "to", "old_size", "consistency", "checkpoint", "items"}
            body = _object(parse_json(data, limit=MAX_BATCH), fields, "the batch")
            items = body["items"]
            if body["v"] != 1 or not isinstance(items, list) or not 1 <= len(items) <= MAX_ITEMS:
                raise _wrong("unknown version, or no items, or too many")
            batch = cls(
                _text(body["from"], "the sender"),
                _text(body["to"], "the receiver"),
                integer_from(body["old_size"]),
                path_from(body["consistency"]),
                _text(body["checkpoint"], "the checkpoint", 1 << 16),
                tuple(FeedItem.from_dict(item) for item in items),
            )
        except PeerViolation:
            raise
        except ComityError as error:
            raise PeerViolation(
                f"The partner's feed message is malformed: {error.detail}", code="feed_malformed"
            ) from error
        first = batch.items[0].seq
        if first < 1 or any(item.seq != first + i for i, item in enumerate(batch.items)):
            raise _wrong("its sequence numbers have gaps")
        return batch


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """`delivery.ack`: what was received of whose log, and since when it is enforced (microseconds)."""

    sender: str
    receiver: str
    first_seq: int
    seq: int
    size: int
    root: bytes
    received_at: int
    enforced_at: int
    jobs_affected: int
    log_size: int
    log_root: bytes

    def signed_part(self) -> bytes:
        return canonical_json(self.to_dict())

    def to_dict(self) -> dict[str, object]:
        return {
            "v": 1,
            "from": self.sender,
            "to": self.receiver,
            "first_seq": self.first_seq,
            "seq": self.seq,
            "size": self.size,
            "root": to_base64(self.root),
            "received_at": render_time(self.received_at),
            "enforced_at": render_time(self.enforced_at),
            "jobs_affected": self.jobs_affected,
            "log": {"size": self.log_size, "root": to_base64(self.log_root)},
        }

    def to_bytes(self, signature: bytes) -> bytes:
        return canonical_json({"ack": self.to_dict(), "signature": to_base64(signature)})

    @classmethod
    def from_bytes(cls, data: bytes) -> tuple[Acknowledgement, bytes]:
        """The acknowledgement and its signature, not yet verified. Raises PeerViolation."""
        try:
            outer = _object(parse_json(data, limit=1 << 16), {"ack", "signature"}, "the acknowledgement")
            body = _object(outer["ack"], _ACK, "the acknowledgement")
            log = _object(body["log"], {"size", "root"}, "the acknowledgement")
            if body["v"] != 1:
                raise _wrong("unknown version")
            found = cls(
                _text(body["from"], "the sender"),
                _text(body["to"], "the receiver"),
                integer_from(body["first_seq"]),
                integer_from(body["seq"]),
                integer_from(body["size"]),
                from_base64(body["root"], size=32),
                parse_time(_text(body["received_at"], "a time")),
                parse_time(_text(body["enforced_at"], "a time")),
                integer_from(body["jobs_affected"]),
                integer_from(log["size"]),
                from_base64(log["root"], size=32),
            )
            return found, from_base64(outer["signature"], size=64)
        except PeerViolation:
            raise
        except ComityError as error:
            raise PeerViolation(
                f"The partner's acknowledgement is malformed: {error.detail}", code="feed_malformed"
            ) from error


_ACK = {
    "v", "from", "to", "first_seq", "seq", "size", "root", "received_at", "enforced_at",
    "jobs_affected", "log",
}  # fmt: skip
