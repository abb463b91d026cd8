"""Approvals over HTTP: a person of this node lets a partner's query through, or refuses it."""

from __future__ import annotations

from enum import Enum

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from clean_room.schemas import JobOut
from clean_room.service import CleanRoom
from consent.api import Guards

__all__ = ["ApprovalIn", "ApprovalOut", "RejectionIn", "add_approvals"]


class ApprovalIn(BaseModel):
    """Why a query is let through; for this node's own records."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"reason": "within the campaign"}}
    )
    reason: str = Field(default="", max_length=500)


class RejectionIn(BaseModel):
    """Why a query is refused; shown to the analyst."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"reason": "the campaign is over"}}
    )
    reason: str = Field(min_length=1, max_length=500)


class ApprovalOut(BaseModel):
    """What was decided about a partner's query, by whom and when."""

    job: str
    decision: str = Field(examples=["approved", "rejected"])
    principal: str
    reason: str
    at: str


def add_approvals(router: APIRouter, service: CleanRoom, guards: Guards) -> None:
    """The routes. Only those who answer for the data decide; anybody may see what was decided."""
    steward = Depends(guards.role("data_steward", "compliance_officer"))
    anyone = Depends(guards.role("analyst", "data_steward", "compliance_officer"))
    tags: list[str | Enum] = ["overlap queries"]

    @router.post("/v1/overlap-queries/{job}:approve", tags=tags, summary="Let a partner's query through")
    def approve(job: str, asked: ApprovalIn | None = None, principal: str = steward) -> JobOut:
        reason = "" if asked is None else asked.reason
        return JobOut(**service.approve(job, principal=principal, reason=reason).document())

    @router.post("/v1/overlap-queries/{job}:reject", tags=tags, summary="Refuse a partner's query")
    def reject(job: str, asked: RejectionIn, principal: str = steward) -> JobOut:
        return JobOut(**service.reject(job, principal=principal, reason=asked.reason).document())

    @router.get("/v1/overlap-queries/{job}/approval", tags=tags, summary="What a person decided")
    def shown(job: str, _: str = anyone) -> ApprovalOut:
        row = service.approval(job)
        return ApprovalOut(
            job=row.job, decision=row.decision, principal=row.principal, reason=row.reason, at=row.at
        )
