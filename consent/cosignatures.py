"""Cosignatures (c2sp.org/tlog-cosignature): witnesses state when they saw a checkpoint extend what they knew.

A cosignature is one more signature line of the checkpoint, `base64(key id ‖ timestamp ‖ signature)` with the
time as eight bytes of POSIX seconds. This node makes those of type 0x04, Ed25519 over

    cosignature/v1\\n
    time <seconds>\\n
    <the checkpoint's text>

and verifies those and type 0x06, ML-DSA-44 over the `subtree/v1` structure, which does not cover extension
lines. The first line keeps them apart from everything else that a key may sign: no checkpoint has `time …`
where its size should be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

from consent.checkpoint import Checkpoint, open_checkpoint
from consent.errors import InvalidNote
from consent.notes import (
    MAX_SIGNATURES,
    NoteSignature,
    VerifierKey,
    decode_base64,
    key_id_of,
    parse_signatures,
    parse_vkey,
    render_vkey,
)
from privacy.errors import Misuse

__all__ = [
    "Cosignature",
    "CosignedCheckpoint",
    "Cosigner",
    "CosignerKey",
    "accept_cosignature",
    "add_signatures",
    "cosign",
    "open_cosigned",
    "witness_key",
]

ED25519_COSIGNATURE = 0x04
MLDSA44_COSIGNATURE = 0x06
_PUBLIC = {ED25519_COSIGNATURE: 32, MLDSA44_COSIGNATURE: 1312}  # bytes of public key
_SIGNATURE = {ED25519_COSIGNATURE: 64, MLDSA44_COSIGNATURE: 2420}  # bytes of signature after the time


@dataclass(frozen=True, slots=True)
class CosignerKey:
    """A witness's named public key, of type 0x04 (Ed25519, 32 bytes) or 0x06 (ML-DSA-44, 1312 bytes)."""

    name: str
    public: bytes = field(repr=False)
    algorithm: int = ED25519_COSIGNATURE

    def __post_init__(self) -> None:
        if len(self.public) != _PUBLIC.get(self.algorithm):
            raise Misuse("A witness's key is Ed25519 or ML-DSA-44.", code="invalid_vkey")
        if self.algorithm == ED25519_COSIGNATURE:
            VerifierKey(self.name, self.public)  # for its check of the name

    @property
    def key_id(self) -> bytes:
        return key_id_of(self.name, self.algorithm, self.public)

    def to_text(self) -> str:
        return render_vkey(self.name, self.algorithm, self.public)

    @classmethod
    def from_text(cls, vkey: str) -> CosignerKey:
        """Raises Misuse for anything but the exact text of a vkey of type 0x04 or 0x06."""
        name, algorithm, public = parse_vkey(vkey)
        if len(public) != _PUBLIC.get(algorithm):
            raise Misuse(
                "This is not the verifier key of a witness (Ed25519 type 04 or ML-DSA-44 type 06).",
                code="invalid_vkey",
            )
        return cls(name, public, algorithm)

    def verify(self, message: bytes, signature: bytes) -> None:
        """Raises InvalidNote unless `signature` (time and signature) is this key's for the note text."""
        if len(signature) != 8 + _SIGNATURE[self.algorithm] or time_of(signature) >> 63:
            raise InvalidNote("A cosignature by a trusted witness is malformed.")
        try:
            if self.algorithm == ED25519_COSIGNATURE:
                signed = cosigned_message(message, time_of(signature))
                Ed25519PublicKey.from_public_bytes(self.public).verify(signature[8:], signed)
            else:
                signed = _subtree_message(self.name, message, time_of(signature))
                MLDSA44PublicKey.from_public_bytes(self.public).verify(signature[8:], signed)
        except (InvalidSignature, ValueError) as error:
            raise InvalidNote("A cosignature by a trusted witness does not verify.") from error


def time_of(signature: bytes) -> int:
    """POSIX seconds at the start of a cosignature."""
    return int.from_bytes(signature[:8], "big")


def cosigned_message(text: bytes, seconds: int) -> bytes:
    """What an Ed25519 cosignature signs: two lines, then the checkpoint's whole text."""
    return b"cosignature/v1\ntime %d\n" % seconds + text


def _subtree_message(name: str, text: bytes, seconds: int) -> bytes:
    """`cosigned_message` of ML-DSA-44 for a whole checkpoint. ValueError where the text is not one."""
    origin, size, root = text.split(b"\n", 3)[:3]
    cosigner = name.encode()
    return b"".join(
        [
            b"subtree/v1\n\0",
            bytes([len(cosigner)]),
            cosigner,
            seconds.to_bytes(8, "big"),
            bytes([len(origin)]),
            origin,
            bytes(8),
            int(size).to_bytes(8, "big"),
            decode_base64(root.decode("ascii")),
        ]
    )


@dataclass(frozen=True, slots=True)
class Cosigner:
    """A witness that signs: `sign` maps a message to its plain Ed25519 signature."""

    key: CosignerKey
    sign: Callable[[bytes], bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A verified cosignature: whose, and of when (POSIX seconds)."""

    key: CosignerKey
    seconds: int
    signature: NoteSignature

    @property
    def at(self) -> datetime:
        try:
            return datetime.fromtimestamp(self.seconds, UTC)
        except (ValueError, OverflowError, OSError):
            return datetime.max.replace(tzinfo=UTC)

    def to_line(self) -> str:
        return self.signature.to_line()


@dataclass(frozen=True, slots=True)
class CosignedCheckpoint:
    """A checkpoint its log has signed, and the known witnesses that verifiably cosigned it."""

    checkpoint: Checkpoint
    cosignatures: tuple[Cosignature, ...]


def witness_key(log: VerifierKey) -> CosignerKey:
    """The key with which a node witnesses other logs: that of its own log under the name `<origin>/witness`.

    One pinned key so verifies both. The type byte keeps the key ids apart, and the first line what is signed.
    """
    return CosignerKey(f"{log.name}/witness", log.public)


def cosign(checkpoint: Checkpoint, signer: Cosigner, seconds: int) -> Cosignature:
    """A cosignature of type 0x04 at `seconds` (POSIX, above zero). The caller has checked consistency."""
    if not 0 < seconds < 1 << 63 or signer.key.algorithm != ED25519_COSIGNATURE:
        raise Misuse("A cosignature made here is Ed25519 and carries a time after 1970.")
    signature = signer.sign(cosigned_message(checkpoint.body.encode(), seconds))
    whole = seconds.to_bytes(8, "big") + signature
    return Cosignature(signer.key, seconds, NoteSignature(signer.key.name, signer.key.key_id, whole))


def add_signatures(text: str, new: Iterable[NoteSignature]) -> str:
    """`text` (a signed note) with more signature lines; of each key the newest time is kept.

    What is already there by a key that `new` does not name is left alone. Raises InvalidNote when malformed.
    """
    cut = text.rfind("\n\n") + 2
    kept: dict[tuple[str, bytes], NoteSignature] = {}
    for signature in [*parse_signatures(text[cut:]), *new]:
        place = (signature.name, signature.key_id)
        old = kept.get(place)
        if old is None or len(old.signature) != len(signature.signature):
            kept.setdefault(place, signature)
        elif len(signature.signature) - 8 in _SIGNATURE.values() and time_of(signature.signature) > time_of(
            old.signature
        ):
            kept[place] = signature
    if len(kept) > MAX_SIGNATURES:
        raise InvalidNote("The note has too many signatures.")
    return text[:cut] + "".join(signature.to_line() for signature in kept.values())


def accept_cosignature(checkpoint: Checkpoint, answer: bytes, key: CosignerKey) -> Cosignature:
    """The cosignature of `key` among the lines that a witness answered with, verified for `checkpoint`.

    Lines by other keys are ignored. Raises InvalidNote where there is none, one is wrong, or its time is 0.
    """
    if len(answer) > 1 << 16:
        raise InvalidNote("The witness's answer is too large.")
    try:
        lines = parse_signatures(answer.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidNote("The witness's answer is not UTF-8.") from None
    found = _of(lines, [key], checkpoint.body.encode())
    if not found or found[0].seconds == 0:
        raise InvalidNote("The witness answered without a cosignature of its own.", code="unknown_signer")
    return found[0]


def open_cosigned(
    data: bytes | str, log: VerifierKey, witnesses: Sequence[CosignerKey]
) -> CosignedCheckpoint:
    """Verify a checkpoint and every cosignature by a known witness; each witness counts once, at its newest.

    Raises InvalidNote as `open_checkpoint`, and where one known witness's cosignature does not verify.
    """
    checkpoint = open_checkpoint(data, [log, *witnesses])
    cut = checkpoint.text.rfind("\n\n") + 2
    lines = parse_signatures(checkpoint.text[cut:])
    return CosignedCheckpoint(checkpoint, tuple(_of(lines, witnesses, checkpoint.body.encode())))


def _of(lines: Sequence[NoteSignature], keys: Sequence[CosignerKey], text: bytes) -> list[Cosignature]:
    known = {(key.name, key.key_id): key for key in keys}
    found: dict[CosignerKey, Cosignature] = {}
    for line in lines:
        key = known.get((line.name, line.key_id))
        if key is None:
            continue
        key.verify(text, line.signature)
        made = Cosignature(key, time_of(line.signature), line)
        if key not in found or found[key].seconds < made.seconds:
            found[key] = made
    return list(found.values())
