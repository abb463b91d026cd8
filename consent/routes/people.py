"""Everything over HTTP that is about single people, put together."""

from __future__ import annotations

from fastapi import APIRouter

from consent.http import Guards
from consent.people import People
from consent.routes import preferences, subject_receipts, subjects

__all__ = ["create_router"]


def create_router(people: People, guards: Guards, *, region: str = "CN") -> APIRouter:
    """`region` is where telephone numbers without a country code belong."""
    router = APIRouter()
    for part in (subjects, subject_receipts, preferences):
        router.include_router(part.create_router(people, guards, region))
    return router
