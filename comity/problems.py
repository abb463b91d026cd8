"""Errors as RFC 9457 problem documents, both ways.

A document has `type`, `title`, `status`, `detail`, and three members of our own: `code` (stable, for
machines), `retryable`, and `family` (the branch of the error tree), from which the other side raises the
same error again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from comity.errors import NotAuthenticated, NotAuthorised, RequestTooLarge
from privacy.errors import (
    BadInput,
    BudgetExhausted,
    ComityError,
    Misuse,
    PeerUnreachable,
    PeerViolation,
    Refused,
    StorageError,
    Tampered,
)

__all__ = ["CONTENT_TYPE", "from_problem", "problem", "status_of"]

CONTENT_TYPE = "application/problem+json"
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")

# Most particular first: the first that fits names the family. Titles are for people and never vary.
_FAMILIES: tuple[tuple[str, type[ComityError], int, str], ...] = (
    ("not_authenticated", NotAuthenticated, 401, "Caller not recognised"),
    ("not_authorised", NotAuthorised, 403, "Not allowed to this caller"),
    ("request_too_large", RequestTooLarge, 413, "Request too large"),
    ("budget_exhausted", BudgetExhausted, 403, "Privacy budget exhausted"),
    ("refused", Refused, 403, "Refused by a rule"),
    ("bad_input", BadInput, 422, "Unusable input"),
    ("misuse", Misuse, 400, "Malformed request"),
    ("peer_unreachable", PeerUnreachable, 503, "Partner unreachable"),
    ("peer_violation", PeerViolation, 502, "Partner broke the protocol"),
    ("tampered", Tampered, 500, "Tampering found"),
    ("storage_error", StorageError, 503, "Storage failed"),
)
_RAISED = {family: kind for family, kind, _, _ in _FAMILIES}
_NOT_FOUND = re.compile(r"(unknown|no_such)_[a-z_]+|[a-z_]+_not_found")
_CONFLICT = re.compile(
    r"illegal_state|conflict|[a-z_]+_conflict|already_[a-z_]+|wrong_state|idempotency_[a-z_]+"
)


def _family(error: ComityError) -> tuple[str, int, str]:
    for family, kind, status, title in _FAMILIES:
        if isinstance(error, kind):
            return family, status, title
    return "internal_error", 500, "Internal error"


def status_of(error: ComityError, *, from_partner: bool = False) -> int:
    """The HTTP status for an error; `from_partner` where the caller at fault is the partner itself."""
    family, status, _ = _family(error)
    if family in ("peer_violation", "tampered") and from_partner:
        return 400
    if error.code == "too_many_jobs":
        return 429
    if family in ("misuse", "bad_input"):
        if _NOT_FOUND.fullmatch(error.code) and error.code not in ("unknown_entity", "unknown_role"):
            return 404
        if _CONFLICT.fullmatch(error.code):
            return 409
    return status


def problem(error: ComityError, *, instance: str = "", from_partner: bool = False) -> dict[str, object]:
    """The problem document of an error."""
    family, _, title = _family(error)
    document: dict[str, object] = {
        "type": f"urn:comity:problem:{error.code}",
        "title": title,
        "status": status_of(error, from_partner=from_partner),
        "detail": str(error),
        "code": error.code,
        "retryable": error.retryable,
        "family": family,
    }
    if isinstance(error, Refused):
        document["rule"] = error.rule
    if instance:
        document["instance"] = instance
    return document


def from_problem(partner: str, status: int, document: Mapping[str, object]) -> ComityError:
    """The error a partner's problem document stands for, with its code; a garbled one is a violation."""
    code, detail, family = (document.get(key) for key in ("code", "detail", "family"))
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        return PeerViolation(f"{partner} answered with status {status} and an unreadable problem document.")
    said = detail if isinstance(detail, str) and len(detail) <= 2000 and detail.isprintable() else ""
    message = f"{partner}: {said}" if said else f"{partner} refused the request ({code})."
    kind = _RAISED.get(family) if isinstance(family, str) else None
    if kind is None:
        kind = StorageError if status >= 500 else Refused
    if issubclass(kind, Refused):
        rule = document.get("rule")
        return kind(message, rule=rule if isinstance(rule, str) else "", code=code)
    return kind(message, code=code)
