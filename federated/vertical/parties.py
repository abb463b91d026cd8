"""The two parties of a vertical run: they ask the gate, drive the state machines, keep their weights.

A party lives on its own node for the length of a run. Weights, means and deviations never leave it; `part()`
is its half of the trained model.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from federated.channel import PairChannel
from federated.errors import PeerViolation, TrainingMisuse
from federated.gate import GatedRows, RoundReceipt
from federated.vertical import logistic, regression
from federated.vertical.encryption import Random
from federated.vertical.messages import (
    Closing,
    Direction,
    MaskedGradient,
    Opening,
    Residuals,
    Scores,
    SlotSums,
    Standing,
)
from federated.vertical.regression import Standardiser
from federated.vertical.terms import RunTerms

__all__ = ["ActiveParty", "Gate", "ModelPart", "Outcome", "Party", "PassiveParty"]

Floats = npt.NDArray[np.float64]


class Gate(Protocol):
    """Gives out a run's consented rows once a round (see `federated.gate.DataGate`)."""

    def features(self, run: str, round: int, purpose: str, *, nonce: str) -> GatedRows: ...  # noqa: A002


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a party reports of a round: its receipt, epochs run, seconds, and metrics in an evaluation."""

    receipt: RoundReceipt
    epochs: int
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ModelPart:
    """One side's half of the model: score = intercept + Σ weightⱼ · (valueⱼ − meanⱼ) / scaleⱼ."""

    run: str
    role: str
    columns: tuple[str, ...]
    weights: Floats
    intercept: float
    standardiser: Standardiser

    def to_bytes(self) -> bytes:
        return json.dumps(
            {
                "v": 1,
                "run": self.run,
                "role": self.role,
                "columns": self.columns,
                "weights": self.weights.tolist(),
                "intercept": self.intercept,
                "mean": self.standardiser.mean.tolist(),
                "scale": self.standardiser.scale.tolist(),
            }
        ).encode()

    @classmethod
    def from_bytes(cls, blob: bytes) -> ModelPart:
        value: dict[str, Any] = json.loads(blob)
        return cls(
            run=value["run"],
            role=value["role"],
            columns=tuple(value["columns"]),
            weights=np.array(value["weights"], dtype=np.float64),
            intercept=float(value["intercept"]),
            standardiser=Standardiser(np.array(value["mean"]), np.array(value["scale"])),
        )

    def score(self, features: Floats) -> Floats:
        """This side's part of the log-odds, float64 (n,), of raw features (n, p)."""
        live = np.ones(len(features), dtype=np.bool_)
        return np.asarray(self.standardiser.apply(features, live) @ self.weights + self.intercept)


class Party(Protocol):
    """Either side, as the Flower client sees it."""

    def train(self, number: int, nonce: str) -> Outcome: ...

    def evaluate(self, number: int, nonce: str) -> Outcome: ...

    def part(self) -> ModelPart: ...


@contextmanager
def _ending(channel: PairChannel) -> Iterator[None]:
    try:
        yield
    except BaseException:
        channel.abort()
        raise


def _rescaled(weights: Floats, before: Standardiser, after: Standardiser) -> Floats:
    """The same function of raw columns under new standardisation, up to a constant."""
    return np.asarray(weights * after.scale / before.scale)


class ActiveParty:
    """The label holder. `progress` is called with (round, epoch) after each epoch."""

    def __init__(
        self,
        terms: RunTerms,
        gate: Gate,
        channel: PairChannel,
        *,
        label: str,
        columns: tuple[str, ...],
        progress: Callable[[int, int], None] = lambda _round, _epoch: None,
    ) -> None:
        if not columns or label in columns:
            raise TrainingMisuse("The label holder needs at least one column that is not the label.")
        self._terms, self._gate, self._channel = terms, gate, channel
        self._label, self._columns, self._progress = label, columns, progress
        self._split = terms.partition()
        self._weights: Floats | None = None
        self._alone: Floats | None = None
        self._standardiser: Standardiser | None = None

    def _rows(self, number: int, nonce: str) -> tuple[GatedRows, Floats, Floats]:
        rows = self._gate.features(self._terms.run, number, self._terms.purpose, nonce=nonce)
        labels = rows.matrix((self._label,))[:, 0]
        if not np.isin(labels, (0.0, 1.0)).all():
            raise TrainingMisuse("The label column must hold 0 and 1 only.")
        return rows, rows.matrix(self._columns), labels

    def train(self, number: int, nonce: str) -> Outcome:
        """One round: up to `epochs` exchanges with the passive side."""
        began = time.monotonic()
        with _ending(self._channel):
            rows, features, labels = self._rows(number, nonce)
            train = self._split.train
            live = rows.mask[train]
            standardiser = Standardiser.of(features[train], live)
            data = logistic.ActiveData(standardiser.apply(features[train], live), labels[train], live)
            weights = self._weights
            if weights is not None and self._standardiser is not None:
                rescaled = _rescaled(weights[1:], self._standardiser, standardiser)
                weights = np.concatenate([weights[:1], rescaled])
            done, directions = self._exchange(number, data, weights)
            self._weights, self._standardiser = done.weights, standardiser
            self._alone = regression.fit(
                np.hstack([np.ones((int(live.sum()), 1)), data.columns[live]]),
                data.labels[live],
                np.concatenate([[0.0], np.full(len(self._columns), self._terms.l2)]),
                np.zeros(1 + len(self._columns)),
            )
        shown = {"directions": float(directions)}
        return Outcome(rows.receipt, done.epochs, time.monotonic() - began, shown)

    def _exchange(
        self, number: int, data: logistic.ActiveData, weights: Floats | None
    ) -> tuple[logistic.ActiveDone, int]:
        channel = self._channel
        terms = self._terms.of_round(number, len(data.labels))
        opened, opening = logistic.start_active(terms, data, weights=weights)
        channel.send(opening.to_bytes())
        waiting, residuals = opened.standing(Standing.from_bytes(channel.receive()))
        while True:
            channel.send(residuals.to_bytes())
            summed, sums = waiting.gradient(MaskedGradient.from_bytes(channel.receive()))
            channel.send(sums.to_bytes())
            state, message = summed.direction(Direction.from_bytes(channel.receive()))
            self._progress(number, summed.epoch)
            if isinstance(state, logistic.ActiveDone) or isinstance(message, Closing):
                channel.send(message.to_bytes())
                assert isinstance(state, logistic.ActiveDone)  # noqa: S101 - narrows the pair for the checker
                return state, len(message.coefficients)
            waiting, residuals = state, message

    def evaluate(self, number: int, nonce: str) -> Outcome:
        """AUC of the joint model and of this side's own on the held-out rows that may be used."""
        began = time.monotonic()
        with _ending(self._channel):
            if self._weights is None or self._alone is None or self._standardiser is None:
                raise TrainingMisuse("There is no trained model to evaluate yet.")
            rows, features, labels = self._rows(number, nonce)
            test = self._split.test
            live = rows.mask[test]
            theirs = Scores.from_bytes(self._channel.receive()).scores
            if theirs.shape != (len(test),):
                raise PeerViolation("Partial scores are of the wrong number.")
            own = self._standardiser.apply(features[test], live)
            joint = own @ self._weights[1:] + self._weights[0] + theirs
            alone = own @ self._alone[1:] + self._alone[0]
            metrics = {
                "auc_joint": regression.area_under_roc(labels[test][live], joint[live]),
                "auc_alone": regression.area_under_roc(labels[test][live], alone[live]),
                "test_rows": float(live.sum()),
                "train_rows": float(rows.mask[self._split.train].sum()),
            }
        return Outcome(rows.receipt, 0, time.monotonic() - began, metrics)

    def part(self) -> ModelPart:
        """This side's half of the model. Raises TrainingMisuse before the first round."""
        if self._weights is None or self._standardiser is None:
            raise TrainingMisuse("There is no trained model yet.")
        return ModelPart(
            self._terms.run,
            "active",
            self._columns,
            self._weights[1:],
            float(self._weights[0]),
            self._standardiser,
        )


class PassiveParty:
    """The feature holder. `random` draws masks and smudging; the operating system's by default.

    It takes part in the agreed rounds and one evaluation after the last, whatever the label holder asks for:
    how much a run may reveal was judged by their number.
    """

    def __init__(
        self,
        terms: RunTerms,
        gate: Gate,
        channel: PairChannel,
        *,
        columns: tuple[str, ...],
        random: Random = secrets.token_bytes,
    ) -> None:
        if len(columns) != terms.features:
            raise TrainingMisuse("The feature holder's columns do not match the run's terms.")
        self._terms, self._gate, self._channel = terms, gate, channel
        self._columns, self._random = columns, random
        self._split = terms.partition()
        self._weights: Floats | None = None
        self._standardiser: Standardiser | None = None
        self._evaluated = False

    def train(self, number: int, nonce: str) -> Outcome:
        """One round, answering the active side until it closes. Raises PeerViolation past the last."""
        began = time.monotonic()
        with _ending(self._channel):
            if not 1 <= number <= self._terms.rounds:
                raise PeerViolation("A round was asked for beyond those agreed.", code="round_not_agreed")
            rows = self._gate.features(self._terms.run, number, self._terms.purpose, nonce=nonce)
            train = self._split.train
            features, live = rows.matrix(self._columns)[train], rows.mask[train]
            standardiser = Standardiser.of(features, live)
            weights = self._weights
            if weights is not None and self._standardiser is not None:
                weights = _rescaled(weights, self._standardiser, standardiser)
            done = self._exchange(number, logistic.PassiveData(standardiser.apply(features, live)), weights)
            self._weights, self._standardiser = done.weights, standardiser
        return Outcome(rows.receipt, done.epochs, time.monotonic() - began)

    def _exchange(
        self, number: int, data: logistic.PassiveData, weights: Floats | None
    ) -> logistic.PassiveDone:
        channel = self._channel
        terms = self._terms.of_round(number, len(data.columns))
        start = logistic.start_passive(terms, data, weights=weights, random=self._random)
        ready, standing = start.opening(Opening.from_bytes(channel.receive()))
        channel.send(standing.to_bytes())
        while True:
            blob = channel.receive()
            if Closing.is_of_kind(blob):
                return ready.closing(Closing.from_bytes(blob))
            masked, gradient = ready.residuals(Residuals.from_bytes(blob))
            channel.send(gradient.to_bytes())
            ready, direction = masked.sums(SlotSums.from_bytes(channel.receive()))
            channel.send(direction.to_bytes())

    def evaluate(self, number: int, nonce: str) -> Outcome:
        """Send this side's partial scores of the held-out rows; rows it may not use score zero.

        Once, as the round after the last: raises PeerViolation otherwise.
        """
        began = time.monotonic()
        with _ending(self._channel):
            if number != self._terms.rounds + 1 or self._evaluated:
                raise PeerViolation(
                    "An evaluation was asked for at another moment than agreed.", code="round_not_agreed"
                )
            self._evaluated = True
            if self._weights is None or self._standardiser is None:
                raise TrainingMisuse("There is no trained model to evaluate yet.")
            rows = self._gate.features(self._terms.run, number, self._terms.purpose, nonce=nonce)
            test = self._split.test
            own = self._standardiser.apply(rows.matrix(self._columns)[test], rows.mask[test])
            self._channel.send(Scores(own @ self._weights).to_bytes())
        return Outcome(rows.receipt, 0, time.monotonic() - began)

    def part(self) -> ModelPart:
        """This side's half of the model. Raises TrainingMisuse before the first round."""
        if self._weights is None or self._standardiser is None:
            raise TrainingMisuse("There is no trained model yet.")
        return ModelPart(self._terms.run, "passive", self._columns, self._weights, 0.0, self._standardiser)
