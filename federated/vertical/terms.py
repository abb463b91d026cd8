"""What both partners agree before a run, and before each of its rounds."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field

from federated.errors import PeerViolation, TrainingMisuse, TrainingRefused
from federated.vertical.fixed_point import FixedPoint
from federated.vertical.partition import Partition

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
    split: str = ""
    """SHA-256 (hex) of the run's held-out rows."""

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
    held_out: str = field(repr=False)
    """Rows kept for testing, as `Partition.to_text` writes them; the label holder decides them."""
    rounds: int = 3
    epochs: int = 4
    test_fraction: float = 0.25
    l2: float = 1.0
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        split = self.partition()
        expected = self.rows * self.test_fraction
        # Six deviations and twelve rows: a fair draw goes beyond less than once in ten million (Bernstein).
        slack = 6 * math.sqrt(expected * (1 - self.test_fraction)) + 12
        if abs(len(split.test) - expected) > slack:
            raise PeerViolation("A split holds out another share than it states.", code="malformed_split")
        if 4 * self.features * self.epochs * self.rounds > len(split.train):
            raise TrainingRefused(
                "The gradients of this run would be too many equations about too few people.",
                rule="gradient_leakage",
                advice="Use fewer rounds, epochs or partner features, or more people: "
                "4 · features · epochs · rounds must not exceed the training rows.",
            )

    def partition(self) -> Partition:
        """Training and test rows, the same on both sides. Raises PeerViolation(malformed_split)."""
        return Partition.from_text(self.held_out, self.rows)

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
            split=hashlib.sha256(b"comity/federated/split/v1\n" + self.held_out.encode()).hexdigest(),
        )
