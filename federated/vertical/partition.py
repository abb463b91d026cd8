"""Which people train and which test: decided by a keyed hash of who they are, so that runs compare.

A split drawn anew for each run measures each model on other people, and the difference of two AUCs is then
mostly that of the people. Here the label holder hashes each aligned person's identifier under a key of its
own and holds out those whose hash, read as a number in [0, 1), is below the fraction. Whoever is held out
of one run is held out of the next with the same key, whatever became of the others or of the file's order.

The partner is sent one bit a row, in the shared order. Without the key that is a coin toss per person: it
says nothing about label, columns or consent, and under another partner's key it falls differently.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from federated.errors import PeerViolation, TrainingMisuse

__all__ = ["Partition"]


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """Aligned rows that train and that test, as sorted int64 indices; neither part is empty."""

    train: npt.NDArray[np.int64] = field(repr=False)
    test: npt.NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, identifiers: pa.BinaryArray, key: bytes, test_fraction: float = 0.25) -> Partition:
        """Split by HMAC-SHA256 of each canonical identifier (first eight bytes, little-endian) under `key`.

        A null, whom no gate lets through, trains. Should one part come out empty, the row nearest to it
        moves over. Raises TrainingMisuse for fewer than four rows or a fraction outside (0, 1).
        """
        if len(identifiers) < 4 or not 0.0 < test_fraction < 1.0:
            raise TrainingMisuse("A split needs at least four rows and a test fraction between 0 and 1.")
        drawn = b"".join(
            b"\xff" * 8 if one is None else hmac.digest(key, one, "sha256")[:8]
            for one in identifiers.to_pylist()
        )
        places = np.frombuffer(drawn, dtype="<u8").astype(np.float64) / 2.0**64
        held_out = places < test_fraction
        if not held_out.any():
            held_out[places.argmin()] = True
        elif held_out.all():
            held_out[places.argmax()] = False
        return cls._of_mask(held_out)

    @classmethod
    def from_text(cls, text: str, rows: int) -> Partition:
        """Read `to_text()` of a split of `rows` rows.

        Raises PeerViolation(malformed_split) for another length, another encoding of the same bits, bits
        beyond the last row, or an empty part.
        """
        size = -(-rows // 8)
        # Measured before it is decoded: nothing is allocated for a length that does not fit.
        if rows < 2 or len(text) != 4 * -(-size // 3):
            raise PeerViolation("The held-out rows are not of the run's length.", code="malformed_split")
        try:
            packed = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise PeerViolation("The held-out rows are not base64.", code="malformed_split") from None
        if len(packed) != size or base64.b64encode(packed).decode() != text:
            raise PeerViolation("The held-out rows are not of the run's length.", code="malformed_split")
        bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8)).astype(np.bool_)
        if bits[rows:].any():
            raise PeerViolation("Rows beyond the last are held out.", code="malformed_split")
        mask = bits[:rows]
        if not mask.any() or mask.all():
            raise PeerViolation("A split leaves nobody to train or to test on.", code="malformed_split")
        return cls._of_mask(mask)

    @classmethod
    def _of_mask(cls, held_out: npt.NDArray[np.bool_]) -> Partition:
        return cls(train=np.flatnonzero(~held_out), test=np.flatnonzero(held_out))

    @property
    def rows(self) -> int:
        return len(self.train) + len(self.test)

    def to_text(self) -> str:
        """One bit a row, 1 = held out, first row in the highest bit; zero-padded to bytes, in base64."""
        mask = np.zeros(self.rows, dtype=np.bool_)
        mask[self.test] = True
        return base64.b64encode(np.packbits(mask).tobytes()).decode()
