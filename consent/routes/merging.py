"""Records that are one person's, and a record that is two people's."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from consent.http import CarefulRoute, Guards, identifiers_of
from consent.merging import Merging
from consent.schemas import Person

__all__ = ["create_router"]


class MergeBody(BaseModel):
    """Two records, each named by any identifiers of theirs."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"kept": {"email": "ada@example.org"}, "other": {"phone": "13800138000"}}]
        },
    )
    kept: Person
    other: Person


class MergeAnswer(BaseModel):
    """`index` is the entry that says so; decisions were restated after it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"index": 51, "grants": 1, "restrictions": 2, "at": "2026-03-01T09:00:00Z"}]
        }
    )
    index: int
    grants: int
    restrictions: int
    at: datetime


class SplitAnswer(BaseModel):
    """`undone` says that an earlier merge was taken back."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"index": 60, "undone": True, "restrictions": 1, "at": "2026-03-02T09:00:00Z"}]
        }
    )
    index: int = Field(description="The entry `correction`.")
    undone: bool
    restrictions: int
    at: datetime


def create_router(merging: Merging, guards: Guards, region: str) -> APIRouter:
    """`region` is where telephone numbers without a country code belong."""
    router = APIRouter(route_class=CarefulRoute)
    steward = Depends(guards.role("data_steward", "compliance_officer"))

    @router.post("/v1/subjects/merge", tags=["subjects"], status_code=201, dependencies=[steward])
    def merge(body: MergeBody) -> MergeAnswer:
        """One person from now on; what either record had restricted stays restricted."""
        done = merging.merge(identifiers_of(body.kept, region), identifiers_of(body.other, region, 1))
        return MergeAnswer(index=done.index, grants=done.grants, restrictions=done.restrictions, at=done.at)

    @router.post("/v1/subjects/split", tags=["subjects"], status_code=201, dependencies=[steward])
    def split(person: Person) -> SplitAnswer:
        """Take identifiers away from their record, as another person's from now on."""
        done = merging.split(identifiers_of(person, region))
        return SplitAnswer(index=done.index, undone=done.undone, restrictions=done.restrictions, at=done.at)

    return router
