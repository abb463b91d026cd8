"""A proof that one entry stands in the log, complete enough to check offline."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from consent.checkpoint import Checkpoint, open_checkpoint
from consent.encoding import Leaf
from consent.merkle import leaf_hash, verify_inclusion
from consent.notes import VerifierKey
from privacy.errors import Tampered

__all__ = ["EntryProof"]


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def from_base64(value: object, *, size: int | None = None) -> bytes:
    """Strict base64 of exactly `size` bytes; raises Tampered."""
    try:
        data = base64.b64decode(str(value).encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        data = None
    if not isinstance(value, str) or data is None or (size is not None and len(data) != size):
        raise Tampered(
            "A proof holds a value that is not base64 of the right length.", code="malformed_proof"
        )
    return data


def path_from(value: object) -> tuple[bytes, ...]:
    if not isinstance(value, list) or len(value) > 64:
        raise Tampered("A proof path is not a short list.", code="malformed_proof")
    return tuple(from_base64(item, size=32) for item in value)


def integer_from(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise Tampered("A proof holds a number out of range.", code="malformed_proof")
    return value


@dataclass(frozen=True, slots=True)
class EntryProof:
    """Entry `index`, its RFC 6962 inclusion path, and the signed checkpoint it leads to."""

    index: int
    entry: bytes
    path: tuple[bytes, ...]
    checkpoint: str

    def verify(self, key: VerifierKey) -> tuple[Leaf, Checkpoint]:
        """The entry and the tree head it is proved against. Raises Tampered (InvalidNote, InvalidProof)."""
        checkpoint = open_checkpoint(self.checkpoint, [key])
        verify_inclusion(self.index, checkpoint.size, leaf_hash(self.entry), self.path, checkpoint.root)
        return Leaf.from_bytes(self.entry), checkpoint

    def to_dict(self) -> dict[str, object]:
        return {
            "index": self.index,
            "entry": to_base64(self.entry),
            "path": [to_base64(item) for item in self.path],
            "checkpoint": self.checkpoint,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, object]) -> EntryProof:
        """Raises Tampered for anything malformed."""
        return cls(
            integer_from(value.get("index")),
            from_base64(value.get("entry")),
            path_from(value.get("path")),
            str(value.get("checkpoint", "")),
        )
