"""Large bodies of those who say they are partners are not read before it is known who sends them."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from typing import Any

import pytest

from comity.errors import NotAuthenticated
from comity.identity import Identity, RequestVerifier
from comity.middleware import PartnerBodies
from privacy.signing import SigningKey

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
BANK = Identity("bank", SigningKey.generate())
URL = "http://shop.test"


class Pins:
    def public_key(self, partner: str) -> bytes | None:
        return BANK.key.public.bytes32 if partner == "bank" else None


class NeverUsed:
    def first_use(self, partner: str, nonce: str, *, now: int, expires_at: int) -> bool:
        raise AssertionError("a nonce is used up by the request itself, not by a look at its head")


VERIFIER = RequestVerifier(URL, Pins(), NeverUsed(), lambda: NOW)
CHUNK = "/v1/peer/jobs/1/messages/1/chunks/0"


def ask(path: str, headers: list[tuple[str, str]]) -> tuple[int, str, bool]:
    """(status, code, whether the body was read)."""
    read: list[bool] = []
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        read.append(True)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def check(scope: Any) -> None:
        lines = [(name.decode(), value.decode()) for name, value in scope["headers"]]
        VERIFIER.sender(scope["method"], scope["path"], lines)

    scope = {
        "type": "http",
        "method": "PUT",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }
    limits = (("/invitations", 1 << 16), ("/chunks/", 1 << 21), ("/training", 1 << 26))
    asyncio.run(PartnerBodies(app, check, limits)(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"]).get("code", ""), bool(read)


def signed(path: str, body: bytes, by: Identity = BANK) -> list[tuple[str, str]]:
    request = by.sign_request(
        "PUT",
        URL + path,
        body,
        content_type="application/octet-stream",
        clock=lambda: NOW,
        random=bytes,
    )
    return [*request.headers.items(), ("content-length", str(len(body)))]


def test_a_large_body_of_a_partner_is_read():
    assert ask(CHUNK, signed(CHUNK, bytes(1 << 20))) == (204, "", True)


def test_a_small_body_is_left_to_the_route():
    assert ask("/v1/peer/invitations", [("content-length", "1000")]) == (204, "", True)
    assert ask("/v1/peer/jobs/1", []) == (204, "", True)
    assert ask("/v1/subjects", [("content-length", str(1 << 40))]) == (204, "", True)


@pytest.mark.parametrize("by", [Identity("bank", SigningKey.generate()), Identity("mallory", BANK.key)])
def test_a_large_body_of_somebody_else_is_refused_unread(by):
    status, code, read = ask(CHUNK, signed(CHUNK, bytes(1 << 20), by))
    assert (status, read) == (401, False)
    assert code in {"signature_invalid", "unknown_key"}


def test_a_signature_for_another_route_does_not_open_this_one():
    status, code, read = ask("/v1/peer/training/1/channel", signed(CHUNK, bytes(1 << 20)))
    assert (status, code, read) == (401, "signature_invalid", False)


def test_a_large_body_without_a_signature_is_refused_unread():
    assert ask(CHUNK, [("content-length", "1000000")]) == (401, "signature_missing", False)


@pytest.mark.parametrize(
    ("path", "size", "allowed"),
    [
        (CHUNK, 1 << 21, True),
        (CHUNK, (1 << 21) + 1, False),
        ("/v1/peer/jobs/1/receipt", (1 << 20) + 1, False),
        ("/v1/peer/jobs", 1 << 60, False),
        ("/v1/peer/invitations", (1 << 16) + 1, False),
    ],
)
def test_every_route_has_its_limit(path, size, allowed):
    status, code, read = ask(path, [("content-length", str(size))])
    assert not read
    assert (status, code) == ((401, "signature_missing") if allowed else (413, "request_too_large"))


@pytest.mark.parametrize(
    "headers",
    [[("transfer-encoding", "chunked")], [("content-length", "x")], [("content-length", "9" * 400)]],
)
def test_a_length_must_be_declared(headers):
    status, _, read = ask(CHUNK, headers)
    assert status in {400, 413} and not read


def test_the_head_alone_says_nothing_of_the_body():
    """The digest is in the head; whether the body is the one is for the request as a whole."""
    head = signed(CHUNK, bytes(10))
    assert VERIFIER.sender("PUT", CHUNK, head) == "bank"
    with pytest.raises(NotAuthenticated):
        VERIFIER.request("PUT", CHUNK, head, b"another")
