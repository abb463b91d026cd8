"""Keys and ciphertexts as bytes of which a partner chooses the coefficients (or a seed) and nothing else.

What travels is SEAL's own form (microsoft/SEAL 4, native/src/seal/serialization.h), never compressed: the
coefficients of 60-bit primes do not compress, and what does not inflate cannot be a bomb. So for given
parameters each kind of object has one exact length and, around its coefficients and seed, one exact frame:
SEAL's headers, inner ones included, with the hash of the parameters, the level, the size and the form. All
of it is compared with an object of our own before SEAL sees a byte.

    public key   524,401 bytes   two polynomials over all four primes
    fresh        196,802         one polynomial over three primes, and the 64-byte seed of the other
    answer       131,185         two polynomials over one prime

The binding reads and writes paths only, so the bytes go through a file in memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tenseal.sealapi as seal

from clean_room.encryption.parameters import COEFFICIENT_BITS, SLOTS, Parameters
from clean_room.errors import PeerViolation
from clean_room.group.points import Buffer

__all__ = ["Form", "Forms", "forms", "load_secret", "save"]

_HEADER = 16
"""SEALHeader: magic u16, header size, version ×2, compression, reserved u16, u64 size of everything."""
_POLYNOMIAL = SLOTS * 8
_SEED = 64
_SEED_HEADER = _HEADER + 1  # a header of its own, and the kind of generator
_CODECS = {1: "gzip", 2: "zstd"}


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


def save(thing: Any) -> bytes:
    """SEAL's bytes of an object of our own, uncompressed. Those of a secret key are for sealed files only."""
    with _memory_file() as (descriptor, path):
        thing.save(path)
        data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    body = data[_HEADER:]
    if data[5]:
        with pa.input_stream(pa.py_buffer(body), compression=_CODECS[data[5]]) as stream:
            body = stream.read()
    return data[:5] + b"\0" + data[6:8] + (_HEADER + len(body)).to_bytes(8, "little") + body


def load_secret(parameters: Parameters, data: Buffer) -> Any:
    """Read what `save` made of an own secret key. Raises RuntimeError or ValueError for anything else."""
    secret = seal.SecretKey()
    with _memory_file() as (descriptor, path):
        os.pwrite(descriptor, memoryview(data), 0)
        secret.load(parameters.context, path)
    return secret


@dataclass(frozen=True, slots=True)
class Form:
    """The bytes of one kind of object: its length, and what stands where, outside coefficients and seed."""

    kind: Callable[[], Any]
    noun: str
    length: int
    frame: tuple[tuple[int, bytes], ...] = field(repr=False)

    @classmethod
    def of(
        cls, kind: Callable[[], Any], noun: str, sample: bytes, polynomials: int, *, seeded: bool = False
    ) -> Form:
        """The form `sample` has, which holds so many polynomials over one prime each."""
        end = len(sample) - (_SEED_HEADER + _SEED if seeded else 0)
        frame = [(0, sample[: end - polynomials * _POLYNOMIAL])]
        if seeded:
            frame.append((end, sample[end:-_SEED]))
        return cls(kind, noun, len(sample), tuple(frame))

    def load(self, parameters: Parameters, data: Buffer) -> Any:
        """Read a partner's bytes. PeerViolation unless they have this form and every coefficient is in range.

        A ciphertext whose second polynomial is zero is no encryption (transparent) and is refused, too.
        """
        view = memoryview(data)
        if view.nbytes != self.length or any(view[at : at + len(b)] != b for at, b in self.frame):
            raise PeerViolation(f"The {self.noun} is not of the agreed parameters.")
        thing = self.kind()
        with _memory_file() as (descriptor, path):
            if os.pwrite(descriptor, view, 0) != self.length:
                raise OSError("short write")
            try:
                thing.load(parameters.context, path)
            except (RuntimeError, ValueError, IndexError):
                raise PeerViolation(f"The {self.noun} holds a coefficient out of range.") from None
        if isinstance(thing, seal.Ciphertext) and thing.is_transparent():
            raise PeerViolation(f"The {self.noun} is not encrypted.")
        return thing


@dataclass(frozen=True, slots=True)
class Forms:
    """The three kinds of object that travel under some parameters."""

    key: Form
    fresh: Form
    answer: Form


@cache
def forms(parameters: Parameters) -> Forms:
    """Learned once from objects of our own, so they hold for whichever SEAL is installed."""
    context = parameters.context
    generator, public, answer = seal.KeyGenerator(context), seal.PublicKey(), seal.Ciphertext()
    generator.create_public_key(public)
    encryptor = seal.Encryptor(context, public, generator.secret_key())
    fresh = encryptor.encrypt_symmetric(parameters.encode(np.zeros(1, dtype=np.int64)))
    encryptor.encrypt_zero(answer)
    switch_down(seal.Evaluator(context), answer)
    primes = len(COEFFICIENT_BITS)
    return Forms(
        key=Form.of(seal.PublicKey, "public key", save(public), 2 * primes),
        fresh=Form.of(seal.Ciphertext, "ciphertext", save(fresh), primes - 1, seeded=True),
        answer=Form.of(seal.Ciphertext, "masked sum", save(answer), 2),
    )


def switch_down(evaluator: Any, ciphertext: Any) -> None:
    """Switch to one prime: a third of the bytes. Without a key anyone could, so it shows nothing more."""
    while ciphertext.coeff_modulus_size() > 1:
        evaluator.mod_switch_to_next_inplace(ciphertext)
