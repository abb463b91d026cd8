"""The HTTP edge of the training room: runs for people, seats for partners."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from consent.api import Guards
from federated.errors import PeerViolation
from federated.runs import TrainingRequest
from federated.runtime import TrainingService

__all__ = ["create_router"]

_EXAMPLE: dict[str, Any] = {
    "collaboration": "8c9e0f5a3f0e4a6f9d4d1a2b3c4d5e6f",
    "dataset": "customers",
    "partner_dataset": "shoppers",
    "label": "defaulted",
    "purpose": "model.credit",
    "key": "email",
    "rounds": 3,
    "epochs": 4,
}


class TrainingRunBody(BaseModel):
    """A joint model to train: own dataset with the label, the partner's dataset, and why."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _EXAMPLE})

    collaboration: str
    dataset: str = Field(description="Own dataset; holds the label.")
    partner_dataset: str
    label: str = Field(description="Column of 0 and 1.")
    purpose: str = Field(description="Consent purpose of the model.")
    features: list[str] = Field(default=[], description="Own columns; empty for all listed for training.")
    partner_features: list[str] = Field(default=[], description="The partner's; empty for all it lists.")
    key: str = Field(default="email", description="Identifier the people are aligned by.")
    align_purpose: str | None = Field(default=None, description="Purpose of the alignment, if another.")
    alignment: str | None = Field(default=None, description="A finished align job to build on.")
    rounds: int = 3
    epochs: int = 4
    test_fraction: float = 0.25
    l2: float = 1.0
    tolerance: float = 0.01


class RunView(BaseModel):
    """A run as this node knows it."""

    id: str
    role: str
    partner: str
    collaboration: str
    request: dict[str, Any]
    state: str
    stage: str
    progress: float
    alignment: str | None
    created_at: str
    updated_at: str
    result: dict[str, Any] | None
    error: dict[str, Any] | None


class RunPage(BaseModel):
    """Runs, newest first; `next` is the cursor of the following page."""

    items: list[RunView]
    next: str | None


class OfferAnswer(BaseModel):
    """The feature holder's columns, in the order their gradients travel."""

    features: list[str]
    rows: int


async def _body(request: Request) -> bytes:
    return await request.body()


Body = Annotated[bytes, Depends(_body)]


def _bytes_or_nothing(found: bytes | None) -> Response:
    if not found:
        return Response(status_code=204)
    return Response(found, media_type="application/octet-stream")


def create_router(service: TrainingService, guards: Guards) -> APIRouter:
    """`/v1/training-runs` for people, `/v1/peer/training` for partners."""
    router = APIRouter()
    # Depends() as a default, not in Annotated: annotations are strings here and cannot see a local name.
    reader = Depends(guards.role("analyst", "data_steward", "compliance_officer"))
    analyst = Depends(guards.role("analyst"))
    partner = Depends(guards.partner())
    _people(router, service, reader, analyst)
    _partners(router, service, partner)
    return router


def _people(router: APIRouter, service: TrainingService, reader: Any, analyst: Any) -> None:
    tags: Any = ["training"]

    @router.post("/v1/training-runs", status_code=202, tags=tags, summary="Train a joint model")
    def submit(
        body: TrainingRunBody,
        response: Response,
        idempotency_key: Annotated[str | None, Header()] = None,
        principal: str = analyst,
    ) -> RunView:
        """Take a run on. Follow it at the `Location` given."""
        request = TrainingRequest.from_document(body.model_dump())
        run = service.submit(request, principal=principal, idempotency_key=idempotency_key)
        response.headers["Location"] = f"/v1/training-runs/{run.id}"
        return RunView(**run.document())

    @router.get("/v1/training-runs", tags=tags, summary="List runs")
    def runs(
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        cursor: Annotated[str | None, Query(max_length=64)] = None,
        _principal: str = reader,
    ) -> RunPage:
        """Runs of both roles, newest first."""
        found = service.runs(limit=limit + 1, after=cursor)
        shown = found[:limit]
        return RunPage(
            items=[RunView(**run.document()) for run in shown],
            next=shown[-1].id if len(found) > limit else None,
        )

    @router.get("/v1/training-runs/{run}", tags=tags, summary="Show a run")
    def show(run: str, _principal: str = reader) -> RunView:
        """State, progress, and once it has succeeded the result."""
        return RunView(**service.run(run).document())

    @router.get("/v1/training-runs/{run}/card", tags=tags, summary="Show the model card")
    def card(run: str, _principal: str = reader) -> dict[str, Any]:
        """Data, purposes, consent heads per round, metrics, what was disclosed, limits."""
        return service.card(run)

    @router.get("/v1/training-runs/{run}/receipts", tags=tags, summary="Show the round receipts")
    def receipts(run: str, _principal: str = reader) -> list[dict[str, Any]]:
        """The signed receipts of every round this side holds."""
        return service.receipts(run)

    @router.post("/v1/training-runs/{run}:cancel", status_code=202, tags=tags, summary="Cancel a run")
    def cancel(run: str, _principal: str = analyst) -> RunView:
        """Stop at the next epoch; nothing is kept."""
        return RunView(**service.cancel(run).document())


def _partners(router: APIRouter, service: TrainingService, partner: Any) -> None:
    tags: Any = ["partner"]
    seats = service.participant

    @router.post("/v1/peer/training", tags=tags, summary="Offer a run")
    def offer(body: dict[str, Any], name: str = partner) -> OfferAnswer:
        """Ask this node to take part as the feature holder."""
        return OfferAnswer(**seats.offer(name, body))

    @router.post("/v1/peer/training/{run}/messages", status_code=202, tags=tags, summary="A Flower message")
    def message(run: str, body: Body, name: str = partner) -> Response:
        """Start a round; the reply is fetched by the message's id."""
        seats.deliver(name, run, body)
        return Response(status_code=202)

    @router.get("/v1/peer/training/{run}/messages/{message}", tags=tags, summary="A Flower reply")
    def reply(run: str, message: str, name: str = partner) -> Response:
        """200 with the reply, 204 while the round still runs."""
        return _bytes_or_nothing(seats.reply(name, run, message))

    @router.post("/v1/peer/training/{run}/channel", status_code=204, tags=tags, summary="A channel frame")
    def frame(run: str, body: Body, name: str = partner) -> Response:
        """The next frame of the pair channel."""
        seats.frame(name, run, body)
        return Response(status_code=204)

    @router.get("/v1/peer/training/{run}/channel/{sequence}", tags=tags, summary="Fetch a channel frame")
    def fetch(run: str, sequence: int, name: str = partner) -> Response:
        """200 with frame `sequence`, 204 while it is not there."""
        if not 0 <= sequence < 1 << 62:
            raise PeerViolation("A channel frame of an impossible number was asked for.")
        return _bytes_or_nothing(seats.fetch(name, run, sequence))

    @router.post("/v1/peer/training/{run}/finish", tags=tags, summary="End a run")
    def finish(run: str, body: dict[str, Any], name: str = partner) -> dict[str, Any]:
        """Tell how the run ended; after a success this node seals its half of the model."""
        return seats.finish(name, run, body)
