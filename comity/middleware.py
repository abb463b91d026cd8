"""What happens to every request on its way in and out, as plain ASGI.

From the outside in: `SignedAnswers` signs answers to partners; `RequestContext` gives the request an id,
logs and counts it, and turns the unexpected into a 500 that tells nothing; `BodyLimit` refuses bodies that
are too large before anybody reads them, `PartnerBodies` those of callers that only claim to be partners.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from http_message_signatures import HTTPMessageSignaturesException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from comity.errors import RequestTooLarge
from comity.identity import SignedRequest
from comity.logs import error_place, log
from comity.metrics import Metrics
from comity.problems import CONTENT_TYPE, problem
from privacy.errors import ComityError, Misuse

__all__ = [
    "PEER_PREFIX",
    "BodyLimit",
    "PartnerBodies",
    "RequestContext",
    "SignedAnswers",
    "for_partners",
    "send_problem",
]

PEER_PREFIX = "/v1/peer/"
_PARTNERS = (PEER_PREFIX, "/v1/feed")
_STREAM = b"text/event-stream"

SignAnswer = Callable[[SignedRequest, int, str, bytes], dict[str, str]]


def for_partners(path: str) -> bool:
    """Whether a path is one that partners call."""
    return path.startswith(_PARTNERS)


async def send_problem(send: Send, error: ComityError, scope: Scope) -> None:
    """Send the problem document of an error as the whole answer."""
    document = problem(error, instance=_instance(scope), from_partner=for_partners(str(scope["path"])))
    body = json.dumps(document).encode()
    headers = [(b"content-type", CONTENT_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": document["status"], "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _instance(scope: Scope) -> str:
    request_id = scope.get("state", {}).get("request_id")
    return f"urn:uuid:{request_id}" if request_id else ""


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


class RequestContext:
    """Request id, log line, metrics, and the last net under every handler."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, started, status, received, sent = str(uuid.uuid4()), time.perf_counter(), 0, 0, 0
        scope.setdefault("state", {})["request_id"] = request_id

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {
                    **message,
                    "headers": [*message["headers"], (b"x-request-id", request_id.encode())],
                }
            sent += len(message.get("body", b""))
            await send(message)
            if message.get("more_body") and sent:
                # A feed may be open for days: what it carries is counted as it goes.
                self.metrics.streaming(scope["method"], _route(scope), sent)
                sent = 0

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, counted, send_with_id)
            except (
                Exception
            ) as error:  # the one place that may: nothing else stands between it and the caller
                log.error("unexpected error", error=type(error).__name__, at=error_place(error))
                if status:
                    raise
                await send_problem(send_with_id, _unexpected(), scope)
            finally:
                seconds = time.perf_counter() - started
                route = _route(scope)
                self.metrics.request(scope["method"], route, status, seconds, received=received, sent=sent)
                log.info(
                    "request", method=scope["method"], route=route, status=status, ms=round(seconds * 1000, 1)
                )


def _route(scope: Scope) -> str:
    """The template, not the path: a path can hold what it asks about."""
    return str(getattr(scope.get("route"), "path", "unrouted"))


def _unexpected() -> ComityError:
    return ComityError(
        "The node met an error it did not expect; its log has the details under this request's id.",
        advice="Report it if it happens again.",
    )


class BodyLimit:
    """Refuses a body over `limit` bytes with 413, by its declared length or, if undeclared, while reading."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = _header(scope, b"content-length")
        if declared is not None:
            if not declared.isdigit() or int(declared) > self.limit:
                await send_problem(send, self._refusal(), scope)
                return
            await self.app(scope, receive, send)
            return
        received = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            received += message.get("body", b"")
            if len(received) > self.limit:
                await send_problem(send, self._refusal(), scope)
                return
            if not message.get("more_body", False):
                break
        whole: list[Message] = [{"type": "http.request", "body": bytes(received), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, replay, send)

    def _refusal(self) -> RequestTooLarge:
        return RequestTooLarge(
            f"This node accepts bodies of up to {self.limit} bytes.",
            advice="Send it in smaller parts, or raise [server] max_body_bytes.",
        )


class PartnerBodies:
    """Reads no large body of somebody who is no partner, and none that is larger than its route takes.

    A partner's request declares its length. Up to `unsigned` bytes are read before the signature is looked
    at (an invitation comes from a stranger); more only once `check_sender` has not raised. `limits` are
    (part of a path, bytes), the first that fits; other routes take documents of `otherwise` bytes.
    """

    def __init__(
        self,
        app: ASGIApp,
        check_sender: Callable[[Scope], Awaitable[None]],
        limits: Sequence[tuple[str, int]],
        *,
        unsigned: int = 1 << 16,
        otherwise: int = 1 << 20,
    ) -> None:
        self.app = app
        self.check_sender = check_sender
        self.limits = tuple(limits)
        self.unsigned = unsigned
        self.otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and str(scope["path"]).startswith(PEER_PREFIX):
            try:
                await self._check(scope)
            except ComityError as error:
                await send_problem(send, error, scope)
                return
        await self.app(scope, receive, send)

    async def _check(self, scope: Scope) -> None:
        if _header(scope, b"transfer-encoding") is not None:
            raise Misuse("A partner's request declares its length.", code="length_required")
        declared = _header(scope, b"content-length") or b"0"
        if not declared.isdigit():
            raise Misuse("The declared length of the request is no number.", code="malformed_request")
        # More digits than any limit has need no reading.
        size, path = int(declared[:18]), str(scope["path"])
        limit = next((most for part, most in self.limits if part in path), self.otherwise)
        if size > limit:
            raise RequestTooLarge(f"This request takes bodies of up to {limit} bytes.")
        if size > self.unsigned:
            await self.check_sender(scope)


class SignedAnswers:
    """Signs every whole answer to a request that came signed; such an answer cannot be moved or changed.

    An event stream is passed on as it comes: each of its messages is signed by whoever makes it.
    """

    def __init__(self, app: ASGIApp, sign: SignAnswer, public_url: str) -> None:
        self.app = app
        self.sign = sign
        self.public_url = public_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or not for_partners(str(scope["path"]))
            or _header(scope, b"signature") is None
        ):
            await self.app(scope, receive, send)
            return
        start: Message = {}
        body = bytearray()

        streaming = False

        async def hold(message: Message) -> None:
            nonlocal start, streaming
            if message["type"] == "http.response.start":
                start = message
                kind = dict(message["headers"]).get(b"content-type", b"")
                streaming = message["status"] == 200 and kind.startswith(_STREAM)
            if streaming:
                await send(message)
                return
            if message["type"] == "http.response.start":
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                await self._release(scope, start, bytes(body), send)

        await self.app(scope, receive, hold)

    async def _release(self, scope: Scope, start: Message, body: bytes, send: Send) -> None:
        headers: list[tuple[bytes, bytes]] = [
            (key.lower(), value) for key, value in start["headers"] if key.lower() != b"content-length"
        ]
        kind = next((value for key, value in headers if key == b"content-type"), None)
        if kind is None:
            kind = b"application/octet-stream"
            headers.append((b"content-type", kind))
        if start["status"] not in (204, 304):
            headers.append((b"content-length", str(len(body)).encode()))
        try:
            added = self.sign(self._request(scope), start["status"], kind.decode("latin-1"), body)
        except (HTTPMessageSignaturesException, ValueError):
            added = {}  # the request's own parts cannot be covered: it was refused, and goes back unsigned
        headers += [(key.encode(), value.encode()) for key, value in added.items()]
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _request(self, scope: Scope) -> SignedRequest:
        raw: Any = scope.get("raw_path") or str(scope["path"]).encode()
        query = scope.get("query_string", b"")
        target = raw.decode("ascii") + (f"?{query.decode('ascii')}" if query else "")
        signature = _header(scope, b"signature") or b""
        return SignedRequest(
            scope["method"], self.public_url + target, {"signature": signature.decode("latin-1")}
        )
