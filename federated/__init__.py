"""Co-modelling on Flower: partners train one model while the rows stay where they are.

A bank knows who defaulted, a shop knows how people pay. Both roles of one encrypted round, in one process:

>>> import numpy as np
>>> from federated import ActiveData, FixedPoint, PassiveData, RoundTerms, area_under_roc, rehearse
>>> people = np.random.default_rng(7)
>>> bank, shop = people.normal(size=(600, 2)), people.normal(size=(600, 3))
>>> odds = bank @ [0.5, -0.5] + shop @ [1.5, -1.0, 0.5]
>>> defaulted = (people.random(600) < 1 / (1 + np.exp(-odds))).astype(float)
>>> terms = RoundTerms("run1", 1, rows=600, features=3, epochs=3, fixed_point=FixedPoint.for_rows(600))
>>> active = ActiveData(bank, defaulted, live=np.ones(600, dtype=bool))
>>> joint, theirs = rehearse(terms, active, PassiveData(shop))
>>> area_under_roc(defaulted, bank @ joint.weights[1:]) < 0.7 < 0.8 < area_under_roc(defaulted, joint.scores)
True
>>> theirs.weights.shape
(3,)

Between two nodes the same machines run behind the data gate: see `TrainingService`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from federated.api import create_router
    from federated.gate import DataGate, RoundReceipt
    from federated.runs import Run, RunState, TrainingRequest
    from federated.runtime import TrainingService, TrainingSettings
    from federated.storage import metadata
    from federated.vertical.fixed_point import FixedPoint
    from federated.vertical.logistic import ActiveData, PassiveData
    from federated.vertical.parties import ModelPart
    from federated.vertical.regression import area_under_roc
    from federated.vertical.rehearsal import rehearse
    from federated.vertical.terms import RoundTerms, RunTerms

__all__ = [
    "ActiveData",
    "DataGate",
    "FixedPoint",
    "ModelPart",
    "PassiveData",
    "RoundReceipt",
    "RoundTerms",
    "Run",
    "RunState",
    "RunTerms",
    "TrainingRequest",
    "TrainingService",
    "TrainingSettings",
    "area_under_roc",
    "create_router",
    "metadata",
    "rehearse",
]

# Flower and TenSEAL take a second to import: only what is used is loaded.
_HOMES = {
    "ActiveData": "vertical.logistic",
    "DataGate": "gate",
    "FixedPoint": "vertical.fixed_point",
    "ModelPart": "vertical.parties",
    "PassiveData": "vertical.logistic",
    "RoundReceipt": "gate",
    "RoundTerms": "vertical.terms",
    "Run": "runs",
    "RunState": "runs",
    "RunTerms": "vertical.terms",
    "TrainingRequest": "runs",
    "TrainingService": "runtime",
    "TrainingSettings": "runtime",
    "area_under_roc": "vertical.regression",
    "create_router": "api",
    "metadata": "storage",
    "rehearse": "vertical.rehearsal",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'federated' has no attribute {name!r}")
    return getattr(importlib.import_module(f"federated.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
