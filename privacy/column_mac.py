"""AES-CMAC of every row of an Arrow column, in vector operations: a keyed hash at a few dozen ns a row.

AES-CMAC is RFC 4493 (NIST SP 800-38B with AES-128): a pseudo-random function of its message, so without the
key nothing can be told or chosen about a tag. A row of `b` blocks of 16 bytes is chained as

    C₁ = AES(M₁),  Cᵢ = AES(Cᵢ₋₁ ⊕ Mᵢ),  tag = AES(C_{b−1} ⊕ M_b ⊕ (K₁ if M_b is whole, else K₂, padded))

and every step is taken for all rows at once: the rows are copied side by side into slots of equal width, what
a slot holds beyond its row is masked away, and one ECB call enciphers a block of each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

from privacy.errors import BadInput, Misuse

__all__ = ["KEY", "ColumnMac"]

KEY = 16
"""Bytes of a key."""
_BLOCK = 16
_SLOTS = (32, 64, 256)
"""Widths rows are laid out in; what is longer is hashed one by one."""
_AT_ONCE = 1 << 14

Words = npt.NDArray[np.uint64]


class ColumnMac:
    """One key, ready to be used on columns. Thread-safe."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY:
            raise Misuse(f"A key for AES-CMAC has {KEY} bytes.")
        self._algorithm = algorithms.AES(key)
        # ECB over independent blocks is the bare block cipher that CMAC is made of; nothing is encrypted so.
        self._cipher = Cipher(self._algorithm, modes.ECB())  # noqa: S305
        k1 = _doubled(self._cipher.encryptor().update(bytes(_BLOCK)))
        self._tables = {width: _tables(width, k1, _doubled(k1)) for width in _SLOTS}

    def one(self, message: bytes) -> bytes:
        """The tag of one message, 16 bytes."""
        mac = CMAC(self._algorithm)
        mac.update(message)
        return mac.finalize()

    def tags(self, column: pa.Array) -> Words:
        """The tags of all rows of a binary or string column: uint64 (n, 2), 16 bytes a row as they stand.

        Raises BadInput on nulls and on columns of another type.
        """
        if not (pa.types.is_binary(column.type) or pa.types.is_string(column.type)):
            raise BadInput("Only columns of text or bytes can be hashed.")
        if column.null_count:
            raise BadInput("Missing values cannot be hashed; filter them out first.")
        out = np.empty((len(column), 2), dtype="<u8")
        for start in range(0, len(column), _AT_ONCE):
            part = column.slice(start, _AT_ONCE)
            out[start : start + len(part)] = self._part(part)
        return out

    def _part(self, column: pa.Array) -> Words:
        _, offsets, data = column.buffers()
        bounds = np.frombuffer(offsets, dtype=np.int32)[column.offset : column.offset + len(column) + 1]
        first, last = int(bounds[0]), int(bounds[-1])
        lengths = np.diff(bounds)
        longest = int(lengths.max())
        # Slots are copied whole, so the last row needs something behind it to be copied with it.
        flat = np.zeros(last - first + _SLOTS[-1], dtype=np.uint8)
        if last > first:
            flat[: last - first] = np.frombuffer(data, dtype=np.uint8)[first:last]
        starts = (bounds[:-1] - first).astype(np.int64)
        if longest <= _SLOTS[0]:
            return self._slots(flat, starts, lengths, _SLOTS[0])
        out = np.empty((len(column), 2), dtype="<u8")
        below = -1
        for width in _SLOTS:
            rows = np.flatnonzero((lengths > below) & (lengths <= width))
            if len(rows):
                out[rows] = self._slots(flat, starts[rows], lengths[rows], width)
            below = width
        for row in np.flatnonzero(lengths > below).tolist():
            message = flat[starts[row] : starts[row] + lengths[row]].tobytes()
            out[row] = np.frombuffer(self.one(message), dtype="<u8")
        return out

    def _slots(
        self, flat: npt.NDArray[np.uint8], starts: npt.NDArray[Any], lengths: npt.NDArray[Any], width: int
    ) -> Words:
        mask, added = self._tables[width]
        anywhere = np.lib.stride_tricks.as_strided(
            flat[:_BLOCK].view(f"V{_BLOCK}"), shape=(len(flat) - _BLOCK + 1,), strides=(1,)
        )
        state = np.zeros((len(starts), 2), dtype="<u8")
        for number in range(max(1, -(-int(lengths.max()) // _BLOCK))):
            at = starts if number == 0 else starts + number * _BLOCK
            block = anywhere[at].view("<u8").reshape(-1, 2)
            block &= mask[number].take(lengths, axis=0)
            block ^= added[number].take(lengths, axis=0)
            block ^= state
            following = self._enciphered(block)
            if number:
                ended = np.flatnonzero(lengths <= number * _BLOCK)
                following[ended] = state[ended]
            state = following
        return state

    def _enciphered(self, blocks: Words) -> Words:
        out = bytearray(blocks.nbytes + _BLOCK - 1)
        self._cipher.encryptor().update_into(blocks.data.cast("B"), out)
        return np.frombuffer(out, dtype="<u8", count=blocks.size).reshape(-1, 2)


def _doubled(block: bytes) -> bytes:
    """Multiplication by x in GF(2¹²⁸) (RFC 4493, section 2.3)."""
    value = int.from_bytes(block, "big") << 1
    if value >> 128:
        value = (value & ((1 << 128) - 1)) ^ 0x87
    return value.to_bytes(_BLOCK, "big")


def _tables(width: int, k1: bytes, k2: bytes) -> tuple[Words, Words]:
    """For every length up to `width`: what of a slot is the row's, and what is added to its last block."""
    mask = np.zeros((width + 1, width), dtype=np.uint8)
    added = np.zeros((width + 1, width), dtype=np.uint8)
    for length in range(width + 1):
        mask[length, :length] = 0xFF
        whole = length > 0 and length % _BLOCK == 0
        at = max(0, (length - 1) // _BLOCK) * _BLOCK
        added[length, at : at + _BLOCK] = np.frombuffer(k1 if whole else k2, dtype=np.uint8)
        if not whole:
            added[length, length] ^= 0x80
    return _by_block(mask), _by_block(added)


def _by_block(table: npt.NDArray[np.uint8]) -> Words:
    """(lengths, width) bytes as (blocks, lengths, 2) words."""
    blocks = table.reshape(len(table), -1, _BLOCK).swapaxes(0, 1)
    return np.ascontiguousarray(blocks).view("<u8")
