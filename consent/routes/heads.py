"""What this node has seen of a partner, for the partner to compare with what it has."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response

from consent.heads import HEADS_PATH, heads_seen_of
from consent.http import CarefulRoute, Guards
from consent.ledger import Ledger

__all__ = ["create_router"]


def create_router(ledger: Ledger, guards: Guards) -> APIRouter:
    """Takes a partner's signed request."""
    router = APIRouter(route_class=CarefulRoute)
    partner = Depends(guards.partner())

    @router.get(
        HEADS_PATH,
        tags=["peer"],
        response_class=Response,
        responses={200: {"content": {"application/json": {}}}},
    )
    def heads(sender: str = partner) -> Response:
        """The newest heads of the calling partner's log, and of its feed, that this node has verified."""
        return Response(heads_seen_of(ledger, sender), media_type="application/json")

    return router
