"""Shapes of requests and answers over HTTP. Unknown fields are refused."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from consent.ledger import Recorded

Purpose = Annotated[str, StringConstraints(max_length=160), Field(examples=["overlap.reach"])]
Partner = Annotated[str, StringConstraints(max_length=128), Field(examples=["bank"])]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Person(_Strict):
    """One person by identifiers as they are written; the node normalises them. At least one."""

    email: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        None, examples=["ann@example.org"]
    )
    phone: Annotated[str, StringConstraints(max_length=64)] | None = Field(None, examples=["138 0013 8000"])


class ConsentDecision(Person):
    decision: Literal["grant", "refuse", "withdraw"]
    purpose: Purpose
    partner: Partner = "*"
    purpose_version: int | None = Field(None, ge=1)
    effective_at: datetime | None = None
    expires_at: datetime | None = None


class ConsentBatch(_Strict):
    decisions: Annotated[list[ConsentDecision], Field(min_length=1, max_length=10_000)]


class OptOut(Person):
    purpose: Purpose = "*"
    partner: Partner = "*"


class OptOutBatch(_Strict):
    people: Annotated[list[OptOut], Field(min_length=1, max_length=10_000)]


class CheckRequest(Person):
    purpose: Purpose
    partner: Partner
    at: datetime | None = None


class RecordedAnswer(_Strict):
    first_index: int
    count: int
    size: int
    checkpoint: str

    @classmethod
    def of(cls, done: Recorded) -> RecordedAnswer:
        return cls(
            first_index=done.first_index, count=done.count, size=done.size, checkpoint=done.checkpoint_text
        )


class CheckAnswer(_Strict):
    allowed: bool
    reason: str
    since: datetime | None
    index: int | None


class LatencyAnswer(_Strict):
    """Milliseconds."""

    p50: float
    p99: float
    longest: float


class EvidenceAnswer(_Strict):
    found: str = Field(examples=["split_view"])
    heard: str
    shown: str
    index: int
    found_at: datetime


class DeliveryAnswer(_Strict):
    partner: str
    connected: bool = Field(description="The partner reads this node's feed now.")
    queued: int = Field(description="Opt-outs the partner has not acknowledged.")
    oldest_waiting: datetime | None
    delivered: int
    last_error: str | None = Field(description="Why the partner could not be told when it asked last.")
    acknowledged_at: datetime | None
    enforced: LatencyAnswer | None
    acknowledged: LatencyAnswer | None
    heard: int = Field(description="Opt-outs heard from the partner.")
    heard_at: datetime | None
    heard_age_seconds: float | None = Field(description="Age of the newest message heard.")
    lease_seconds: float | None = Field(description="How old it may be; null: any age.")
    lease_expired: bool = Field(description="Nobody may be used with the partner now.")
    removed: bool = Field(description="The agreement has ended.")
    evidence: list[EvidenceAnswer] = Field(description="Heads the partner signed that cannot both be true.")


class OptOutStatus(_Strict):
    partners: list[DeliveryAnswer]


class ReceiptItem(_Strict):
    index: int
    receipt: dict[str, Any]


class ReceiptPage(_Strict):
    receipts: list[ReceiptItem]
    next: int | None = Field(description="Pass as `before` for the next page; null on the last.")


class AbsenceAnswer(_Strict):
    receipt: dict[str, Any]
    leaf: str
    proof: dict[str, Any]


class PurposeAnswer(_Strict):
    name: str
    since: int
    title: dict[str, str]


class PolicyAnswer(_Strict):
    policy: str
    version: int
    hash: str
    purposes: list[PurposeAnswer]
