"""Erasing people: requests, holds, releases."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field

from consent.erasure import Erased, Erasure, Hold
from consent.http import CarefulRoute, Guards, identifiers_of
from consent.schemas import Person

__all__ = ["create_router"]

_WORD = r"^[a-z][a-z0-9_.:-]{0,63}$"
Request = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="The id of a request.")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class HoldBody(_Strict):
    """Why the data has to be kept for now."""

    basis: str = Field(pattern=_WORD, examples=["tax_law"])
    until: datetime | None = Field(None, description="Without it, until the hold is released.")


class ErasureBody(Person):
    """Who is to be erased, on what ground."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"email": "ada@example.org", "basis": "gdpr.17"}]}
    )
    basis: str = Field("request", pattern=_WORD)
    hold: HoldBody | None = None


class SubjectErasureBody(_Strict):
    """On what ground a subject is erased."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"basis": "pipl.47"}]})
    basis: str = Field("request", pattern=_WORD)
    hold: HoldBody | None = None


class ErasureAnswer(_Strict):
    """What became of a request; nothing here says whose it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "request": "6f1f0a52f3f94be2a4c1d6a7f0c2b9e1",
                    "state": "completed",
                    "basis": "gdpr.17",
                    "requested_at": "2026-03-01T09:00:00Z",
                    "entries": 4,
                    "completed_index": 117,
                    "completed_at": "2026-03-01T09:00:00Z",
                    "hold_basis": None,
                    "held_until": None,
                    "partners": ["bank"],
                    "already": False,
                }
            ]
        }
    )
    request: str
    state: str = Field(description="held or completed")
    basis: str
    requested_at: datetime
    entries: int = Field(description="Entries of the log that no longer open.")
    completed_index: int | None
    completed_at: datetime | None
    hold_basis: str | None
    held_until: datetime | None
    partners: list[str] = Field(description="Told of the opt-out.")
    already: bool = Field(description="It had been asked before; nothing was done now.")

    @classmethod
    def of(cls, done: Erased) -> ErasureAnswer:
        """The answer about one request."""
        return cls(**{name: getattr(done, name) for name in cls.model_fields if name != "partners"},
                   partners=list(done.partners))  # fmt: skip


class ErasureList(_Strict):
    """Every request, oldest first."""

    erasures: list[ErasureAnswer]


class ErasurePreviewAnswer(_Strict):
    """What would be erased."""

    known: bool
    suppressed: bool
    held: bool
    subjects: int
    identifiers: int
    entries: int
    partners: list[str]


def _hold(body: HoldBody | None) -> Hold | None:
    return None if body is None else Hold(body.basis, body.until)


def create_router(erasure: Erasure, guards: Guards, region: str) -> APIRouter:
    """`region` is where telephone numbers without a country code belong."""
    router = APIRouter(route_class=CarefulRoute)
    officer = Depends(guards.role("compliance_officer"))

    @router.post("/v1/erasures", tags=["erasure"], status_code=201, dependencies=[officer])
    def erase(body: ErasureBody) -> ErasureAnswer:
        """Erase a person: opted out of everything first, then forgotten, or held where the law says so."""
        done = erasure.erase(identifiers_of(body, region), basis=body.basis, hold=_hold(body.hold))
        erasure.scrub()
        return ErasureAnswer.of(done)

    @router.post("/v1/erasures/preview", tags=["erasure"], dependencies=[officer])
    def preview(person: Person) -> ErasurePreviewAnswer:
        """What erasing this person would do; nothing is done."""
        seen = erasure.preview(identifiers_of(person, region))
        return ErasurePreviewAnswer(
            **{name: getattr(seen, name) for name in ErasurePreviewAnswer.model_fields if name != "partners"},
            partners=list(seen.partners),
        )

    @router.get("/v1/erasures", tags=["erasure"], dependencies=[officer])
    def erasures() -> ErasureList:
        """Every request; none of them says whose it is."""
        return ErasureList(erasures=[ErasureAnswer.of(done) for done in erasure.requests()])

    @router.post("/v1/erasures/{request}/release", tags=["erasure"], dependencies=[officer])
    def release(request: Request) -> ErasureAnswer:
        """Lift the hold of a request and carry it out."""
        done = erasure.release(request)
        erasure.scrub()
        return ErasureAnswer.of(done)

    @router.post("/v1/subjects/{handle}/erasure", tags=["erasure"], status_code=201, dependencies=[officer])
    def erase_subject(
        handle: Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")], body: SubjectErasureBody
    ) -> ErasureAnswer:
        """Erase the subject with this handle."""
        done = erasure.erase_subject(bytes.fromhex(handle), basis=body.basis, hold=_hold(body.hold))
        erasure.scrub()
        return ErasureAnswer.of(done)

    return router
