"""The preference page: choices as HTML, in English and Chinese, without a script.

The page is a form and works with nothing but HTML. Its one style sheet is allowed by its hash, everything
else is forbidden by the content security policy; nothing is fetched from anywhere.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from hashlib import sha256
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from consent.events import EVERY_PARTNER
from consent.preference_links import OpenLink
from consent.preferences import Choice, Choices, Saved, Status
from consent.shipped import read_shipped

__all__ = ["LANGUAGES", "PreferencePage", "preferred_language"]

LANGUAGES = ("en", "zh")
_TAG = re.compile(
    r"\s*([A-Za-z]{1,8}|\*)(?:-[A-Za-z0-9]{1,8})*\s*(?:;\s*q=([01](?:\.[0-9]{0,3})?)\s*)?", re.ASCII
)


def preferred_language(accept: str | None, asked: str | None = None) -> str:
    """The page's language for an Accept-Language header (RFC 9110 §12.5.4); `asked` wins if it is one."""
    if asked in LANGUAGES:
        return str(asked)
    best, weight = LANGUAGES[0], 0.0
    for part in (accept or "")[:512].split(","):
        match = _TAG.fullmatch(part)
        if match is None:
            continue
        language, quality = match[1].lower(), float(match[2] or 1)
        if language in LANGUAGES and quality > weight:
            best, weight = language, quality
    return best


@cache
def texts() -> dict[str, dict[str, Any]]:
    """Language → name → text."""
    found: dict[str, dict[str, Any]] = read_shipped("consent", "templates", "preferences.yaml")
    return found


def _file(name: str) -> str:
    return resources.files("consent").joinpath("templates", name).read_text("utf-8")


def _date(moment: datetime, language: str) -> str:
    if language == "zh":
        return f"{moment.year}年{moment.month}月{moment.day}日"
    return f"{moment.day} {moment:%B %Y}"


@dataclass(frozen=True, slots=True)
class _Row:
    id: str
    name: str
    who: str
    kind: str
    state: str
    answer: str
    may_allow: bool


class PreferencePage:
    """Renders pages for one node. `owner` is the organisation's name as people know it."""

    def __init__(self, owner: str, origin: str) -> None:
        self._owner = owner
        self._origin = origin
        self._css = _file("preferences.css")
        loader = jinja2.FunctionLoader(_file)
        self._jinja = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)

    @cached_property
    def screen(self) -> str:
        """Hex SHA-256 of what makes up the screen: template, style sheet and texts."""
        parts = [_file(name).encode() for name in ("preferences.html", "preferences.css", "preferences.yaml")]
        return sha256(b"".join(len(p).to_bytes(8, "big") + p for p in parts)).hexdigest()

    @cached_property
    def headers(self) -> dict[str, str]:
        """What every page is sent with: nothing runs, nothing is loaded, kept, framed or told to others."""
        style = b64encode(sha256(self._css.encode()).digest()).decode()
        policy = (
            f"default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; base-uri 'none'; "
            "frame-ancestors 'none'"
        )
        return {
            "Content-Security-Policy": policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "X-Robots-Tag": "noindex, nofollow",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "interest-cohort=(), browsing-topics=()",
            "Vary": "Accept-Language, Sec-GPC",
        }

    def choices(
        self,
        opened: OpenLink,
        choices: Choices,
        *,
        language: str,
        action: str,
        known: bool,
        restricted: bool,
        signalled: bool = False,
        saved: Saved | None = None,
        everything: bool | None = None,
    ) -> str:
        """The page with everything to choose. `saved`, `everything`: what was done just now."""
        text = texts()[language]
        groups = self._groups(choices, text, language)
        return self._render(
            "preferences.html",
            language,
            action=action,
            form=choices.form,
            notice=_shared_notice(groups),
            groups=groups,
            everything_denied=choices.everything_denied,
            limited=bool(opened.link.purposes or opened.link.partners),
            signalled=signalled and any(choice.signalled for choice in choices.items),
            messages=_messages(saved, everything, text),
            warned=bool(saved and (saved.stale or saved.signalled)),
            expires=text["expires"].format(date=_date(opened.link.expires_at, language)),
            known=known,
            restricted=restricted,
            origin=self._origin,
        )

    def message(self, what: str, *, language: str, back: str = "") -> str:
        """A page that says one thing: ended, busy, failed, malformed, one_click."""
        text = texts()[language]
        heading = text.get(f"{what}_title", text["failed_title"])
        return self._render("preferences_message.html", language, heading=heading, text=text[what], back=back)

    def _render(self, template: str, language: str, **values: Any) -> str:
        return self._jinja.get_template(template).render(
            t=texts()[language],
            language=language,
            languages=[(code, texts()[code]["name"]) for code in LANGUAGES],
            owner=self._owner,
            css=Markup(self._css),  # noqa: S704 (the file beside this one)
            **values,
        )

    def _groups(self, choices: Choices, text: Mapping[str, Any], language: str) -> list[dict[str, Any]]:
        groups: dict[str, dict[str, Any]] = {}
        rows: dict[str, list[_Row]] = {}
        for place, choice in enumerate(choices.items):
            top = choice.purpose.name.partition(".")[0]
            group = groups.setdefault(top, {"title": top, "notice": "", "purposes": []})
            if choice.notice is not None:
                group["notice"] = _in(choice.notice.text, language)
            if choice.purpose.name not in rows:
                rows[choice.purpose.name] = []
                title = _in(choice.purpose.title, language)
                group["purposes"].append({"title": title, "rows": rows[choice.purpose.name]})
            rows[choice.purpose.name].append(_row(choice, f"c{place}", text, language))
        for name, group in groups.items():
            group["title"] = _in(choices.titles.get(name, {}), language) or name
        return list(groups.values())


def _shared_notice(groups: Sequence[dict[str, Any]]) -> str:
    """The notice of all groups if they have the same one, which is then said once for all of them."""
    notices = {group["notice"] for group in groups}
    if len(groups) < 2 or len(notices) > 1:
        return ""
    for group in groups:
        group["notice"] = ""
    return str(notices.pop())


def _in(given: Mapping[str, str], language: str) -> str:
    return given.get(language) or given.get("en") or next(iter(given.values()), "")


def _row(choice: Choice, place: str, text: Mapping[str, Any], language: str) -> _Row:
    nobody = choice.partner == EVERY_PARTNER
    who = text["with_nobody"] if nobody else text["with"].format(partner=choice.partner)
    date = "" if choice.since is None else _date(choice.since, language)
    kind = choice.status.value
    if choice.signalled and choice.status is not Status.DENIED:
        kind, state = "signal", text["signal_over" if choice.status is Status.ALLOWED else "signalled"]
    elif choice.status is Status.DENIED and not date:
        state = text["denied_plain"]
    else:
        state = text[kind].format(date=date, partner=choice.partner)
    answer = {Status.ALLOWED: "yes", Status.DENIED: "no", Status.ELSEWHERE: "no"}.get(choice.status, "")
    if choice.signalled:
        answer = "no"
    return _Row(place, choice.name, who, kind, state, answer, choice.may_allow)


def _messages(saved: Saved | None, everything: bool | None, text: Mapping[str, Any]) -> Sequence[str]:
    if everything is not None:
        return [text["saved_everything" if everything else "saved_everything_already"]]
    if saved is None:
        return []
    found = [
        text[name]["one" if count == 1 else "many"].format(count=count)
        for name, count in (("saved_no", saved.denied), ("saved_yes", saved.allowed))
        if count
    ]
    if saved.stale:
        found.append(text["stale"])
    if saved.signalled:
        found.append(text["signal_won"])
    return found or [text["saved_none"]]
