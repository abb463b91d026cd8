"""What training led to, told for whoever was in it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from consent.receipts import GateEvidence, UseReceipt
from federated.consequences import RunConsequences
from federated.errors import TrainingMisuse
from federated.runs import RunState

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def use(kind="training", job="ab12"):
    evidence = GateEvidence("model.credit", "bank", "x/log", 1, "", "ab" * 32, 0, "", "", NOW, "email")
    return UseReceipt("r", kind, "model.credit", "c", job, 1, "bank", evidence, "", "", NOW)


@dataclass
class Runs:
    state: RunState

    def get(self, run):
        if run != "ab12":
            raise TrainingMisuse("There is no such training run.", code="unknown_run")
        return SimpleNamespace(id=run, state=self.state, updated_at=NOW.isoformat())


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (RunState.SUCCEEDED, "unlearning_due"),
        (RunState.STARTED, "running"),
        (RunState.FAILED, "withheld"),
        (RunState.CANCELLED, "withheld"),
    ],
)
def test_a_model_is_flagged_once_it_exists(state, status):
    (found,) = RunConsequences(Runs(state)).of_use(use())
    assert (found.thing, found.status, found.reference) == ("model_version", status, "ab12")


def test_what_is_not_training_or_not_known_is_said_so():
    assert RunConsequences(Runs(RunState.SUCCEEDED)).of_use(use("overlap")) == ()
    (found,) = RunConsequences(Runs(RunState.SUCCEEDED)).of_use(use(job="other"))
    assert found.status == "unknown"
