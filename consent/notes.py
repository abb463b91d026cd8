"""Signed notes (c2sp.org/signed-note) with Ed25519 keys.

    text…\n
    \n
    — name base64(key id 4 bytes ‖ signature)\n

A key is named and carries an id, `SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key)[:4]`; its text form, the
*vkey*, is `name+hex(id)+base64(0x01 ‖ public key)`. The id is a handle, not a proof: the verifier was
given the whole key beforehand.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from consent.errors import InvalidNote
from privacy.errors import Misuse

__all__ = [
    "MAX_NOTE",
    "MAX_SIGNATURES",
    "Note",
    "NoteKey",
    "NoteSignature",
    "NoteSigner",
    "VerifierKey",
    "note_text",
    "open_note",
    "sign_note",
]

ED25519 = 0x01
MAX_NOTE = 256 * 1024  # bytes; room for sixteen post-quantum signatures
MAX_SIGNATURES = 100
_PREFIX = "— "  # U+2014, U+0020
_HEX8 = re.compile(r"[0-9a-f]{8}", re.ASCII)


def decode_base64(text: str) -> bytes:
    """RFC 4648 §4, in its one canonical spelling. Raises ValueError."""
    data = base64.b64decode(text.encode("ascii"), validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not canonical base64")
    return data


def _valid_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(c.isspace() or c < " " for c in name)


def key_id_of(name: str, algorithm: int, public: bytes) -> bytes:
    """SHA-256(name ‖ 0x0A ‖ algorithm ‖ public key)[:4]"""
    return sha256(name.encode() + b"\n" + bytes([algorithm]) + public).digest()[:4]


def render_vkey(name: str, algorithm: int, public: bytes) -> str:
    encoded = base64.b64encode(bytes([algorithm]) + public).decode()
    return f"{name}+{key_id_of(name, algorithm, public).hex()}+{encoded}"


def parse_vkey(vkey: str) -> tuple[str, int, bytes]:
    """(name, algorithm, public key) of the exact text of a vkey with the usual key id; Misuse otherwise."""
    wrong = Misuse("This is not a verifier key (name+hash+key).", code="invalid_vkey")
    parts = vkey.split("+", 2)
    if len(parts) != 3 or not _valid_name(parts[0]) or not _HEX8.fullmatch(parts[1]):
        raise wrong
    try:
        data = decode_base64(parts[2])
        identity = key_id_of(parts[0], data[0], data[1:])
    except (ValueError, binascii.Error, IndexError):
        raise wrong from None
    if identity.hex() != parts[1]:
        raise wrong
    return parts[0], data[0], data[1:]


class NoteKey(Protocol):
    """A key that a note may be signed with: a log's own (`VerifierKey`) or a witness's (`CosignerKey`)."""

    @property
    def name(self) -> str: ...
    @property
    def key_id(self) -> bytes: ...
    def verify(self, message: bytes, signature: bytes) -> None:
        """Raises InvalidNote unless `signature` is this key's for the note text `message`."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A named Ed25519 public key. `public` is 32 bytes."""

    name: str
    public: bytes

    def __post_init__(self) -> None:
        if not _valid_name(self.name) or len(self.public) != 32:
            raise Misuse("A note key needs a name without spaces or plus signs, and 32 bytes of key.")

    @property
    def key_id(self) -> bytes:
        return key_id_of(self.name, ED25519, self.public)

    def to_text(self) -> str:
        return render_vkey(self.name, ED25519, self.public)

    @classmethod
    def from_text(cls, vkey: str) -> VerifierKey:
        """Raises Misuse for anything but the exact text of an Ed25519 vkey."""
        name, algorithm, public = parse_vkey(vkey)
        if algorithm != ED25519 or len(public) != 32:
            raise Misuse("This is not the verifier key of a log (Ed25519).", code="invalid_vkey")
        return cls(name, public)

    def verify(self, message: bytes, signature: bytes) -> None:
        """Raises InvalidNote unless `signature` is this key's over `message`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise InvalidNote("A signature by a trusted key does not verify.") from error


@dataclass(frozen=True, slots=True)
class NoteSigner:
    """A named key that signs: `sign` maps a message to its plain Ed25519 signature."""

    key: VerifierKey
    sign: Callable[[bytes], bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class NoteSignature:
    name: str
    key_id: bytes
    signature: bytes = field(repr=False)

    def to_line(self) -> str:
        return f"{_PREFIX}{self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """An opened note: its text (with the final newline) and who verifiably signed it."""

    text: str
    signed_by: tuple[NoteKey, ...]
    signatures: tuple[NoteSignature, ...]


def sign_note(text: str, signers: Sequence[NoteSigner]) -> str:
    """`text` must end in a newline and hold no other control character. Raises Misuse."""
    if not text.endswith("\n") or any(c < " " and c != "\n" for c in text):
        raise Misuse("A note's text ends in a newline and holds no other control character.")
    if not signers:
        raise Misuse("A note needs a signature.")
    message = text.encode()
    lines = [NoteSignature(s.key.name, s.key.key_id, s.sign(message)).to_line() for s in signers]
    return text + "\n" + "".join(lines)


def _parse(data: bytes) -> tuple[str, list[NoteSignature]]:
    if len(data) > MAX_NOTE:
        raise InvalidNote("The note is too large.")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidNote("The note is not UTF-8.") from None
    if any(c < " " and c != "\n" for c in whole):
        raise InvalidNote("The note holds a control character.")
    cut = whole.rfind("\n\n")
    if cut < 0 or not whole.endswith("\n"):
        raise InvalidNote("The note has no signatures.")
    return whole[: cut + 1], parse_signatures(whole[cut + 2 :])


def parse_signatures(block: str) -> list[NoteSignature]:
    """Signature lines, each ending in a newline; at least one. Raises InvalidNote."""
    lines = block.split("\n")
    if lines.pop() or not 1 <= len(lines) <= MAX_SIGNATURES:
        raise InvalidNote("The note has no signatures, or too many.")
    found = []
    for line in lines:
        name, space, encoded = line.removeprefix(_PREFIX).partition(" ")
        try:
            raw = decode_base64(encoded)
        except (ValueError, binascii.Error):
            raw = b""
        if not line.startswith(_PREFIX) or not space or not _valid_name(name) or len(raw) < 5:
            raise InvalidNote("A signature line of the note is malformed.")
        found.append(NoteSignature(name, raw[:4], raw[4:]))
    return found


def open_note(data: bytes | str, keys: Iterable[NoteKey]) -> Note:
    """Parse and verify a note against trusted `keys`.

    Signatures by other keys are ignored. One signature of a trusted key that fails rejects the whole note,
    also where the same key has signed well beside it. Raises InvalidNote when malformed or when no trusted
    key has signed.
    """
    trusted: dict[tuple[str, bytes], NoteKey] = {}
    for key in keys:
        if trusted.setdefault((key.name, key.key_id), key) != key:
            raise Misuse("Two trusted keys share a name and an id.")
    text, signatures = _parse(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
    message = text.encode()
    verified: dict[NoteKey, None] = {}
    for signature in signatures:
        known = trusted.get((signature.name, signature.key_id))
        if known is not None:
            known.verify(message, signature.signature)
            verified[known] = None
    if not verified:
        raise InvalidNote("No trusted key has signed this note.", code="unknown_signer")
    return Note(text, tuple(verified), tuple(signatures))


def note_text(data: bytes | str) -> str:
    """The text of a well-formed note that nobody has verified yet. Raises InvalidNote."""
    return _parse(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)[0]
