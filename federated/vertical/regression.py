"""Plain logistic regression: what each side computes by itself, in float64, deterministic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federated.errors import BadInput, TrainingMisuse

__all__ = ["Standardiser", "area_under_roc", "fit", "sigmoid"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def sigmoid(z: Floats) -> Floats:
    """1 / (1 + e^−z), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)), dtype=np.float64)


def _objective(z: Floats, labels: Floats, penalty: Floats, coefficients: Floats) -> float:
    return float(np.logaddexp(0.0, z).sum() - labels @ z + 0.5 * penalty @ coefficients**2)


def fit(columns: Floats, labels: Floats, penalty: Floats, start: Floats, *, steps: int = 50) -> Floats:
    """Minimise Σ log-loss + ½ Σ penaltyⱼ·cⱼ² by damped Newton.

    `columns` float64 (n, k), `labels` 0/1 float64 (n,), `penalty` ≥ 0 (k,), `start` (k,). Returns (k,).
    With penalty 1 on all but the intercept this is scikit-learn's default (C = 1).
    """
    c = start.astype(np.float64)
    z = columns @ c
    value = _objective(z, labels, penalty, c)
    for _ in range(steps):
        p = sigmoid(z)
        gradient = columns.T @ (p - labels) + penalty * c
        hessian = (columns * (p * (1.0 - p))[:, None]).T @ columns + np.diag(penalty)
        # The ridge keeps separable or collinear columns solvable; it does not move the optimum.
        hessian[np.diag_indices_from(hessian)] += 1e-8 * (1.0 + np.trace(hessian) / len(c))
        step = np.linalg.solve(hessian, gradient)
        decrement = float(gradient @ step)
        if decrement < 1e-10:
            break
        scale = 1.0
        while scale > 1e-6:
            trial = c - scale * step
            trial_z = columns @ trial
            trial_value = _objective(trial_z, labels, penalty, trial)
            if trial_value <= value - 1e-4 * scale * decrement:
                break
            scale /= 2
        else:
            break
        c, z, value = trial, trial_z, trial_value
    return c


def area_under_roc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the ROC curve by ranks (Mann–Whitney U, ties count half).

    Raises TrainingMisuse unless both classes occur and every score is finite.
    """
    truth = np.asarray(labels, dtype=bool)
    values = np.asarray(scores, dtype=np.float64)
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if positives == 0 or negatives == 0 or not np.isfinite(values).all():
        raise TrainingMisuse("An AUC needs both classes and finite scores.")
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    return float((ranks[truth].sum() - positives * (positives + 1) / 2.0) / (positives * negatives))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Standardiser:
    """Means and standard deviations of one side's own columns over its live training rows, shape (p,)."""

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, features: Floats, live: Mask) -> Standardiser:
        """`features` float64 (n, p), `live` bool (n,). Constant columns get scale 1, and so become zero."""
        if not np.isfinite(features[live]).all():
            raise BadInput(
                "A feature column holds missing or infinite values.",
                advice="Fill or drop them in the dataset's definition.",
            )
        if not live.any():
            return cls(mean=np.zeros(features.shape[1]), scale=np.ones(features.shape[1]))
        mean = features[live].mean(axis=0)
        deviation = features[live].std(axis=0)
        return cls(mean=mean, scale=np.where(deviation > 1e-12 * (1 + np.abs(mean)), deviation, 1.0))

    def apply(self, features: Floats, live: Mask) -> Floats:
        """Standardised columns; every row that is not live is zero throughout."""
        out = np.zeros_like(features, dtype=np.float64)
        out[live] = (features[live] - self.mean) / self.scale
        return out
