"""The life of a query: what is asked, the states a job goes through, and what is kept of it.

`TRANSITIONS` is the whole of what may follow what; the store refuses anything else, so a late message can
never wake a job that has ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from consent.purposes import ancestry
from privacy.errors import Misuse

__all__ = [
    "TERMINAL",
    "TRANSITIONS",
    "Job",
    "JobError",
    "JobState",
    "Query",
    "Role",
    "Source",
    "Stage",
    "concerns",
    "may_follow",
]


class JobState(StrEnum):
    AWAITING_APPROVAL = "awaiting_approval"
    SUBMITTED = "submitted"
    STARTED = "started"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    TIMED_OUT = "timed_out"


class Stage(StrEnum):
    """How far a side has come: the partner has agreed, own points are sent, both are blinded, joined.

    Two say what a side waits for instead: a partner that does not answer, and opt-outs not heard of in time.
    """

    NONE = ""
    PARTNER_AWAY = "partner_away"
    CONSENT_STALE = "consent_stale"
    INVITED = "invited"
    CONTRIBUTED = "contributed"
    TRANSFORMED = "transformed"
    JOINED = "joined"


class Role(StrEnum):
    ANALYST = "analyst"
    CONTRIBUTOR = "contributor"


TERMINAL = frozenset(
    {JobState.CANCELLED, JobState.SUCCEEDED, JobState.FAILED, JobState.REJECTED, JobState.TIMED_OUT}
)
_END = {JobState.CANCELLED, JobState.FAILED, JobState.REJECTED, JobState.TIMED_OUT}
TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.AWAITING_APPROVAL: frozenset({JobState.SUBMITTED, JobState.STARTED, JobState.CANCELLING, *_END}),
    JobState.SUBMITTED: frozenset({JobState.STARTED, JobState.AWAITING_APPROVAL, JobState.CANCELLING, *_END}),
    JobState.STARTED: frozenset({JobState.AWAITING_APPROVAL, JobState.CANCELLING, JobState.SUCCEEDED, *_END}),
    JobState.CANCELLING: frozenset({JobState.CANCELLED, JobState.FAILED, JobState.SUCCEEDED}),
    **{state: frozenset() for state in TERMINAL},
}


def may_follow(current: JobState, following: JobState) -> bool:
    """Whether a job in `current` may go to `following`; staying put is always allowed until the end."""
    return following in TRANSITIONS[current] or (current is following and current not in TERMINAL)


@dataclass(frozen=True, slots=True)
class Source:
    """One more partner's list in a `reach`: under which collaboration, which dataset, which segment of it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    collaboration: str
    dataset: str
    segment: str | None = None


Kind = Literal["overlap", "measure", "align", "activate", "estimate", "reach"]


@dataclass(frozen=True, slots=True)
class Query:
    """What an analyst asks: which own dataset against which of the partner's, why, and split by what.

    `column` and `statistic` are for `measure` only; `holdout` names the cell of the own dimension that was
    left out of a campaign, for the statistic `lift`. `epsilon` of None asks for the collaboration's. Those go
    in who allowed `purpose` and every one of `also_for`, such as the model an alignment is made for.
    `fallback_keys` are joined on, in this order, where `key` finds nobody (`overlap` only). `sample` is the
    share of people an `estimate` looks at; None asks for one that makes the estimate good to half a percent.
    `others` are the further partners of a `reach`, besides the one of `collaboration`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    kind: Kind
    collaboration: str
    dataset: str
    partner_dataset: str
    purpose: str
    key: str = "email"
    fallback_keys: tuple[str, ...] = ()
    dimensions: tuple[str, ...] = ()
    partner_dimensions: tuple[str, ...] = ()
    segment: str | None = None
    partner_segment: str | None = None
    column: str | None = None
    statistic: Literal["sum", "count", "mean", "variance", "lift"] = "mean"
    epsilon: float | None = None
    also_for: tuple[str, ...] = ()
    holdout: str | None = None
    sample: float | None = None
    others: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        if (self.kind == "measure") != (self.column is not None):
            raise Misuse("a measure query names one column; other kinds name none.", code="malformed_query")
        if (self.statistic == "lift") != (self.holdout is not None):
            raise Misuse("a lift names its holdout; nothing else does.", code="malformed_query")
        if self.holdout is not None and (self.kind != "measure" or len(self.dimensions) != 1):
            raise Misuse(
                "a lift is a measure split by one own dimension, of which the holdout is a value.",
                code="malformed_query",
            )
        if self.kind in _WHOLE and (self.dimensions or self.partner_dimensions):
            raise Misuse(f"{_WHOLE[self.kind]} is not split into cells.", code="malformed_query")
        if self.fallback_keys and self.kind != "overlap":
            raise Misuse("only an overlap is joined on several keys.", code="malformed_query")
        if len({self.key, *self.fallback_keys}) != 1 + len(self.fallback_keys):
            raise Misuse("a query names the same key twice.", code="malformed_query")
        if self.sample is not None and (self.kind != "estimate" or not 0 < self.sample <= 1):
            raise Misuse("an estimate looks at a share above 0 and at most 1.", code="malformed_query")
        if (self.kind == "reach") != bool(self.others) or len(self.others) > 6:
            raise Misuse("a reach names 1 to 6 further partners; nothing else does.", code="malformed_query")
        if len({self.collaboration, *(other.collaboration for other in self.others)}) != 1 + len(self.others):
            raise Misuse("a reach names the same partner twice.", code="malformed_query")
        if self.epsilon is not None and not 0 < self.epsilon <= 20:
            raise Misuse("epsilon must be above 0 and at most 20.", code="malformed_query")
        if len(self.also_for) > 8:
            raise Misuse("a query is for at most 8 further purposes.", code="malformed_query")

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_document(cls, document: object) -> Query:
        """Strict reader; raises `Misuse(malformed_query)` naming the field, never its value."""
        try:
            return _READER.validate_json(json.dumps(document, default=str), strict=True)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "query"
            raise Misuse(
                f"query: {where}: {first['type'].replace('_', ' ')}.", code="malformed_query"
            ) from None


_WHOLE = {"align": "an alignment", "activate": "an activation", "reach": "a reach"}
_READER = TypeAdapter(Query)


def concerns(query: Query, purposes: Set[str]) -> bool:
    """Whether an opt-out of any of these purposes reaches one that the query is for."""
    return any(not purposes.isdisjoint(ancestry(purpose)) for purpose in (query.purpose, *query.also_for))


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job ended without a result; safe to show to whoever may see the job."""

    code: str
    detail: str
    advice: str = ""
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One side's record of one query. Both sides' records carry the same id; each has its own state."""

    id: str
    role: Role
    query: Query
    partner: str
    principal: str
    state: JobState
    created_at: str
    updated_at: str
    stage: Stage = Stage.NONE
    progress: float = 0.0
    input: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] | None = field(default=None, repr=False)
    error: JobError | None = None
    reservation: str | None = None
    receipt_id: str | None = None

    @property
    def over(self) -> bool:
        return self.state in TERMINAL

    def document(self) -> dict[str, Any]:
        """The job as the API shows it."""
        return {
            "id": self.id,
            "role": self.role.value,
            "kind": self.query.kind,
            "collaboration": self.query.collaboration,
            "partner": self.partner,
            "query": self.query.document(),
            "state": self.state.value,
            "stage": self.stage.value,
            "progress": round(self.progress, 4),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "input": dict(self.input),
            "result": None if self.result is None else dict(self.result),
            "error": None if self.error is None else asdict(self.error),
            "receipt_id": self.receipt_id,
        }
