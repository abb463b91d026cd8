"""Proofs in the C2SP text form (c2sp.org/tlog-proof@v1): an entry, its path, its checkpoint, in one file.

    c2sp.org/tlog-proof@v1
    extra base64(…)            optional; not authenticated
    index 73894
    base64(sibling hash)       one line a hash, from the leaf up
    …
                               an empty line, then the signed checkpoint as it is

The file says where a leaf stands; computing the leaf is the application's. Here `extra` is an `Opening` of a
log entry: everything of it but the commitment, and the salt and payload from which that is computed. So
the leaf is rebuilt, never believed, and nothing in `extra` can say something else than the log.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from consent.checkpoint import Checkpoint, open_checkpoint
from consent.encoding import Leaf, canonical_json, commitment, parse_json, parse_time, render_time
from consent.errors import InvalidProof
from consent.merkle import leaf_hash, verify_inclusion
from consent.notes import MAX_NOTE, VerifierKey, decode_base64
from privacy.errors import ComityError, Tampered

__all__ = ["OpenedEntry", "TlogProof"]

HEADER = "c2sp.org/tlog-proof@v1"
SUFFIX = ".tlog-proof"
MAX_EXTRA = 4 << 20  # bytes
MAX_PROOF = 2 * MAX_EXTRA + MAX_NOTE
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})", re.ASCII)


def _wrong(why: str) -> InvalidProof:
    return InvalidProof(f"This is not a log proof: {why}.", code="malformed_proof")


@dataclass(frozen=True, slots=True)
class TlogProof:
    """One proof. `path` holds 32-byte hashes, `checkpoint` the whole signed note."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: str
    extra: bytes | None = field(default=None, repr=False)

    def to_text(self) -> str:
        lines = [HEADER]
        if self.extra is not None:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(step).decode() for step in self.path]
        return "\n".join(lines) + "\n\n" + self.checkpoint

    @classmethod
    def from_text(cls, text: str) -> TlogProof:
        """Raises InvalidProof for anything malformed; verifies nothing."""
        if len(text) > MAX_PROOF:
            raise _wrong("it is too large")
        head, gap, checkpoint = text.partition("\n\n")
        lines = head.split("\n")
        if lines.pop(0) != HEADER:
            raise _wrong(f"its first line is not {HEADER}")
        if not gap or not checkpoint:
            raise _wrong("it holds no checkpoint")
        extra = None
        if lines and lines[0].startswith("extra "):
            extra = _decoded(lines.pop(0)[6:])
        match = _INDEX.fullmatch(lines.pop(0)) if lines else None
        if match is None or int(match[1]) >= 1 << 63:
            raise _wrong("it has no index")
        if len(lines) > 63:
            raise _wrong("its path is longer than any tree is high")
        path = tuple(_decoded(line) for line in lines)
        if any(len(step) != 32 for step in path):
            raise _wrong("a step of its path is not a hash")
        return cls(int(match[1]), path, checkpoint, extra)

    def verify(self, leaf: bytes, keys: Sequence[VerifierKey]) -> Checkpoint:
        """The checkpoint, once the entry with this leaf hash (32 bytes) is proved to stand in it.

        `keys[0]` is the log's; the others (witnesses) must hold where they have signed. Raises Tampered.
        """
        checkpoint = open_checkpoint(self.checkpoint, keys)
        verify_inclusion(self.index, checkpoint.size, leaf, self.path, checkpoint.root)
        return checkpoint

    def verify_opened(self, keys: Sequence[VerifierKey]) -> tuple[OpenedEntry, Checkpoint]:
        """As `verify`, for a proof whose extra data is an opened entry of this ledger."""
        if self.extra is None:
            raise _wrong("it does not carry the opened entry")
        opened = OpenedEntry.from_bytes(self.extra)
        return opened, self.verify(leaf_hash(opened.leaf().to_bytes()), keys)


def _decoded(text: str) -> bytes:
    try:
        return decode_base64(text)
    except ValueError:
        raise _wrong("a line is not base64") from None


_FIELDS = {"id", "policy_hash", "recorded_at", "type", "salt", "payload", "v"}


@dataclass(frozen=True, slots=True)
class OpenedEntry:
    """A log entry with what its commitment opens to. `salt` is 32 bytes, `payload` canonical JSON."""

    id: str
    type: str
    recorded_at: int
    policy_hash: str
    salt: bytes = field(repr=False)
    payload: bytes = field(repr=False)

    @classmethod
    def of(cls, leaf: Leaf, salt: bytes, payload: bytes) -> OpenedEntry:
        return cls(leaf.id, leaf.type, leaf.recorded_at, leaf.policy_hash, salt, payload)

    def leaf(self) -> Leaf:
        """The entry that the log must hold, commitment and all. Raises Tampered if none could look so."""
        made = Leaf(
            self.id, self.type, self.recorded_at, self.policy_hash, commitment(self.salt, self.payload)
        )
        # What does not read back is no leaf: a smuggled quote must not forge another field.
        if Leaf.from_bytes(made.to_bytes()) != made:
            raise Tampered("An opened entry is not in the canonical form.", code="malformed_entry")
        return made

    def body(self) -> dict[str, object]:
        """The payload. Raises Tampered unless it is a JSON object."""
        try:
            body = parse_json(self.payload, limit=MAX_EXTRA)
        except ComityError:
            body = None
        if not isinstance(body, dict):
            raise Tampered("A committed payload is not a JSON object.", code="wrong_commitment")
        return body

    def to_bytes(self) -> bytes:
        return canonical_json(
            {
                "v": 1,
                "id": self.id,
                "type": self.type,
                "recorded_at": render_time(self.recorded_at),
                "policy_hash": self.policy_hash,
                "salt": base64.b64encode(self.salt).decode(),
                "payload": base64.b64encode(self.payload).decode(),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> OpenedEntry:
        """Raises InvalidProof for anything that `to_bytes` would not have written."""
        try:
            found = parse_json(data, limit=MAX_EXTRA)
            if not isinstance(found, dict) or set(found) != _FIELDS or found.pop("v") != 1:
                raise _wrong("its extra data is not an opened entry")
            if not all(isinstance(value, str) for value in found.values()):
                raise _wrong("its extra data is not an opened entry")
            return cls(
                found["id"],
                found["type"],
                parse_time(found["recorded_at"]),
                found["policy_hash"],
                _salt(_decoded(found["salt"])),
                _decoded(found["payload"]),
            )
        except Tampered:
            raise
        except ComityError:
            raise _wrong("its extra data is not an opened entry") from None


def _salt(data: bytes) -> bytes:
    if len(data) != 32:
        raise _wrong("its salt is not 32 bytes")
    return data
