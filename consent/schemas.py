"""Shapes of requests and answers over HTTP. Unknown fields are refused."""

from __future__ import annotations

from base64 import b64decode
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from consent.ledger import Recorded
from consent.terms import ConsentTerms, ConsentType
from privacy.errors import BadInput
from privacy.signing import PublicKey

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


class TermsBody(_Strict):
    """What was shown and agreed: the fields of `docs/consent-terms.md`, under the same names."""

    notice: str | None = Field(None, examples=["general"])
    notice_version: int | None = Field(None, ge=1)
    notice_hash: str | None = None
    language: str | None = Field(None, examples=["zh"])
    ui_hash: str | None = None
    jurisdiction: str | None = Field(None, examples=["CN"])
    data_categories: list[str] = Field(default_factory=list, max_length=64, examples=[["contact"]])
    recipients: list[str] = Field(default_factory=list, max_length=64, examples=[["bank"]])
    transfer_country: str | None = Field(None, examples=["SG"])
    transfer_route: str | None = Field(None, examples=["standard_contract"])
    consent_type: ConsentType | None = Field(None, examples=["separate"])
    previous: int | None = Field(None, ge=0)
    actor_key: str | None = Field(None, description="Ed25519 public key, base64.")
    actor_signature: str | None = Field(None, max_length=128, description="64 bytes, base64.")

    def to_terms(self) -> ConsentTerms:
        """Raises BadInput."""
        try:
            signature = (
                None if self.actor_signature is None else b64decode(self.actor_signature, validate=True)
            )
        except ValueError:
            raise BadInput("An actor's signature is base64.", code="bad_actor_signature") from None
        fields = self.model_dump(exclude={"actor_key", "actor_signature", "data_categories", "recipients"})
        return ConsentTerms(
            **fields,
            data_categories=tuple(self.data_categories),
            recipients=tuple(self.recipients),
            actor_key=None if self.actor_key is None else PublicKey.from_text(self.actor_key),
            actor_signature=signature,
        )


class ConsentDecision(Person):
    decision: Literal["grant", "refuse", "withdraw", "renew", "object"]
    purpose: Purpose
    partner: Partner = "*"
    purpose_version: int | None = Field(None, ge=1)
    effective_at: datetime | None = None
    expires_at: datetime | None = None
    actor: Literal["subject", "guardian", "agent", "authority", "controller"] = "subject"
    method: Annotated[str, StringConstraints(max_length=64)] = Field("api", examples=["web_form"])
    basis: Annotated[str, StringConstraints(max_length=64)] = Field("consent", examples=["consent"])
    terms: TermsBody | None = None


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
    heard_error: str | None = Field(description="Why the partner is not heard now.")
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
    renotice: int = Field(0, description="Grants under older versions of the tree do not count any more.")
    traits: list[str] = Field(default_factory=list, examples=[["provided"]])
    bases: dict[str, list[str]] = Field(default_factory=dict, examples=[{"pipl": ["consent"]}])
    data: list[str] = Field(default_factory=list, examples=[["contact"]])
    retention_days: int | None = None
    notices: list[str] = Field(default_factory=list, examples=[["general"]])
    notice_required: bool = False


class NoticeAnswer(_Strict):
    name: str
    version: int
    since: int
    material: bool
    purposes: list[str]
    text: dict[str, str]
    hashes: dict[str, str] = Field(description="Language → hex SHA-256 of the text.")


class PolicyAnswer(_Strict):
    policy: str
    version: int
    hash: str
    purposes: list[PurposeAnswer]
    notices: list[NoticeAnswer] = Field(default_factory=list)
    laws: list[str] = Field(default_factory=list)


class SignalBody(Person):
    """A preference signal that came with a request, and whose request it was; nobody's is only counted."""

    standard: Literal["gpc", "tcf", "gpp"]
    raw: Annotated[str, StringConstraints(max_length=8192)] = Field(examples=["1"])
    partner: Partner = "*"


class SignalAnswer(_Strict):
    restricted: list[str] = Field(
        description="The purposes that the signal restricts.", examples=[["activation"]]
    )
    recorded: RecordedAnswer | None = Field(description="Null where all of it was restricted already.")
