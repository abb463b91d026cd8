from __future__ import annotations

import base64
import json

import pyarrow as pa
import pytest
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from consent.api import create_router
from consent.events import withdraw
from consent.feed_log import FeedLeaf
from consent.gate import ConsentGate
from consent.history import open_entry
from consent.http import MAX_BODY
from consent.proofs import from_base64
from consent.receipts import AbsenceProof, ReceiptProof, UseReceipt, verify_absence
from consent.verify import url_reader, verify_log
from privacy.errors import ComityError


class HeaderGuards:
    """Guards that believe a header: what they stand for is tested where it lives."""

    def role(self, *roles):
        def check(x_role: str = Header("")):
            if x_role not in (*roles, "admin"):
                raise HTTPException(403)
            return x_role

        return check

    def partner(self):
        def check(x_partner: str = Header("")):
            if not x_partner:
                raise HTTPException(401)
            return x_partner

        return check


def serve(ledger, feed):
    app = FastAPI()
    app.include_router(create_router(ledger, feed, HeaderGuards()))

    @app.exception_handler(ComityError)
    def problem(_: Request, error: ComityError):
        return JSONResponse({"code": error.code, "detail": str(error)}, status_code=400)

    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def client(pair):
    return serve(pair.shop, pair.shop_feed)


STEWARD = {"x-role": "data_steward"}
GRANT = {
    "email": "Ann@Example.org", "phone": "138 0013 8000", "decision": "grant",
    "purpose": "overlap.reach", "partner": "bank",
}  # fmt: skip


def test_a_decision_is_recorded_asked_for_and_taken_back(client):
    done = client.post("/v1/consents", json={"decisions": [GRANT]}, headers=STEWARD)
    assert done.status_code == 201 and done.json()["count"] == 1
    question = {"email": "ann@example.org", "purpose": "overlap.reach", "partner": "bank"}
    assert client.post("/v1/consents/check", json=question, headers=STEWARD).json()["allowed"] is True
    out = client.post("/v1/optouts", json={"people": [{"phone": "+86 13800138000"}]}, headers=STEWARD)
    assert out.status_code == 201
    answer = client.post("/v1/consents/check", json=question, headers=STEWARD).json()
    assert answer["allowed"] is False and answer["reason"] == "restricted"
    status = client.get("/v1/optouts/status", headers=STEWARD).json()["partners"]
    assert [(p["partner"], p["queued"], p["enforced"]) for p in status] == [("bank", 1, None)]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/consents", {"decisions": [GRANT]}),
        ("POST", "/v1/optouts", {"people": [{"email": "a@b.example"}]}),
        ("POST", "/v1/consents/check", {}),
        ("GET", "/v1/optouts/status", None),
        ("GET", "/v1/receipts", None),
        ("GET", "/v1/receipts/x", None),
        ("POST", "/v1/receipts/x/absence", {}),
        ("GET", "/v1/purposes", None),
        ("POST", "/v1/feed/acks", {}),
        ("GET", "/v1/feed?after=0&nonce=0123456789abcdef", None),
        ("GET", "/v1/peer/feed/heard", None),
    ],
)
def test_everything_but_the_log_asks_who_calls(client, pair, method, path, body):
    size = pair.shop.head().size
    assert client.request(method, path, json=body).status_code in (401, 403)
    assert client.request(method, path, json=body, headers={"x-role": "nobody"}).status_code in (401, 403)
    assert pair.shop.head().size == size


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff", b"[]", b"null", b'{"decisions":[]}',
        json.dumps({"decisions": [{**GRANT, "decision": "SECRETVALUE"}]}).encode(),
        json.dumps({"decisions": [{**GRANT, "SECRETVALUE": 1}]}).encode(),
        json.dumps({"decisions": [{**GRANT, "email": ["SECRETVALUE"]}]}).encode(),
        json.dumps({"decisions": [{**GRANT, "email": "SECRETVALUE"}]}).encode(),
        json.dumps({"decisions": [{**GRANT, "email": None, "phone": None}]}).encode(),
        json.dumps({"decisions": [{**GRANT, "purpose": "SECRET.VALUE"}]}).encode(),
        json.dumps({"decisions": [{**GRANT, "purpose": "overlap.SECRETVALUE"}]}).encode(),
        json.dumps({"decisions": [{**GRANT, "purpose_version": 99}]}).encode(),
        json.dumps({"decisions": [{**GRANT, "effective_at": "2199-01-01T00:00:00Z"}]}).encode(),
        json.dumps({"decisions": [{**GRANT, "effective_at": "2020-01-01T00:00:00"}]}).encode(),
        json.dumps({"decisions": [GRANT] * 10_001}).encode(),
    ],
)  # fmt: skip
def test_malformed_requests_change_nothing_and_are_not_quoted(client, pair, body):
    size = pair.shop.head().size
    answer = client.post(
        "/v1/consents", content=body, headers={**STEWARD, "content-type": "application/json"}
    )
    assert answer.status_code in (400, 422) and "code" in answer.json()
    assert "SECRET" not in answer.text and "example.org" not in answer.text.lower()
    assert pair.shop.head().size == size


def test_huge_bodies_are_refused_whether_announced_or_not(client):
    huge = b" " * (MAX_BODY + 1)
    for path, headers in (("/v1/consents", STEWARD), ("/v1/feed/acks", {"x-partner": "bank"})):
        assert client.post(path, content=huge, headers=headers).json()["code"] == "too_large"
        pieces = (huge[i : i + 65_536] for i in range(0, len(huge), 65_536))
        assert client.post(path, content=pieces, headers=headers).json()["code"] == "too_large"


def test_the_feed_is_polled_and_acknowledged_over_http(pair, client):
    pair.shop.record([withdraw([("email", b"ann@example.org")])])
    asks = {"x-partner": "bank"}
    hearing = pair.bank_feed.incoming.open("shop")
    path = f"/v1/feed?after={hearing.after}&nonce={hearing.nonce}&wait=5"
    answer = client.get(path, headers=asks)
    assert answer.headers["content-type"] == "application/json"
    assert pair.bank_feed.incoming.apply(hearing, answer.content) is False
    _, ack = pair.bank_feed.incoming.acknowledgement("shop")
    assert client.post("/v1/feed/acks", content=ack, headers=asks).status_code == 204
    (status,) = client.get("/v1/optouts/status", headers=STEWARD).json()["partners"]
    assert (status["queued"], status["delivered"], status["connected"]) == (0, 1, True)
    assert client.post("/v1/feed/acks", content=b"{}", headers=asks).json()["code"] == "feed_malformed"


def test_what_was_heard_is_given_back_to_who_said_it(pair):
    pair.shop.record([withdraw([("email", b"ann@example.org")])])
    pair.wire.read()
    bank = serve(pair.bank, pair.bank_feed)
    heard = bank.get("/v1/peer/feed/heard", headers={"x-partner": "shop"}).json()
    assert heard["size"] == 1 and "shop.example/consent/feed/" in heard["checkpoint"]
    (item,) = heard["items"]
    leaf = FeedLeaf.from_bytes(from_base64(item["leaf"]))
    assert (leaf.seq, leaf.purposes) == (1, ("*",)) and list(item["pseudonyms"]) == ["email"]
    beyond = bank.get("/v1/peer/feed/heard?after=1", headers={"x-partner": "shop"}).json()
    assert beyond["items"] == []


@pytest.mark.parametrize(
    "query",
    [
        "", "after=0", "after=-1&nonce=0123456789abcdef", "after=x&nonce=0123456789abcdef",
        "after=0&nonce=short", "after=0&nonce=0123456789abcde%0A", "after=0&nonce=" + "a" * 65,
        "after=0&nonce=0123456789abcdef&wait=31", "after=0&nonce=0123456789abcdef&wait=nan",
        "after=99999999999999999999999&nonce=0123456789abcdef",
    ],
)  # fmt: skip
def test_a_question_to_the_feed_that_is_none_is_refused(client, query):
    answer = client.get(f"/v1/feed?{query}", headers={"x-partner": "bank"})
    assert answer.status_code == 400


def test_the_published_log_verifies_over_http_and_serves_nothing_else(client, pair):
    pair.shop.record([withdraw([("email", b"%d" % i)]) for i in range(300)])

    def get(url):
        answer = client.get(url.removeprefix("http://shop.example"))
        return answer.status_code, answer.content

    assert verify_log(url_reader("http://shop.example/log", get), pair.shop.key).ok
    checkpoint = client.get("/log/checkpoint")
    assert checkpoint.headers["content-type"] == "text/plain; charset=utf-8"
    tile = client.get("/log/tile/0/000")
    assert (
        tile.headers["content-type"] == "application/octet-stream"
        and "immutable" in tile.headers["cache-control"]
    )
    for path in (
        "",
        ".lock",
        "tile/0/999",
        "tile/0/../../../etc/passwd",
        "..%2f..%2fcomity.db",
        "tile/0/000.p/0",
    ):
        assert client.get("/log/" + path).status_code == 404


def test_receipts_and_absence_proofs_are_served_and_checkable(client, pair):
    client.post("/v1/consents", json={"decisions": [GRANT]}, headers=STEWARD)
    gated = ConsentGate(pair.shop).filter(
        "email", pa.array([b"ann@example.org"]), purpose="overlap.reach", partner="bank"
    )
    receipt = UseReceipt(
        "r-1", "overlap", "overlap.reach", "c", "j", None, "bank", gated.evidence, "", "", pair.shop.clock()
    )
    pair.shop.record_use(receipt, gated.members)
    page = client.get("/v1/receipts", params={"limit": 1}, headers=STEWARD).json()
    assert page["receipts"][0]["receipt"]["id"] == "r-1" and page["next"] is not None
    assert (
        client.get("/v1/receipts", params={"before": page["next"]}, headers=STEWARD).json()["receipts"] == []
    )
    proof = ReceiptProof.from_dict(client.get("/v1/receipts/r-1", headers=STEWARD).json())
    proof.verify(pair.shop.key)
    absent = client.post(
        "/v1/receipts/r-1/absence", json={"email": "bob@example.org"}, headers=STEWARD
    ).json()
    verify_absence(
        AbsenceProof.from_dict(absent["proof"]), proof.receipt.set_root, from_base64(absent["leaf"])
    )
    assert base64.b64decode(absent["leaf"])
    for person, code in (
        ({"email": "ann@example.org"}, "member_present"),
        ({"phone": "13800138000"}, "wrong_key_kind"),
    ):
        refused = client.post("/v1/receipts/r-1/absence", json=person, headers=STEWARD).json()
        assert refused["code"] == code
    assert client.get("/v1/receipts/none", headers=STEWARD).json()["code"] == "unknown_receipt"


def test_the_api_describes_itself(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {
        "/v1/consents",
        "/v1/consents/check",
        "/v1/optouts",
        "/v1/optouts/status",
        "/v1/feed",
        "/v1/feed/acks",
    } <= set(paths)
    assert client.get("/v1/purposes", headers=STEWARD).json()["version"] == 1


TERMS = {"notice": "general", "language": "zh", "jurisdiction": "CN", "consent_type": "separate"}


def test_a_decision_carries_its_terms_over_http(client, pair):
    decision = {**GRANT, "terms": TERMS, "actor": "agent", "method": "web_form"}
    size = pair.shop.head().size
    done = client.post("/v1/consents", json={"decisions": [decision]}, headers=STEWARD)
    assert done.status_code == 201, done.text
    with pair.shop.store.read() as view:
        body = json.loads(open_entry(view, pair.shop.vault, size)[1].payload)
    assert {name: body[name] for name in TERMS} == TERMS
    assert (body["actor"], body["method"]) == ("agent", "web_form")
    assert body["notice_hash"] == pair.shop.policy.notices["general"].hash("zh")


@pytest.mark.parametrize(
    ("terms", "code"),
    [
        ({**TERMS, "consent_type": None}, "separate_consent_required"),
        ({**TERMS, "notice": None}, "notice_required"),
        ({**TERMS, "notice": "none"}, "unknown_notice"),
        ({**TERMS, "jurisdiction": "China"}, "bad_terms"),
        ({**TERMS, "recipients": ["a", "a"]}, "bad_terms"),
        ({**TERMS, "actor_signature": "!!"}, "bad_actor_signature"),
        ({**TERMS, "actor_signature": "QUJD"}, "bad_terms"),
        ({**TERMS, "actor_key": "AAAA"}, "bad_public_key"),
    ],
)
def test_bad_terms_are_told_with_the_place_in_the_batch(client, pair, terms, code):
    size = pair.shop.head().size
    good = GRANT
    body = {"decisions": [good, {**good, "terms": terms}]}
    answer = client.post("/v1/consents", json=body, headers=STEWARD)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert pair.shop.head().size == size
    if code in ("separate_consent_required", "notice_required"):
        assert answer.json()["detail"].startswith("Item 1:")


def test_a_signal_over_http_restricts(client, pair):
    body = {"email": "ann@example.org", "standard": "gpc", "raw": "1"}
    answer = client.post("/v1/signals", json=body, headers=STEWARD)
    assert answer.status_code == 201 and answer.json()["restricted"] == ["activation"]
    assert answer.json()["recorded"]["count"] == 2
    again = client.post("/v1/signals", json=body, headers=STEWARD)
    assert again.json()["recorded"] is None
    assert (
        client.post("/v1/signals", json={"standard": "gpc", "raw": "1"}, headers=STEWARD).status_code == 201
    )
    for wrong in ({**body, "raw": "0"}, {**body, "standard": "tcf"}):
        assert client.post("/v1/signals", json=wrong, headers=STEWARD).json()["code"] == "bad_signal"
    assert client.post("/v1/signals", json=body).status_code == 403


def test_the_policy_tells_all_that_is_in_it(client):
    answer = client.get("/v1/purposes", headers=STEWARD).json()
    credit = next(p for p in answer["purposes"] if p["name"] == "model.credit")
    assert credit["traits"] == ["automated", "provided"] and credit["retention_days"] == 365
    assert credit["notices"] == ["general"] and answer["notices"][0]["hashes"].keys() == {"en", "zh"}
