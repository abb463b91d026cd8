"""Audit reports: made, kept, read as signed JSON or as a page."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict

from consent.audit.archive import AuditReports, KeptReport
from consent.audit.report import render
from consent.http import CarefulRoute, Guards

__all__ = ["create_router"]


class ReportWanted(BaseModel):
    """The period is since ≤ time < until; left out, from the first entry to now."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"law": "pipl", "since": "2026-01-01T00:00:00Z", "until": "2026-07-01T00:00:00Z"},
                {"law": "gdpr"},
            ]
        },
    )
    law: Literal["pipl", "gdpr", "ccpa"] = "pipl"
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None


class ReportKept(BaseModel):
    """`index` is the log entry that names the report by its digest."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "9f2c4e1ab03d4c5f8e6a7b8c9d0e1f2a",
                    "index": 6879,
                    "law": "pipl",
                    "created_at": "2026-07-01T08:00:00Z",
                }
            ]
        }
    )
    id: str
    index: int
    law: str
    created_at: datetime

    @classmethod
    def of(cls, kept: KeptReport) -> ReportKept:
        return cls(**asdict(kept))


class ReportPage(BaseModel):
    """`next` is the `before` of the next page, null on the last."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reports": [], "next": None}]})
    reports: list[ReportKept]
    next: int | None


def create_router(reports: AuditReports, guards: Guards) -> APIRouter:
    """For compliance officers only."""
    router = APIRouter(route_class=CarefulRoute)
    officer = Depends(guards.role("compliance_officer"))

    @router.post("/v1/audit-reports", status_code=201, tags=["audit"], dependencies=[officer])
    def create(wanted: ReportWanted, response: Response) -> ReportKept:
        """Make a report about the ledger as it is now, sign it, keep it, and say so in the log."""
        kept, _ = reports.create(wanted.law, since=wanted.since, until=wanted.until)
        response.headers["location"] = f"/v1/audit-reports/{kept.id}"
        return ReportKept.of(kept)

    @router.get("/v1/audit-reports", tags=["audit"], dependencies=[officer])
    def listing(before: int | None = Query(None, ge=0), limit: int = Query(50, ge=1, le=500)) -> ReportPage:
        """The reports kept, newest first."""
        found = reports.listing(before=before, limit=limit)
        return ReportPage(
            reports=[ReportKept.of(kept) for kept in found],
            next=found[-1].index if len(found) == limit else None,
        )

    @router.get("/v1/audit-reports/{report_id}", tags=["audit"], dependencies=[officer])
    def get(report_id: str) -> dict[str, Any]:
        """A report as signed JSON, to be checked with `comity audit verify`."""
        return reports.get(report_id)[1].to_dict()

    @router.get(
        "/v1/audit-reports/{report_id}/page",
        tags=["audit"],
        dependencies=[officer],
        response_class=Response,
        responses={200: {"content": {"text/html": {}}}},
    )
    def page(report_id: str, lang: Literal["en", "zh"] = "en") -> Response:
        """The report as a page to read or print."""
        _, report = reports.get(report_id)
        policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
        headers = {"content-security-policy": policy, "cache-control": "no-store"}
        return Response(render(report, lang), media_type="text/html; charset=utf-8", headers=headers)

    return router
