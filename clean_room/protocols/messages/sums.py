"""Columns and sums under encryption."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

from clean_room.group.points import Buffer
from clean_room.protocols.messages.base import Encoded
from clean_room.protocols.wire import Reader, Writer

__all__ = ["DecryptedSums", "MaskedSums", "ValueColumns"]

_MAX_CIPHERTEXT = 1 << 20
_MAX_CIPHERTEXTS = 1 << 18
_MAX_KEY = 1 << 21


@dataclass(frozen=True, slots=True)
class ValueColumns(Encoded):
    """C's columns, encrypted to `key`: `ciphertexts[column][segment][block]`, 8192 rows a block."""

    KIND: ClassVar[int] = 5
    previous: bytes
    key: Buffer = field(repr=False)
    ciphertexts: tuple[tuple[tuple[Buffer, ...], ...], ...] = field(repr=False)

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.block(self.key)
        w.number(len(self.ciphertexts), 2)
        for column in self.ciphertexts:
            w.number(len(column), 2)
            for segment in column:
                w.number(len(segment), 4)
                for ciphertext in segment:
                    w.block(ciphertext)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "ValueColumns")
        key = r.block("key", _MAX_KEY)
        columns = tuple(
            tuple(
                tuple(
                    r.block("ciphertexts", _MAX_CIPHERTEXT)
                    for _ in range(r.number(4, "ciphertexts", high=_MAX_CIPHERTEXTS))
                )
                for _ in range(r.number(2, "ciphertexts", low=1, high=256))
            )
            for _ in range(r.number(2, "ciphertexts", low=1, high=16))
        )
        message = cls(r.previous, key, columns)
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class MaskedSums(Encoded):
    """One ciphertext per cell and column: `ciphertexts[cell · columns + column]`, cells row by row."""

    KIND: ClassVar[int] = 6
    previous: bytes
    ciphertexts: tuple[Buffer, ...] = field(repr=False)

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.number(len(self.ciphertexts), 4)
        for ciphertext in self.ciphertexts:
            w.block(ciphertext)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "MaskedSums")
        count = r.number(4, "ciphertexts", low=1, high=1 << 16)
        message = cls(r.previous, tuple(r.block("ciphertexts", _MAX_CIPHERTEXT) for _ in range(count)))
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class DecryptedSums(Encoded):
    """Per cell and column: (sum + Σr + noise) mod t, an unsigned 64-bit integer below t."""

    KIND: ClassVar[int] = 7
    previous: bytes
    sums: tuple[int, ...]

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.number(len(self.sums), 4)
        for value in self.sums:
            w.number(value, 8)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "DecryptedSums")
        count = r.number(4, "sums", low=1, high=1 << 16)
        message = cls(r.previous, tuple(r.number(8, "sums") for _ in range(count)))
        r.end()
        return message
