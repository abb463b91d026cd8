"""The published log, as any web server would serve it."""

from __future__ import annotations

from fastapi import APIRouter, Response

from consent.http import CarefulRoute
from consent.ledger import Ledger
from consent.static import CHECKPOINT, COSIGNED

__all__ = ["create_router"]


def create_router(ledger: Ledger) -> APIRouter:
    """Public: nothing in the log is about anybody to whom its openings are unknown."""
    router = APIRouter(route_class=CarefulRoute)

    @router.get(
        "/log/{path:path}",
        tags=["log"],
        include_in_schema=True,
        responses={404: {"description": "The log has no such file."}},
    )
    def log_file(path: str) -> Response:
        """The published log (c2sp.org/tlog-tiles): `checkpoint`, `tile/…`, `tile/entries/…`.

        And `checkpoint.cosigned`, the newest checkpoint that witnesses have cosigned.
        """
        static = ledger.log.static
        data = None if static is None else static.read(path)
        if data is None:
            return Response(status_code=404)
        if path in (CHECKPOINT, COSIGNED):
            return Response(
                data, media_type="text/plain; charset=utf-8", headers={"Cache-Control": "max-age=1"}
            )
        immutable = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(data, media_type="application/octet-stream", headers=immutable)

    return router
