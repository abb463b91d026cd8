"""What the two roles of the vertical training protocol may do with ciphertexts.

Two capabilities, in two types, because a process holds one or the other:

- `SecretKeyHolder` encrypts and decrypts;
- `PublicEvaluator` knows the public key only. It multiplies the other side's ciphertexts by its own
  plaintexts, floods the noise and adds a mask uniform mod t in every slot.

The scheme, its bytes and what hides the plaintexts are `clean_room.encryption`; here t = the largest 45-bit
prime ≡ 1 (mod 2 · 8192). Masks and flooding plaintexts are drawn from the `random` that is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clean_room.encryption import SLOTS, Evaluator, Integers, Parameters, Residues, SecretKey, blocks
from clean_room.group.points import Random
from federated.errors import PeerViolation, TrainingMisuse

__all__ = ["PARAMETERS", "PLAIN_MODULUS", "SLOTS", "PublicEvaluator", "Random", "SecretKeyHolder"]

PLAIN_MODULUS = 35_184_371_613_697
PARAMETERS = Parameters(PLAIN_MODULUS)


class SecretKeyHolder:
    """Holds a fresh BFV key pair; encrypts packed integers and decrypts what comes back."""

    def __init__(self) -> None:
        self._secret = SecretKey(PARAMETERS)
        self.public_key: bytes = self._secret.public_key

    def __repr__(self) -> str:
        return "SecretKeyHolder(…)"

    def encrypt(self, values: Integers) -> tuple[bytes, ...]:
        """Pack int64 values, shape (n,), |v| < t/2, into ⌈n/8192⌉ ciphertexts; empty slots are 0."""
        if len(values) == 0 or max(-int(values.min()), int(values.max())) > PLAIN_MODULUS // 2:
            raise TrainingMisuse("Nothing to encrypt, or a value beyond half the plaintext modulus.")
        return tuple(self._secret.encrypt(values[at : at + SLOTS]) for at in range(0, len(values), SLOTS))

    def slot_sum(self, ciphertext: bytes) -> int:
        """Sum mod t of the 8192 slots of a result ciphertext. Raises PeerViolation if it does not decrypt."""
        return self._secret.slot_sum(ciphertext)

    def slots(self, ciphertext: bytes) -> Residues:
        """The 8192 slots of a result ciphertext; what the key holder could look at, for tests and audits."""
        return self._secret.slots(ciphertext)


class PublicEvaluator:
    """Multiplies ciphertexts by own plaintext columns under the partner's public key.

    `columns` is int64, shape (n, p): the fixed-point features, packed once into ⌈n/8192⌉ plaintexts per
    column.
    """

    def __init__(self, public_key: bytes, columns: Integers) -> None:
        self._evaluator = Evaluator(PARAMETERS, public_key)
        rows, self.features = columns.shape
        self.blocks = blocks(rows)
        self._columns = [
            [self._evaluator.plaintext(columns[at : at + SLOTS, j]) for at in range(0, rows, SLOTS)]
            for j in range(self.features)
        ]

    def __repr__(self) -> str:
        return "PublicEvaluator(…)"

    def masked_products(self, blocks: Sequence[bytes], random: Random) -> tuple[tuple[bytes, ...], Residues]:
        """For each column: Σ over blocks of ciphertext × column, flooded, plus a uniform mask in every slot.

        Returns the ciphertexts and, per column, the sum of its mask mod t: shape (p,), uint64. What the key
        holder decrypts is uniform mod t in every slot, whatever the columns hold.
        """
        if len(blocks) != self.blocks:
            raise PeerViolation("The number of residual ciphertexts does not match the agreed rows.")
        inputs = [self._evaluator.ciphertext(blob) for blob in blocks]
        hidden = []
        for column in self._columns:
            total = None
            for item, plain in zip(inputs, column, strict=True):
                if plain is not None:
                    total = self._evaluator.add_product(total, item, plain)
            hidden.append(self._evaluator.hide(total, random))
        return tuple(data for data, _ in hidden), np.array([r for _, r in hidden], dtype=np.uint64)
