"""What both partners agree before a run, and before each of its rounds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from federated.errors import TrainingMisuse, TrainingRefused
from federated.vertical.fixed_point import FixedPoint
from federated.vertical.regression import Partition

__all__ = ["RoundTerms", "RunTerms"]


@dataclass(frozen=True, slots=True)
class RoundTerms:
    """What both sides know before a round; a mismatch ends it at the first message."""

    run: str
    round: int
    rows: int
    """Training rows n, in the shared order."""
    features: int
    """Passive columns p_X."""
    epochs: int
    fixed_point: FixedPoint
    l2: float = 1.0
    """λ, on the sum of losses; 1 is scikit-learn's default C = 1."""
    tolerance: float = 1e-4
    """Stop when the predicted gain in total log-likelihood (nats) of another direction is below this."""

    def __post_init__(self) -> None:
        if min(self.rows, self.features, self.epochs, self.round) < 1 or self.l2 <= 0 or self.tolerance < 0:
            raise TrainingMisuse("Rounds, rows, features, epochs and the L2 penalty must all be positive.")

    def digest(self) -> bytes:
        """SHA-256 of the terms as sorted JSON."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(b"comity/federated/logistic/v1\n" + text.encode()).digest()


@dataclass(frozen=True, slots=True)
class RunTerms:
    """What both partners agree before a run."""

    run: str
    purpose: str
    rows: int
    """Aligned people, in the shared order."""
    features: int
    """Columns of the passive side."""
    rounds: int = 3
    epochs: int = 4
    test_fraction: float = 0.25
    l2: float = 1.0
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        train = self.rows - round(self.rows * self.test_fraction)
        if 4 * self.features * self.epochs * self.rounds > train:
            raise TrainingRefused(
                "The gradients of this run would be too many equations about too few people.",
                rule="gradient_leakage",
                advice="Use fewer rounds, epochs or partner features, or more people: "
                "4 · features · epochs · rounds must not exceed the training rows.",
            )

    def partition(self) -> Partition:
        """Training and test rows, the same on both sides."""
        return Partition.of(self.run, self.rows, self.test_fraction)

    def of_round(self, number: int, rows: int) -> RoundTerms:
        """Terms of one training round over `rows` training rows."""
        return RoundTerms(
            run=self.run,
            round=number,
            rows=rows,
            features=self.features,
            epochs=self.epochs,
            fixed_point=FixedPoint.for_rows(rows),
            l2=self.l2,
            tolerance=self.tolerance,
        )
