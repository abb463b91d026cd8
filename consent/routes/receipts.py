"""Receipts of use, and proofs about them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Query

from consent import schemas
from consent.http import CarefulRoute, Guards, identifiers_of
from consent.ledger import Ledger
from consent.proofs import to_base64
from privacy.errors import Misuse

__all__ = ["create_router"]


def create_router(ledger: Ledger, guards: Guards, region: str) -> APIRouter:
    """`region` is where telephone numbers without a country code belong."""
    router = APIRouter(route_class=CarefulRoute)
    officer = Depends(guards.role("compliance_officer", "data_steward", "analyst"))

    @router.get("/v1/receipts", tags=["receipts"], dependencies=[officer])
    def receipts(
        before: int | None = Query(None, ge=0),
        limit: int = Query(50, ge=1, le=500),
        kind: str | None = Query(None, max_length=32),
        with_partner: str | None = Query(None, max_length=128, alias="partner"),
    ) -> schemas.ReceiptPage:
        """Receipts of use, newest first."""
        found = ledger.receipts(before=before, limit=limit, kind=kind, partner=with_partner)
        return schemas.ReceiptPage(
            receipts=[schemas.ReceiptItem(index=i, receipt=r.to_dict()) for i, r in found],
            next=found[-1][0] if len(found) == limit else None,
        )

    @router.get("/v1/receipts/{receipt_id}", tags=["receipts"], dependencies=[officer])
    def receipt(receipt_id: str) -> dict[str, Any]:
        """A receipt with its inclusion proof, checkable offline with the log's key."""
        return ledger.receipt_proof(receipt_id).to_dict()

    @router.post("/v1/receipts/{receipt_id}/absence", tags=["receipts"], dependencies=[officer])
    def absence(receipt_id: str, person: schemas.Person) -> schemas.AbsenceAnswer:
        """Proof that a person was not in a use; refused (member_present) if they were."""
        _, found = ledger.receipt(receipt_id)
        of_kind = [i for i in identifiers_of(person, region) if i.kind == found.evidence.key_kind]
        if not of_kind:
            raise Misuse("This use was keyed by another kind of identifier.", code="wrong_key_kind")
        proof, _ = ledger.absence_proof(receipt_id, *of_kind[0])
        leaf = ledger.member_leaf(receipt_id, *of_kind[0])
        return schemas.AbsenceAnswer(receipt=found.to_dict(), leaf=to_base64(leaf), proof=proof.to_dict())

    return router
