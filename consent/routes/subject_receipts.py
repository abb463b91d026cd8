"""Receipts for people, made and checked; and the keys under which anybody checks them."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import Field

from consent import schemas
from consent.http import CarefulRoute, Guards, identifiers_of
from consent.people import People
from consent.receipt_files import check_file
from privacy.errors import Misuse

__all__ = ["create_router"]


class AbsenceRequest(schemas.Person):
    opt_out: int | None = Field(None, ge=0, description="The opt-out's entry; the latest if left out.")


class VerifyRequest(schemas._Strict):
    """A bundle of receipts, an absence bundle, or the text of a log proof."""

    bundle: dict[str, Any] | str


class VerifyAnswer(schemas._Strict):
    holds: bool
    kind: Literal["receipts", "absence", "use", "proof"]
    detail: str
    decisions: list[dict[str, Any]] = Field(description="The entries shown, in the order of the log.")


def create_router(people: People, guards: Guards, region: str) -> APIRouter:
    """`region`: as in `identifiers_of`."""
    router = APIRouter(route_class=CarefulRoute)
    officer = [Depends(guards.role("compliance_officer", "data_steward"))]
    reader = [Depends(guards.role("compliance_officer", "data_steward", "analyst"))]

    def subject_of(person: schemas.Person) -> bytes:
        found = people.receipts.subjects(identifiers_of(person, region))
        if len(found) != 1:
            why = "are of nobody recorded here" if not found else "belong to different people here"
            code = "several_subjects" if found else "unknown_subject"
            raise Misuse(f"These identifiers {why}.", code=code)
        return found[0]

    @router.post("/v1/receipts:subject", tags=["receipts"], dependencies=officer)
    def receipts_for(person: schemas.Person) -> dict[str, Any]:
        """A person's own receipts, by their identifiers: signed, proved, checkable offline."""
        return people.receipts.bundle(subject_of(person))

    @router.post("/v1/receipts:absence", tags=["receipts"], dependencies=officer)
    def absence_for(asked: AbsenceRequest) -> dict[str, Any]:
        """Proof of what a person was not in after an opt-out of theirs, in one bundle."""
        return people.absences.bundle(subject_of(asked), asked.opt_out)

    @router.post("/v1/receipts:verify", tags=["receipts"], dependencies=reader)
    def verify(asked: VerifyRequest) -> VerifyAnswer:
        """Check a bundle against this node's key. Tampering is an error; `holds` answers what was asked."""
        checked = check_file(asked.bundle, [people.ledger.key])
        return VerifyAnswer(
            holds=checked.holds,
            kind=checked.kind,
            detail=checked.detail,
            decisions=[dict(entry) for entry in checked.entries],
        )

    @router.get("/.well-known/jwks.json", tags=["node"], response_class=JSONResponse)
    def keys() -> JSONResponse:
        """The keys under which receipts are signed (RFC 7517)."""
        return JSONResponse(people.receipts.keys, headers={"Cache-Control": "public, max-age=3600"})

    @router.get("/.well-known/comity-log.vkey", tags=["node"], response_class=PlainTextResponse)
    def vkey() -> PlainTextResponse:
        """The verifier key of this node's log (C2SP signed note)."""
        return PlainTextResponse(people.ledger.vkey + "\n", headers={"Cache-Control": "public, max-age=3600"})

    return router
