"""What a simulated adversary works with: how noisy answers are, how many it gets, what it knows before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clean_room.estimates import truncated_laplace

__all__ = ["Floats", "Setting"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Setting:
    """One adversary: an analyst whose node does not follow the rules of this one.

    It is free in what it submits: invented people, whom the partner cannot have, bring any list up to the
    minimum input, so that a cell holds just the targets it wants to know of; and it looks at every noisy
    count, also at those below the minimum cell. What it cannot do is take the noise off or ask beyond the
    budget.

    `epsilon` is that of a count and `half_width` where its noise is cut off; `answers` how many queries it
    may ask, with `cells` own cells in each, `prior` the share of its targets it expects to match, `targets`
    how many it is after, and `confidence` how sure it must be to call a membership told.
    """

    epsilon: float
    half_width: int
    answers: int
    cells: int = 1
    prior: float = 0.5
    targets: int = 1000
    confidence: float = 0.95

    @property
    def noise(self) -> Floats:
        """Probabilities of −half_width … half_width."""
        return truncated_laplace(self.epsilon, self.half_width)

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise."""
        steps = np.arange(-self.half_width, self.half_width + 1)
        return math.sqrt(float(self.noise @ (steps * steps)))

    @property
    def sure_before(self) -> bool:
        """Whether the prior alone tells everybody's membership with the confidence asked for."""
        return max(self.prior, 1 - self.prior) >= self.confidence

    @property
    def repeats(self) -> int:
        """Answers to be averaged until the rounded average is the true count with the confidence asked for.

        By the normal approximation; 1.96 for 0.95.
        """
        low, high = 0.0, 10.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if math.erf(middle / math.sqrt(2)) < self.confidence else (low, middle)
        return max(1, math.ceil((2 * low * self.deviation) ** 2))
