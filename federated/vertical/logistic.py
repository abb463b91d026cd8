"""Vertical logistic regression between a label holder and a feature holder, as two state machines.

The **active** party holds the labels and columns of its own; the **passive** party holds other columns of
the same people, in the same order. They minimise, over their joint weights,

    Σ log-loss(y, A·w_A + X·w_X) + ½·λ·(‖w_A‖² + ‖w_X‖²)          (the intercept, in A, is free)

which is pooled logistic regression. One epoch:

1. active   fits its own weights and one coefficient per direction the passive side has shown so far
            (exactly, by Newton), and sends the coefficients c and Enc(d), d = σ(z) − y in fixed point;
2. passive  sets its weights w_X = V·c, computes Enc(Xᵀd) slot by slot, adds a mask uniform mod t in every
            slot of every feature, smudges, and sends one ciphertext per feature;
3. active   decrypts, adds the slots up, sends back the masked sums;
4. passive  takes off the masks: its exact fixed-point gradient. It preconditions with its own Gram matrix
            (XᵀX/4 + λI bounds its block of the Hessian), orthonormalises against its earlier directions V,
            and sends the scores X·v of all training rows along the new direction v.

Since step 1 is exact over everything shown, this is a block-preconditioned Krylov method: it reaches the
pooled optimum after at most p_X epochs and in practice in six to ten.

What each side learns
- The passive side: its exact gradient Xᵀd each epoch (p_X sums over all rows; E epochs give E·p_X linear
  functions of the n residuals, so keep E·p_X far below n), the coefficients c. No label, score or column of
  the active side.
- The active side: **k score vectors**, X·v₁ … X·v_k, float64 per training row; that is the projection of
  each person's passive features on k directions chosen by the passive side, and at the end the partial
  scores of the test rows. It does not learn V, the weights or any feature; with k = p_X it would know the
  features up to an unknown rotation and each column's standardisation, which is why k is bounded by
  `epochs` and stops growing when the gain falls below `tolerance`. It also learns ‖w_X‖. A row whose scores
  are exactly zero is one the passive side has zeroed; the opt-out feed tells the active side the same.
- Both are assumed to follow the protocol (semi-honest). A passive party is protected from the key holder
  by masks and smudging even in what decryption noise reveals.

States and messages are frozen. A step takes a message and returns `(next state, reply)`; a message that
does not fit raises PeerViolation and leaves the state as it was, to be used again.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from federated.errors import PeerViolation, TrainingMisuse
from federated.vertical import regression
from federated.vertical.encryption import (
    PARAMETERS,
    PLAIN_MODULUS,
    PublicEvaluator,
    Random,
    SecretKeyHolder,
)
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

__all__ = [
    "ActiveAwaitingDirection",
    "ActiveAwaitingGradient",
    "ActiveAwaitingStanding",
    "ActiveData",
    "ActiveDone",
    "PassiveAwaitingOpening",
    "PassiveAwaitingResiduals",
    "PassiveAwaitingSums",
    "PassiveData",
    "PassiveDone",
    "RoundTerms",
    "start_active",
    "start_passive",
]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_LARGEST_SCORE = 1e9


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ActiveData:
    """The label holder's side of a round.

    `columns` float64 (n, p_A), standardised, without intercept; `labels` 0/1 float64 (n,); `live` bool (n,):
    rows that are not live count for nothing (residual 0).
    """

    columns: Floats
    labels: Floats
    live: Mask

    def __post_init__(self) -> None:
        n = len(self.labels)
        if self.columns.ndim != 2 or self.columns.shape[0] != n or self.live.shape != (n,):
            raise TrainingMisuse("Columns, labels and mask of the label holder differ in length.")
        if not np.isin(self.labels[self.live], (0.0, 1.0)).all():
            raise TrainingMisuse("Labels must be 0 or 1.")
        if len(np.unique(self.labels[self.live])) < 2:
            raise TrainingMisuse("The live training rows hold one class only; nothing can be learnt.")
        if not np.isfinite(self.columns).all():
            raise TrainingMisuse("The label holder's columns hold a number that is not finite.")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Basis:
    """The active side's regression: intercept | own columns | passive directions."""

    columns: Floats
    penalty: Floats
    coefficients: Floats
    own: int

    @classmethod
    def of(cls, data: ActiveData, l2: float, weights: Floats | None) -> _Basis:
        n = len(data.labels)
        columns = np.hstack([np.ones((n, 1)), data.columns])
        own = columns.shape[1]
        penalty = np.full(own, l2)
        penalty[0] = 0.0
        start = np.zeros(own) if weights is None else weights
        return cls(columns=columns, penalty=penalty, coefficients=start, own=own)

    def extended(self, scores: Floats, l2: float, coefficient: float) -> _Basis:
        return replace(
            self,
            columns=np.hstack([self.columns, scores[:, None]]),
            penalty=np.append(self.penalty, l2),
            coefficients=np.append(self.coefficients, coefficient),
        )

    def fitted(self, data: ActiveData) -> _Basis:
        live = data.live
        found = regression.fit(self.columns[live], data.labels[live], self.penalty, self.coefficients)
        return replace(self, coefficients=found)

    def residuals(self, data: ActiveData) -> Floats:
        """σ(z) − y on live rows, 0 elsewhere; float64 (n,)."""
        return np.where(data.live, regression.sigmoid(self.columns @ self.coefficients) - data.labels, 0.0)

    @property
    def weights(self) -> Floats:
        return self.coefficients[: self.own]

    @property
    def shown(self) -> Floats:
        return self.coefficients[self.own :]


def _checked_scores(scores: Floats, rows: int) -> Floats:
    if scores.shape != (rows,) or np.abs(scores).max(initial=0.0) > _LARGEST_SCORE:
        raise PeerViolation("Scores are of the wrong number or beyond any plausible size.")
    return scores


def start_active(
    terms: RoundTerms, data: ActiveData, *, weights: Floats | None = None
) -> tuple[ActiveAwaitingStanding, Opening]:
    """Begin a round as the label holder, with a fresh key pair.

    `weights` are its own from the last round: intercept first, float64 (1 + p_A,). Keys and everything seen
    of the passive side belong to the round and are dropped with it.
    """
    if len(data.labels) != terms.rows:
        raise TrainingMisuse("The label holder's rows do not match the round's terms.")
    keys = SecretKeyHolder()
    state = ActiveAwaitingStanding(terms, data, keys, _Basis.of(data, terms.l2, weights))
    return state, Opening(terms.digest(), keys.public_key)


@dataclass(frozen=True, slots=True, eq=False)
class ActiveAwaitingStanding:
    """Active, before the first epoch."""

    terms: RoundTerms
    _data: ActiveData = field(repr=False)
    _keys: SecretKeyHolder = field(repr=False)
    _basis: _Basis = field(repr=False)

    def standing(self, message: Standing) -> tuple[ActiveAwaitingGradient, Residuals]:
        """Take the passive side's weights so far as the first direction; send the first residuals."""
        basis = self._basis
        if len(message.scores):
            scores = _checked_scores(message.scores, self.terms.rows)
            if not 0.0 < message.length <= _LARGEST_SCORE:
                raise PeerViolation("The length of the standing weights is out of range.")
            basis = basis.extended(scores, self.terms.l2, message.length)
        elif message.length != 0.0:
            raise PeerViolation("Standing weights came without their scores.")
        return _next_epoch(self.terms, self._data, self._keys, basis, 1)


def _next_epoch(
    terms: RoundTerms, data: ActiveData, keys: SecretKeyHolder, basis: _Basis, epoch: int
) -> tuple[ActiveAwaitingGradient, Residuals]:
    fitted = basis.fitted(data)
    blocks = keys.encrypt(terms.fixed_point.residuals(fitted.residuals(data)))
    return (
        ActiveAwaitingGradient(terms, epoch, data, keys, fitted),
        Residuals(epoch, fitted.shown, blocks),
    )


@dataclass(frozen=True, slots=True, eq=False)
class ActiveAwaitingGradient:
    """Active, having sent encrypted residuals."""

    terms: RoundTerms
    epoch: int
    _data: ActiveData = field(repr=False)
    _keys: SecretKeyHolder = field(repr=False)
    _basis: _Basis = field(repr=False)

    def gradient(self, message: MaskedGradient) -> tuple[ActiveAwaitingDirection, SlotSums]:
        """Decrypt the masked sums and give them back."""
        if message.epoch != self.epoch or len(message.sums) != self.terms.features:
            raise PeerViolation("A masked gradient is of another epoch or number of features.")
        sums = np.array([self._keys.slot_sum(c) for c in message.sums], dtype=np.uint64)
        return (
            ActiveAwaitingDirection(self.terms, self.epoch, self._data, self._keys, self._basis),
            SlotSums(self.epoch, sums),
        )


@dataclass(frozen=True, slots=True, eq=False)
class ActiveAwaitingDirection:
    """Active, having returned the masked sums."""

    terms: RoundTerms
    epoch: int
    _data: ActiveData = field(repr=False)
    _keys: SecretKeyHolder = field(repr=False)
    _basis: _Basis = field(repr=False)

    def direction(
        self, message: Direction
    ) -> tuple[ActiveAwaitingGradient, Residuals] | tuple[ActiveDone, Closing]:
        """Add the new direction; go on, or close after the last epoch or when nothing is left to gain."""
        if message.epoch != self.epoch:
            raise PeerViolation("A direction is of another epoch.")
        basis = self._basis
        if len(message.scores):
            basis = basis.extended(_checked_scores(message.scores, self.terms.rows), self.terms.l2, 0.0)
            if self.epoch < self.terms.epochs:
                return _next_epoch(self.terms, self._data, self._keys, basis, self.epoch + 1)
            basis = basis.fitted(self._data)
        done = ActiveDone(self.terms, self.epoch, basis.weights.copy(), basis.columns @ basis.coefficients)
        return done, Closing(basis.shown)


@dataclass(frozen=True, slots=True, eq=False)
class ActiveDone:
    """Active, after a round: its own weights (1 + p_A,), intercept first, and the joint training scores."""

    terms: RoundTerms
    epochs: int
    weights: Floats = field(repr=False)
    scores: Floats = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PassiveData:
    """The feature holder's side of a round: float64 (n, p_X), standardised, withdrawn rows all zero."""

    columns: Floats

    def __post_init__(self) -> None:
        if self.columns.ndim != 2 or not np.isfinite(self.columns).all():
            raise TrainingMisuse("The feature holder's columns must be a matrix of finite numbers.")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Own:
    """What stays fixed for the passive side during a round."""

    fixed: npt.NDArray[np.int64]
    columns: Floats
    bounds: npt.NDArray[np.int64]
    curvature: Floats
    weights: Floats
    random: Random


def start_passive(
    terms: RoundTerms,
    data: PassiveData,
    *,
    weights: Floats | None = None,
    random: Random = secrets.token_bytes,
) -> PassiveAwaitingOpening:
    """Begin a round as the feature holder. Raises OverflowRisk if exact sums could wrap around.

    `weights` float64 (p_X,) are its own from the last round; `random` gives masks and smudging (the
    operating system's by default; a seeded one is for tests only).
    """
    if data.columns.shape != (terms.rows, terms.features):
        raise TrainingMisuse("The feature holder's rows or columns do not match the round's terms.")
    fixed = terms.fixed_point.features(data.columns)
    terms.fixed_point.require_headroom(fixed)
    columns = fixed / float(1 << terms.fixed_point.feature_bits)
    own = _Own(
        fixed=fixed,
        columns=columns,
        bounds=terms.fixed_point.bounds(fixed),
        curvature=columns.T @ columns / 4.0 + terms.l2 * np.eye(terms.features),
        weights=np.zeros(terms.features) if weights is None else weights.astype(np.float64),
        random=random,
    )
    return PassiveAwaitingOpening(terms, own)


@dataclass(frozen=True, slots=True, eq=False)
class PassiveAwaitingOpening:
    """Passive, before the round has begun."""

    terms: RoundTerms
    _own: _Own = field(repr=False)

    def opening(self, message: Opening) -> tuple[PassiveAwaitingResiduals, Standing]:
        """Check the terms, take the key, show the weights so far as the first direction."""
        if message.terms != self.terms.digest():
            raise PeerViolation("The partner runs this round under other terms.")
        evaluator = PublicEvaluator(message.public_key, self._own.fixed)
        length = float(np.linalg.norm(self._own.weights))
        if length == 0.0:
            directions = np.zeros((self.terms.features, 0))
            reply = Standing(0.0, np.zeros(0))
        else:
            unit = self._own.weights / length
            directions = unit[:, None]
            reply = Standing(length, self._own.columns @ unit)
        return PassiveAwaitingResiduals(self.terms, 1, self._own, evaluator, directions), reply


@dataclass(frozen=True, slots=True, eq=False)
class PassiveAwaitingResiduals:
    """Passive, ready for the encrypted residuals of `epoch`, or for the closing."""

    terms: RoundTerms
    epoch: int
    _own: _Own = field(repr=False)
    _evaluator: PublicEvaluator = field(repr=False)
    _directions: Floats = field(repr=False)

    def residuals(self, message: Residuals) -> tuple[PassiveAwaitingSums, MaskedGradient]:
        """Update the own weights; multiply, mask, smudge."""
        if message.epoch != self.epoch or self.epoch > self.terms.epochs:
            raise PeerViolation("Encrypted residuals are of another epoch.")
        weights = self._combined(message.coefficients)
        sums, masks = self._evaluator.masked_products(message.blocks, self._own.random)
        state = PassiveAwaitingSums(
            self.terms, self.epoch, self._own, self._evaluator, self._directions, weights, masks
        )
        return state, MaskedGradient(self.epoch, sums)

    def closing(self, message: Closing) -> PassiveDone:
        """Take the final coefficients. Legal after at least one epoch."""
        if self.epoch < 2:
            raise PeerViolation("The partner closed a round before its first epoch.")
        return PassiveDone(self.terms, self.epoch - 1, self._combined(message.coefficients))

    def _combined(self, coefficients: Floats) -> Floats:
        if coefficients.shape != (self._directions.shape[1],):
            raise PeerViolation("Coefficients do not match the directions shown.")
        if np.abs(coefficients).max(initial=0.0) > _LARGEST_SCORE:
            raise PeerViolation("Coefficients are beyond any plausible size.")
        return np.asarray(self._directions @ coefficients, dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class PassiveAwaitingSums:
    """Passive, having sent the masked gradient; the masks wait here."""

    terms: RoundTerms
    epoch: int
    _own: _Own = field(repr=False)
    _evaluator: PublicEvaluator = field(repr=False)
    _directions: Floats = field(repr=False)
    _weights: Floats = field(repr=False)
    _masks: npt.NDArray[np.uint64] = field(repr=False)

    def gradient(self, message: SlotSums) -> npt.NDArray[np.int64]:
        """The exact integer Σ d·x per feature, shape (p_X,), from the masked sums."""
        if message.epoch != self.epoch or message.sums.shape != (self.terms.features,):
            raise PeerViolation("Slot sums are of another epoch or number of features.")
        if (message.sums >= PLAIN_MODULUS).any():
            raise PeerViolation("A slot sum is not reduced modulo the plaintext modulus.")
        exact = PARAMETERS.centred(
            (message.sums + np.uint64(PLAIN_MODULUS) - self._masks) % np.uint64(PLAIN_MODULUS)
        )
        if (np.abs(exact) > self._own.bounds).any():
            raise PeerViolation("A gradient is larger than residuals within [-1, 1] can make it.")
        return exact

    def sums(self, message: SlotSums) -> tuple[PassiveAwaitingResiduals, Direction]:
        """Unmask, precondition, orthonormalise; show scores along the new direction, if one is worth it."""
        own = self._own
        gradient = self.terms.fixed_point.gradient(self.gradient(message)) + self.terms.l2 * self._weights
        step = np.linalg.solve(own.curvature, gradient)
        worthwhile = float(gradient @ step) / 2.0 > self.terms.tolerance
        directions, scores = self._directions, np.zeros(0)
        if worthwhile and directions.shape[1] < self.terms.features:
            fresh = step / np.linalg.norm(step)
            # Twice is enough (Kahan, Parlett): one pass leaves components of relative size ε·κ.
            for _ in range(2):
                fresh = fresh - directions @ (directions.T @ fresh)
            remaining = float(np.linalg.norm(fresh))
            if remaining > 1e-6:
                fresh = fresh / remaining
                directions = np.hstack([directions, fresh[:, None]])
                scores = own.columns @ fresh
        state = PassiveAwaitingResiduals(self.terms, self.epoch + 1, own, self._evaluator, directions)
        return state, Direction(self.epoch, scores)


@dataclass(frozen=True, slots=True, eq=False)
class PassiveDone:
    """Passive, after a round: its own weights (p_X,)."""

    terms: RoundTerms
    epochs: int
    weights: Floats = field(repr=False)
