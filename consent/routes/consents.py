"""Decisions of people, questions about them, and the policy they decide under."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from consent import schemas
from consent.encoding import from_micros
from consent.events import Event, EventType
from consent.http import CarefulRoute, Guards, identifiers_of
from consent.ledger import Ledger
from privacy.errors import ComityError

__all__ = ["create_router"]
_DECISIONS = {
    "grant": EventType.GRANTED,
    "refuse": EventType.REFUSED,
    "withdraw": EventType.WITHDRAWN,
    "renew": EventType.RENEWED,
    "object": EventType.OBJECTION,
}


def create_router(ledger: Ledger, guards: Guards, region: str) -> APIRouter:
    """`region` is where telephone numbers without a country code belong."""
    router = APIRouter(route_class=CarefulRoute)
    steward = Depends(guards.role("data_steward", "compliance_officer"))
    officer = Depends(guards.role("compliance_officer", "data_steward", "analyst"))

    @router.post("/v1/consents", status_code=201, tags=["consent"], dependencies=[steward])
    def record_consents(batch: schemas.ConsentBatch) -> schemas.RecordedAnswer:
        """Record grants, refusals, withdrawals, renewals and objections: all of them or none."""
        events = [
            Event(
                _DECISIONS[d.decision],
                identifiers_of(d, region, place),
                d.purpose,
                d.partner,
                d.purpose_version,
                d.effective_at,
                d.expires_at,
                d.actor,
                d.method,
                d.basis,
                terms=None if d.terms is None else d.terms.to_terms(),
            )
            for place, d in enumerate(batch.decisions)
        ]
        try:
            return schemas.RecordedAnswer.of(ledger.record(events))
        except ComityError as error:
            position: object = getattr(error, "position", None)
            if isinstance(position, int) and len(events) > 1:
                error.detail = f"Item {position}: {error.detail}"
            raise

    @router.post("/v1/consents/check", tags=["consent"], dependencies=[officer])
    def check_consent(question: schemas.CheckRequest) -> schemas.CheckAnswer:
        """May this person's data be used for the purpose with the partner, now or at a time past?"""
        found = [
            ledger.check(i.canonical, i.kind, question.purpose, question.partner, question.at)
            for i in identifiers_of(question, region, 0)
        ]
        # By several identifiers: the most restrictive answer.
        decision = next((d for d in found if not d.allowed), found[0])
        return schemas.CheckAnswer(
            allowed=decision.allowed,
            reason=decision.reason.value,
            since=None if decision.since is None else from_micros(decision.since),
            index=decision.index,
        )

    @router.get("/v1/purposes", tags=["consent"], dependencies=[officer])
    def purposes() -> schemas.PolicyAnswer:
        """The published policy."""
        policy = ledger.policy
        return schemas.PolicyAnswer(
            policy=policy.name,
            version=policy.version,
            hash=policy.hash,
            purposes=[
                schemas.PurposeAnswer(
                    name=p.name,
                    since=p.since,
                    title=dict(p.title),
                    renotice=p.renotice,
                    traits=sorted(p.traits),
                    bases={of: list(names) for of, names in p.bases.items()},
                    data=list(p.data),
                    retention_days=None if p.retention is None else p.retention.days,
                    notices=[notice.name for notice in policy.notices_for(p.name)],
                    notice_required=p.notice_required,
                )
                for p in policy.purposes.values()
            ],
            notices=[
                schemas.NoticeAnswer(
                    name=n.name,
                    version=n.version,
                    since=n.since,
                    material=n.material,
                    purposes=list(n.purposes),
                    text=dict(n.text),
                    hashes={language: n.hash(language) for language in n.text},
                )
                for n in policy.notices.values()
            ],
            laws=list(policy.laws),
        )

    return router
