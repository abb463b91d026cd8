"""Activations over HTTP: each side exports its half, and the contributor says whom to leave out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel

from clean_room.activation_files import FORMATS
from clean_room.service import CleanRoom
from consent.api import Guards

__all__ = ["PairEpochOut", "add_activations"]

Form = Annotated[Literal["csv", "parquet"], Query(alias="format")]


class PairEpochOut(BaseModel):
    """Since when this node's key and salt toward a partner are in use; never the secrets themselves."""

    partner: str
    key_since: datetime
    salt_since: datetime


def add_activations(router: APIRouter, service: CleanRoom, guards: Guards) -> None:
    """The routes of activations."""
    exporting = Depends(guards.role("analyst", "data_steward"))
    steward = Depends(guards.role("data_steward"))
    partner = Depends(guards.partner())
    room = service.activations

    @router.get(
        "/v1/overlap-queries/{job}/activation",
        tags=["activations"],
        summary="The partner's encrypted ids of shared people",
        description="Without whoever has opted out until now; the partner's node is asked who that is.",
        response_class=Response,
        responses={200: {"content": {kind: {} for kind in FORMATS.values()}}},
    )
    def audience(job: str, form: Form = "csv", principal: str = exporting) -> Response:
        return Response(room.audience(job, form, principal=principal), media_type=FORMATS[form])

    @router.get(
        "/v1/overlap-queries/{job}/activation-map",
        tags=["activations"],
        summary="Which row of the own dataset has which id, at the contributor",
        description="Without whoever has opted out until now.",
        response_class=Response,
        responses={200: {"content": {kind: {} for kind in FORMATS.values()}}},
    )
    def publisher_map(job: str, form: Form = "csv", principal: str = steward) -> Response:
        return Response(room.publisher_map(job, form, principal=principal), media_type=FORMATS[form])

    @router.post(
        "/v1/collaborations/{collaboration}:rotate-ids",
        tags=["activations"],
        summary="Make every later id unlinkable to those made before",
    )
    def rotate(collaboration: str, _: str = steward) -> PairEpochOut:
        name = service.collaborations.partner(collaboration).name
        epoch = room.rotate(name)
        return PairEpochOut(partner=name, key_since=epoch.key_since, salt_since=epoch.salt_since)

    @router.get(
        "/v1/peer/activations/{job}/suppressed",
        tags=["peer"],
        summary="Ids that are not to be used any more, 32 bytes each",
        response_class=Response,
    )
    def suppressed(job: str, name: str = partner) -> Response:
        return Response(room.suppressed(name, job), media_type="application/octet-stream")
