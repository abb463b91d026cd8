"""Problem documents: complete, stable, and the same error again on the other side."""

from __future__ import annotations

import json

import pytest

from comity.errors import NotAuthenticated, NotAuthorised, RequestTooLarge
from comity.problems import from_problem, problem, status_of
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


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Misuse("x"), 400),
        (Misuse("x", code="unknown_job"), 404),
        (Misuse("x", code="idempotency_conflict"), 409),
        (BadInput("x"), 422),
        (NotAuthenticated("x"), 401),
        (NotAuthorised("x"), 403),
        (RequestTooLarge("x"), 413),
        (Refused("x"), 403),
        (BudgetExhausted("x"), 403),
        (PeerUnreachable("x"), 503),
        (PeerViolation("x"), 502),
        (Tampered("x"), 500),
        (StorageError("x"), 503),
        (ComityError("x"), 500),
    ],
)
def test_every_branch_has_its_status_and_survives_the_journey(error: ComityError, status: int) -> None:
    document = json.loads(json.dumps(problem(error)))
    assert document["status"] == status_of(error) == status
    assert set(document) >= {"type", "title", "status", "detail", "code", "retryable", "family"}
    again = from_problem("shop", status, document)
    assert again.code == error.code
    assert isinstance(again, ComityError if type(error) is not ComityError else StorageError)
    if type(error) is not ComityError:
        assert type(again) is type(error)
    assert "shop" in again.detail


def test_a_partner_at_fault_is_told_so() -> None:
    assert status_of(PeerViolation("x"), from_partner=True) == 400
    assert status_of(Tampered("x"), from_partner=True) == 400


def test_rule_and_advice_are_told() -> None:
    document = problem(Refused("Too few people.", rule="minimum_input", advice="Take more."))
    assert document["rule"] == "minimum_input"
    assert document["detail"] == "Too few people. Take more."
    again = from_problem("shop", 403, document)
    assert isinstance(again, Refused)
    assert again.rule == "minimum_input"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"code": 5},
        {"code": "No Such"},
        {"code": "x" * 100},
        {"code": None, "detail": "d"},
        {"code": "a\nb"},
    ],
)
def test_a_garbled_document_is_a_violation(document: dict[str, object]) -> None:
    assert isinstance(from_problem("shop", 400, document), PeerViolation)


def test_what_a_partner_says_is_kept_short_and_printable() -> None:
    for hostile in ("x" * 3000, "a\x1b[31mred", "line\nline", 7):
        assert (
            "refused the request" in from_problem("shop", 403, {"code": "refused", "detail": hostile}).detail
        )
    odd = from_problem("shop", 403, {"code": "refused", "family": ["refused"], "rule": {"a": 1}})
    assert isinstance(odd, Refused)
