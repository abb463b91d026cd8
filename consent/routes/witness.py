"""This node as a witness (c2sp.org/tlog-witness), and what it saw that does not fit together."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from consent.encoding import render_time
from consent.http import CarefulRoute, Guards
from consent.split_views import SplitViews
from consent.witness import MAX_REQUEST, SIZE_TYPE, TEXT_TYPE, Witness

__all__ = ["create_router"]

_TEXT: dict[str, Any] = {"content": {"text/plain": {"schema": {"type": "string"}}}}
_EXAMPLE = (
    "old 20852014\nPlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n…\n\nexample.com/behind-the-sofa\n20852163\n"
    "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— example.com/behind-the-sofa Az3grlgtzPICa5OS8npV…\n"
)
_REQUEST = {
    "required": True,
    "content": {"text/plain": {"schema": {"type": "string"}, "example": _EXAMPLE}},
}


class SplitViewItem(BaseModel):
    """Two checkpoints that one log signed and that do not fit together."""

    origin: str = Field(examples=["shop.example/log"])
    kind: str = Field(
        description="fork: two roots of one size; unproven: never shown to extend the earlier one.",
        examples=["fork"],
    )
    seen_at: str = Field(examples=["2026-01-31T08:00:00.000000Z"])
    index: int | None = Field(description="The entry of this node's log that records it.", examples=[1041])
    first: str = Field(examples=["shop.example/log\n10\n…\n\n— shop.example/log …\n"])
    second: str = Field(examples=["shop.example/log\n10\n…\n\n— shop.example/log …\n"])


class SplitViewList(BaseModel):
    """Newest first."""

    split_views: list[SplitViewItem]


def create_router(witness: Witness, split_views: SplitViews, guards: Guards) -> APIRouter:
    """`add-checkpoint` and the monitors' endpoint are public: only known logs' signatures are heard."""
    router = APIRouter()

    @router.post(
        "/witness/add-checkpoint",
        tags=["witness"],
        summary="Cosign a known log's new checkpoint (c2sp.org/tlog-witness)",
        response_class=Response,
        responses={
            200: {**_TEXT, "description": "This witness's cosignature, a note signature line."},
            400: {**_TEXT, "description": "Malformed, or the old size is larger than the checkpoint's."},
            403: {**_TEXT, "description": "Not signed by the log's key."},
            404: {**_TEXT, "description": "A log that is not known here."},
            409: {
                "content": {SIZE_TYPE: {"schema": {"type": "string"}}},
                "description": "Another size was cosigned last; the body is that size.",
            },
            413: {**_TEXT, "description": "Larger than such a request can be."},
            422: {**_TEXT, "description": "Not shown to extend what was cosigned last."},
        },
        openapi_extra={"requestBody": _REQUEST},
    )
    async def add_checkpoint(request: Request) -> Response:
        """The checkpoint is persisted before it is cosigned."""
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_REQUEST:
                text = "An add-checkpoint request is not so large.\n"
                return Response(text, 413, media_type=TEXT_TYPE, headers={"connection": "close"})
        answer = await run_in_threadpool(witness.add_checkpoint, bytes(body))
        return Response(answer.body, answer.status, headers={"content-type": answer.content_type})

    @router.get(
        "/witness/{origin_hash}/checkpoint",
        tags=["witness"],
        summary="The newest checkpoint cosigned for a log",
        response_class=Response,
        responses={200: {**_TEXT, "description": "A checkpoint."}, 404: {"description": "Never cosigned."}},
    )
    def cosigned_checkpoint(
        origin_hash: Annotated[str, Path(description="SHA-256 of the log's origin, lower-case hex.")],
    ) -> Response:
        """With the log's signature that was verified and this witness's cosignature."""
        text = witness.checkpoint(origin_hash)
        if text is None:
            return Response(status_code=404)
        return Response(text, headers={"content-type": TEXT_TYPE, "cache-control": "max-age=1"})

    guarded = APIRouter(route_class=CarefulRoute)
    officer = Depends(guards.role("compliance_officer", "data_steward"))

    @guarded.get("/v1/split-views", tags=["witness"], dependencies=[officer])
    def list_split_views(
        origin: str | None = Query(None, max_length=512, description="Of this log only."),
    ) -> SplitViewList:
        """Logs caught signing checkpoints that do not fit together, with both checkpoints."""
        return SplitViewList(
            split_views=[
                SplitViewItem(
                    origin=row.origin,
                    kind=row.kind,
                    seen_at=render_time(row.seen_at),
                    index=row.idx,
                    first=row.first,
                    second=row.second,
                )
                for row in split_views.listing(origin)
            ]
        )

    router.include_router(guarded)
    return router
