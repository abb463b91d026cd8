"""The messages of the opt-out feed: strict to read, canonical to write, each signed by who sends it.

A feed message carries new leaves of the feed log, beside each the pseudonyms that only the two partners can
compute, and the feed's signed checkpoint; without leaves it is a heartbeat. It is signed whole, and bound to
the connection it is sent on: `nonce` is the reader's own, `counter` starts at 0 and goes up by one, and
`elapsed` says how long after the request this was read from the ledger. So no message can be replayed,
reordered, left out, or passed off as fresher than it is. An acknowledgement is signed by the reader and says
up to where, and since when, it enforces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from consent.encoding import canonical_json, parse_json, parse_time, render_time
from consent.feed_log import MAX_FEED_LEAF
from consent.proofs import from_base64, integer_from, to_base64
from privacy.errors import ComityError, PeerViolation

__all__ = [
    "ACK_CONTEXT",
    "MAX_MESSAGE",
    "MAX_PSEUDONYMS",
    "MESSAGE_CONTEXT",
    "Acknowledgement",
    "FeedItem",
    "FeedMessage",
    "is_nonce",
    "pack_pseudonyms",
    "unpack_pseudonyms",
]

MAX_MESSAGE = 4 << 20  # bytes
MAX_ITEMS = 1_000
MAX_PSEUDONYMS = 16_384
"""In one message; somebody with more is told of in several."""
MESSAGE_CONTEXT = "feed-message"
ACK_CONTEXT = "delivery-ack"
_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_NONCE = re.compile(r"[A-Za-z0-9_\-]{16,64}", re.ASCII)

Pseudonyms = Mapping[str, tuple[bytes, ...]]
"""Kind of identifier → 32-byte pseudonyms."""


def is_nonce(text: str) -> bool:
    """16 to 64 letters, digits, hyphens and underscores."""
    return _NONCE.fullmatch(text) is not None


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


def _pseudonyms_to(pseudonyms: Pseudonyms) -> dict[str, list[str]]:
    return {kind: [to_base64(p) for p in found] for kind, found in pseudonyms.items()}


def _pseudonyms_from(value: object, most: int = MAX_PSEUDONYMS) -> dict[str, tuple[bytes, ...]]:
    if not isinstance(value, dict) or len(value) > 32:
        raise _wrong("pseudonyms are not given by kind")
    found = {}
    for kind, values in value.items():
        if _KIND.fullmatch(kind) is None or not isinstance(values, list) or not values:
            raise _wrong("pseudonyms are not given by kind")
        most -= len(values)
        if most < 0:
            raise _wrong("it names too many pseudonyms")
        found[kind] = tuple(from_base64(v, size=32) for v in values)
    return found


def pack_pseudonyms(pseudonyms: Pseudonyms) -> bytes:
    """As JSON, for storage."""
    return canonical_json(_pseudonyms_to(pseudonyms))


def unpack_pseudonyms(data: bytes) -> dict[str, tuple[bytes, ...]]:
    """Inverse of `pack_pseudonyms`."""
    return _pseudonyms_from(parse_json(data, limit=1 << 30), 1 << 24)


@dataclass(frozen=True, slots=True)
class FeedItem:
    """A leaf of the feed log (`consent.feed_log.FeedLeaf`) and whom it is about.

    Without pseudonyms it is about somebody erased here since, whom nobody can name any more.
    """

    leaf: bytes
    pseudonyms: Pseudonyms = field(repr=False)

    def to_dict(self) -> dict[str, object]:
        return {"leaf": to_base64(self.leaf), "pseudonyms": _pseudonyms_to(self.pseudonyms)}

    @classmethod
    def from_dict(cls, value: object) -> FeedItem:
        body = _object(value, {"leaf", "pseudonyms"}, "an item")
        leaf = from_base64(body["leaf"])
        if len(leaf) > MAX_FEED_LEAF:
            raise _wrong("a leaf is too large")
        return cls(leaf, _pseudonyms_from(body["pseudonyms"]))


@dataclass(frozen=True, slots=True)
class FeedMessage:
    """Times are microseconds. `ahead` are pseudonyms of the leaf that comes first in a later message.

    `acked` is up to where the sender holds acknowledgements; `more` says that it has more to tell already.
    """

    sender: str
    receiver: str
    nonce: str
    counter: int
    at: int
    elapsed: int
    acked: int
    more: bool
    checkpoint: str = field(repr=False)
    items: tuple[FeedItem, ...] = field(default=(), repr=False)
    ahead: Pseudonyms = field(default_factory=dict, repr=False)

    def signed_part(self) -> bytes:
        return canonical_json(self.to_dict())

    def to_dict(self) -> dict[str, object]:
        return {
            "v": 1,
            "from": self.sender,
            "to": self.receiver,
            "nonce": self.nonce,
            "counter": self.counter,
            "at": render_time(self.at),
            "elapsed": self.elapsed,
            "acked": self.acked,
            "more": self.more,
            "checkpoint": self.checkpoint,
            "items": [item.to_dict() for item in self.items],
            "ahead": _pseudonyms_to(self.ahead),
        }

    def signed(self, sign: Callable[[bytes], bytes]) -> bytes:
        """One line of canonical JSON, with the signature that `sign` makes of the message."""
        body = self.signed_part()
        return b'{"message":%s,"signature":"%s"}' % (body, to_base64(sign(body)).encode())

    def to_bytes(self, signature: bytes) -> bytes:
        """The same with a signature made elsewhere."""
        return self.signed(lambda _: signature)

    @classmethod
    def from_bytes(cls, data: bytes) -> tuple[FeedMessage, bytes]:
        """The message and its signature, not yet verified. Raises PeerViolation."""
        try:
            outer = _object(parse_json(data, limit=MAX_MESSAGE), {"message", "signature"}, "the message")
            body = _object(outer["message"], _MESSAGE, "the message")
            items, nonce = body["items"], _text(body["nonce"], "the nonce", 64)
            if body["v"] != 1 or not isinstance(items, list) or len(items) > MAX_ITEMS:
                raise _wrong("unknown version, or too many items")
            if not isinstance(body["more"], bool) or not is_nonce(nonce):
                raise _wrong("a field is of the wrong type")
            found = cls(
                _text(body["from"], "the sender"),
                _text(body["to"], "the receiver"),
                nonce,
                integer_from(body["counter"]),
                parse_time(_text(body["at"], "a time")),
                integer_from(body["elapsed"]),
                integer_from(body["acked"]),
                body["more"],
                _text(body["checkpoint"], "the checkpoint", 1 << 16),
                tuple(FeedItem.from_dict(item) for item in items),
                _pseudonyms_from(body["ahead"]),
            )
            return found, from_base64(outer["signature"], size=64)
        except PeerViolation:
            raise
        except ComityError as error:
            raise PeerViolation(
                f"The partner's feed message is malformed: {error.detail}", code="feed_malformed"
            ) from error


_MESSAGE = {
    "v", "from", "to", "nonce", "counter", "at", "elapsed", "acked", "more", "checkpoint", "items", "ahead",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """`delivery.ack`: what was received of whose feed, and since when it is enforced (microseconds).

    Entries `first_seq` to `seq` are covered; `size` and `root` are the feed log's up to `seq`. The first of
    them came at `received_at`, and all of them were enforced by `enforced_at`, `jobs_affected` jobs having
    been stopped or told. `log_size` and `log_root` are of the reader's own log.
    """

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
