"""The HTTP edge of the ledger, put together."""

from __future__ import annotations

from fastapi import APIRouter

from consent.erasure import Erasure
from consent.feed import Feed
from consent.http import Guards
from consent.ledger import Ledger
from consent.merging import Merging
from consent.routes import consents, erasure, feed, heads, log, merging, optouts, receipts, signals

__all__ = ["Guards", "create_router"]


def create_router(
    ledger: Ledger,
    opt_outs: Feed,
    guards: Guards,
    *,
    region: str = "CN",
    erasures: Erasure | None = None,
    vendor: int | None = None,
) -> APIRouter:
    """Every endpoint of this room. `region` is where telephone numbers without a country code belong,
    `vendor` the organisation's id in the Global Vendor List.

    The errors of the house propagate; the application turns them into problem documents.
    """
    router = APIRouter()
    for part in (
        consents.create_router(ledger, guards, region),
        optouts.create_router(ledger, opt_outs, guards, region),
        feed.create_router(opt_outs, guards),
        heads.create_router(ledger, guards),
        receipts.create_router(ledger, guards, region),
        signals.create_router(ledger, guards, region, vendor=vendor),
        merging.create_router(Merging(ledger), guards, region),
        erasure.create_router(erasures or Erasure(ledger), guards, region),
        log.create_router(ledger),
    ):
        router.include_router(part)
    return router
