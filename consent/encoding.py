"""The one canonical byte form: RFC 8785 JSON, leaf commitments, log entries.

A log entry (a *leaf*) is what partners and the public may keep forever, so it holds no personal data:
`{"commit", "id", "policy_hash", "recorded_at", "type", "v"}`. What happened to whom is in the payload,
which the leaf only commits to:

    commit = SHA-256("comity/consent/v1" ‖ salt32 ‖ payload)

The 32 random bytes of salt make the commitment hiding; destroying salt and payload leaves a leaf from
which nothing can be learnt or guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any

import rfc8785

from privacy.errors import BadInput, Tampered

__all__ = [
    "COMMIT_LABEL",
    "MAX_LEAF",
    "SALT_SIZE",
    "Leaf",
    "are_leaves",
    "canonical_json",
    "commitment",
    "entry_type",
    "from_micros",
    "is_leaf",
    "parse_json",
    "parse_time",
    "render_leaves",
    "render_time",
    "to_micros",
    "uuid7",
]

COMMIT_LABEL = b"comity/consent/v1"
SALT_SIZE = 32
MAX_LEAF = 1024  # bytes

_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_LEAF = re.compile(
    rb'\{"commit":"([0-9a-f]{64})","id":"([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})",'
    rb'"policy_hash":"([0-9a-f]{64})","recorded_at":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)",'
    rb'"type":"([a-z]+(?:[._][a-z]+)*)","v":1\}'
)


def canonical_json(value: object) -> bytes:
    """`value` as RFC 8785 JSON. Raises BadInput for what JSON cannot hold (NaN, huge integers, bytes)."""
    try:
        return rfc8785.dumps(value)  # type: ignore[arg-type]
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        raise BadInput("This value has no canonical JSON form.") from error


def parse_json(data: bytes, *, limit: int) -> Any:
    """JSON of at most `limit` bytes; duplicate keys, NaN and invalid UTF-8 raise BadInput."""
    if len(data) > limit:
        raise BadInput(f"This document is larger than {limit} bytes.", code="too_large")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("duplicate key")
        return found

    def refuse(_: str) -> Any:
        raise ValueError("not a JSON number")

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError):
        # The parser's own message quotes the input, so it is not passed on.
        raise BadInput("This document is not valid JSON.") from None


def commitment(salt: bytes, payload: bytes) -> bytes:
    """SHA-256("comity/consent/v1" ‖ salt ‖ payload): 32 bytes. `salt` is 32 bytes."""
    if len(salt) != SALT_SIZE:
        raise BadInput(f"A commitment salt is {SALT_SIZE} bytes.")
    return sha256(COMMIT_LABEL + salt + payload).digest()


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970 UTC. Raises BadInput for a naive datetime."""
    if moment.tzinfo is None:
        raise BadInput("A time must carry its offset from UTC.")
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


@lru_cache(1024)
def render_time(micros: int) -> str:
    """`2026-01-31T08:00:00.000000Z`: the only form a time has in payloads and leaves."""
    return f"{from_micros(micros):%Y-%m-%dT%H:%M:%S.%f}Z"


def parse_time(text: str) -> int:
    """Inverse of `render_time`; raises BadInput on any other form."""
    if _TIME.fullmatch(text) is None:
        raise BadInput("A time must be written as YYYY-MM-DDThh:mm:ss.ffffffZ.")
    try:
        return to_micros(datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:
        raise BadInput("This time does not exist.") from error


def uuid7(micros: int, random10: bytes) -> str:
    """RFC 9562 §5.7 from a time in microseconds and ten random bytes."""
    value = ((micros // 1000) & (1 << 48) - 1) << 80 | int.from_bytes(random10, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


@dataclass(frozen=True, slots=True)
class Leaf:
    """One log entry. `commit` is 32 bytes, `recorded_at` microseconds, `policy_hash` 64 hex digits."""

    id: str
    type: str
    recorded_at: int
    policy_hash: str
    commit: bytes

    def to_bytes(self) -> bytes:
        # Written out because every value is ASCII of a fixed shape; the tests hold it to canonical_json.
        return (
            f'{{"commit":"{self.commit.hex()}","id":"{self.id}","policy_hash":"{self.policy_hash}",'
            f'"recorded_at":"{render_time(self.recorded_at)}","type":"{self.type}","v":1}}'
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Leaf:
        """Raises Tampered for anything that `to_bytes` would not have written."""
        match = _LEAF.fullmatch(data) if len(data) <= MAX_LEAF else None
        if match is None:
            raise Tampered("A log entry is not in the canonical form.", code="malformed_entry")
        commit, identity, policy, recorded, kind = (part.decode() for part in match.groups())
        try:
            micros = parse_time(recorded)
        except BadInput as error:
            raise Tampered("A log entry carries an impossible time.", code="malformed_entry") from error
        return cls(identity, kind, micros, policy, bytes.fromhex(commit))


def render_leaves(recorded_at: int, random: bytes, entries: Iterable[tuple[str, bytes, str]]) -> list[bytes]:
    """`Leaf.to_bytes` of many entries of one moment, each (type, commit, policy_hash).

    Identities are `uuid7` of ten bytes of `random` an entry.
    """
    moment, digits = f"{recorded_at // 1000 & (1 << 48) - 1:012x}", random.hex()
    before, after = (
        f'"id":"{moment[:8]}-{moment[8:]}-7',
        f'"recorded_at":"{render_time(recorded_at)}","type":"',
    )
    leaves = []
    at = 0
    for type_, commit, policy in entries:
        d = digits[at : at + 20]
        at += 20
        leaves.append(
            f'{{"commit":"{commit.hex()}",{before}{d[1:4]}-{_VARIANT[d[4]]}{d[5:8]}-{d[8:]}",'
            f'"policy_hash":"{policy}",{after}{type_}","v":1}}'.encode()
        )
    return leaves


def entry_type(leaf: bytes) -> str:
    """The type of a log entry that is known to be in the canonical form."""
    return leaf[leaf.rindex(b'"type":"') + 8 : -8].decode()


def is_leaf(data: bytes) -> bool:
    """Whether `data` has the shape of a log entry (a cheaper question than `Leaf.from_bytes`)."""
    return len(data) <= MAX_LEAF and _LEAF.fullmatch(data) is not None


# Everything in front of the type stands at a fixed place: what may stand at each of these places, in order.
_HEX, _DIGIT = b"0123456789abcdef", b"0123456789"
_UUID = [_HEX] * 8 + [b"-"] + [_HEX] * 4 + [b"-", b"7"] + [_HEX] * 3 + [b"-", b"89ab"] + [_HEX] * 3
_PLACES: list[bytes] = [
    *(bytes([b]) for b in b'{"commit":"'),
    *[_HEX] * 64,
    *(bytes([b]) for b in b'","id":"'),
    *_UUID,
    b"-",
    *[_HEX] * 12,
    *(bytes([b]) for b in b'","policy_hash":"'),
    *[_HEX] * 64,
    *(bytes([b]) for b in b'","recorded_at":"'),
    *(_DIGIT if b == ord("0") else bytes([b]) for b in b"0000-00-00T00:00:00.000000Z"),
    *(bytes([b]) for b in b'","type":"'),
]
_FIXED = len(_PLACES)
# The digits of hexadecimal numbers are told from the rest by one translation of everything; what it cannot
# tell, because it stands for such a digit itself or must be a certain one, is looked at place by place.
_AS_HEX = bytes(ord("0") if b in _HEX else b for b in range(256))
_SHAPE = bytes(_AS_HEX[allowed[0]] for allowed in _PLACES)
_EXACT = [
    (place, allowed) for place, allowed in enumerate(_PLACES) if allowed is not _HEX and allowed[0] in _HEX
]
_TIME_AT = slice(_FIXED - 10 - 27, _FIXED - 10)
_REST = re.compile(rb'[a-z]+(?:[._][a-z]+)*","v":1\}')


@lru_cache(256)
def _is_rest(rest: bytes) -> bool:
    return _FIXED + len(rest) <= MAX_LEAF and _REST.fullmatch(rest) is not None


def are_leaves(entries: list[bytes]) -> bool:
    """Whether `is_leaf` is true of every one of many: far faster, by looking at all at once."""
    if not all(map(_is_rest, {entry[_FIXED:] for entry in entries})):
        return False
    joined = b"".join([entry[:_FIXED] for entry in entries])
    if joined.translate(_AS_HEX) != _SHAPE * len(entries):
        return False
    # What is stripped of the bytes allowed at its place is empty, unless another byte stands among them.
    return not any(joined[place::_FIXED].strip(allowed) for place, allowed in _EXACT)


def times_of(entries: list[bytes]) -> list[bytes]:
    """The `recorded_at` of leaves, as text that sorts as the times do."""
    return [entry[_TIME_AT] for entry in entries]
