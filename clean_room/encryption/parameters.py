"""What both sides of an encrypted sum agree on: one modulus chain, and a plaintext modulus per use.

    N = 8192 slots, q = 60 + 60 + 58 bits and a 36-bit special prime: 214 bits in all, where 128-bit security
    asks for 218 at most (homomorphicencryption.org standard, table 1). An answer is switched down to the
    first 60-bit prime.

The plaintext modulus t is a prime ≡ 1 mod 2N, so that a plaintext carries N independent integers mod t, of
45 to 48 bits. Below, flooding would hide too little; above, an answer could not be decrypted from one prime.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tenseal.sealapi as seal

from clean_room.errors import Misuse
from clean_room.group.points import Random

__all__ = ["SLOTS", "Integers", "Parameters", "Residues", "blocks"]

SLOTS = 8192
COEFFICIENT_BITS = (60, 60, 58, 36)
_PLAIN_BITS = range(45, 49)

Integers: TypeAlias = npt.NDArray[np.int64]
Residues: TypeAlias = npt.NDArray[np.uint64]


def blocks(rows: int) -> int:
    """Ciphertexts needed for a list of that many rows."""
    return -(-rows // SLOTS)


@cache
def _engine(plain_modulus: int) -> tuple[Any, Any]:
    """SEAL's context and its encoder."""
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(SLOTS)
    parameters.set_coeff_modulus(seal.CoeffModulus.Create(SLOTS, list(COEFFICIENT_BITS)))
    parameters.set_plain_modulus(seal.Modulus(plain_modulus))
    context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set() or not context.first_context_data().qualifiers().using_batching:
        raise Misuse("The plaintext modulus must be a prime that is 1 mod 2 · 8192.")
    return context, seal.BatchEncoder(context)


@dataclass(frozen=True, slots=True)
class Parameters:
    """BFV with the plaintext modulus t. Misuse, at first use at the latest, if t does not do."""

    plain_modulus: int

    def __post_init__(self) -> None:
        if self.plain_modulus.bit_length() not in _PLAIN_BITS:
            raise Misuse("The plaintext modulus must have 45 to 48 bits.")

    @property
    def context(self) -> Any:
        """SEAL's context; one a process and modulus."""
        return _engine(self.plain_modulus)[0]

    def encode(self, values: Integers | Residues) -> Any:
        """A SEAL plaintext of up to 8192 integers mod t, one a slot; the other slots hold 0."""
        plain = seal.Plaintext()
        # The binding converts lists far faster than arrays.
        _engine(self.plain_modulus)[1].encode(self.residues(values).tolist(), plain)
        return plain

    def decode(self, plain: Any) -> Residues:
        """The 8192 slots of a SEAL plaintext."""
        return np.asarray(_engine(self.plain_modulus)[1].decode_uint64(plain), dtype=np.uint64)

    def residues(self, values: Integers | Residues) -> Residues:
        """Integers mod t, in 0 … t − 1."""
        return np.mod(values, self.plain_modulus).astype(np.uint64)

    def centred(self, residues: Residues) -> Integers:
        """Residues mod t as the integers of least magnitude, in −(t − 1)/2 … (t − 1)/2."""
        signed = residues.astype(np.int64)
        return np.where(signed > self.plain_modulus // 2, signed - self.plain_modulus, signed)

    def total(self, residues: Residues) -> int:
        """Sum mod t of up to 8192 residues: it stays below 2⁶¹ before it is reduced."""
        return int(residues.sum(dtype=np.uint64)) % self.plain_modulus

    def uniform(self, count: int, random: Random) -> Residues:
        """`count` integers uniform in 0 … t − 1, by rejection; 6 bytes of `random` a draw, little-endian."""
        below = np.uint64((1 << self.plain_modulus.bit_length()) - 1)
        out = np.empty(0, dtype=np.uint64)
        while len(out) < count:
            wide = np.zeros((count - len(out), 8), dtype=np.uint8)
            wide[:, :6] = np.frombuffer(random(6 * len(wide)), dtype=np.uint8).reshape(-1, 6)
            drawn = wide.view("<u8").reshape(-1).astype(np.uint64) & below
            out = np.concatenate([out, drawn[drawn < self.plain_modulus]])
        return out
