"""What the two parties of vertical logistic regression say to each other, and its exact bytes.

Every message is `CVL1`, one byte of kind, a u32 count, then that many u32-length-prefixed parts, all
little-endian. Parsing is strict: wrong kind, count, length, a non-finite number or trailing bytes raise
PeerViolation before anything is used.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from federated.errors import PeerViolation

__all__ = [
    "Closing",
    "Direction",
    "MaskedGradient",
    "Message",
    "Opening",
    "Residuals",
    "Scores",
    "SlotSums",
    "Standing",
]

Floats = npt.NDArray[np.float64]
Residues = npt.NDArray[np.uint64]
M = TypeVar("M", bound="Message")

_MAGIC = b"CVL1"
_HEAD = struct.Struct("<4sBI")
_LENGTH = struct.Struct("<I")
_EPOCH = struct.Struct("<I")
_MOST_PARTS = 1 << 16


def _pack(kind: int, parts: Sequence[bytes]) -> bytes:
    return b"".join(
        [_HEAD.pack(_MAGIC, kind, len(parts)), *(x for p in parts for x in (_LENGTH.pack(len(p)), p))]
    )


def _unpack(kind: int, blob: bytes) -> list[bytes]:
    if len(blob) < _HEAD.size:
        raise PeerViolation("A training message is shorter than its header.")
    magic, found, count = _HEAD.unpack_from(blob)
    if magic != _MAGIC or found != kind or count > _MOST_PARTS:
        raise PeerViolation("A training message is not of the kind expected at this step.")
    parts, at = [], _HEAD.size
    for _ in range(count):
        if at + _LENGTH.size > len(blob):
            raise PeerViolation("A training message is truncated.")
        (length,) = _LENGTH.unpack_from(blob, at)
        at += _LENGTH.size
        if at + length > len(blob):
            raise PeerViolation("A training message is truncated.")
        parts.append(blob[at : at + length])
        at += length
    if at != len(blob):
        raise PeerViolation("A training message has bytes after its end.")
    return parts


def _floats(part: bytes) -> Floats:
    if len(part) % 8:
        raise PeerViolation("A list of numbers in a training message is truncated.")
    values = np.frombuffer(part, dtype="<f8").astype(np.float64)
    if not np.isfinite(values).all():
        raise PeerViolation("A training message holds a number that is not finite.")
    return values


def _epoch(part: bytes) -> int:
    if len(part) != _EPOCH.size:
        raise PeerViolation("An epoch number in a training message is malformed.")
    return int(_EPOCH.unpack(part)[0])


def _require(parts: list[bytes], count: int) -> None:
    if len(parts) != count:
        raise PeerViolation("A training message has the wrong number of parts.")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Message(ABC):
    """Base of the messages; `kind` is the byte on the wire."""

    kind: ClassVar[int] = 0

    @abstractmethod
    def to_bytes(self) -> bytes:
        """The message as it travels."""

    @classmethod
    @abstractmethod
    def from_bytes(cls: type[M], blob: bytes) -> M:
        """Read strictly. Raises PeerViolation."""

    @classmethod
    def is_of_kind(cls, blob: bytes) -> bool:
        """Whether `blob` claims to be a message of this kind; `from_bytes` decides whether it is one."""
        return len(blob) >= _HEAD.size and blob[:4] == _MAGIC and blob[4] == cls.kind

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Opening(Message):
    """Active → passive: the digest of the round's terms and a fresh public key."""

    kind: ClassVar[int] = 1
    terms: bytes
    public_key: bytes

    def to_bytes(self) -> bytes:
        return _pack(self.kind, [self.terms, self.public_key])

    @classmethod
    def from_bytes(cls, blob: bytes) -> Opening:
        parts = _unpack(cls.kind, blob)
        _require(parts, 2)
        if len(parts[0]) != 32:
            raise PeerViolation("The digest of the round's terms is malformed.")
        return cls(*parts)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Standing(Message):
    """Passive → active: its weights so far as one direction: unit-norm scores (n,) and their length.

    Both empty and zero before the first round.
    """

    kind: ClassVar[int] = 2
    length: float
    scores: Floats

    def to_bytes(self) -> bytes:
        return _pack(self.kind, [struct.pack("<d", self.length), self.scores.astype("<f8").tobytes()])

    @classmethod
    def from_bytes(cls, blob: bytes) -> Standing:
        parts = _unpack(cls.kind, blob)
        _require(parts, 2)
        length = _floats(parts[0])
        if length.shape != (1,):
            raise PeerViolation("The length of the standing weights is malformed.")
        return cls(float(length[0]), _floats(parts[1]))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Residuals(Message):
    """Active → passive: coefficients (k,) of the passive side's directions, and Enc(residuals)."""

    kind: ClassVar[int] = 3
    epoch: int
    coefficients: Floats
    blocks: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        parts = [_EPOCH.pack(self.epoch), self.coefficients.astype("<f8").tobytes(), *self.blocks]
        return _pack(self.kind, parts)

    @classmethod
    def from_bytes(cls, blob: bytes) -> Residuals:
        parts = _unpack(cls.kind, blob)
        if len(parts) < 3:
            raise PeerViolation("A residual message carries no ciphertext.")
        return cls(_epoch(parts[0]), _floats(parts[1]), tuple(parts[2:]))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MaskedGradient(Message):
    """Passive → active: one masked, smudged ciphertext per feature."""

    kind: ClassVar[int] = 4
    epoch: int
    sums: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        return _pack(self.kind, [_EPOCH.pack(self.epoch), *self.sums])

    @classmethod
    def from_bytes(cls, blob: bytes) -> MaskedGradient:
        parts = _unpack(cls.kind, blob)
        if len(parts) < 2:
            raise PeerViolation("A masked gradient carries no ciphertext.")
        return cls(_epoch(parts[0]), tuple(parts[1:]))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SlotSums(Message):
    """Active → passive: the decrypted, still masked sum mod t per feature, uint64 (p,)."""

    kind: ClassVar[int] = 5
    epoch: int
    sums: Residues

    def to_bytes(self) -> bytes:
        return _pack(self.kind, [_EPOCH.pack(self.epoch), self.sums.astype("<u8").tobytes()])

    @classmethod
    def from_bytes(cls, blob: bytes) -> SlotSums:
        parts = _unpack(cls.kind, blob)
        _require(parts, 2)
        if len(parts[1]) % 8:
            raise PeerViolation("A list of sums in a training message is truncated.")
        return cls(_epoch(parts[0]), np.frombuffer(parts[1], dtype="<u8").astype(np.uint64))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Direction(Message):
    """Passive → active: scores (n,) along a new unit direction, or none when nothing is left to gain."""

    kind: ClassVar[int] = 6
    epoch: int
    scores: Floats

    def to_bytes(self) -> bytes:
        return _pack(self.kind, [_EPOCH.pack(self.epoch), self.scores.astype("<f8").tobytes()])

    @classmethod
    def from_bytes(cls, blob: bytes) -> Direction:
        parts = _unpack(cls.kind, blob)
        _require(parts, 2)
        return cls(_epoch(parts[0]), _floats(parts[1]))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Closing(Message):
    """Active → passive: the round's final coefficients (k,)."""

    kind: ClassVar[int] = 7
    coefficients: Floats

    def to_bytes(self) -> bytes:
        return _pack(self.kind, [self.coefficients.astype("<f8").tobytes()])

    @classmethod
    def from_bytes(cls, blob: bytes) -> Closing:
        parts = _unpack(cls.kind, blob)
        _require(parts, 1)
        return cls(_floats(parts[0]))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Scores(Message):
    """Passive → active, in the evaluation: its partial scores of the test rows, float64 (m,)."""

    kind: ClassVar[int] = 8
    scores: Floats

    def to_bytes(self) -> bytes:
        return _pack(self.kind, [self.scores.astype("<f8").tobytes()])

    @classmethod
    def from_bytes(cls, blob: bytes) -> Scores:
        parts = _unpack(cls.kind, blob)
        _require(parts, 1)
        return cls(_floats(parts[0]))
