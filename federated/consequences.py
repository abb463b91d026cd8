"""What training led to, for whoever traces a person through it (`consent.trace`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from consent.receipts import UseReceipt
from consent.trace import Consequence
from federated.errors import TrainingMisuse
from federated.runs import RunState
from federated.storage import RunStore

__all__ = ["RunConsequences"]

_ENDED = frozenset({RunState.CANCELLED, RunState.FAILED, RunState.REJECTED, RunState.TIMED_OUT})


class RunConsequences:
    """Implements `consent.trace.Consequences` over the training runs of a node."""

    def __init__(self, runs: RunStore) -> None:
        self._runs = runs

    def of_use(self, use: UseReceipt) -> Sequence[Consequence]:
        """What stands of a training round; nothing for uses of other rooms."""
        if use.kind != "training":
            return ()
        try:
            run = self._runs.get(use.job)
        except TrainingMisuse:
            advice = "The run is not recorded here any more."
            return (Consequence("model_version", "unknown", use.job, advice),)
        at = datetime.fromisoformat(run.updated_at)
        if run.state in _ENDED:
            return (Consequence("model_version", "withheld", run.id, at=at),)
        if run.state is not RunState.SUCCEEDED:
            advice = "The next round leaves the person out; this one stays in the gradients."
            return (Consequence("model_version", "running", run.id, advice, at),)
        advice = "The model has learnt from the person's row: retrain without it, or retire the version."
        return (Consequence("model_version", "unlearning_due", run.id, advice, at),)
