"""A served node's public page: wired, reachable by its link alone, and silent about it in the node's log."""

from __future__ import annotations

import re

import httpx


def test_a_link_made_over_http_opens_a_page_that_the_log_says_nothing_of(serve):
    node = serve("shop")
    with node.client as officer:
        asked = {"email": "Ann.Somebody@example.org"}
        granted = {**asked, "decision": "grant", "purpose": "overlap.reach"}
        assert officer.post("/v1/consents", json={"decisions": [granted]}).status_code == 201
        made = officer.post("/v1/preference-links", json=asked)
        assert made.status_code == 201, made.text
        handle = officer.post("/v1/subjects:lookup", json=asked).json()["subjects"][0]["handle"]
    url = made.json()["url"]
    token = url.rsplit("/", 1)[1]
    with httpx.Client(base_url=node.url, trust_env=False, timeout=30) as anybody:
        page = anybody.get(f"/preferences/{token}")
        assert page.status_code == 200 and "overlap.reach|*" in page.text
        assert "content-security-policy" in page.headers and "set-cookie" not in page.headers
        clicked = anybody.post(
            f"/preferences/{token}",
            content="List-Unsubscribe=One-Click",
            headers={"content-type": "application/x-www-form-urlencoded"},
        )
        assert clicked.status_code == 200
        assert anybody.get("/.well-known/jwks.json").json()["keys"][0]["kty"] == "OKP"
        assert anybody.get("/.well-known/comity-log.vkey").text.count("+") >= 2
        assert anybody.get(f"/v1/subjects/{handle}").status_code == 401
        assert anybody.get("/preferences/" + "A" * 43).status_code == 404
    with node.client as officer:
        question = {**asked, "purpose": "overlap.reach", "partner": "bank"}
        assert officer.post("/v1/consents/check", json=question).json()["allowed"] is False
        absence = officer.post("/v1/receipts:absence", json=asked).json()
        assert officer.post("/v1/receipts:verify", json={"bundle": absence}).json()["holds"] is True
    node.stop()
    assert "/preferences/{token}" in node.log
    assert token not in node.log and not re.search(r"ann\.somebody", node.log, re.IGNORECASE)
