"""The clean room over HTTP: what people of this node call, and what partner nodes call (`/v1/peer/…`)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from clean_room.activation_api import add_activations
from clean_room.agreements import Terms
from clean_room.approval_api import add_approvals
from clean_room.errors import Misuse, PeerViolation
from clean_room.events import add_events
from clean_room.jobs import Job, Role
from clean_room.schemas import (
    AcceptIn,
    AmendIn,
    AmendmentAcceptIn,
    BudgetOut,
    CollaborationOut,
    DatasetOut,
    InviteIn,
    InviteOut,
    JobOut,
    PageOf,
    PreviewOut,
    QueryIn,
    ReceiptOut,
)
from clean_room.service import CleanRoom
from clean_room.transport import CHUNK_BYTES
from consent.api import Guards
from consent.encoding import parse_json

__all__ = ["create_router"]

_MAX_DOCUMENT = 1 << 20
_MAX_INVITATION = 1 << 16  # what a stranger may leave here


def create_router(service: CleanRoom, guards: Guards) -> APIRouter:
    """All routes. Errors are raised as `ComityError`s; the application turns them into problem documents."""
    router = APIRouter()
    _add_collaborations(router, service, guards)
    _add_queries(router, service, guards)
    _add_lookups(router, service, guards)
    _add_peer_collaborations(router, service, guards)
    _add_peer_budgets(router, service, guards)
    _add_peer_jobs(router, service, guards)
    add_activations(router, service, guards)
    add_approvals(router, service, guards)
    add_events(router, service, guards)
    return router


def _job(job: Job) -> JobOut:
    return JobOut(**job.document())


def _add_collaborations(router: APIRouter, service: CleanRoom, guards: Guards) -> None:
    steward = Depends(guards.role("data_steward", "compliance_officer"))
    anyone = Depends(guards.role("analyst", "data_steward", "compliance_officer"))
    book = service.collaborations

    @router.get("/v1/collaborations", tags=["collaborations"], summary="Agreements and invitations")
    def listed(_: str = anyone) -> list[CollaborationOut]:
        return [CollaborationOut(**shown) for shown in book.show()]

    @router.post("/v1/collaborations", status_code=201, tags=["collaborations"], summary="Invite a partner")
    def invite(asked: InviteIn, _: str = steward) -> InviteOut:
        fields = asked.model_dump(exclude={"terms"})
        return InviteOut(**book.invite(terms=Terms.stated(asked.terms), **fields))

    @router.post("/v1/collaborations:accept", tags=["collaborations"], summary="Accept an invitation")
    def accept(asked: AcceptIn, _: str = steward) -> CollaborationOut:
        terms = None if asked.terms is None else Terms.stated(asked.terms)
        agreement = book.accept(
            asked.invitation, terms=terms, datasets=asked.datasets, inviter_key=asked.inviter_key
        )
        return CollaborationOut(**book.show(agreement.id)[0])

    @router.get("/v1/collaborations/{collaboration}", tags=["collaborations"], summary="One agreement")
    def shown(collaboration: str, _: str = anyone) -> CollaborationOut:
        return CollaborationOut(**book.show(collaboration)[0])

    @router.post(
        "/v1/collaborations/{collaboration}:rotate",
        tags=["collaborations"],
        summary="Replace the key shared with the partner",
    )
    def rotate(collaboration: str, _: str = steward) -> CollaborationOut:
        return CollaborationOut(**book.show(book.rotate(collaboration).id)[0])

    @router.post(
        "/v1/collaborations/{collaboration}:amend",
        tags=["collaborations"],
        summary="Propose another version to the partner",
    )
    def amend(collaboration: str, asked: AmendIn, _: str = steward) -> CollaborationOut:
        terms = Terms.stated(asked.terms)
        row = book.amend(collaboration, terms=terms, datasets=asked.datasets, days=asked.days)
        return CollaborationOut(**book.show(row.id)[0])

    @router.post(
        "/v1/collaborations/{collaboration}:accept-amendment",
        tags=["collaborations"],
        summary="Accept the version the partner proposes",
    )
    def accept_amendment(collaboration: str, asked: AmendmentAcceptIn, _: str = steward) -> CollaborationOut:
        terms = None if asked.terms is None else Terms.stated(asked.terms)
        row = book.accept_amendment(collaboration, terms=terms, datasets=asked.datasets)
        return CollaborationOut(**book.show(row.id)[0])

    @router.post(
        "/v1/collaborations/{collaboration}:decline-amendment",
        tags=["collaborations"],
        summary="Forget what has been proposed",
    )
    def decline_amendment(collaboration: str, _: str = steward) -> CollaborationOut:
        return CollaborationOut(**book.show(book.decline_amendment(collaboration).id)[0])

    @router.post("/v1/collaborations/{collaboration}:leave", tags=["collaborations"], summary="Leave")
    def leave(collaboration: str, _: str = steward) -> CollaborationOut:
        return CollaborationOut(**service.leave(collaboration))


def _add_queries(router: APIRouter, service: CleanRoom, guards: Guards) -> None:
    analyst = Depends(guards.role("analyst"))
    anyone = Depends(guards.role("analyst", "data_steward", "compliance_officer"))

    @router.post(
        "/v1/overlap-queries",
        status_code=202,
        tags=["overlap queries"],
        summary="Ask a partner",
        description="Answers at once with a job; follow `Location` until its state is terminal.",
    )
    def submit(
        asked: QueryIn,
        response: Response,
        principal: str = analyst,
        idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
    ) -> JobOut:
        job = service.submit(asked.query(), principal=principal, idempotency_key=idempotency_key)
        response.headers["location"] = f"/v1/overlap-queries/{job.id}"
        return _job(job)

    @router.post(
        "/v1/overlap-queries:preview",
        tags=["overlap queries"],
        summary="Cost, error bar, and what could be learnt",
    )
    def preview(asked: QueryIn, _: str = analyst) -> PreviewOut:
        return PreviewOut(**service.preview(asked.query()))

    @router.get("/v1/overlap-queries", tags=["overlap queries"], summary="Queries, newest first")
    def listed(
        _: str = anyone,
        role: Role | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        cursor: Annotated[str | None, Query(max_length=200)] = None,
    ) -> PageOf:
        jobs, following = service.jobs(role=role, limit=limit, cursor=cursor)
        return PageOf(items=[_job(job) for job in jobs], next_cursor=following)

    @router.get("/v1/overlap-queries/{job}", tags=["overlap queries"], summary="One query and its result")
    def shown(job: str, _: str = anyone) -> JobOut:
        return _job(service.job(job))

    @router.post("/v1/overlap-queries/{job}:cancel", tags=["overlap queries"], summary="Stop a query")
    def cancel(job: str, _: str = anyone) -> JobOut:
        return _job(service.cancel(job))


def _add_lookups(router: APIRouter, service: CleanRoom, guards: Guards) -> None:
    anyone = Depends(guards.role("analyst", "data_steward", "compliance_officer"))

    @router.get("/v1/datasets", tags=["datasets"], summary="This node's datasets, as partners see them")
    def datasets(_: str = anyone) -> list[DatasetOut]:
        return [DatasetOut(**d.offer().document(), offered=d.offered) for d in service.catalogue]

    @router.get("/v1/budgets", tags=["budgets"], summary="What partners have spent of this node's datasets")
    def budgets(
        _: str = anyone, lineage: Annotated[str | None, Query(max_length=255)] = None
    ) -> list[BudgetOut]:
        return [
            BudgetOut(
                **asdict(status.key),
                limit=status.limit.epsilon,
                reserved=status.reserved.epsilon,
                committed=status.committed.epsilon,
                remaining=status.remaining.epsilon,
            )
            for status in service.budgets(lineage)
        ]

    @router.get("/v1/joint-receipts/{receipt}", tags=["receipts"], summary="A two-sided receipt, verified")
    def receipt(receipt: str, _: str = anyone) -> ReceiptOut:
        document = service.receipt(receipt)
        return ReceiptOut(**document, verified=service.verify_receipt(document))


def _add_peer_collaborations(router: APIRouter, service: CleanRoom, guards: Guards) -> None:
    partner = Depends(guards.partner())
    book = service.collaborations

    # Not signed by a pinned partner: nobody is one before the first invitation. The document carries its own
    # signature, is only kept for a person to look at, and the number kept is limited.
    @router.post("/v1/peer/invitations", status_code=202, tags=["peer"], summary="Deliver an invitation")
    async def invitation(request: Request) -> dict[str, str]:
        row = await run_in_threadpool(book.receive, await _document(request, _MAX_INVITATION))
        return {"id": row.id, "state": row.state}

    @router.post("/v1/peer/collaborations/{collaboration}/acceptance", tags=["peer"], summary="Accept")
    async def acceptance(collaboration: str, request: Request, name: str = partner) -> dict[str, Any]:
        return await run_in_threadpool(book.accepted, name, collaboration, await _document(request))

    @router.post(
        "/v1/peer/collaborations/{collaboration}/rotation", tags=["peer"], summary="Partner replaces the key"
    )
    async def rotation(collaboration: str, request: Request, name: str = partner) -> dict[str, Any]:
        return await run_in_threadpool(book.rotated, name, collaboration, await _document(request))

    @router.post(
        "/v1/peer/collaborations/{collaboration}/amendment",
        tags=["peer"],
        summary="Partner proposes a version",
    )
    async def amendment(collaboration: str, request: Request, name: str = partner) -> dict[str, str]:
        row = await run_in_threadpool(book.amendment, name, collaboration, await _document(request))
        return {"id": row.id, "state": row.state}

    @router.post(
        "/v1/peer/collaborations/{collaboration}/amendment/acceptance",
        tags=["peer"],
        summary="Partner accepts a version",
    )
    async def amendment_acceptance(
        collaboration: str, request: Request, name: str = partner
    ) -> dict[str, Any]:
        return await run_in_threadpool(book.amendment_accepted, name, collaboration, await _document(request))

    @router.post("/v1/peer/collaborations/{collaboration}/leave", tags=["peer"], summary="Partner leaves")
    def leave(collaboration: str, name: str = partner) -> dict[str, str]:
        service.partner_left(name, collaboration)
        return {"state": "left"}


def _add_peer_budgets(router: APIRouter, service: CleanRoom, guards: Guards) -> None:
    partner = Depends(guards.partner())

    @router.get(
        "/v1/peer/collaborations/{collaboration}/budgets/{dataset}",
        tags=["peer"],
        summary="What the asking partner may still learn of a dataset",
    )
    def left(collaboration: str, dataset: str, name: str = partner) -> dict[str, Any]:
        return service.left_for(name, collaboration, dataset)


def _add_peer_jobs(router: APIRouter, service: CleanRoom, guards: Guards) -> None:
    partner = Depends(guards.partner())
    desk = service.contributor

    @router.post("/v1/peer/jobs", status_code=202, tags=["peer"], summary="Offer a query")
    async def offer(request: Request, name: str = partner) -> dict[str, Any]:
        return await run_in_threadpool(desk.offer, name, await _document(request))

    @router.get("/v1/peer/jobs/{job}", tags=["peer"], summary="Where the contribution stands")
    def state(job: str, name: str = partner) -> dict[str, Any]:
        return desk.state(name, job)

    @router.put(
        "/v1/peer/jobs/{job}/messages/{step}/chunks/{index}",
        status_code=204,
        tags=["peer"],
        summary="One chunk of a message",
    )
    async def chunk(job: str, step: int, index: int, request: Request, name: str = partner) -> None:
        body = await _body(request, CHUNK_BYTES)
        await run_in_threadpool(desk.chunk, name, job, step, index, body)

    @router.post(
        "/v1/peer/jobs/{job}/messages/{step}/finish",
        status_code=204,
        tags=["peer"],
        summary="The message is whole",
    )
    async def finish(job: str, step: int, request: Request, name: str = partner) -> None:
        await run_in_threadpool(desk.finish, name, job, step, await _document(request))

    @router.get(
        "/v1/peer/jobs/{job}/replies/{step}/chunks/{index}",
        tags=["peer"],
        summary="One chunk of a reply",
        response_class=Response,
    )
    def reply(job: str, step: int, index: int, name: str = partner) -> Response:
        return Response(desk.reply(name, job, step, index), media_type="application/octet-stream")

    @router.post("/v1/peer/jobs/{job}/receipt", tags=["peer"], summary="Seal the run, countersign")
    async def sign_off(job: str, request: Request, name: str = partner) -> dict[str, Any]:
        return await run_in_threadpool(desk.sign_off, name, job, await _document(request))

    @router.post("/v1/peer/jobs/{job}/cancel", status_code=204, tags=["peer"], summary="The analyst gives up")
    async def cancel(job: str, request: Request, name: str = partner) -> None:
        await run_in_threadpool(desk.cancel, name, job, await _document(request))


async def _body(request: Request, limit: int) -> bytes:
    body = await request.body()
    if len(body) > limit:
        raise PeerViolation("a request body is longer than it may be.", code="request_too_large")
    return body


async def _document(request: Request, limit: int = _MAX_DOCUMENT) -> dict[str, Any]:
    """A partner's JSON object, read strictly."""
    body = await _body(request, limit)
    document = parse_json(body, limit=limit)
    if not isinstance(document, dict):
        raise Misuse("the request body is not a JSON object.", code="malformed_request")
    return document
