"""What the clean room's HTTP interface takes and gives, with examples for the OpenAPI description."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from clean_room.jobs import Kind, Query, Source

__all__ = [
    "AcceptIn",
    "AmendIn",
    "AmendmentAcceptIn",
    "BudgetOut",
    "CollaborationOut",
    "DatasetOut",
    "InviteIn",
    "InviteOut",
    "JobEvent",
    "JobOut",
    "PageOf",
    "PreviewOut",
    "QueryIn",
    "ReceiptOut",
    "SourceIn",
]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SourceIn(_In):
    """One more partner's list in a reach."""

    collaboration: str = Field(min_length=1, max_length=64)
    dataset: str = Field(min_length=1, max_length=64)
    segment: str | None = Field(default=None, max_length=64)


class QueryIn(_In):
    """A question to a partner."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "kind": "overlap",
                "collaboration": "0d9f9a539d0c4f1b9a553c9f2a6f1c11",
                "dataset": "customers",
                "partner_dataset": "shoppers",
                "purpose": "overlap.reach",
                "dimensions": ["age_band"],
                "partner_dimensions": ["limit_band"],
            }
        },
    )
    kind: Kind = "overlap"
    collaboration: str = Field(min_length=1, max_length=64)
    dataset: str = Field(min_length=1, max_length=64, description="One of this node's datasets.")
    partner_dataset: str = Field(min_length=1, max_length=64, description="One the partner offers.")
    purpose: str = Field(min_length=1, max_length=128, description="One both agreed to.")
    key: Literal["email", "phone"] = Field(default="email", description="The identifier to join on.")
    fallback_keys: tuple[Literal["email", "phone"], ...] = Field(
        default=(), max_length=3, description="Joined on in this order where the key finds nobody."
    )
    dimensions: tuple[str, ...] = Field(default=(), max_length=4, description="Split own people by these.")
    partner_dimensions: tuple[str, ...] = Field(default=(), max_length=4)
    segment: str | None = Field(default=None, max_length=64)
    partner_segment: str | None = Field(default=None, max_length=64)
    column: str | None = Field(default=None, max_length=128, description="For measure: the partner's column.")
    statistic: Literal["sum", "count", "mean", "variance", "lift"] = "mean"
    holdout: str | None = Field(
        default=None, max_length=256, description="For lift: the value of the own dimension left out."
    )
    epsilon: float | None = Field(default=None, gt=0, le=20, description="Default: the agreement's.")
    also_for: tuple[str, ...] = Field(
        default=(), max_length=8, description="Further purposes that everybody who goes in must have allowed."
    )
    sample: float | None = Field(
        default=None, gt=0, le=1, description="For estimate: the share of people looked at."
    )
    others: tuple[SourceIn, ...] = Field(
        default=(), max_length=6, description="For reach: the further partners."
    )

    def query(self) -> Query:
        """The same as the value the service takes."""
        fields = self.model_dump(exclude={"others"})
        return Query(**fields, others=tuple(Source(**other.model_dump()) for other in self.others))


class JobOut(BaseModel):
    """One side's record of a query."""

    id: str
    role: Literal["analyst", "contributor"]
    kind: str
    collaboration: str
    partner: str
    query: dict[str, Any]
    state: str = Field(examples=["succeeded"])
    stage: str = Field(examples=["joined"])
    progress: float = Field(ge=0, le=1)
    created_at: str
    updated_at: str
    input: dict[str, Any] = Field(description="What became of this node's own rows.")
    result: dict[str, Any] | None = Field(
        examples=[
            {
                "value": 18012,
                "ci95": [18009, 18015],
                "rate": "75 %",
                "cells": [],
                "suppressed": False,
                "reason": None,
                "epsilon_spent": 1.0,
                "budget_left": 9.0,
                "receipt_id": "5f0d9f9a539d0c4f1b9a553c9f2a6f1c",
            }
        ]
    )
    error: dict[str, Any] | None
    receipt_id: str | None


class JobEvent(BaseModel):
    """A change of a query."""

    id: str
    state: str
    stage: str
    progress: float
    updated_at: str
    error: dict[str, str] | None = None


class PageOf(BaseModel):
    """A page of jobs."""

    items: list[JobOut]
    next_cursor: str | None


class PreviewOut(BaseModel):
    """What a query would cost and how sure its answer would be."""

    epsilon: float
    delta: float
    cells: int
    error_bar: int = Field(description="Half width of the total's 95 % interval, in people.")
    error_bar_cell: int
    rows: int
    people: int = Field(description="Own distinct people before the consent gate.")
    minimum_input: int
    minimum_cell: int
    bytes_sent: int
    noise_scale: float | None = None
    error_bar_sum: float | None = None
    thinning: dict[str, Any] | None = None
    sample_rate: float | None = Field(default=None, description="Of an estimate.")
    sampled: int | None = Field(default=None, description="Own people an estimate would look at, about.")
    allowed: int | None = Field(default=None, description="Own people after the consent gate.")
    budget_left: float | None = Field(default=None, description="ε left this month, if the partner said so.")
    bytes_received: int | None = Field(default=None, description="About; known after a first answered query.")
    minutes: float | None = Field(
        default=None, description="About, of computing; this node's speed for both."
    )
    partner_people: int | None = Field(default=None, description="The partner's size class last time.")
    repeats: str | None = Field(default=None, description="The job whose answer this would be, for nothing.")
    too_close_to: str | None = Field(
        default=None, description="The job because of which this would be refused (differencing_risk)."
    )
    could_learn: dict[str, Any] | None = Field(
        default=None,
        description="Simulated attacks: how many of 1,000 people could be told, and one sentence.",
    )


class InviteIn(_In):
    """Whom to invite, and on what terms (those of a `collaboration.toml`)."""

    partner: str = Field(min_length=1, max_length=64)
    url: str = Field(min_length=1, max_length=512, description="Where the partner's node is.")
    key: str = Field(min_length=1, max_length=64, description="The partner's public key, learnt out of band.")
    terms: dict[str, Any]
    datasets: list[str] | None = Field(default=None, description="Default: all offered in datasets.toml.")
    deliver: bool = Field(default=False, description="Also send the invitation to the partner's node.")
    days: int = Field(default=14, ge=1, le=365)


class InviteOut(BaseModel):
    """A signed invitation, to be handed to the partner as it is."""

    invitation: dict[str, Any]
    signature: str


class AcceptIn(_In):
    """Accept an invitation: the document, or the id of one that was sent to this node."""

    invitation: dict[str, Any] | str
    terms: dict[str, Any] | None = Field(default=None, description="This side's own; stricter numbers win.")
    datasets: list[str] | None = None
    inviter_key: str | None = Field(default=None, max_length=64)


class CollaborationOut(BaseModel):
    id: str
    state: Literal["invited", "received", "accepting", "agreed", "left"]
    role: Literal["inviter", "acceptor"]
    partner: str
    partner_url: str
    partner_key: str
    partner_fingerprint: str
    agreement_hash: str | None
    terms: dict[str, Any]
    offers: dict[str, Any]
    signatures: dict[str, str]
    version: int = Field(description="1, and one more with every amendment both have signed.")
    versions: list[str] = Field(description="Hashes of all versions, the first first; receipts name one.")
    parties: dict[str, str] = Field(description="Public keys of both parties by name.")
    amendments: dict[str, dict[str, Any]] = Field(
        description="What waits: `proposed` by this side, `offered` by the partner."
    )
    created_at: str
    updated_at: str


class AmendIn(_In):
    """Another version of an agreement: terms and offers as they are to be from then on."""

    terms: dict[str, Any]
    datasets: list[str] | None = Field(default=None, description="Default: all offered in datasets.toml.")
    days: int = Field(default=14, ge=1, le=365, description="Until the proposal expires.")


class AmendmentAcceptIn(_In):
    """Accept what the partner has proposed."""

    terms: dict[str, Any] | None = Field(default=None, description="This side's own; stricter numbers win.")
    datasets: list[str] | None = None


class DatasetOut(BaseModel):
    """A dataset as partners see it."""

    name: str
    lineage: str
    kinds: list[str]
    columns: list[dict[str, Any]]
    dimensions: list[dict[str, Any]]
    segments: list[str]
    offered: bool


class BudgetOut(BaseModel):
    """What a partner has spent of a dataset's ε this month."""

    lineage: str
    partner: str
    period: str
    limit: float
    reserved: float
    committed: float
    remaining: float


class ReceiptOut(BaseModel):
    """A two-sided receipt and whether both signatures hold."""

    id: str
    body: dict[str, Any]
    output_hash: str
    analyst_signature: str
    contributor_signature: str
    verified: bool
