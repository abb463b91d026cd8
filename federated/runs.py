"""The life of a training run: what is asked, the states it goes through, what is kept of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from federated.errors import PeerViolation, TrainingMisuse
from federated.vertical.terms import RunTerms

__all__ = ["TERMINAL", "TRANSITIONS", "Role", "Run", "RunError", "RunOffer", "RunState", "TrainingRequest"]

_FORBID = ConfigDict(extra="forbid")


class RunState(StrEnum):
    SUBMITTED = "submitted"
    STARTED = "started"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    TIMED_OUT = "timed_out"


class Role(StrEnum):
    ACTIVE = "active"
    PASSIVE = "passive"


TERMINAL = frozenset(
    {RunState.CANCELLED, RunState.SUCCEEDED, RunState.FAILED, RunState.REJECTED, RunState.TIMED_OUT}
)
_END = {RunState.CANCELLED, RunState.FAILED, RunState.REJECTED, RunState.TIMED_OUT}
TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    RunState.SUBMITTED: frozenset({RunState.STARTED, RunState.CANCELLING, *_END}),
    RunState.STARTED: frozenset({RunState.STARTED, RunState.CANCELLING, RunState.SUCCEEDED, *_END}),
    RunState.CANCELLING: frozenset({RunState.CANCELLED, RunState.FAILED, RunState.SUCCEEDED}),
    **{state: frozenset() for state in TERMINAL},
}


def _bounded(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise TrainingMisuse(f"{name} must be between {low:g} and {high:g}.", code="malformed_request")


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """What is asked of the label holder's node.

    `features` and `partner_features` empty mean all that `datasets.toml` of the respective side lists for
    training (without the label). `alignment` names a finished `align` job; without one the run aligns first.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID
    collaboration: str
    dataset: str
    partner_dataset: str
    label: str
    purpose: str
    features: tuple[str, ...] = ()
    partner_features: tuple[str, ...] = ()
    key: str = "email"
    align_purpose: str | None = None
    """Purpose the alignment is asked for; the run's own when None."""
    alignment: str | None = None
    rounds: int = 3
    epochs: int = 4
    test_fraction: float = 0.25
    l2: float = 1.0
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        _bounded("rounds", self.rounds, 1, 20)
        _bounded("epochs", self.epochs, 1, 50)
        _bounded("test_fraction", self.test_fraction, 0.05, 0.5)
        _bounded("l2", self.l2, 1e-6, 1e6)
        _bounded("tolerance", self.tolerance, 0.0, 1e3)
        if self.label in self.features:
            raise TrainingMisuse("The label cannot be a feature.", code="malformed_request")

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_document(cls, document: object) -> Self:
        """Strict reader; raises TrainingMisuse(malformed_request) naming the field, never its value."""
        try:
            return TypeAdapter(cls).validate_json(json.dumps(document, default=str), strict=True)
        except ValidationError as error:
            raise TrainingMisuse(f"training request: {_first(error)}.", code="malformed_request") from None


@dataclass(frozen=True, slots=True)
class RunOffer:
    """What the label holder's node proposes to the feature holder's."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID
    run: str
    collaboration: str
    alignment: str
    purpose: str
    dataset: str
    features: tuple[str, ...]
    key: str
    rows: int
    rounds: int
    epochs: int
    test_fraction: float
    l2: float
    tolerance: float
    held_out: str = field(repr=False)
    """Rows kept for testing (see `federated.vertical.partition`)."""
    v: int = 1

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_document(cls, document: object) -> Self:
        """Strict reader; raises PeerViolation(malformed_offer)."""
        try:
            offer = TypeAdapter(cls).validate_json(json.dumps(document, default=str), strict=True)
        except ValidationError as error:
            raise PeerViolation(f"training offer: {_first(error)}.", code="malformed_offer") from None
        in_range = 1 <= offer.rounds <= 20 and 1 <= offer.epochs <= 50 and 0.05 <= offer.test_fraction <= 0.5
        plain = offer.run.isascii() and offer.run.isalnum() and len(offer.run) <= 64 and offer.v == 1
        if not (in_range and plain and 1e-6 <= offer.l2 <= 1e6 and 0.0 <= offer.tolerance <= 1e3):
            raise PeerViolation(
                "A training offer holds a number or name out of range.", code="malformed_offer"
            )
        return offer

    def terms(self, features: int) -> RunTerms:
        """The run's terms with `features` columns of the feature holder.

        Raises PeerViolation(malformed_split), or TrainingRefused for more gradients than people bear.
        """
        return RunTerms(
            run=self.run,
            purpose=self.purpose,
            rows=self.rows,
            features=features,
            held_out=self.held_out,
            rounds=self.rounds,
            epochs=self.epochs,
            test_fraction=self.test_fraction,
            l2=self.l2,
            tolerance=self.tolerance,
        )


def _first(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "document"
    return f"{where}: {first['type'].replace('_', ' ')}"


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run ended without a model; safe to show to whoever may see the run."""

    code: str
    detail: str
    advice: str = ""
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """One side's record of a run. Both sides' records carry the same id."""

    id: str
    role: Role
    partner: str
    collaboration: str
    principal: str
    request: Mapping[str, Any]
    state: RunState
    created_at: str
    updated_at: str
    stage: str = ""
    progress: float = 0.0
    alignment: str | None = None
    result: Mapping[str, Any] | None = field(default=None, repr=False)
    card: Mapping[str, Any] | None = field(default=None, repr=False)
    error: RunError | None = None

    @property
    def over(self) -> bool:
        return self.state in TERMINAL

    def at(self, state: RunState, now: str, **changes: Any) -> Run:
        """The run in a following state. Raises TrainingMisuse(illegal_step) if it may not follow."""
        if state not in TRANSITIONS[self.state]:
            raise TrainingMisuse(f"A {self.state} run cannot become {state}.", code="illegal_step")
        return replace(self, state=state, updated_at=now, **changes)

    def document(self) -> dict[str, Any]:
        """The run as the API shows it: without the held-out rows, which grow with the people."""
        return {
            "id": self.id,
            "role": self.role.value,
            "partner": self.partner,
            "collaboration": self.collaboration,
            "request": {name: value for name, value in self.request.items() if name != "held_out"},
            "state": self.state.value,
            "stage": self.stage,
            "progress": round(self.progress, 4),
            "alignment": self.alignment,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "result": None if self.result is None else dict(self.result),
            "error": None if self.error is None else asdict(self.error),
        }
