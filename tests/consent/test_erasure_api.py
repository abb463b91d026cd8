"""Erasure over HTTP, and the copy of the record that comes before it."""

from __future__ import annotations

import base64
import json

import pytest
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from consent.access import access_copy
from consent.encoding import Leaf, canonical_json, commitment
from consent.erasure import Erasure
from consent.events import grant, withdraw
from consent.merging import Merging
from consent.routes import merging
from consent.routes.erasure import create_router
from privacy.errors import ComityError, Misuse

ADA = {"email": "Ada@Example.org", "phone": "138 0013 8000"}
NAMED = [("email", b"ada@example.org"), ("phone", b"+8613800138000")]
OFFICER = {"x-role": "compliance_officer"}


class HeaderGuards:
    """Guards that believe a header: what they stand for is tested where it lives."""

    def role(self, *roles):
        def check(x_role: str = Header("")):
            if x_role not in (*roles, "admin"):
                raise HTTPException(403)
            return x_role

        return check

    def partner(self):
        raise AssertionError("nothing here is for partners")


@pytest.fixture
def own(make_node):
    return make_node("shop").open()


@pytest.fixture
def client(own):
    app = FastAPI()
    app.include_router(create_router(Erasure(own), HeaderGuards(), "CN"))
    app.include_router(merging.create_router(Merging(own), HeaderGuards(), "CN"))

    @app.exception_handler(ComityError)
    def problem(_: Request, error: ComityError):
        return JSONResponse({"code": error.code, "detail": str(error)}, status_code=400)

    return TestClient(app, raise_server_exceptions=False)


def test_a_person_is_previewed_erased_and_stays_erased(own, client):
    own.record([grant(NAMED, "overlap.reach")])
    seen = client.post("/v1/erasures/preview", json={"email": ADA["email"]}, headers=OFFICER).json()
    assert (seen["known"], seen["identifiers"], seen["entries"]) == (True, 2, 1)
    done = client.post("/v1/erasures", json={**ADA, "basis": "gdpr.17"}, headers=OFFICER)
    assert done.status_code == 201, done.text
    assert (done.json()["state"], done.json()["entries"], done.json()["already"]) == ("completed", 2, False)
    again = client.post("/v1/erasures", json={"email": ADA["email"]}, headers=OFFICER).json()
    assert again["already"] and again["request"] == done.json()["request"]
    listed = client.get("/v1/erasures", headers=OFFICER).json()["erasures"]
    assert [e["state"] for e in listed] == ["completed"]
    assert client.post("/v1/erasures/preview", json=ADA, headers=OFFICER).json()["suppressed"]


def test_a_held_request_is_released(own, client):
    own.record([grant(NAMED, "overlap.reach")])
    body = {**ADA, "hold": {"basis": "tax_law", "until": "2030-01-01T00:00:00Z"}}
    held = client.post("/v1/erasures", json=body, headers=OFFICER).json()
    assert (held["state"], held["hold_basis"]) == ("held", "tax_law")
    done = client.post(f"/v1/erasures/{held['request']}/release", headers=OFFICER).json()
    assert (done["state"], done["request"]) == ("completed", held["request"])
    answer = client.post(f"/v1/erasures/{held['request']}/release", headers=OFFICER)
    assert answer.json()["code"] == "already_completed"


def test_a_subject_is_erased_by_handle(own, client):
    own.record([grant(NAMED, "overlap.reach")])
    with own.store.read() as view:
        handle = next(iter(view.all_subjects())).handle.hex()
    done = client.post(f"/v1/subjects/{handle}/erasure", json={"basis": "pipl.47"}, headers=OFFICER)
    assert done.status_code == 201 and done.json()["state"] == "completed"
    answer = client.post(f"/v1/subjects/{handle}/erasure", json={}, headers=OFFICER)
    assert answer.json()["code"] == "unknown_subject"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/erasures", {}),
        ("/v1/erasures", {"email": "not an address"}),
        ("/v1/erasures", {**ADA, "basis": "Ada Lovelace"}),
        ("/v1/erasures", {**ADA, "hold": {"basis": "x" * 65}}),
        ("/v1/erasures", {**ADA, "hold": {"basis": "tax", "until": "soon"}}),
        ("/v1/erasures", {**ADA, "hold": {"basis": "tax", "until": "2030-01-01T00:00:00"}}),
        ("/v1/erasures", {**ADA, "why": "ada@example.org"}),
        ("/v1/erasures", []),
        ("/v1/erasures/ada@example.org/release", {}),
        ("/v1/subjects/00/erasure", {}),
    ],
)
def test_bad_requests_are_refused_without_an_echo(own, client, path, body):
    size = own.head().size
    answer = client.post(path, json=body, headers=OFFICER)
    assert answer.status_code == 400
    assert "ada" not in answer.text.lower()
    assert own.head().size == size


def test_only_the_compliance_officer_erases(client):
    for role in ("", "analyst", "data_steward"):
        assert client.post("/v1/erasures", json=ADA, headers={"x-role": role}).status_code == 403
        assert client.get("/v1/erasures", headers={"x-role": role}).status_code == 403


def test_the_copy_of_a_record_is_whole_and_opens_its_entries(own, clock):
    own.record([grant(NAMED, "overlap.reach")])
    clock.move(days=1)
    own.record([withdraw(NAMED[:1], "overlap.reach")])
    copy = access_copy(own, NAMED[1:])
    json.dumps(copy, default=str)
    assert {i["value"] for i in copy["identifiers"]} == {"ada@example.org", "+8613800138000"}
    assert [e["type"] for e in copy["entries"]] == ["consent.granted", "consent.withdrawn"]
    for entry in copy["entries"]:
        leaf = Leaf.from_bytes(base64.b64decode(entry["entry"]))
        assert commitment(base64.b64decode(entry["salt"]), canonical_json(entry["payload"])) == leaf.commit
    assert copy["standing"][0]["restriction"] == "consent.withdrawn"
    Erasure(own).erase(NAMED)
    with pytest.raises(Misuse) as caught:
        access_copy(own, NAMED)
    assert caught.value.code == "unknown_subject"


def test_records_are_merged_and_split_over_http(own, client):
    steward = {"x-role": "data_steward"}
    own.record([grant(NAMED[:1], "overlap.reach"), withdraw(NAMED[1:])])
    body = {"kept": {"email": ADA["email"]}, "other": {"phone": ADA["phone"]}}
    done = client.post("/v1/subjects/merge", json=body, headers=steward)
    assert done.status_code == 201 and done.json()["restrictions"] == 1
    assert client.post("/v1/subjects/merge", json=body, headers=steward).json()["code"] == "already_one"
    apart = client.post("/v1/subjects/split", json={"phone": ADA["phone"]}, headers=steward)
    assert apart.json()["undone"] is True
    assert client.post("/v1/subjects/merge", json=body, headers={"x-role": "analyst"}).status_code == 403
