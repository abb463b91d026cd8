"""Preference links over HTTP: made by officers, opened by the people they are for.

The page needs no account, cookie or script. The link is the whole authority, so a request that somebody
else makes a browser send has none; reading changes nothing; a "yes" needs the form of the page besides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from consent import schemas
from consent.forms import read_form
from consent.http import CarefulRoute, Guards, identifiers_of
from consent.people import People
from consent.preference_links import LinkEnded, NewLink, OpenLink, PreferenceLink
from consent.preference_page import PreferencePage, preferred_language
from consent.preferences import Saved
from consent.rate_limit import RateLimit
from privacy.errors import ComityError, Misuse

__all__ = ["LinkAnswer", "LinkRequest", "create_router"]

_HTML = "text/html; charset=utf-8"


class LinkRequest(schemas.Person):
    """Whom the link is for, and what it may change: everything unless limited."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"email": "ann@example.org", "purposes": ["activation"], "days": 30}}
    )
    purposes: list[schemas.Purpose] = Field(default_factory=list, max_length=64)
    partners: list[schemas.Partner] = Field(default_factory=list, max_length=64)
    days: Annotated[float, Field(gt=0, le=366, description="How long the link works.")] = 30


class LinkState(schemas._Strict):
    """A link as kept. The token itself is known to nobody but whoever was sent it."""

    id: str = Field(examples=["9f2c41d08be35a76"])
    purposes: list[str]
    partners: list[str]
    created_by: str
    created_at: Any
    expires_at: Any
    revoked_at: Any

    @classmethod
    def of(cls, link: PreferenceLink) -> LinkState:
        return cls(
            id=link.id,
            purposes=list(link.purposes),
            partners=list(link.partners),
            created_by=link.created_by,
            created_at=link.created_at,
            expires_at=link.expires_at,
            revoked_at=link.revoked_at,
        )


class LinkAnswer(schemas._Strict):
    """A link just made. `url` is shown once; `mail_headers` make it a one-click opt-out in mail programs."""

    link: LinkState
    url: str
    mail_headers: dict[str, str]

    @classmethod
    def of(cls, made: NewLink) -> LinkAnswer:
        return cls(link=LinkState.of(made.link), url=made.url, mail_headers=made.mail_headers)


class LinkPage(schemas._Strict):
    links: list[LinkState]
    next: str | None = Field(description="Pass as `before` for the next page; null on the last.")


_PAGES: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"text/html": {}}}
    for status, text in (
        (400, "A page: the form is not one of ours."),
        (404, "A page: the link has ended, or never was."),
        (429, "A page: too many tries, wait a minute."),
        (500, "A page: it could not be done."),
    )
}
"""What a person sees in place of a problem document."""


def create_router(people: People, guards: Guards, region: str) -> APIRouter:
    """The officers' endpoints and the public page. `region`: as in `identifiers_of`."""
    router = APIRouter(route_class=CarefulRoute)
    steward = guards.role("data_steward", "compliance_officer")

    @router.post("/v1/preference-links", status_code=201, tags=["preferences"])
    def make_link(asked: LinkRequest, principal: str = Depends(steward)) -> LinkAnswer:
        """Make a link for one person. The identifiers stay in the body; the link holds none."""
        made = people.links.create(
            identifiers_of(asked, region),
            purposes=asked.purposes,
            partners=asked.partners,
            lifetime=timedelta(days=asked.days),
            created_by=principal,
        )
        return LinkAnswer.of(made)

    @router.get("/v1/preference-links", tags=["preferences"], dependencies=[Depends(steward)])
    def list_links(
        before: str | None = Query(None, max_length=32), limit: int = Query(50, ge=1, le=500)
    ) -> LinkPage:
        """Links, newest first; they do not say whom they are for."""
        found = people.links.links(before=before, limit=limit)
        return LinkPage(
            links=[LinkState.of(link) for link in found], next=found[-1].id if len(found) == limit else None
        )

    @router.delete("/v1/preference-links/{link}", tags=["preferences"], dependencies=[Depends(steward)])
    def revoke_link(link: str) -> LinkState:
        """End a link at once."""
        return LinkState.of(people.links.revoke(link))

    desk = _Desk(people)

    @router.get("/preferences/{token}", tags=["preferences"], response_class=Response, responses=_PAGES)
    def show(
        request: Request,
        token: str,
        lang: str | None = Query(None, max_length=16),
        done: str | None = Query(None, max_length=128),
    ) -> Response:
        """The page. Changes nothing, however often and by whomever it is fetched."""
        return desk.show(request, token, lang, done)

    @router.post("/preferences/{token}", tags=["preferences"], response_class=Response, responses=_PAGES)
    async def change(request: Request, token: str) -> Response:
        """A form of the page, or `List-Unsubscribe=One-Click` (RFC 8058), which says no to everything."""
        body = await request.body()
        return await run_in_threadpool(desk.change, request, token, body)

    @router.get(
        "/preferences/{token}/receipts", tags=["preferences"], response_class=Response, responses=_PAGES
    )
    def own_receipts(request: Request, token: str) -> Response:
        """The person's own receipts, as a file."""
        return desk.proof(request, token, "receipts", people.receipts.bundle)

    @router.get(
        "/preferences/{token}/absence", tags=["preferences"], response_class=Response, responses=_PAGES
    )
    def own_absence(request: Request, token: str) -> Response:
        """Proof of what the person was not in after saying no, as a file."""
        return desk.proof(request, token, "absence", people.absences.bundle)

    return router


class _Desk:
    """Answers people who come with a link."""

    def __init__(self, people: People) -> None:
        self._links = people.links
        self._preferences = people.preferences
        self._receipts = people.receipts
        self._page = PreferencePage(people.owner, people.ledger.origin)
        clock = people.ledger.clock
        # Known links are limited each for itself; only who comes with unknown ones is told apart by address.
        self._by_link = RateLimit(clock, burst=60, per_minute=60)
        self._by_address = RateLimit(clock, burst=30, per_minute=30)
        self._proofs = RateLimit(clock, burst=10, per_minute=4)

    def show(self, request: Request, token: str, lang: str | None, done: str | None) -> Response:
        language = preferred_language(request.headers.get("accept-language"), lang)
        opened = self._open(request, token)
        if isinstance(opened, str):
            return self._message(opened, language)
        saved, everything = _read_done(opened, done)
        return self._html(self._choices(request, opened, language, saved, everything))

    def change(self, request: Request, token: str, body: bytes) -> Response:
        language = preferred_language(request.headers.get("accept-language"))
        opened = self._open(request, token)
        if isinstance(opened, str):
            return self._message(opened, language)
        fields = read_form(request.headers.get("content-type", ""), body)
        if fields is None:
            return self._message("malformed", language, back=_action(token))
        language = preferred_language(request.headers.get("accept-language"), fields.get("lang"))
        try:
            if fields.get("List-Unsubscribe") == "One-Click":
                self._preferences.deny_everything(opened, method="one_click")
                return self._html(self._page.message("one_click", language=language, back=_action(token)))
            done = self._do(request, opened, fields, language)
        except ComityError as error:
            if isinstance(error, Misuse):
                return self._message("malformed", language, back=_action(token))
            return self._message("failed", language, back=_action(token))
        if done is None:
            return self._message("malformed", language, back=_action(token))
        where = f"{_action(token)}?lang={language}&done={done}.{opened.mac('done', done)}"
        return Response(status_code=303, headers={**self._page.headers, "Location": where})

    def _do(self, request: Request, opened: OpenLink, fields: Mapping[str, str], language: str) -> str | None:
        """What was done, in the few letters that the next page is told by. None for an unknown form."""
        if fields.get("do") == "everything":
            return "all" if self._preferences.deny_everything(opened) else "had"
        if fields.get("do") != "save":
            return None
        answers = {name: value == "yes" for name, value in fields.items() if value in ("yes", "no")}
        saved = self._preferences.save(
            opened,
            answers if _own(request) else {name: answer for name, answer in answers.items() if not answer},
            fields.get("form", ""),
            language=language,
            screen=self._page.screen,
            signalled=_signalled(request),
        )
        return f"{saved.allowed}-{saved.denied}-{int(saved.stale)}-{int(saved.signalled)}"

    def proof(
        self, request: Request, token: str, name: str, make: Callable[[bytes], dict[str, Any]]
    ) -> Response:
        language = preferred_language(request.headers.get("accept-language"))
        opened = self._open(request, token)
        if isinstance(opened, str):
            return self._message(opened, language)
        if not self._proofs.take(opened.link.id):
            return self._message("busy", language, back=_action(token))
        try:
            made = [make(subject) for subject in self._receipts.subjects(opened.identifiers)]
        except ComityError:
            made = []
        if not made:
            return self._message("failed", language, back=_action(token))
        content = json.dumps(made[0] if len(made) == 1 else made, indent=1)
        kept = {**self._page.headers, "Content-Disposition": f'attachment; filename="{name}.json"'}
        return Response(content, media_type="application/json", headers=kept)

    def _choices(
        self, request: Request, opened: OpenLink, language: str, saved: Saved | None, everything: bool | None
    ) -> str:
        signalled = _signalled(request)
        subjects = self._receipts.subjects(opened.identifiers)
        return self._page.choices(
            opened,
            self._preferences.choices(opened, signalled=signalled),
            language=language,
            action=request.url.path,
            known=bool(subjects),
            restricted=self._preferences.ever_denied(opened),
            signalled=signalled,
            saved=saved,
            everything=everything,
        )

    def _open(self, request: Request, token: str) -> OpenLink | str:
        """The open link, or the name of the message that is to be shown instead."""
        address = request.client.host if request.client else ""
        try:
            opened = self._links.open(token)
        except LinkEnded:
            return "ended" if self._by_address.take(address) else "busy"
        return opened if self._by_link.take(opened.link.id) else "busy"

    def _html(self, text: str, status: int = 200, **more: str) -> Response:
        return Response(text, status, {**self._page.headers, **more}, _HTML)

    def _message(self, what: str, language: str, back: str = "") -> Response:
        status = {"ended": 404, "busy": 429, "malformed": 400}.get(what, 500)
        more = {"Retry-After": "60"} if what == "busy" else {}
        return self._html(self._page.message(what, language=language, back=back), status, **more)


def _action(token: str) -> str:
    return f"/preferences/{token}"


def _signalled(request: Request) -> bool:
    return request.headers.get("sec-gpc") == "1"


def _own(request: Request) -> bool:
    """Whether the browser says that the form came from this site, or says nothing (Fetch Metadata)."""
    return request.headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")


def _read_done(opened: OpenLink, done: str | None) -> tuple[Saved | None, bool | None]:
    what, _, mac = (done or "").partition(".")
    if not opened.made("done", what, mac):
        return None, None
    if what in ("all", "had"):
        return None, what == "all"
    allowed, denied, stale, signalled = (int(part) for part in what.split("-"))
    return Saved(allowed, denied, bool(stale), bool(signalled)), None
