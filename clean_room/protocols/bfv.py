"""The two roles of the encrypted sums: who holds the key and the values, and who knows which rows matched."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from clean_room.encryption import SLOTS, Evaluator, Parameters, SecretKey, blocks
from clean_room.group.points import Buffer, Random
from clean_room.protocols.terms import PLAIN_MODULUS

__all__ = ["PARAMETERS", "SLOTS", "Decryptor", "Summator", "blocks"]

PARAMETERS = Parameters(PLAIN_MODULUS)


class Decryptor:
    """The contributor's side: holds a fresh secret key, or the one that `secret` gave before."""

    def __init__(self, secret: Buffer | None = None) -> None:
        self._secret = SecretKey(PARAMETERS, secret=secret)
        self.key: bytes = self._secret.public_key

    def secret(self) -> bytes:
        """The secret key, to be kept sealed."""
        return self._secret.secret()

    def encrypt(self, values: npt.NDArray[np.int64]) -> bytes:
        """Up to 8192 signed integers, one a slot."""
        return self._secret.encrypt(values)

    def sum(self, data: Buffer) -> int:
        """Sum of all slots mod t. PeerViolation if the ciphertext is not ours or its noise is spent."""
        return self._secret.slot_sum(data)


class Summator:
    """The analyst's side: adds up masked columns under the contributor's key.

    It keeps `columns` × `cells` running sums, so a block costs one product a cell.
    """

    def __init__(self, key: Buffer, random: Random) -> None:
        self._evaluator = Evaluator(PARAMETERS, key)
        self._random = random
        self._sums: dict[tuple[int, int], Any] = {}

    def mask(self, values: npt.NDArray[np.bool_]) -> Any | None:
        """A 0/1 plaintext for up to 8192 rows; None if it is all zero."""
        return self._evaluator.plaintext(values.astype(np.int64))

    def column(self, data: Buffer) -> Any:
        """Read one block of a column; PeerViolation if it is not a fresh ciphertext."""
        return self._evaluator.ciphertext(data)

    def add(self, cell: int, column: int, block: Any, mask: Any) -> None:
        """Add block · mask to the sum of (cell, column)."""
        at = cell, column
        self._sums[at] = self._evaluator.add_product(self._sums.get(at), block, mask)

    def close(self, cell: int, column: int) -> tuple[bytes, int]:
        """The sum of (cell, column) flooded and hidden by r, and Σr mod t."""
        return self._evaluator.hide(self._sums.pop((cell, column), None), self._random)
