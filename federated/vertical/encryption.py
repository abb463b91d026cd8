"""BFV over packed slots: what the two roles of the vertical training protocol may do with ciphertexts.

Parameters: ring degree N = 8192, SEAL's 128-bit default coefficient modulus (218 bits), plaintext modulus
t = the largest 45-bit prime ≡ 1 (mod 2N), so that one plaintext carries 8192 independent integers mod t.

Two capabilities, in two types, because a process holds one or the other:

- `SecretKeyHolder` encrypts (symmetric, seeded: half the bytes) and decrypts;
- `PublicEvaluator` knows the public key only. It multiplies the other side's ciphertexts by its own
  plaintexts, adds a mask uniform mod t in every slot, and smudges.

Smudging: decryption hands the key holder the noise polynomial along with the message, and that noise is a
known linear function of the plaintext multipliers. SEAL has no noise flooding, so the evaluator adds
Enc(0)·p₁·p₂ for fresh p₁, p₂ uniform over the plaintext ring: noise about N·t (2^58) times larger than what
it hides. A final switch to a smaller coefficient modulus halves the bytes and adds rounding noise on top.

SEAL draws its encryption randomness from the operating system by itself; masks and smudging plaintexts are
drawn from the `random` that is passed in. The binding holds the GIL throughout, so threads do not help.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tenseal.sealapi as seal

from federated.errors import PeerViolation, TrainingMisuse

__all__ = ["PLAIN_MODULUS", "SLOTS", "PublicEvaluator", "SecretKeyHolder", "center", "uniform_modulo"]

SLOTS = 8192
PLAIN_MODULUS = 35_184_371_613_697
RESULT_PRIMES = 2
"""Primes of the coefficient modulus left after the final switch: 86 bits, room for t and 20 bits of noise."""

_SEAL_HEADER = struct.Struct("<HBBBBHQ")
_SEAL_MAGIC = 0xA15E
_RAW_MOST = 2 * 5 * SLOTS * 8 + 4096
"""No key or ciphertext of these parameters is larger than this uncompressed, in bytes."""

Ints = npt.NDArray[np.int64]
Residues = npt.NDArray[np.uint64]
Random = Callable[[int], bytes]


@lru_cache(maxsize=1)
def _context() -> Any:
    parms = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    parms.set_poly_modulus_degree(SLOTS)
    parms.set_coeff_modulus(seal.CoeffModulus.BFVDefault(SLOTS, seal.SEC_LEVEL_TYPE.TC128))
    parms.set_plain_modulus(PLAIN_MODULUS)
    return seal.SEALContext(parms, True, seal.SEC_LEVEL_TYPE.TC128)


def center(residues: Residues) -> Ints:
    """Residues mod t as the integers of least magnitude, int64 in (−t/2, t/2)."""
    signed = residues.astype(np.int64)
    return np.where(signed > PLAIN_MODULUS // 2, signed - PLAIN_MODULUS, signed)


def uniform_modulo(count: int, random: Random) -> Residues:
    """`count` integers uniform in [0, t), by rejection, shape (count,), uint64."""
    kept: list[Residues] = []
    missing = count
    while missing > 0:
        drawn = np.frombuffer(random(8 * missing), dtype=np.uint64) & np.uint64((1 << 45) - 1)
        drawn = drawn[drawn < PLAIN_MODULUS]
        kept.append(drawn)
        missing -= len(drawn)
    return np.concatenate(kept)


class _Spool:
    """The binding reads and writes paths only; an anonymous memory file keeps the bytes off the disk."""

    def __enter__(self) -> _Spool:
        if hasattr(os, "memfd_create"):
            self._fd = os.memfd_create("comity-bfv")
            self.path = f"/proc/self/fd/{self._fd}"
        else:
            self._fd, self.path = tempfile.mkstemp(prefix="comity-bfv-")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        if not self.path.startswith("/proc/"):
            os.unlink(self.path)  # noqa: PTH108

    def read(self) -> bytes:
        return os.pread(self._fd, os.fstat(self._fd).st_size, 0)

    def write(self, blob: bytes) -> None:
        view = memoryview(blob)
        while view:
            view = view[os.write(self._fd, view) :]


def _dump(item: Any) -> bytes:
    with _Spool() as spool:
        item.save(spool.path)
        return spool.read()


def _bounded(blob: bytes) -> bytes:
    """The serialised object with its body uncompressed, so that SEAL never inflates what a partner sent.

    SEAL inflates into memory without a bound; here the bound is the largest legal object.
    """
    if not _SEAL_HEADER.size < len(blob) <= _RAW_MOST:
        raise PeerViolation("A ciphertext or key is of an impossible length.")
    magic, header, major, minor, compression, _, size = _SEAL_HEADER.unpack_from(blob)
    if magic != _SEAL_MAGIC or header != _SEAL_HEADER.size or size != len(blob) or major != 4:
        raise PeerViolation("A ciphertext or key does not start with a SEAL 4 header of its own length.")
    body = blob[_SEAL_HEADER.size :]
    if compression == 2:
        try:
            with pa.input_stream(pa.BufferReader(body), compression="zstd") as stream:
                body = stream.read(_RAW_MOST + 1)
        except (OSError, pa.ArrowInvalid) as error:
            raise PeerViolation("The compressed body of a ciphertext or key is damaged.") from error
    elif compression != 0:
        raise PeerViolation("A ciphertext or key uses a compression this version does not read.")
    if len(body) > _RAW_MOST:
        raise PeerViolation("A ciphertext or key inflates beyond its possible size.")
    return _SEAL_HEADER.pack(magic, header, major, minor, 0, 0, _SEAL_HEADER.size + len(body)) + body


def _parse(blob: bytes, item: Any) -> Any:
    raw = _bounded(blob)
    with _Spool() as spool:
        spool.write(raw)
        try:
            item.load(_context(), spool.path)
        except (ValueError, RuntimeError, IndexError) as error:
            raise PeerViolation("A ciphertext or key does not fit the agreed parameters.") from error
    return item


def _parse_ciphertext(blob: bytes, primes: int) -> Any:
    item = _parse(blob, seal.Ciphertext())
    if item.size() != 2 or item.is_ntt_form() or item.coeff_modulus_size() != primes:
        raise PeerViolation("A ciphertext is of the wrong size, form or level.")
    return item


def _encode(encoder: Any, residues: Residues) -> Any:
    plain = seal.Plaintext()
    # The binding converts Python lists far faster than arrays.
    encoder.encode(residues.tolist(), plain)
    return plain


def _to_residues(values: Ints) -> Residues:
    return np.mod(values, PLAIN_MODULUS).astype(np.uint64)


class SecretKeyHolder:
    """Holds a fresh BFV key pair; encrypts packed integers and decrypts what comes back."""

    def __init__(self) -> None:
        context = _context()
        keys = seal.KeyGenerator(context)
        secret = keys.secret_key()
        public = seal.PublicKey()
        keys.create_public_key(public)
        self._encryptor = seal.Encryptor(context, secret)
        self._decryptor = seal.Decryptor(context, secret)
        self._encoder = seal.BatchEncoder(context)
        self.public_key = _dump(public)
        """The public key, serialised; about 540 kB."""

    def __repr__(self) -> str:
        return "SecretKeyHolder(…)"

    def encrypt(self, values: Ints) -> tuple[bytes, ...]:
        """Pack int64 values, shape (n,), |v| < t/2, into ⌈n/8192⌉ seeded ciphertexts; empty slots are 0."""
        if len(values) == 0 or np.abs(values).max() > PLAIN_MODULUS // 2:
            raise TrainingMisuse("Nothing to encrypt, or a value beyond half the plaintext modulus.")
        padded = np.zeros(-(-len(values) // SLOTS) * SLOTS, dtype=np.int64)
        padded[: len(values)] = values
        blocks = _to_residues(padded).reshape(-1, SLOTS)
        return tuple(_dump(self._encryptor.encrypt_symmetric(_encode(self._encoder, b))) for b in blocks)

    def slot_sum(self, ciphertext: bytes) -> int:
        """Sum mod t of the 8192 slots of a result ciphertext. Raises PeerViolation if it does not decrypt."""
        item = _parse_ciphertext(ciphertext, RESULT_PRIMES)
        if self._decryptor.invariant_noise_budget(item) < 1:
            raise PeerViolation("A ciphertext does not decrypt: it is damaged or under another key.")
        plain = seal.Plaintext()
        self._decryptor.decrypt(item, plain)
        slots = np.array(self._encoder.decode_uint64(plain), dtype=np.uint64)
        # 8192 summands below 2^45 stay below 2^58.
        return int(slots.sum() % np.uint64(PLAIN_MODULUS))

    def slots(self, ciphertext: bytes) -> Residues:
        """The 8192 slots of a result ciphertext; what the key holder could look at, for tests and audits."""
        plain = seal.Plaintext()
        self._decryptor.decrypt(_parse_ciphertext(ciphertext, RESULT_PRIMES), plain)
        return np.array(self._encoder.decode_uint64(plain), dtype=np.uint64)


class PublicEvaluator:
    """Multiplies ciphertexts by own plaintext columns under the partner's public key.

    `columns` is int64, shape (n, p): the fixed-point features, packed once into ⌈n/8192⌉ plaintexts per
    column and kept in the transformed (NTT) domain.
    """

    def __init__(self, public_key: bytes, columns: Ints) -> None:
        context = _context()
        self._encryptor = seal.Encryptor(context, _parse(public_key, seal.PublicKey()))
        self._evaluator = seal.Evaluator(context)
        self._encoder = seal.BatchEncoder(context)
        self._level = context.first_parms_id()
        self._primes = len(context.first_context_data().parms().coeff_modulus())
        rows, self.features = columns.shape
        self.blocks = -(-rows // SLOTS)
        padded = np.zeros((self.blocks * SLOTS, self.features), dtype=np.int64)
        padded[:rows] = columns
        # A plaintext that is zero everywhere makes a transparent product, which SEAL refuses; leave it out.
        self._columns = [
            [
                self._transformed(block) if block.any() else None
                for block in _to_residues(padded[:, j]).reshape(-1, SLOTS)
            ]
            for j in range(self.features)
        ]

    def __repr__(self) -> str:
        return "PublicEvaluator(…)"

    def _transformed(self, residues: Residues) -> Any:
        plain = _encode(self._encoder, residues)
        self._evaluator.transform_to_ntt_inplace(plain, self._level)
        return plain

    def masked_products(self, blocks: Sequence[bytes], random: Random) -> tuple[tuple[bytes, ...], Residues]:
        """For each column: Σ over blocks of ciphertext × column, plus a uniform mask in every slot, smudged.

        Returns the ciphertexts and, per column, the sum of its mask mod t: shape (p,), uint64. What the key
        holder decrypts is uniform mod t in every slot, whatever the columns hold.
        """
        if len(blocks) != self.blocks:
            raise PeerViolation("The number of residual ciphertexts does not match the agreed rows.")
        inputs = []
        for blob in blocks:
            item = _parse_ciphertext(blob, self._primes)
            self._evaluator.transform_to_ntt_inplace(item)
            inputs.append(item)
        out: list[bytes] = []
        mask_sums = np.zeros(self.features, dtype=np.uint64)
        for j, column in enumerate(self._columns):
            total = self._smudge(random)
            product = seal.Ciphertext()
            for item, plain in zip(inputs, column, strict=True):
                if plain is not None:
                    self._evaluator.multiply_plain(item, plain, product)
                    self._evaluator.add_inplace(total, product)
            self._evaluator.transform_from_ntt_inplace(total)
            mask = uniform_modulo(SLOTS, random)
            self._evaluator.add_plain_inplace(total, _encode(self._encoder, mask))
            while total.coeff_modulus_size() > RESULT_PRIMES:
                self._evaluator.mod_switch_to_next_inplace(total)
            out.append(_dump(total))
            mask_sums[j] = mask.sum() % np.uint64(PLAIN_MODULUS)
        return tuple(out), mask_sums

    def _smudge(self, random: Random) -> Any:
        zero = seal.Ciphertext()
        self._encryptor.encrypt_zero(zero)
        self._evaluator.transform_to_ntt_inplace(zero)
        for _ in range(2):
            self._evaluator.multiply_plain_inplace(zero, self._transformed(uniform_modulo(SLOTS, random)))
        return zero


def key_id(public_key: bytes) -> bytes:
    """Name of a public key: the SHA-256 of its bytes."""
    return hashlib.sha256(public_key).digest()
