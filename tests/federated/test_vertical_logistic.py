"""The two-party protocol: pooled results, exact gradients, and every step that must be refused."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from federated.errors import ComityError, OverflowRisk, PeerViolation, TrainingMisuse, TrainingRefused
from federated.vertical import logistic
from federated.vertical.encryption import PLAIN_MODULUS, SecretKeyHolder
from federated.vertical.fixed_point import FixedPoint
from federated.vertical.messages import (
    Closing,
    Direction,
    MaskedGradient,
    Message,
    Opening,
    Residuals,
    Scores,
    SlotSums,
    Standing,
)
from federated.vertical.partition import Partition
from federated.vertical.regression import area_under_roc
from federated.vertical.rehearsal import rehearse
from federated.vertical.terms import RoundTerms, RunTerms

N, P = 1500, 6


@pytest.fixture(scope="module")
def world() -> dict[str, Any]:
    draw = np.random.default_rng(3)
    bank, shop = draw.normal(size=(2 * N, 3)), draw.normal(size=(2 * N, P))
    shop[:, 1] = 0.9 * shop[:, 0] + 0.3 * shop[:, 1] + 0.2 * bank[:, 0]
    shop[:, 2] = np.exp(shop[:, 2])
    shop = (shop - shop[:N].mean(axis=0)) / shop[:N].std(axis=0)
    odds = bank @ [0.4, -0.3, 0.0] + shop @ [1.0, -0.6, 0.4, 0.0, 0.3, -0.2] - 1.0
    labels = (draw.random(2 * N) < 1 / (1 + np.exp(-odds))).astype(float)
    return {"bank": bank, "shop": shop, "labels": labels}


def terms(**changes: Any) -> RoundTerms:
    given = {"run": "r", "round": 1, "rows": N, "features": P, "epochs": 4, "tolerance": 1e-6}
    return RoundTerms(**{**given, "fixed_point": FixedPoint.for_rows(N), **changes})


def sides(world: dict[str, Any]) -> tuple[logistic.ActiveData, logistic.PassiveData]:
    live = np.ones(N, dtype=bool)
    return (
        logistic.ActiveData(world["bank"][:N], world["labels"][:N], live),
        logistic.PassiveData(world["shop"][:N]),
    )


def test_the_joint_model_is_the_pooled_model(world: dict[str, Any]) -> None:
    active, passive = rehearse(terms(epochs=P), *sides(world))
    pooled = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
    columns = np.hstack([world["bank"], world["shop"]])
    pooled.fit(columns[:N], world["labels"][:N])
    joint = active.weights[0] + world["bank"][N:] @ active.weights[1:] + world["shop"][N:] @ passive.weights
    reference = pooled.decision_function(columns[N:])
    truth = world["labels"][N:]
    assert abs(roc_auc_score(truth, joint) - roc_auc_score(truth, reference)) < 0.002
    assert np.allclose(np.concatenate([active.weights[1:], passive.weights]), pooled.coef_[0], atol=2e-3)


def test_rounds_continue_where_the_last_one_ended(world: dict[str, Any]) -> None:
    active, passive = None, None
    for number in (1, 2, 3):
        active, passive = rehearse(
            terms(round=number, epochs=2),
            *sides(world),
            active_weights=active and active.weights,
            passive_weights=passive and passive.weights,
        )
    whole, _ = rehearse(terms(epochs=P), *sides(world))
    assert active is not None
    labels = world["labels"][:N]
    assert abs(area_under_roc(labels, active.scores) - area_under_roc(labels, whole.scores)) < 0.002


def test_training_stops_when_nothing_is_left_to_gain(world: dict[str, Any]) -> None:
    active, passive = rehearse(terms(epochs=40, tolerance=0.01), *sides(world))
    assert active.epochs == passive.epochs <= P + 1


class Pair:
    """Both machines, stopped before the passive side answers the first residuals."""

    def __init__(self, world: dict[str, Any], **changes: Any) -> None:
        active, passive = sides(world)
        self.terms = terms(**changes)
        self.opened, self.opening = logistic.start_active(self.terms, active)
        self.begun = logistic.start_passive(self.terms, passive)
        self.ready, self.standing = self.begun.opening(self.opening)
        self.waiting, self.residuals = self.opened.standing(self.standing)


@pytest.fixture(scope="module")
def pair(world: dict[str, Any]) -> Pair:
    return Pair(world)


def test_the_unmasked_gradient_is_the_fixed_point_gradient_exactly(pair: Pair, world: dict[str, Any]) -> None:
    masked, gradient = pair.ready.residuals(pair.residuals)
    _, sums = pair.waiting.gradient(gradient)
    data = pair.waiting._data
    d = pair.terms.fixed_point.residuals(pair.waiting._basis.residuals(data))
    x = pair.terms.fixed_point.features(world["shop"][:N])
    assert masked.gradient(sums).tolist() == (x.T @ d).tolist()


def test_withdrawn_rows_contribute_nothing_to_either_gradient(world: dict[str, Any]) -> None:
    gone = np.random.default_rng(4).choice(N, 100, replace=False)
    kept = np.setdiff1d(np.arange(N), gone)
    live = np.ones(N, dtype=bool)
    live[gone] = False
    shop = world["shop"][:N].copy()
    shop[gone] = 0.0
    zeroed = (logistic.ActiveData(world["bank"][:N], world["labels"][:N], live), logistic.PassiveData(shop))
    fixed = FixedPoint.for_rows(N)
    removed = (
        logistic.ActiveData(world["bank"][kept], world["labels"][kept], np.ones(len(kept), dtype=bool)),
        logistic.PassiveData(world["shop"][kept]),
    )
    gradients = []
    for (active, passive), rows in ((zeroed, N), (removed, len(kept))):
        agreed = terms(rows=rows, fixed_point=fixed)
        opened, opening = logistic.start_active(agreed, active)
        ready, standing = logistic.start_passive(agreed, passive).opening(opening)
        waiting, residuals = opened.standing(standing)
        masked, gradient = ready.residuals(residuals)
        gradients.append(masked.gradient(waiting.gradient(gradient)[1]))
    assert gradients[0].tolist() == gradients[1].tolist()
    left, right = (
        rehearse(terms(fixed_point=fixed), *zeroed),
        rehearse(terms(rows=len(kept), fixed_point=fixed), *removed),
    )
    assert np.allclose(left[0].weights, right[0].weights, atol=1e-9)
    assert np.allclose(left[1].weights, right[1].weights, atol=1e-9)


def test_a_row_withdrawn_on_one_side_only_leaves_that_sides_gradient_untouched(world: dict[str, Any]) -> None:
    labels = world["labels"][:N].copy()
    live = np.ones(N, dtype=bool)
    live[:50] = False
    turned = labels.copy()
    turned[:50] = 1 - turned[:50]
    weights = []
    for told in (labels, turned):
        active = logistic.ActiveData(world["bank"][:N], told, live)
        weights.append(rehearse(terms(epochs=2), active, sides(world)[1])[1].weights)
    assert np.allclose(weights[0], weights[1], atol=1e-12)


def test_a_violation_leaves_the_state_as_it_was(pair: Pair) -> None:
    r = pair.residuals
    for wrong in (
        Residuals(2, r.coefficients, r.blocks),
        Residuals(1, np.zeros(3), r.blocks),
        Residuals(1, r.coefficients, r.blocks * 2),
        Residuals(1, r.coefficients, (os.urandom(len(r.blocks[0])),)),
    ):
        with pytest.raises(PeerViolation):
            pair.ready.residuals(wrong)
    with pytest.raises(PeerViolation):
        pair.ready.closing(Closing(np.zeros(0)))
    masked, gradient = pair.ready.residuals(r)
    foreign = SecretKeyHolder()
    for bad in (
        MaskedGradient(2, gradient.sums),
        MaskedGradient(1, gradient.sums[:-1]),
        MaskedGradient(1, (*gradient.sums[:-1], gradient.sums[-1][:-40])),
        MaskedGradient(1, (*gradient.sums[:-1], foreign.public_key)),
    ):
        with pytest.raises(PeerViolation):
            pair.waiting.gradient(bad)
    summed, sums = pair.waiting.gradient(gradient)
    for off in (
        SlotSums(2, sums.sums),
        SlotSums(1, sums.sums[:-1]),
        SlotSums(1, sums.sums + np.uint64(PLAIN_MODULUS)),
        SlotSums(1, (sums.sums + np.uint64(PLAIN_MODULUS // 2)) % np.uint64(PLAIN_MODULUS)),
    ):
        with pytest.raises(PeerViolation):
            masked.sums(off)
    again, direction = masked.sums(sums)
    for bent in (
        Direction(2, direction.scores),
        Direction(1, direction.scores[:-1]),
        Direction(1, direction.scores * 1e12),
    ):
        with pytest.raises(PeerViolation):
            summed.direction(bent)
    _, following = summed.direction(direction)
    assert isinstance(following, Residuals)
    with pytest.raises(PeerViolation):  # the first epoch's residuals, replayed
        again.residuals(r)


def test_other_terms_end_a_round_at_the_first_message(pair: Pair) -> None:
    for change in (
        {"round": 2},
        {"run": "s"},
        {"l2": 2.0},
        {"epochs": 5},
        {"fixed_point": FixedPoint(9, 9)},
        {"split": "0" * 64},
    ):
        other = dataclasses.replace(pair.terms, **change)
        with pytest.raises(PeerViolation):
            pair.begun.opening(Opening(other.digest(), pair.opening.public_key))
    with pytest.raises(PeerViolation):
        pair.begun.opening(Opening(pair.terms.digest(), pair.opening.public_key[:-1]))


def test_standing_weights_must_make_sense(pair: Pair) -> None:
    for wrong in (Standing(1.0, np.zeros(0)), Standing(0.0, np.ones(N)), Standing(1.0, np.ones(N - 1))):
        with pytest.raises(PeerViolation):
            pair.opened.standing(wrong)


def test_sums_that_could_overflow_are_refused_before_anything_is_sent() -> None:
    heavy = logistic.PassiveData(np.full((N, P), 1e6))
    with pytest.raises(OverflowRisk):
        logistic.start_passive(terms(), heavy)
    with pytest.raises(OverflowRisk):
        FixedPoint.for_rows(1 << 40)


@given(rows=st.integers(4, 1 << 24))
def test_the_finest_split_never_overflows_for_standardised_columns(rows: int) -> None:
    fixed = FixedPoint.for_rows(rows)
    assert rows << (fixed.residual_bits + fixed.feature_bits) < PLAIN_MODULUS // 2
    assert min(fixed.residual_bits, fixed.feature_bits) >= 8


def test_unusable_data_is_the_callers_fault(world: dict[str, Any]) -> None:
    live = np.ones(N, dtype=bool)
    bank, labels = world["bank"][:N], world["labels"][:N]
    nan = bank.copy()
    nan[0, 0] = np.nan
    for columns, given_labels, mask in (
        (bank[:-1], labels, live),
        (bank, labels * 2, live),
        (bank, np.ones(N), live),
        (nan, labels, live),
        (bank, labels, live[:-1]),
    ):
        with pytest.raises(TrainingMisuse):
            logistic.ActiveData(columns, given_labels, mask)
    with pytest.raises(TrainingMisuse):
        logistic.PassiveData(nan)
    with pytest.raises(TrainingMisuse):
        logistic.start_passive(terms(), logistic.PassiveData(bank))
    for change in ({"epochs": 0}, {"l2": 0.0}, {"rows": 0}):
        with pytest.raises(TrainingMisuse):
            terms(**change)


def test_gradients_that_would_give_the_residuals_away_are_refused() -> None:
    split = Partition(train=np.arange(300), test=np.arange(300, 400))
    with pytest.raises(TrainingRefused):
        RunTerms("r", "model.credit", rows=400, features=20, held_out=split.to_text(), rounds=3, epochs=4)


KINDS: tuple[type[Message], ...] = (
    Opening, Standing, Residuals, MaskedGradient, SlotSums, Direction, Closing, Scores,
)  # fmt: skip
floats = st.lists(st.floats(-1e6, 1e6), max_size=5).map(lambda v: np.array(v, dtype=np.float64))
blobs = st.lists(st.binary(max_size=40), min_size=1, max_size=3).map(tuple)
epochs = st.integers(0, 2**32 - 1)
messages = st.one_of(
    st.builds(Opening, st.binary(min_size=32, max_size=32), st.binary(max_size=50)),
    st.builds(Standing, st.floats(-10, 10), floats),
    st.builds(Residuals, epochs, floats, blobs),
    st.builds(MaskedGradient, epochs, blobs),
    st.builds(SlotSums, epochs, floats.map(lambda v: np.abs(v).astype(np.uint64))),
    st.builds(Direction, epochs, floats),
    st.builds(Closing, floats),
    st.builds(Scores, floats),
)


@given(message=messages)
def test_every_message_survives_its_bytes(message: Message) -> None:
    blob = message.to_bytes()
    assert type(message).from_bytes(blob).to_bytes() == blob
    assert repr(message).endswith("(…)")


@given(message=messages, data=st.data())
@settings(max_examples=150)
def test_a_damaged_message_is_a_violation_or_another_message(message: Message, data: st.DataObject) -> None:
    blob = message.to_bytes()
    cut = data.draw(st.integers(0, len(blob) - 1))
    for wrong in (blob[:cut], blob + b"\0"):
        with pytest.raises(PeerViolation):
            type(message).from_bytes(wrong)
    other = data.draw(st.sampled_from([k for k in KINDS if k is not type(message)]))
    with pytest.raises(PeerViolation):
        other.from_bytes(blob)


@given(blob=st.binary(max_size=300))
def test_no_garbage_gets_past_a_parser(blob: bytes) -> None:
    for kind in KINDS:
        for body in (blob, b"CVL1" + bytes([kind.kind]) + blob):
            try:
                kind.from_bytes(body)
            except ComityError as error:
                assert isinstance(error, PeerViolation)


def test_numbers_that_are_not_finite_are_violations() -> None:
    for value in (np.nan, np.inf):
        with pytest.raises(PeerViolation):
            Direction.from_bytes(Direction(1, np.array([value])).to_bytes())
