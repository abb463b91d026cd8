"""People over HTTP: officers by role, subjects by handle, and the public page by its link alone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from consent.absence import verify_absence_bundle
from consent.events import grant
from consent.forms import read_form
from consent.notes import VerifierKey
from consent.people import People
from consent.preference_page import LANGUAGES, PreferencePage, preferred_language, texts
from consent.rate_limit import RateLimit
from consent.routes import people as routes
from consent.subject_receipts import verify_receipts
from privacy.errors import ComityError
from privacy.signing import SigningKey

ANN = [("email", b"ann@example.org")]
OFFICER = {"x-role": "compliance_officer"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


class HeaderGuards:
    def role(self, *roles):
        def check(x_role: str = Header("")):
            if x_role not in (*roles, "admin"):
                raise HTTPException(403)
            return x_role

        return check


class House:
    def __init__(self, node):
        self.node = node
        self.ledger = node.open()
        key = VerifierKey("bank.example/consent", SigningKey.generate().public.bytes32)
        self.ledger.join_partner("bank", key.to_text())
        self.people = People.of(self.ledger, node.key, owner="Böhm & <Söhne>", base_url="http://testserver")
        app = FastAPI()
        app.include_router(routes.create_router(self.people, HeaderGuards()))

        @app.exception_handler(ComityError)
        def problem(_: Request, error: ComityError):
            return JSONResponse({"code": error.code, "detail": str(error)}, status_code=400)

        self.client = TestClient(app, raise_server_exceptions=False, follow_redirects=False)

    def link(self, **more):
        return self.people.links.create(ANN, **more).url

    def allowed(self, purpose="overlap.reach"):
        return self.ledger.check(ANN[0][1], "email", purpose, "bank").allowed


@pytest.fixture
def house(make_node):
    return House(make_node("shop"))


def form_of(page):
    return re.search(r'name="form" value="([^"]+)"', page)[1]


class Outline(HTMLParser):
    """What a page is made of, for questions about its structure."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


# officers


_GUARDED = [
    ("POST", "/v1/subjects:lookup", {"email": "ann@example.org"}),
    ("GET", "/v1/subjects/" + "0" * 32, None),
    ("GET", "/v1/subjects/" + "0" * 32 + "/receipts", None),
    ("GET", "/v1/subjects/" + "0" * 32 + "/absence", None),
    ("GET", "/v1/subjects/" + "0" * 32 + "/trace", None),
    ("GET", "/v1/optouts/1/trace", None),
    ("GET", "/v1/consents", None),
    ("POST", "/v1/receipts:subject", {"email": "ann@example.org"}),
    ("POST", "/v1/receipts:absence", {"email": "ann@example.org"}),
    ("POST", "/v1/receipts:verify", {"bundle": "x"}),
    ("POST", "/v1/preference-links", {"email": "ann@example.org"}),
    ("GET", "/v1/preference-links", None),
    ("DELETE", "/v1/preference-links/x", None),
]


def test_what_is_about_people_asks_who_calls(house):
    for method, path, body in _GUARDED:
        for role in ("", "nobody", "analyst" if "verify" not in path else "nobody"):
            answer = house.client.request(method, path, json=body, headers={"x-role": role})
            assert answer.status_code == 403, path
    assert house.people.links.links() == []


def test_a_subject_is_found_by_a_body_and_followed_by_a_handle(house):
    for n in range(5):
        house.ledger.record([grant(ANN, "overlap.reach" if n % 2 else "model.credit", partner="bank")])
    found = house.client.post(
        "/v1/subjects:lookup", json={"email": " Ann@Example.org"}, headers=OFFICER
    ).json()
    (subject,) = found["subjects"]
    assert subject["known_by"] == ["email"] and re.fullmatch("[0-9a-f]{32}", subject["handle"])
    path = f"/v1/subjects/{subject['handle']}"
    whole = house.client.get(path, headers=OFFICER).json()
    assert len(whole["history"]) == 5 and whole["next"] is None
    assert [(s["purpose"], s["partner"]) for s in whole["state"]] == [
        ("model.credit", "bank"),
        ("overlap.reach", "bank"),
    ]
    indexes, after = [], -1
    while after is not None:
        page = house.client.get(path, params={"after": after, "limit": 2}, headers=OFFICER).json()
        indexes += [d["index"] for d in page["history"]]
        after = page["next"]
    assert indexes == [d["index"] for d in whole["history"]]
    stranger = house.client.post("/v1/subjects:lookup", json={"phone": "13800138000"}, headers=OFFICER)
    assert stranger.json() == {"subjects": []}


def test_what_is_no_handle_is_refused_without_being_quoted(house):
    for handle in ("xyz", "0" * 31, "0" * 33, "G" * 32, "%00" * 16, "ann@example.org"):
        answer = house.client.get(f"/v1/subjects/{handle}", headers=OFFICER)
        assert answer.status_code == 400 and handle not in answer.text
    assert house.client.get("/v1/subjects/" + "0" * 32, headers=OFFICER).json()["code"] == "unknown_subject"


def test_consents_are_listed_in_pages(house):
    people = [[("email", f"p{n}@example.org".encode())] for n in range(9)]
    house.ledger.record([grant(p, "overlap.reach", partner="bank") for p in people])
    house.ledger.record([grant(p, "model.credit") for p in people[:4]])
    seen, after = [], None
    while True:
        params = {"limit": 5, **({"after": after} if after else {})}
        page = house.client.get("/v1/consents", params=params, headers=OFFICER).json()
        seen += [(c["purpose"], c["partner"], c["subject"]) for c in page["consents"]]
        after = page["next"]
        if after is None:
            break
    assert len(seen) == len(set(seen)) == 13 and seen == sorted(seen)
    some = house.client.get("/v1/consents", params={"purpose": "model.credit"}, headers=OFFICER).json()
    assert len(some["consents"]) == 4
    for wrong in ("x", "e30=", "W10=", "WzEsMiwzXQ==", "é"):
        assert house.client.get("/v1/consents", params={"after": wrong}, headers=OFFICER).status_code == 400


def test_receipts_and_absence_are_given_out_and_checked_over_http(house):
    house.ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    house.ledger.withdraw(ANN)
    asked = {"email": "ann@example.org"}
    receipts = house.client.post("/v1/receipts:subject", json=asked, headers=OFFICER).json()
    assert len(verify_receipts(receipts, [house.ledger.key]).receipts) == 2
    absence = house.client.post("/v1/receipts:absence", json=asked, headers=OFFICER).json()
    assert verify_absence_bundle(absence, [house.ledger.key]).holds
    for bundle, kind in (
        (receipts, "receipts"),
        (absence, "absence"),
        (receipts["receipts"][0]["proof"], "proof"),
    ):
        told = house.client.post("/v1/receipts:verify", json={"bundle": bundle}, headers=OFFICER).json()
        assert (told["holds"], told["kind"]) == (True, kind)
    receipts["receipts"][0]["jws"] = receipts["receipts"][1]["jws"]
    told = house.client.post("/v1/receipts:verify", json={"bundle": receipts}, headers=OFFICER)
    assert told.status_code == 400 and told.json()["code"] == "wrong_commitment"
    stranger = house.client.post("/v1/receipts:subject", json={"email": "no@example.org"}, headers=OFFICER)
    assert stranger.json()["code"] == "unknown_subject" and "no@" not in stranger.text
    (subject,) = house.people.receipts.subjects(ANN)
    for what in ("receipts", "absence", "trace"):
        assert house.client.get(f"/v1/subjects/{subject.hex()}/{what}", headers=OFFICER).status_code == 200
    assert house.client.get("/v1/optouts/3/trace", headers=OFFICER).json()["opt_out"] == 3


def test_the_keys_are_where_others_look_for_them(house):
    from jwcrypto import jwk

    answer = house.client.get("/.well-known/jwks.json")
    keys = jwk.JWKSet.from_json(answer.text)
    (key,) = keys["keys"]
    house.ledger.record([grant(ANN, "overlap.reach")])
    from jwcrypto import jws

    token = jws.JWS()
    token.deserialize(
        house.people.receipts.bundle(house.people.receipts.subjects(ANN)[0])["receipts"][0]["jws"], key
    )
    assert house.client.get("/.well-known/comity-log.vkey").text == house.ledger.vkey + "\n"


def test_a_link_is_made_listed_and_revoked_over_http(house):
    asked = {"email": "ann@example.org", "purposes": ["activation"], "days": 7}
    made = house.client.post("/v1/preference-links", json=asked, headers=OFFICER)
    assert made.status_code == 201 and made.json()["link"]["created_by"] == "compliance_officer"
    url = made.json()["url"]
    assert made.json()["mail_headers"]["List-Unsubscribe"] == f"<{url}>" and "ann" not in made.text
    assert house.client.get(url).status_code == 200
    listed = house.client.get("/v1/preference-links", headers=OFFICER).json()["links"]
    assert [link["id"] for link in listed] == [made.json()["link"]["id"]] and "ann" not in json.dumps(listed)
    gone = house.client.delete(f"/v1/preference-links/{listed[0]['id']}", headers=OFFICER)
    assert gone.json()["revoked_at"] is not None and house.client.get(url).status_code == 404


# the page


def test_the_page_is_whole_without_anything_else(house):
    house.ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    answer = house.client.get(house.link())
    outline = Outline(answer.text)
    assert answer.status_code == 200 and outline.all("html")[0]["lang"] == "en"
    assert not any(outline.all(tag) for tag in ("script", "img", "link", "iframe", "object", "embed"))
    assert not re.search(r"\son\w+=|style=\"|javascript:|https?://", answer.text)
    names = {a["id"] for a in outline.all("input") if a.get("type") == "radio"}
    assert names == {a["for"] for a in outline.all("label")} and len(outline.all("h1")) == 1
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in outline.tags:
        for reference in ("aria-labelledby", "aria-describedby"):
            assert attrs.get(reference, ids[0]) in ids
    assert "Böhm &amp; &lt;Söhne&gt;" in answer.text and "ann@" not in answer.text
    checked = [a for a in outline.all("input") if "checked" in a]
    assert [(a["name"], a["value"]) for a in checked] == [("overlap.reach|bank", "yes")]


def test_the_page_is_kept_shown_and_sent_nowhere_else(house):
    for path in (house.link(), "/preferences/" + "A" * 43):
        headers = house.client.get(path).headers
        assert headers["cache-control"] == "no-store" and headers["referrer-policy"] == "no-referrer"
        policy = headers["content-security-policy"]
        assert (
            "default-src 'none'" in policy
            and "frame-ancestors 'none'" in policy
            and "form-action 'self'" in policy
        )
        assert "unsafe" not in policy and "script-src" not in policy
        assert headers["x-frame-options"] == "DENY" and "noindex" in headers["x-robots-tag"]
        assert "set-cookie" not in headers


def test_the_style_that_is_sent_is_the_style_that_is_allowed(house):
    import base64
    from hashlib import sha256

    answer = house.client.get(house.link())
    style = re.search(r"<style>(.*?)</style>", answer.text, re.DOTALL)[1]
    digest = base64.b64encode(sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in answer.headers["content-security-policy"]


def test_looking_never_changes_anything(house):
    house.ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    url, size = house.link(), house.ledger.head().size
    for path in (url, url + "?do=everything", url + "?List-Unsubscribe=One-Click", url + "/receipts"):
        for headers in ({}, {"sec-gpc": "1"}, {"purpose": "prefetch"}):
            assert house.client.get(path, headers=headers).status_code == 200
    assert house.client.head(url).status_code == 405
    assert house.ledger.head().size == size and house.allowed()


def test_choices_are_saved_and_shown_again(house):
    house.ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    url = house.link()
    page = house.client.get(url).text
    fields = {
        "do": "save",
        "lang": "zh",
        "form": form_of(page),
        "overlap.reach|bank": "no",
        "model.credit|bank": "yes",
    }
    answer = house.client.post(url, data=fields)
    assert answer.status_code == 303 and answer.headers["referrer-policy"] == "no-referrer"
    assert not house.allowed() and house.allowed("model.credit")
    after = house.client.get(answer.headers["location"])
    assert "已保存：1 项设为不同意。" in after.text and "已保存：1 项设为同意。" in after.text
    assert Outline(after.text).all("html")[0]["lang"] == "zh-CN"
    plain = house.client.get(url + "?done=1-1-0-0.forged")
    assert "Saved" not in plain.text


def test_everything_is_one_button(house):
    house.ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    url = house.link()
    answer = house.client.post(url, data={"do": "everything", "lang": "en"})
    after = house.client.get(answer.headers["location"]).text
    assert "You have said no to everything" in after and "No to everything</button>" not in after
    assert not house.allowed()
    size = house.ledger.head().size
    again = house.client.post(url, data={"do": "everything"})
    assert "Nothing had to change" in house.client.get(again.headers["location"]).text
    assert house.ledger.head().size == size


@pytest.mark.parametrize("multipart", [False, True])
def test_one_click_says_no_without_a_redirect(house, multipart):
    # RFC 8058, section 3.1: a POST with this one field, no cookies, no redirect.
    house.ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    url = house.link()
    if multipart:
        answer = house.client.post(url, files={"List-Unsubscribe": (None, "One-Click")})
    else:
        answer = house.client.post(url, content="List-Unsubscribe=One-Click", headers=FORM)
    assert answer.status_code == 200 and not house.allowed()
    assert house.ledger.history(ANN[0][1], "email")[-1]["type"] == "consent.withdrawn"


def test_a_yes_that_another_site_sends_is_not_one(house):
    url = house.link()
    form = form_of(house.client.get(url).text)
    fields = {"do": "save", "form": form, "overlap.reach|bank": "yes"}
    house.client.post(url, data=fields, headers={"sec-fetch-site": "cross-site"})
    assert not house.allowed()
    house.client.post(url, data=fields, headers={"sec-fetch-site": "same-origin"})
    assert house.allowed()


def test_a_browsers_signal_is_respected_and_said(house):
    url, gpc = house.link(), {"sec-gpc": "1"}
    page = house.client.get(url, headers=gpc).text
    assert "Global Privacy Control" in page and "Off, as your browser asks" in page
    fields = {
        "do": "save",
        "form": form_of(page),
        "activation.audience|bank": "yes",
        "overlap.reach|bank": "yes",
    }
    answer = house.client.post(url, data=fields, headers=gpc)
    assert not house.allowed("activation.audience") and house.allowed()
    assert "because your browser asks" in house.client.get(answer.headers["location"], headers=gpc).text
    assert "Global Privacy Control" not in house.client.get(url, headers={"sec-gpc": "true"}).text
    types = [h["type"] for h in house.ledger.history(ANN[0][1], "email")]
    assert "consent.withdrawn" in types  # the signal itself, for sale and sharing


def test_what_is_no_form_changes_nothing(house):
    house.ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    url, size = house.link(), house.ledger.head().size
    form = FORM["content-type"]
    for content, kind in (
        (b"", form), (b"do=burn", form), (b"do=save&do=everything", form), (b"\xff=\xfe", form),
        (b"do=%ff%fe", form), (b'{"do":"everything"}', "application/json"), (b"do=everything", "text/plain"),
        (b"do=everything", ""), (b"a=1&" * 3000, form), (b"do=everything&x=" + b"a" * 70_000, form),
        (b"x", "multipart/form-data"), (b"--a\r\n\r\nx", "multipart/form-data; boundary=a"),
        (b"\x00" * 100, "multipart/form-data; boundary=a"),
    ):  # fmt: skip
        answer = house.client.post(url, content=content, headers={"content-type": kind})
        assert answer.status_code == 400 and "Traceback" not in answer.text, (content[:20], kind)
    assert house.ledger.head().size == size and house.allowed()


def test_links_that_are_not_open_all_look_the_same(house):
    gone = house.people.links.create(ANN)
    house.people.links.revoke(gone.link.id)
    never = "/preferences/" + "A" * 43
    pages = set()
    for path in (gone.url, never, "/preferences/x", "/preferences/" + "é" * 43):
        for answer in (house.client.get(path), house.client.post(path, data={"do": "everything"})):
            assert answer.status_code == 404
            pages.add(answer.text)
    assert len(pages) == 1 and "no longer open" in pages.pop()


def test_who_tries_tokens_is_slowed_down_and_who_has_one_is_not(house):
    url = house.link()
    answers = [house.client.get("/preferences/" + "A" * 43).status_code for _ in range(35)]
    assert answers[:30] == [404] * 30 and answers[30:] == [429] * 5
    assert house.client.get(url).status_code == 200
    own = [house.client.get(url).status_code for _ in range(65)]
    assert own.count(429) >= 5 and house.client.get(url).headers["retry-after"] == "60"
    house.node.clock.move(minutes=2)
    assert house.client.get(url).status_code == 200


def test_people_fetch_their_own_proofs(house):
    house.ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    house.ledger.withdraw(ANN)
    url = house.link()
    receipts = house.client.get(url + "/receipts")
    assert "attachment" in receipts.headers["content-disposition"]
    assert len(verify_receipts(receipts.json(), [house.ledger.key]).receipts) == 2
    assert verify_absence_bundle(house.client.get(url + "/absence").json(), [house.ledger.key]).holds
    assert "/receipts" in house.client.get(url).text
    for path in ("/preferences/" + "A" * 43 + "/receipts", "/preferences/x/absence"):
        assert house.client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("header", "asked", "language"),
    [
        (None, None, "en"), ("", None, "en"), ("zh-CN,zh;q=0.9,en;q=0.8", None, "zh"),
        ("de, en;q=0.5", None, "en"),
        ("en;q=0.2, zh;q=0.3", None, "zh"), ("zh;q=0", None, "en"), ("fr", None, "en"), ("zh-TW", None, "zh"),
        ("zh", "en", "en"), ("en", "zh", "zh"), ("en", "xx", "en"), ("en", "<script>", "en"),
        (";;;,q=1,zh;q=2,\x00", None, "en"), ("a" * 10_000, None, "en"), ("*", None, "en"),
    ],
)  # fmt: skip
def test_the_language_follows_the_browser_unless_asked_otherwise(header, asked, language):
    assert preferred_language(header, asked) == language


def test_every_language_says_everything():
    shapes = {code: {name: type(text) for name, text in texts()[code].items()} for code in LANGUAGES}
    assert shapes["en"] == shapes["zh"]
    for name in ("with", "allowed", "denied", "elsewhere", "expires"):
        held = {code: set(re.findall(r"\{(\w+)\}", texts()[code][name])) for code in LANGUAGES}
        assert held["en"] == held["zh"], name
    page = PreferencePage("x", "y")
    assert all(page.message("ended", language=code) for code in LANGUAGES)


def test_a_form_is_read_one_way_only():
    kind = FORM["content-type"]
    assert read_form(kind, b"a=1&b=%E4%BD%A0+x") == {"a": "1", "b": "你 x"}
    assert read_form(kind + "; charset=utf-8", b"") == {}
    assert read_form(kind, b"a=1&a=2") is None and read_form("application/json", b"a=1") is None
    assert read_form("multipart/form-data; boundary=x\r\nX: y", b"") is None


def test_a_limit_forgets_the_oldest_and_fills_again():
    from datetime import UTC, datetime, timedelta

    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    limit = RateLimit(lambda: now[0], burst=2, per_minute=60, keys=3)
    assert [limit.take("a") for _ in range(3)] == [True, True, False]
    now[0] += timedelta(seconds=1)
    assert limit.take("a") and not limit.take("a")
    now[0] -= timedelta(hours=1)
    assert not limit.take("a")  # a clock that goes back gives nothing
    assert all(limit.take(key) for key in "bcd") and limit.take("a")
