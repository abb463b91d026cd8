"""What can happen in the ledger, and the payload that records it.

Field names of a payload map onto ISO/IEC TS 27560 and the W3C Data Privacy Vocabulary. A payload says
nothing by which a stranger could recognise anybody: the subject is a random handle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from consent.encoding import canonical_json, parse_json, render_time
from consent.errors import TooLarge
from consent.terms import ConsentTerms, members
from privacy.errors import BadInput

__all__ = [
    "ACTORS",
    "EVERY_PARTNER",
    "GRANTING",
    "NOTED",
    "PROPAGATED",
    "RESTRICTING",
    "Event",
    "EventType",
    "Identifier",
    "correct",
    "expire",
    "grant",
    "invalidate",
    "object_to",
    "present",
    "refuse",
    "renew",
    "signal",
    "withdraw",
]

EVERY_PARTNER = "*"
MAX_DETAILS = 16 * 1024  # bytes
MAX_PAYLOAD = 64 * 1024
MAX_SYSTEM_PAYLOAD = 1 << 20
MAX_IDENTIFIERS = 8
MAX_IDENTIFIER = 512  # bytes of canonical form

_PURPOSE = re.compile(r"\*|[a-z][a-z0-9_]{0,31}(?:\.[a-z][a-z0-9_]{0,31}){0,7}", re.ASCII)
_PARTNER = re.compile(r"\*|[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}", re.ASCII)
_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_WORD = re.compile(r"[a-z][a-z0-9_.:-]{0,63}", re.ASCII)


class EventType(StrEnum):
    """Every type of entry; the names are what stands in the log."""

    POLICY_PUBLISHED = "policy.published"
    NOTICE_PRESENTED = "notice.presented"
    GRANTED = "consent.granted"
    REFUSED = "consent.refused"
    WITHDRAWN = "consent.withdrawn"
    RENEWED = "consent.renewed"
    EXPIRED = "consent.expired"
    INVALIDATED = "consent.invalidated"
    OBJECTION = "objection"
    SIGNAL_RECEIVED = "signal.received"
    SHARE_AUTHORISED = "share.authorised"
    PARTNER_JOINED = "partner.joined"
    PARTNER_AMENDED = "partner.amended"
    PARTNER_REMOVED = "partner.removed"
    PARTNER_KEY_ROTATED = "partner.key_rotated"
    DELIVERY_ACK = "delivery.ack"
    USE_RECEIPT = "use.receipt"
    ERASURE_REQUESTED = "erasure.requested"
    ERASURE_COMPLETED = "erasure.completed"
    ERASURE_HELD = "erasure.held"
    SUBJECT_MERGED = "subject.merged"
    SUBJECT_REKEYED = "subject.rekeyed"
    RESTORE_PERFORMED = "restore.performed"
    CORRECTION = "correction"
    STATE_COMMITTED = "state.committed"
    FEED_EVIDENCE = "evidence.recorded"
    AUDIT = "audit.recorded"


GRANTING = frozenset({EventType.GRANTED, EventType.RENEWED})
RESTRICTING = frozenset(
    {EventType.REFUSED, EventType.WITHDRAWN, EventType.EXPIRED, EventType.INVALIDATED, EventType.OBJECTION}
)

NOTED = frozenset({EventType.NOTICE_PRESENTED, EventType.SIGNAL_RECEIVED, EventType.CORRECTION})
"""Recorded about a person without deciding anything. The first and the last can be about nobody as well
(`consent.acts`)."""

PROPAGATED = frozenset({EventType.WITHDRAWN, EventType.INVALIDATED, EventType.OBJECTION})
"""What partners are told of: something that was allowed, or never asked about, is so no longer. Whoever
refused from the start never passed this node's own gate; who refused after agreeing is told of too."""


ACTORS = frozenset({"subject", "guardian", "agent", "partner", "authority", "controller"})
"""Who may act: the person, a parent or guardian, an authorised agent, a partner on whose word this node
acts, a court or authority, and the node's own organisation."""


class Identifier(NamedTuple):
    """A canonical identifier (`privacy.identifiers.canonical`) and its kind."""

    kind: str
    canonical: bytes

    def __repr__(self) -> str:
        return f"Identifier(kind={self.kind!r})"


_PERSONAL = GRANTING | RESTRICTING | NOTED


@lru_cache(4096)
def _known(pattern: re.Pattern[str], text: str) -> bool:
    return pattern.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Event:
    """Something a person decided (or had decided for them) about one purpose and one partner.

    `identifiers` are canonical; all of them are taken to be the same person's. `purpose_version` defaults
    to the published policy's, `effective_at` to the moment of recording. `actor` is who acted (one of
    `ACTORS`), `method` how it was collected, `basis` the legal basis, `terms` what was shown and agreed.
    `details` adds further JSON fields to the payload, 16 KiB at most. Raises BadInput for anything
    malformed. Types of `NOTED` are about a person too, and decide nothing.
    """

    type: EventType
    identifiers: tuple[Identifier, ...] = field(repr=False)
    purpose: str
    partner: str = EVERY_PARTNER
    purpose_version: int | None = None
    effective_at: datetime | None = None
    expires_at: datetime | None = None
    actor: str = "subject"
    method: str = "api"
    basis: str = "consent"
    details: Mapping[str, object] | None = field(default=None, repr=False)
    terms: ConsentTerms | None = None

    def __post_init__(self) -> None:
        if self.type not in _PERSONAL:
            raise BadInput("This type of event is not about a person.")
        if not 1 <= len(self.identifiers) <= MAX_IDENTIFIERS:
            raise BadInput(f"An event is about one person, by 1 to {MAX_IDENTIFIERS} identifiers.")
        for kind, canonical in self.identifiers:
            if not _known(_KIND, kind) or not 1 <= len(canonical) <= MAX_IDENTIFIER:
                raise BadInput("An identifier needs a kind and at most 512 bytes of canonical form.")
        if not _known(_PURPOSE, self.purpose):
            raise BadInput("A purpose is written in dotted lower-case names.", code="bad_purpose")
        if not _known(_PARTNER, self.partner):
            raise BadInput(
                "A partner's name is up to 128 letters, digits and . _ : / -, or * for all.",
                code="bad_partner",
            )
        if self.actor not in ACTORS:
            raise BadInput(f"An actor is one of: {', '.join(sorted(ACTORS))}.", code="bad_terms")
        if not (_known(_WORD, self.method) and _known(_WORD, self.basis)):
            raise BadInput("Method and basis are short lower-case words.")
        if self.purpose == "*" and self.type in GRANTING:
            raise BadInput(
                "A grant names its purpose; * can only be withdrawn or refused.", code="unknown_purpose"
            )
        if self.expires_at is not None and self.type not in GRANTING:
            raise BadInput("Only a grant expires.", code="bad_expiry")
        if self.details is not None and len(canonical_json(self.details)) > MAX_DETAILS:
            raise TooLarge(f"The details of an event are at most {MAX_DETAILS} bytes.")

    def under(self, terms: ConsentTerms | None) -> Event:
        """The same event under other terms; checks nothing again, since nothing else changes."""
        made = object.__new__(Event)
        for name in _FIELDS:
            object.__setattr__(made, name, getattr(self, name))
        object.__setattr__(made, "terms", terms)
        return made


_FIELDS = tuple(each.name for each in fields(Event) if each.name != "terms")


def _make(
    type_: EventType, identifiers: Sequence[tuple[str, bytes]], purpose: str, **fields: object
) -> Event:
    return Event(type_, tuple(Identifier(*i) for i in identifiers), purpose, **fields)  # type: ignore[arg-type]


def grant(identifiers: Sequence[tuple[str, bytes]], purpose: str, **fields: object) -> Event:
    """The person agrees to `purpose`; `fields` as in `Event`."""
    return _make(EventType.GRANTED, identifiers, purpose, **fields)


def refuse(identifiers: Sequence[tuple[str, bytes]], purpose: str, **fields: object) -> Event:
    """The person was asked and said no."""
    return _make(EventType.REFUSED, identifiers, purpose, **fields)


def withdraw(identifiers: Sequence[tuple[str, bytes]], purpose: str = "*", **fields: object) -> Event:
    """The person takes an agreement back, or opts out of what they were never asked about."""
    return _make(EventType.WITHDRAWN, identifiers, purpose, **fields)


def renew(identifiers: Sequence[tuple[str, bytes]], purpose: str, **fields: object) -> Event:
    """The person agrees again before the grant ends: it runs on to `expires_at`. Revives nothing."""
    return _make(EventType.RENEWED, identifiers, purpose, **fields)


def expire(identifiers: Sequence[tuple[str, bytes]], purpose: str, **fields: object) -> Event:
    """A grant is declared to have ended (what has an `expires_at` ends without this)."""
    return _make(EventType.EXPIRED, identifiers, purpose, **{"actor": "controller", **fields})


def invalidate(identifiers: Sequence[tuple[str, bytes]], purpose: str, **fields: object) -> Event:
    """A consent turned out never to have been valid, or an authority says so. Partners are told."""
    return _make(EventType.INVALIDATED, identifiers, purpose, **{"actor": "controller", **fields})


def object_to(identifiers: Sequence[tuple[str, bytes]], purpose: str, **fields: object) -> Event:
    """The person objects to a use that does not rest on consent (GDPR 21, PIPL 24 and 44)."""
    return _make(EventType.OBJECTION, identifiers, purpose, **fields)


def present(
    identifiers: Sequence[tuple[str, bytes]], purpose: str, terms: ConsentTerms, **fields: object
) -> Event:
    """The person was shown the notice that `terms` names."""
    if terms.notice is None:
        raise BadInput("Presenting a notice names it.", code="notice_required")
    return _make(
        EventType.NOTICE_PRESENTED, identifiers, purpose, **{"actor": "controller", **fields, "terms": terms}
    )


def signal(
    identifiers: Sequence[tuple[str, bytes]], details: Mapping[str, object], **fields: object
) -> Event:
    """A machine-readable preference came from the person's device; `consent.signals` says what follows."""
    return _make(
        EventType.SIGNAL_RECEIVED, identifiers, "*", **{"method": "signal", **fields, "details": details}
    )


def correct(
    identifiers: Sequence[tuple[str, bytes]], index: int, reason: str, purpose: str = "*", **fields: object
) -> Event:
    """Entry `index` about the person was wrong, and why. What counts from now on is another decision."""
    return _make(
        EventType.CORRECTION,
        identifiers,
        purpose,
        **{
            "actor": "controller",
            **fields,
            "details": {"reason": reason},
            "terms": ConsentTerms(previous=index),
        },
    )


def decision_payload(event: Event, subject: str, version: int, effective: int, expires: int | None) -> bytes:
    """Canonical payload of a decision. `subject` is a hex handle; times are microseconds."""
    # Every value has been held to characters that JSON does not escape, so the canonical form can be
    # written out; the tests hold it to canonical_json.
    if event.terms is not None:
        payload = _with_terms(event, subject, version, effective, expires)
        return payload if event.details is None else _with_details(event.details, payload)
    ends = "" if expires is None else f'"expires_at":"{render_time(expires)}",'
    payload = (
        f'{{"actor":"{event.actor}","basis":"{event.basis}","effective_at":"{render_time(effective)}",{ends}'
        f'"method":"{event.method}","partner":"{event.partner}","purpose":"{event.purpose}",'
        f'"purpose_version":{version},"subject":"{subject}","v":1}}'
    ).encode()
    return payload if event.details is None else _with_details(event.details, payload)


def _with_terms(event: Event, subject: str, version: int, effective: int, expires: int | None) -> bytes:
    ends = () if expires is None else (render_time(expires),)
    values = (
        event.actor, event.basis, render_time(effective), *ends, event.method, event.partner, event.purpose,
        version, subject,
    )  # fmt: skip
    return (_template(event.terms or ConsentTerms(), bool(ends)) % values).encode()


@lru_cache(1024)
def _template(terms: ConsentTerms, ends: bool) -> str:
    """The payload of decisions under these terms, with gaps for what differs, in the order of the names."""
    parts = {name: value.replace("%", "%%") for name, value in members(terms)}
    named = ("actor", "basis", "effective_at", "method", "partner", "purpose", "subject")
    parts.update(dict.fromkeys(named, '"%s"'), purpose_version="%d", v="1")
    if ends:
        parts["expires_at"] = '"%s"'
    return "{" + ",".join([f'"{name}":{parts[name]}' for name in sorted(parts)]) + "}"


def _with_details(details: Mapping[str, object], payload: bytes) -> bytes:
    payload = canonical_json({**details, **parse_json(payload, limit=MAX_PAYLOAD)})
    if len(payload) > MAX_PAYLOAD:
        raise TooLarge(f"The payload of an event is at most {MAX_PAYLOAD} bytes.")
    return payload


def system_payload(effective: int, fields: Mapping[str, object]) -> bytes:
    """Canonical payload of an event that is about no single person."""
    payload = canonical_json({**fields, "v": 1, "effective_at": render_time(effective)})
    if len(payload) > MAX_SYSTEM_PAYLOAD:
        raise TooLarge("The payload of an event is too large.")
    return payload
