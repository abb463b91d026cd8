"""Subjects: found by identifiers (in a body, never in a URL), then followed by their random handle."""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Depends, Query
from pydantic import ConfigDict, Field

from consent import schemas
from consent.encoding import from_micros
from consent.history import whole_record
from consent.http import CarefulRoute, Guards, identifiers_of
from consent.people import People
from consent.rows import StandingKey
from consent.state import Fact, Standing
from consent.subject_receipts import known
from privacy.errors import BadInput, Misuse

__all__ = ["create_router", "handle_of"]

_HANDLE = re.compile(r"[0-9a-f]{32}", re.ASCII)
_EXAMPLE = "8cfa447e1a15aa26a2a4bcbe0c1dfafa"


class FoundSubject(schemas._Strict):
    handle: str = Field(examples=[_EXAMPLE])
    known_by: list[str] = Field(description="Kinds of identifiers known of the person.", examples=[["email"]])


class LookupAnswer(schemas._Strict):
    """One subject, unless the identifiers given belong to different people here; none for a stranger."""

    subjects: list[FoundSubject]


class StandingAnswer(schemas._Strict):
    """The latest grant and the latest restriction of one subject, purpose and partner."""

    subject: str = Field(examples=[_EXAMPLE])
    purpose: str
    partner: str
    granted_at: datetime | None
    granted_version: int | None
    granted_index: int | None
    expires_at: datetime | None
    restricted_at: datetime | None
    restriction: str | None
    restricted_index: int | None

    @classmethod
    def of(cls, key: StandingKey, standing: Standing) -> StandingAnswer:
        return cls(
            subject=key.subject.hex(),
            purpose=key.purpose,
            partner=key.partner,
            granted_at=_time(standing.granted_at),
            granted_version=standing.granted_version,
            granted_index=standing.granted_index,
            expires_at=_time(standing.expires_at),
            restricted_at=_time(standing.restricted_at),
            restriction=standing.restriction,
            restricted_index=standing.restricted_index,
        )


class StandingPage(schemas._Strict):
    consents: list[StandingAnswer]
    next: str | None = Field(description="Pass as `after` for the next page; null on the last.")


class DecisionAnswer(schemas._Strict):
    index: int
    type: str = Field(examples=["consent.granted"])
    purpose: str
    purpose_version: int
    partner: str
    effective_at: datetime
    expires_at: datetime | None
    recorded_at: datetime

    @classmethod
    def of(cls, fact: Fact, recorded_at: int) -> DecisionAnswer:
        return cls(
            index=fact.idx,
            type=fact.type.value,
            purpose=fact.purpose,
            purpose_version=fact.version,
            partner=fact.partner,
            effective_at=from_micros(fact.effective_at),
            expires_at=_time(fact.expires_at),
            recorded_at=from_micros(recorded_at),
        )


class SubjectAnswer(schemas._Strict):
    """What stands about a subject, and a page of how it came about (oldest first)."""

    model_config = ConfigDict(extra="forbid")
    handle: str
    known_by: list[str]
    state: list[StandingAnswer]
    history: list[DecisionAnswer]
    next: int | None = Field(description="Pass as `after` for more history; null at its end.")


class TracePage(schemas._Strict):
    """Uses a person was in, what each led to, and how that stands."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "subject": _EXAMPLE,
                "opt_out": 421,
                "purpose": "*",
                "partner": "*",
                "uses": [
                    {
                        "index": 388,
                        "receipt": {"id": "…", "kind": "overlap", "purpose": "overlap.reach"},
                        "after_opt_out": False,
                        "consequences": [{"thing": "result", "status": "released", "reference": "job-1"}],
                    }
                ],
                "looked_at": 12,
                "other_key": 0,
                "next": None,
            }
        },
    )
    subject: str
    opt_out: int | None
    purpose: str
    partner: str
    uses: list[dict[str, Any]]
    looked_at: int
    other_key: int
    next: int | None = Field(description="Pass as `after` to go on; null when all uses were looked at.")


def _time(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)


def handle_of(text: str) -> bytes:
    """A handle from its 32 hexadecimal digits. Raises BadInput."""
    if not _HANDLE.fullmatch(text):
        raise BadInput("A subject's handle is 32 hexadecimal digits.", code="bad_handle")
    return bytes.fromhex(text)


def _cursor(key: StandingKey) -> str:
    return base64.urlsafe_b64encode(
        json.dumps([key.purpose, key.partner, key.subject.hex()]).encode()
    ).decode()


def _read_cursor(text: str) -> StandingKey:
    try:
        purpose, partner, subject = json.loads(base64.b64decode(text, altchars=b"-_", validate=True))
        return StandingKey(str(purpose), str(partner), bytes.fromhex(subject))
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise BadInput("This is not a page's cursor.", code="bad_cursor") from None


def create_router(people: People, guards: Guards, region: str) -> APIRouter:
    """`region`: as in `identifiers_of`."""
    router = APIRouter(route_class=CarefulRoute)
    officer = [Depends(guards.role("compliance_officer", "data_steward"))]
    ledger = people.ledger

    @router.post("/v1/subjects:lookup", tags=["subjects"], dependencies=officer)
    def look_up(person: schemas.Person) -> LookupAnswer:
        """The handle of the person with these identifiers."""
        handles = people.receipts.subjects(identifiers_of(person, region))
        with ledger.store.read() as view:
            found = [
                FoundSubject(handle=handle.hex(), known_by=sorted(set(view.aliases_of(handle).values())))
                for handle in handles
            ]
        return LookupAnswer(subjects=found)

    @router.get("/v1/subjects/{handle}", tags=["subjects"], dependencies=officer)
    def subject(
        handle: str, after: int = Query(-1, ge=-1), limit: int = Query(100, ge=1, le=1000)
    ) -> SubjectAnswer:
        """A subject's state and history."""
        who = handle_of(handle)
        with ledger.store.read() as view:
            known(view, who)
            kinds = sorted(set(view.aliases_of(who).values()))
            recorded = whole_record(view, ledger.vault, who)
            standings = view.standings_of([who]).get(who, {})
        page = [(fact, at) for fact, at in recorded if fact.idx > after][: limit + 1]
        return SubjectAnswer(
            handle=handle,
            known_by=kinds,
            state=[StandingAnswer.of(StandingKey(*key, who), s) for key, s in sorted(standings.items())],
            history=[DecisionAnswer.of(fact, at) for fact, at in page[:limit]],
            next=page[limit - 1][0].idx if len(page) > limit else None,
        )

    @router.get("/v1/consents", tags=["consent"], dependencies=officer)
    def consents(
        after: str | None = Query(None, max_length=1024),
        limit: int = Query(100, ge=1, le=1000),
        purpose: str | None = Query(None, max_length=160),
        partner: str | None = Query(None, max_length=160),
    ) -> StandingPage:
        """What stands, by purpose, partner and subject."""
        place = None if after is None else _read_cursor(after)
        with ledger.store.read() as view:
            rows = view.standings_page(place, limit + 1, purpose, partner)
        return StandingPage(
            consents=[StandingAnswer.of(key, standing) for key, standing in rows[:limit]],
            next=_cursor(rows[limit - 1][0]) if len(rows) > limit else None,
        )

    @router.get("/v1/subjects/{handle}/receipts", tags=["receipts"], dependencies=officer)
    def receipts_of(handle: str) -> dict[str, Any]:
        """The subject's own receipts: signed, proved, checkable offline; for them to keep."""
        return people.receipts.bundle(handle_of(handle))

    @router.get("/v1/subjects/{handle}/absence", tags=["receipts"], dependencies=officer)
    def absence_of(handle: str, opt_out: int | None = Query(None, ge=0)) -> dict[str, Any]:
        """Proof of what a subject was not in after an opt-out (their latest, or that of an entry)."""
        return people.absences.bundle(handle_of(handle), opt_out)

    @router.get("/v1/subjects/{handle}/trace", tags=["receipts"], dependencies=officer)
    def trace_of(
        handle: str, after: int = Query(-1, ge=-1), limit: int = Query(1000, ge=1, le=10_000)
    ) -> TracePage:
        """Every recorded use a subject was in, and what is done about each."""
        return TracePage.model_validate(
            people.trace.of_subject(handle_of(handle), after=after, limit=limit).to_dict()
        )

    @router.get("/v1/optouts/{index}/trace", tags=["opt-out"], dependencies=officer)
    def trace_of_opt_out(
        index: int, after: int = Query(-1, ge=-1), limit: int = Query(1000, ge=1, le=10_000)
    ) -> TracePage:
        """The recorded uses that the opt-out in entry `index` reaches, and what is done about each."""
        if not 0 <= index < 1 << 63:
            raise Misuse("The log has no entry of this index.", code="not_found")
        return TracePage.model_validate(people.trace.of_opt_out(index, after=after, limit=limit).to_dict())

    return router
