"""The opt-out feed between partners."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from consent.feed import FEED_PATH, Feed
from consent.http import CarefulRoute, Guards

__all__ = ["create_router"]


def create_router(feed: Feed, guards: Guards) -> APIRouter:
    """Every endpoint here takes a partner's signed request."""
    router = APIRouter(route_class=CarefulRoute)
    partner = Depends(guards.partner())

    @router.post(FEED_PATH, tags=["peer"])
    async def receive_feed(request: Request, sender: str = partner) -> Response:
        """A partner's opt-outs; answers a signed delivery.ack once they are enforced."""
        answer = await run_in_threadpool(feed.apply, sender, await request.body())
        return Response(answer, media_type="application/json")

    @router.get(FEED_PATH, tags=["peer"])
    def feed_position(sender: str = partner) -> Response:
        """How far the calling partner's feed has been heard."""
        return Response(feed.position(sender), media_type="application/json")

    return router
