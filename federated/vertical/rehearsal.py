"""Both roles of one round in one process: for tests, documentation and trying a model on own data."""

from __future__ import annotations

import secrets

import numpy as np
import numpy.typing as npt

from federated.vertical import logistic
from federated.vertical.encryption import Random
from federated.vertical.messages import (
    Closing,
    Direction,
    MaskedGradient,
    Opening,
    Residuals,
    SlotSums,
    Standing,
)
from federated.vertical.terms import RoundTerms

__all__ = ["rehearse"]

Floats = npt.NDArray[np.float64]


def rehearse(
    terms: RoundTerms,
    active: logistic.ActiveData,
    passive: logistic.PassiveData,
    *,
    active_weights: Floats | None = None,
    passive_weights: Floats | None = None,
    random: Random = secrets.token_bytes,
) -> tuple[logistic.ActiveDone, logistic.PassiveDone]:
    """Run a whole round; every message goes through its bytes, as between two nodes."""
    here, opening = logistic.start_active(terms, active, weights=active_weights)
    there = logistic.start_passive(terms, passive, weights=passive_weights, random=random)
    ready, standing = there.opening(Opening.from_bytes(opening.to_bytes()))
    waiting, residuals = here.standing(Standing.from_bytes(standing.to_bytes()))
    while True:
        masked, gradient = ready.residuals(Residuals.from_bytes(residuals.to_bytes()))
        summed, sums = waiting.gradient(MaskedGradient.from_bytes(gradient.to_bytes()))
        ready, direction = masked.sums(SlotSums.from_bytes(sums.to_bytes()))
        state, message = summed.direction(Direction.from_bytes(direction.to_bytes()))
        if isinstance(message, Closing):
            assert isinstance(state, logistic.ActiveDone)  # noqa: S101 - the pair is one of two, told by either
            return state, ready.closing(Closing.from_bytes(message.to_bytes()))
        assert isinstance(state, logistic.ActiveAwaitingGradient)  # noqa: S101
        waiting, residuals = state, message
