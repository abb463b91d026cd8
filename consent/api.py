"""The HTTP edge of the ledger.

Request bodies are limited before they are read, and an error about a body names fields, never values:
what stands in them is personal data.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Protocol

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from consent import schemas
from consent.encoding import from_micros
from consent.errors import TooLarge
from consent.events import Event, EventType, Identifier, withdraw
from consent.feed import FEED_PATH, Feed
from consent.ledger import Ledger, Recorded
from consent.messages import MAX_BATCH
from consent.proofs import to_base64
from consent.static import CHECKPOINT
from privacy.errors import BadInput, Misuse
from privacy.identifiers import Kind, Rejected, canonical

__all__ = ["Guards", "create_router"]

MAX_BODY = MAX_BATCH
_DECISIONS = {"grant": EventType.GRANTED, "refuse": EventType.REFUSED, "withdraw": EventType.WITHDRAWN}


class Guards(Protocol):
    """FastAPI dependencies that establish who calls; the roof supplies them."""

    def role(self, *roles: str) -> Callable[..., str]:
        """A dependency that returns the principal's name, or answers 401 or 403.

        Roles: analyst, data_steward, compliance_officer, admin; admin always passes.
        """
        ...

    def partner(self) -> Callable[..., str]:
        """A dependency that returns the authenticated partner's name.

        The request's signature and body digest have been verified by then, and a replay refused.
        """
        ...


class _LimitedRequest(Request):
    """A request whose body is read up to a limit, whatever its Content-Length says."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            parts, size = [], 0
            async for part in self.stream():
                size += len(part)
                if size > MAX_BODY:
                    raise TooLarge(f"A request body is at most {MAX_BODY} bytes.")
                parts.append(part)
            self._body = b"".join(parts)
        return self._body


class _CarefulRoute(APIRoute):
    """Limits bodies and turns validation errors into BadInput without the values."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            declared = request.headers.get("content-length", "0")
            if declared.isdigit() and int(declared) > MAX_BODY:
                raise TooLarge(f"A request body is at most {MAX_BODY} bytes.")
            limited = _LimitedRequest(request.scope, request.receive)
            # Read here: what fails while FastAPI reads a body comes out as its own answer.
            await limited.body()
            try:
                return await inner(limited)
            except HTTPException as error:
                # Any other failure of the JSON reader (not UTF-8, nested too deeply) has this form.
                if error.status_code == HTTPStatus.BAD_REQUEST and error.__cause__ is not None:
                    raise BadInput("The request body cannot be read as JSON.") from None
                raise
            except RequestValidationError as error:
                wrong = "; ".join(f"{_place(found)}: {found['type']}" for found in list(error.errors())[:5])
                raise BadInput(f"The request does not have the expected shape ({wrong[:300]}).") from None

        return handler


def _place(found: Any) -> str:
    # A field name the caller made up is a value too, and is left out.
    loc = found["loc"][:-1] if found["type"] == "extra_forbidden" else found["loc"]
    return ".".join(str(part) for part in loc[:6])


def _identifiers(person: schemas.Person, region: str, place: int) -> tuple[Identifier, ...]:
    found = []
    for kind, text in ((Kind.EMAIL, person.email), (Kind.PHONE, person.phone)):
        if text is None:
            continue
        made = canonical(kind, text, region=region)
        if isinstance(made, Rejected):
            raise BadInput(
                f"Item {place}: the {kind.value} is not one ({made.reason}).", code="bad_identifier"
            )
        found.append(Identifier(kind.value, made))
    if not found:
        raise BadInput(
            f"Item {place}: an e-mail address or a telephone number is needed.", code="no_identifier"
        )
    return tuple(found)


def _recorded(done: Recorded) -> schemas.RecordedAnswer:
    return schemas.RecordedAnswer(
        first_index=done.first_index, count=done.count, size=done.size, checkpoint=done.checkpoint_text
    )


def create_router(ledger: Ledger, feed: Feed, guards: Guards, *, region: str = "CN") -> APIRouter:
    """Every endpoint of this room. `region` is where telephone numbers without a country code belong.

    The errors of the house propagate; the application turns them into problem documents.
    """
    router = APIRouter(route_class=_CarefulRoute)
    steward = Depends(guards.role("data_steward", "compliance_officer"))
    officer = Depends(guards.role("compliance_officer", "data_steward", "analyst"))
    partner = Depends(guards.partner())

    @router.post("/v1/consents", status_code=201, tags=["consent"], dependencies=[steward])
    def record_consents(batch: schemas.ConsentBatch) -> schemas.RecordedAnswer:
        """Record grants, refusals and withdrawals: all of them or none."""
        events = [
            Event(
                _DECISIONS[d.decision],
                _identifiers(d, region, place),
                d.purpose,
                d.partner,
                d.purpose_version,
                d.effective_at,
                d.expires_at,
            )
            for place, d in enumerate(batch.decisions)
        ]
        return _recorded(ledger.record(events))

    @router.post("/v1/consents/check", tags=["consent"], dependencies=[officer])
    def check_consent(question: schemas.CheckRequest) -> schemas.CheckAnswer:
        """May this person's data be used for the purpose with the partner, now or at a time past?"""
        found = [
            ledger.check(i.canonical, i.kind, question.purpose, question.partner, question.at)
            for i in _identifiers(question, region, 0)
        ]
        # By several identifiers: the most restrictive answer.
        decision = next((d for d in found if not d.allowed), found[0])
        return schemas.CheckAnswer(
            allowed=decision.allowed,
            reason=decision.reason.value,
            since=None if decision.since is None else from_micros(decision.since),
            index=decision.index,
        )

    @router.post("/v1/optouts", status_code=201, tags=["opt-out"], dependencies=[steward])
    def opt_out(batch: schemas.OptOutBatch) -> schemas.RecordedAnswer:
        """Opt people out, by default of everything with everybody; partners are told at once."""
        events = [
            withdraw(_identifiers(person, region, place), person.purpose, partner=person.partner)
            for place, person in enumerate(batch.people)
        ]
        return _recorded(ledger.record(events))

    @router.get("/v1/optouts/status", tags=["opt-out"], dependencies=[officer])
    def opt_out_status() -> schemas.OptOutStatus:
        """Per partner: queued, delivered, and milliseconds from recorded here to enforced there."""
        return schemas.OptOutStatus(
            partners=[schemas.DeliveryAnswer.model_validate(asdict(status)) for status in feed.statuses()]
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
                schemas.PurposeAnswer(name=p.name, since=p.since, title=dict(p.title))
                for p in policy.purposes.values()
            ],
        )

    @router.post(FEED_PATH, tags=["peer"])
    async def receive_feed(request: Request, sender: str = partner) -> Response:
        """A partner's opt-outs; answers a signed delivery.ack once they are enforced."""
        answer = await run_in_threadpool(feed.apply, sender, await request.body())
        return Response(answer, media_type="application/json")

    @router.get(FEED_PATH, tags=["peer"])
    def feed_position(sender: str = partner) -> Response:
        """How far the calling partner's feed has been heard."""
        return Response(feed.position(sender), media_type="application/json")

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
        of_kind = [i for i in _identifiers(person, region, 0) if i.kind == found.evidence.key_kind]
        if not of_kind:
            raise Misuse("This use was keyed by another kind of identifier.", code="wrong_key_kind")
        proof, _ = ledger.absence_proof(receipt_id, *of_kind[0])
        leaf = ledger.member_leaf(receipt_id, *of_kind[0])
        return schemas.AbsenceAnswer(receipt=found.to_dict(), leaf=to_base64(leaf), proof=proof.to_dict())

    @router.get("/log/{path:path}", tags=["log"], include_in_schema=True)
    def log_file(path: str) -> Response:
        """The published log (c2sp.org/tlog-tiles): `checkpoint`, `tile/…`, `tile/entries/…`."""
        static = ledger.log.static
        data = None if static is None else static.read(path)
        if data is None:
            return Response(status_code=404)
        if path == CHECKPOINT:
            return Response(
                data, media_type="text/plain; charset=utf-8", headers={"Cache-Control": "max-age=1"}
            )
        immutable = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(data, media_type="application/octet-stream", headers=immutable)

    return router
