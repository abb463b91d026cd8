"""Opt-outs, and how far they got."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Depends

from consent import schemas
from consent.events import withdraw
from consent.feed import Feed
from consent.http import CarefulRoute, Guards, identifiers_of
from consent.ledger import Ledger

__all__ = ["create_router"]


def create_router(ledger: Ledger, feed: Feed, guards: Guards, region: str) -> APIRouter:
    """`region` is where telephone numbers without a country code belong."""
    router = APIRouter(route_class=CarefulRoute)
    steward = Depends(guards.role("data_steward", "compliance_officer"))
    officer = Depends(guards.role("compliance_officer", "data_steward", "analyst"))

    @router.post("/v1/optouts", status_code=201, tags=["opt-out"], dependencies=[steward])
    def opt_out(batch: schemas.OptOutBatch) -> schemas.RecordedAnswer:
        """Opt people out, by default of everything with everybody; partners are told at once."""
        events = [
            withdraw(identifiers_of(person, region, place), person.purpose, partner=person.partner)
            for place, person in enumerate(batch.people)
        ]
        return schemas.RecordedAnswer.of(ledger.record(events))

    @router.get("/v1/optouts/status", tags=["opt-out"], dependencies=[officer])
    def opt_out_status() -> schemas.OptOutStatus:
        """Per partner: queued, delivered, and milliseconds from recorded here to enforced there."""
        return schemas.OptOutStatus(
            partners=[schemas.DeliveryAnswer.model_validate(asdict(status)) for status in feed.statuses()]
        )

    return router
