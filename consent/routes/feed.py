"""The opt-out feed between partners."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from consent.event_stream import EVENT_STREAM
from consent.feed import ACKS_PATH, FEED_PATH, HEARD_PATH, Feed
from consent.feed_stream import FeedStream, next_message
from consent.http import CarefulRoute, Guards
from consent.messages import unpack_pseudonyms
from consent.proofs import to_base64

__all__ = ["create_router"]

_LONGEST = 30.0  # seconds a long poll may wait


def create_router(feed: Feed, guards: Guards) -> APIRouter:
    """Every endpoint here takes a partner's signed request."""
    router = APIRouter(route_class=CarefulRoute)
    partner = Depends(guards.partner())

    @router.get(
        FEED_PATH,
        tags=["peer"],
        responses={200: {"content": {EVENT_STREAM: {}, "application/json": {}}}},
        response_class=Response,
    )
    async def read_feed(
        after: Annotated[int, Query(ge=0, lt=1 << 62, description="Entries heard already.")],
        nonce: Annotated[str, Query(pattern=r"^[A-Za-z0-9_\-]{16,64}$", description="The reader's own.")],
        wait: Annotated[float, Query(ge=0, le=_LONGEST, description="Seconds a long poll waits.")] = 0.5,
        accept: Annotated[str, Header()] = "",
        reader: str = partner,
    ) -> Response:
        """What the calling partner must be told, each message signed and bound to the nonce.

        With `Accept: text/event-stream` one event a message, at least two a second; otherwise one message,
        as soon as there is something to tell or after `wait` seconds.
        """
        delivery = await run_in_threadpool(feed.outgoing.open, reader, after, nonce)
        if EVENT_STREAM in accept:
            return FeedStream(feed.outgoing, delivery)
        try:
            body, _ = await next_message(feed.outgoing, delivery, wait)
        finally:
            feed.outgoing.close(delivery)
        return Response(body, media_type="application/json")

    @router.post(ACKS_PATH, tags=["peer"], status_code=204)
    async def acknowledge(request: Request, reader: str = partner) -> Response:
        """The calling partner's signed delivery.ack."""
        await run_in_threadpool(feed.outgoing.acknowledge, reader, await request.body())
        return Response(status_code=204)

    @router.get(HEARD_PATH, tags=["peer"])
    def heard(
        after: Annotated[int, Query(ge=0, lt=1 << 62)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
        sender: str = partner,
    ) -> dict[str, Any]:
        """What this node has heard from the calling partner, with pseudonyms: for one who lost it."""
        row, found = feed.incoming.heard(sender, after, limit)
        return {
            "size": row.heard_seq,
            "checkpoint": row.heard_checkpoint,
            "items": [
                {
                    "leaf": to_base64(item.leaf),
                    "pseudonyms": {
                        kind: [to_base64(p) for p in each]
                        for kind, each in unpack_pseudonyms(item.pseudonyms).items()
                    },
                }
                for item in found
            ],
        }

    return router
