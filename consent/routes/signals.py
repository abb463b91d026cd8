"""Preference signals of people's devices, handed on by whoever received them."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from consent import schemas
from consent.http import CarefulRoute, Guards, identifiers_of
from consent.ledger import Ledger
from consent.signals import read_signal, record_signal, restricted_by

__all__ = ["create_router"]


def create_router(ledger: Ledger, guards: Guards, region: str, *, vendor: int | None = None) -> APIRouter:
    """`vendor` is the node's id in the Global Vendor List, if it has one."""
    router = APIRouter(route_class=CarefulRoute)
    steward = Depends(guards.role("data_steward", "compliance_officer"))

    @router.post("/v1/signals", status_code=201, tags=["consent"], dependencies=[steward])
    def record(body: schemas.SignalBody) -> schemas.SignalAnswer:
        """Record a GPC, TCF or GPP signal and what it restricts. A signal never allows anything."""
        what = read_signal(body.standard, body.raw)
        named = body.email is not None or body.phone is not None
        people = identifiers_of(body, region, 0) if named else ()
        done = record_signal(ledger, people, what, partner=body.partner, vendor=vendor)
        return schemas.SignalAnswer(
            restricted=list(restricted_by(what, ledger.policy, vendor=vendor)),
            recorded=None if done is None else schemas.RecordedAnswer.of(done),
        )

    return router
