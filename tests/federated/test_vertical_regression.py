"""What each side computes alone, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from federated.errors import BadInput, TrainingMisuse
from federated.vertical.regression import Standardiser, area_under_roc, fit


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=60))
def test_auc_with_ties_is_scikit_learns(rows: list[tuple[bool, int]]) -> None:
    labels, scores = np.array([r[0] for r in rows]), np.array([r[1] for r in rows], dtype=float)
    if labels.all() or not labels.any():
        with pytest.raises(TrainingMisuse):
            area_under_roc(labels, scores)
    else:
        assert area_under_roc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auc_refuses_scores_that_are_not_numbers() -> None:
    with pytest.raises(TrainingMisuse):
        area_under_roc([0, 1], [np.nan, 1.0])


def test_newton_finds_scikit_learns_optimum() -> None:
    draw = np.random.default_rng(5)
    x = draw.normal(size=(800, 4))
    y = (draw.random(800) < 1 / (1 + np.exp(-x @ [2.0, -1, 0, 0.5] + 1))).astype(float)
    columns = np.hstack([np.ones((800, 1)), x])
    found = fit(columns, y, np.array([0.0, 1, 1, 1, 1]), np.zeros(5))
    reference = LogisticRegression(C=1.0, tol=1e-12, max_iter=10_000).fit(x, y)
    assert np.allclose(found, [*reference.intercept_, *reference.coef_[0]], atol=1e-4)


def test_newton_survives_constant_and_repeated_columns_and_perfect_separation() -> None:
    x = np.linspace(-1, 1, 50)
    columns = np.column_stack([np.ones(50), x, x, np.zeros(50)])
    found = fit(columns, (x > 0).astype(float), np.array([0.0, 1, 1, 1]), np.zeros(4))
    assert np.isfinite(found).all()
    assert found[1] == pytest.approx(found[2], rel=1e-3)


def test_only_live_rows_shape_the_standardisation_and_the_rest_become_zero() -> None:
    features = np.array([[1.0, 5.0], [3.0, 5.0], [1e9, np.nan]])
    live = np.array([True, True, False])
    scaled = Standardiser.of(features, live).apply(features, live)
    assert scaled.tolist() == [[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    with pytest.raises(BadInput):
        Standardiser.of(features, np.ones(3, dtype=bool))
    assert Standardiser.of(features, np.zeros(3, dtype=bool)).scale.tolist() == [1.0, 1.0]
