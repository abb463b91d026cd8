"""BFV for sums, by TenSEAL's `sealapi` (Microsoft SEAL): parameters, keys, ciphertexts as strict bytes.

    N = 8192 slots, t = 2⁴⁸ − 16,383 (the largest 48-bit prime ≡ 1 mod 2N), q = 60 + 60 + 58 bits and a
    36-bit special prime: 214 bits in all, 128-bit security asks for 218 at most.

SEAL draws its own randomness (BLAKE2xb, seeded by the system), so nothing here is reproducible by seed.
`sealapi` saves to paths only and compresses what it saves; ciphertexts do not compress, and a compressed
one from a partner could unfold to gigabytes. So what travels is SEAL's uncompressed form, which has one
exact length and one exact head for our parameters: everything else is refused before SEAL reads it.
`sealapi` cannot save seeded ciphertexts (half the bytes): its binding lacks the type.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tenseal.sealapi as seal

from clean_room.errors import Misuse, PeerViolation
from clean_room.group.points import Buffer, Random
from clean_room.protocols.terms import PLAIN_MODULUS

__all__ = ["SLOTS", "Decryptor", "Summator", "blocks", "uniform"]

SLOTS = 8192
_COEFFICIENT_BITS = [60, 60, 58, 36]
_HEADER = 16  # SEALHeader: magic u16, header size, version ×2, compression, reserved, u64 size of everything
_COEFFICIENTS = SLOTS * 8
_LEAST_BUDGET = 4
"""Bits of noise budget a masked sum must have left. An honest one has about 14; another key's has 0."""


@cache
def _context() -> Any:
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(SLOTS)
    parameters.set_coeff_modulus(seal.CoeffModulus.Create(SLOTS, _COEFFICIENT_BITS))
    parameters.set_plain_modulus(seal.Modulus(PLAIN_MODULUS))
    return seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)


@contextmanager
def _memory_file() -> Iterator[tuple[int, str]]:
    """A file that is never on a disk where the system has such a thing, else a private temporary one."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("comity")
        path = f"/proc/self/fd/{descriptor}"
    else:  # pragma: no cover
        descriptor, path = tempfile.mkstemp()
    try:
        yield descriptor, path
    finally:
        os.close(descriptor)
        if not path.startswith("/proc/"):  # pragma: no cover
            Path(path).unlink()


def _save(thing: Any) -> bytes:
    """SEAL's bytes, uncompressed."""
    with _memory_file() as (descriptor, path):
        thing.save(path)
        data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    body = data[_HEADER:]
    if data[5]:
        with pa.input_stream(pa.py_buffer(body), compression={1: "gzip", 2: "zstd"}[data[5]]) as stream:
            body = stream.read()
    return data[:5] + b"\0" + data[6:8] + (_HEADER + len(body)).to_bytes(8, "little") + body


@cache
def _heads() -> tuple[tuple[bytes, int], tuple[bytes, int]]:
    """(head, length) of a fresh ciphertext and of a public key under our parameters."""
    decryptor = Decryptor()
    key, fresh = decryptor.key, decryptor.encrypt(np.zeros(1, dtype=np.int64))
    levels = len(_COEFFICIENT_BITS)
    heads = len(fresh) - 2 * (levels - 1) * _COEFFICIENTS, len(key) - 2 * levels * _COEFFICIENTS
    return (fresh[: heads[0]], len(fresh)), (key[: heads[1]], len(key))


def _load(into: Any, data: Buffer, head: bytes, length: int, field: str) -> Any:
    view = memoryview(data)
    if view.nbytes != length or view[: len(head)] != head:
        raise PeerViolation(f"The {field} is not of the agreed parameters.")
    try:
        with _memory_file() as (descriptor, path):
            if os.pwrite(descriptor, view, 0) != length:
                raise OSError("short write")
            into.load(_context(), path)
    except (RuntimeError, ValueError):
        raise PeerViolation(f"The {field} holds a coefficient out of range.") from None
    return into


def _load_ciphertext(data: Buffer) -> Any:
    ciphertext = _load(seal.Ciphertext(), data, *_heads()[0], "ciphertext")
    if (
        ciphertext.parms_id() != _context().first_parms_id()
        or ciphertext.size() != 2
        or ciphertext.is_ntt_form()
        or ciphertext.is_transparent()
    ):
        raise PeerViolation("The ciphertext is not a fresh one of the agreed parameters.")
    return ciphertext


def blocks(rows: int) -> int:
    """Ciphertexts needed for a list of that many rows."""
    return -(-rows // SLOTS)


def uniform(count: int, random: Random) -> npt.NDArray[np.int64]:
    """`count` integers uniform in 0 … t − 1, by rejection."""
    out = np.empty(0, dtype=np.int64)
    while len(out) < count:
        wide = np.zeros((count - len(out), 8), dtype=np.uint8)
        wide[:, :6] = np.frombuffer(random(6 * len(wide)), dtype=np.uint8).reshape(-1, 6)
        drawn = wide.view("<i8").reshape(-1).astype(np.int64)
        out = np.concatenate([out, drawn[drawn < PLAIN_MODULUS]])
    return out


def _encode(values: npt.NDArray[np.int64]) -> Any:
    plain = seal.Plaintext()
    seal.BatchEncoder(_context()).encode(np.mod(values, PLAIN_MODULUS).tolist(), plain)
    return plain


class Decryptor:
    """The contributor's side: holds a fresh secret key, never serialised."""

    def __init__(self) -> None:
        generator = seal.KeyGenerator(_context())
        public = seal.PublicKey()
        generator.create_public_key(public)
        secret = generator.secret_key()
        self._encryptor = seal.Encryptor(_context(), public, secret)
        self._decryptor = seal.Decryptor(_context(), secret)
        self.key: bytes = _save(public)

    def encrypt(self, values: npt.NDArray[np.int64]) -> bytes:
        """Up to 8192 signed integers, one a slot, with the secret key (less noise than with the public)."""
        if len(values) > SLOTS:
            raise Misuse("A ciphertext holds 8192 rows.")
        ciphertext = seal.Ciphertext()
        self._encryptor.encrypt_symmetric(_encode(values), ciphertext)
        return _save(ciphertext)

    def sum(self, data: Buffer) -> int:
        """Sum of all slots mod t. PeerViolation if the ciphertext is not ours or its noise is spent."""
        ciphertext = _load_ciphertext(data)
        if self._decryptor.invariant_noise_budget(ciphertext) < _LEAST_BUDGET:
            raise PeerViolation("A masked sum cannot be decrypted: it is of another key, or too noisy.")
        plain = seal.Plaintext()
        self._decryptor.decrypt(ciphertext, plain)
        slots = np.asarray(seal.BatchEncoder(_context()).decode_uint64(plain), dtype=np.uint64)
        return int(slots.sum()) % PLAIN_MODULUS  # 8192 · t < 2⁶²


class Summator:
    """The analyst's side: adds up masked columns under the contributor's key.

    `columns` × `cells` running sums are kept in SEAL's NTT form, so a block costs one product a cell.
    """

    def __init__(self, key: Buffer, random: Random) -> None:
        public = _load(seal.PublicKey(), key, *_heads()[1], "public key")
        self._encryptor = seal.Encryptor(_context(), public)
        self._evaluator = seal.Evaluator(_context())
        self._random = random
        self._sums: dict[tuple[int, int], Any] = {}

    def mask(self, values: npt.NDArray[np.bool_]) -> Any | None:
        """A 0/1 plaintext in NTT form for up to 8192 rows; None if it is all zero."""
        if not values.any():
            return None
        plain = _encode(values.astype(np.int64))
        self._evaluator.transform_to_ntt_inplace(plain, _context().first_parms_id())
        return plain

    def column(self, data: Buffer) -> Any:
        """Read one block of a column; PeerViolation if it is not a fresh ciphertext."""
        ciphertext = _load_ciphertext(data)
        self._evaluator.transform_to_ntt_inplace(ciphertext)
        return ciphertext

    def add(self, cell: int, column: int, block: Any, mask: Any) -> None:
        """Add block · mask to the sum of (cell, column)."""
        product = seal.Ciphertext()
        self._evaluator.multiply_plain(block, mask, product)
        running = self._sums.get((cell, column))
        if running is None:
            self._sums[cell, column] = product
        else:
            self._evaluator.add_inplace(running, product)

    def close(self, cell: int, column: int) -> tuple[bytes, int]:
        """The sum of (cell, column) hidden by r, and Σr mod t.

        The noise of block · mask tells the holder of the key which rows were taken, and SEAL does not
        flood noise. Enc(0)·p₁·p₂ with p₁, p₂ uniform is an encryption of 0 whose noise is larger by the
        size of one more plaintext product, about 2⁵⁵.
        """
        flood = seal.Ciphertext()
        self._encryptor.encrypt_zero(flood)
        for _ in range(2):
            self._evaluator.multiply_plain_inplace(flood, _encode(uniform(SLOTS, self._random)))
        running = self._sums.pop((cell, column), None)
        if running is not None:
            self._evaluator.transform_from_ntt_inplace(running)
            self._evaluator.add_inplace(flood, running)
        r = uniform(SLOTS, self._random)
        self._evaluator.add_plain_inplace(flood, _encode(r))
        return _save(flood), int(r.sum()) % PLAIN_MODULUS
