"""Fixed-point numbers for exact sums mod t, and the bound that keeps them exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federated.errors import OverflowRisk
from federated.vertical.encryption import PLAIN_MODULUS

__all__ = ["FixedPoint"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Binary places given to residuals (in [−1, 1]) and to standardised features."""

    residual_bits: int
    feature_bits: int

    @classmethod
    def for_rows(cls, rows: int) -> FixedPoint:
        """The finest split that n standardised rows allow.

        A standardised column has Σ|x| ≤ n (Cauchy–Schwarz), so |Σ d·x| ≤ 2^(residual_bits + feature_bits)·n;
        two bits are left for the rounding of each and for columns standardised on fewer rows.
        """
        room = (PLAIN_MODULUS // 2).bit_length() - 1 - max(rows - 1, 1).bit_length() - 2
        if room < 16:
            raise OverflowRisk(
                f"{rows} rows leave {room} bits for fixed-point numbers; 16 are needed.",
                advice="Train on a sample of the aligned rows.",
            )
        half = min(room // 2, 15)
        return cls(residual_bits=half, feature_bits=min(room - half, 16))

    def residuals(self, values: Floats) -> Ints:
        """Residuals, float64 in [−1, 1], as integers in [−2^residual_bits, 2^residual_bits]."""
        return np.rint(values * (1 << self.residual_bits)).astype(np.int64)

    def features(self, values: Floats) -> Ints:
        """Standardised features, float64, as integers."""
        return np.rint(values * (1 << self.feature_bits)).astype(np.int64)

    def gradient(self, sums: Ints) -> Floats:
        """Exact integer Σ d·x per column, back in units of residual × standard deviation."""
        return sums / float(1 << (self.residual_bits + self.feature_bits))

    def bounds(self, features: Ints) -> Ints:
        """The largest |Σ d·x| possible per column of int64 features, shape (p,)."""
        return np.asarray(np.abs(features).sum(axis=0) << self.residual_bits, dtype=np.int64)

    def require_headroom(self, features: Ints) -> None:
        """Raises OverflowRisk unless every possible gradient lies within (−t/2, t/2)."""
        if features.size and int(self.bounds(features).max()) >= PLAIN_MODULUS // 2:
            raise OverflowRisk(
                "A feature column is too heavy for exact sums at the agreed precision.",
                advice="Clip the column's outliers or train on fewer rows.",
            )
