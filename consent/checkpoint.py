"""Checkpoints (c2sp.org/tlog-checkpoint): a log's signed statement of its size and root.

    origin\n
    size\n
    base64(root)\n

followed by extension lines, of which this log writes none, in a signed note whose key name is the origin.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from consent.errors import InvalidNote
from consent.notes import NoteKey, NoteSigner, decode_base64, note_text, open_note, sign_note

__all__ = ["Checkpoint", "checkpoint_origin", "open_checkpoint", "sign_checkpoint"]

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified (or self-made) tree head. `root` is 32 bytes; `text` is the whole signed note."""

    origin: str
    size: int
    root: bytes
    text: str
    extensions: tuple[str, ...] = ()

    @property
    def body(self) -> str:
        """What is signed: the text up to the blank line before the signatures."""
        return self.text[: self.text.rfind("\n\n") + 1]


def _body(origin: str, size: int, root: bytes) -> str:
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def sign_checkpoint(size: int, root: bytes, signer: NoteSigner) -> Checkpoint:
    """Ed25519 is deterministic (RFC 8032), so the same head always gives the same text."""
    origin = signer.key.name
    return Checkpoint(origin, size, root, sign_note(_body(origin, size, root), [signer]))


def checkpoint_origin(data: bytes | str) -> str:
    """The origin that a note nobody has verified yet names on its first line. Raises InvalidNote."""
    return note_text(data).partition("\n")[0]


def open_checkpoint(data: bytes | str, keys: Sequence[NoteKey]) -> Checkpoint:
    """Verify a checkpoint. `keys[0]` is the log's own key, its name the origin; more may follow (witnesses).

    Raises InvalidNote unless the log's own key has signed and the text is a checkpoint of that origin.
    """
    note = open_note(data, keys)
    if keys[0] not in note.signed_by:
        raise InvalidNote("The log's own key has not signed this checkpoint.", code="unknown_signer")
    lines = note.text.split("\n")[:-1]
    if len(lines) < 3 or not all(lines) or _SIZE.fullmatch(lines[1]) is None:
        raise InvalidNote("The note is signed, but is not a checkpoint.")
    try:
        root = decode_base64(lines[2])
    except (ValueError, binascii.Error):
        root = b""
    if len(root) != 32 or int(lines[1]) >= 1 << 63:
        raise InvalidNote("The checkpoint's size or root is malformed.")
    if lines[0] != keys[0].name:
        raise InvalidNote("The checkpoint belongs to another log.", code="other_log")
    text = data if isinstance(data, str) else data.decode()
    return Checkpoint(lines[0], int(lines[1]), root, text, tuple(lines[3:]))
