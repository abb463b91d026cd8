"""Audit reports over HTTP: for officers only, checked like those from the command line."""

from __future__ import annotations

import json

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient

from consent.audit.archive import AuditReports
from consent.audit.verify import verify_against
from consent.history import open_entry
from consent.routes.audit import create_router
from privacy.errors import ComityError


class Officers:
    """Guards that let one role in."""

    role_held = "compliance_officer"

    def role(self, *roles: str):
        def check() -> str:
            if self.role_held not in roles:
                raise HTTPException(403)
            return "officer"

        return check

    def partner(self):
        raise AssertionError("no partner calls this")


@pytest.fixture
def guards() -> Officers:
    return Officers()


@pytest.fixture
def client(make_register, guards):
    register = make_register(people=8, days=3)
    app = FastAPI()
    app.include_router(create_router(AuditReports(register.ledger, register.key), guards))

    @app.exception_handler(ComityError)
    def problem(_request, error):
        from fastapi.responses import JSONResponse

        return JSONResponse({"code": error.code}, status_code=400)

    with TestClient(app) as made:
        made.register = register
        yield made


def test_a_report_is_made_kept_listed_and_read(client) -> None:
    made = client.post("/v1/audit-reports", json={"law": "gdpr"})
    assert made.status_code == 201
    assert made.headers["location"] == f"/v1/audit-reports/{made.json()['id']}"
    client.register.clock.move(minutes=1)
    second = client.post("/v1/audit-reports", json={}).json()
    listed = client.get("/v1/audit-reports", params={"limit": 1}).json()
    assert [row["id"] for row in listed["reports"]] == [second["id"]]
    older = client.get("/v1/audit-reports", params={"before": listed["next"]}).json()
    assert [row["law"] for row in older["reports"]] == ["gdpr"]
    document = client.get(made.headers["location"]).json()
    assert verify_against(json.dumps(document).encode(), client.register.ledger).ok
    page = client.get(f"{made.headers['location']}/page", params={"lang": "zh"})
    assert page.headers["content-type"].startswith("text/html") and "同意审计报告" in page.text


def test_the_log_says_which_report_was_made(client) -> None:
    kept = client.post("/v1/audit-reports", json={}).json()
    ledger = client.register.ledger
    with ledger.store.read() as view:
        leaf, opening = open_entry(view, ledger.vault, kept["index"])
    assert leaf.type == "audit.recorded"
    body = json.loads(opening.payload)
    assert body["details"]["id"] == kept["id"] and body["kind"] == "audit.report"


@pytest.mark.parametrize(
    "body",
    [
        {"law": "hipaa"}, {"law": None}, {"since": "yesterday"}, {"since": "2026-01-01T00:00:00"},
        {"x": 1}, [], 7,
        {"since": "2026-09-02T00:00:00Z", "until": "2026-09-01T00:00:00Z"}, {"since": "2999-01-01T00:00:00Z"},
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_and_leaves_nothing(client, body) -> None:
    before = client.register.ledger.head().size
    assert client.post("/v1/audit-reports", json=body).status_code in (400, 422)
    assert client.register.ledger.head().size == before
    assert client.get("/v1/audit-reports").json()["reports"] == []


def test_what_is_not_there_is_said_so(client) -> None:
    assert client.get("/v1/audit-reports/nope").json() == {"code": "not_found"}
    assert client.get("/v1/audit-reports/nope/page").json() == {"code": "not_found"}
    kept = client.post("/v1/audit-reports", json={}).json()
    assert client.get(f"/v1/audit-reports/{kept['id']}/page", params={"lang": "fr"}).status_code == 400


@pytest.mark.parametrize("role", ["analyst", "data_steward", "stranger"])
def test_nobody_but_an_officer_is_let_in(client, guards, role: str) -> None:
    guards.role_held = role
    assert client.post("/v1/audit-reports", json={}).status_code == 403
    for path in ("/v1/audit-reports", "/v1/audit-reports/x", "/v1/audit-reports/x/page"):
        assert client.get(path).status_code == 403
