"""A connection to a partner, against a real server on a loopback port."""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from comity.errors import RequestTooLarge
from comity.identity import Identity, RequestVerifier
from comity.middleware import BodyLimit, SignedAnswers
from comity.peers import HttpPeer, Peers
from comity.problems import CONTENT_TYPE, problem
from consent.event_stream import events_of
from privacy.errors import BudgetExhausted, ComityError, Misuse, PeerUnreachable, PeerViolation, Refused
from privacy.signing import PublicKey, SigningKey

BANK, SHOP, OTHER = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Pins:
    def public_key(self, partner: str) -> bytes | None:
        return BANK.public.bytes32 if partner == "bank" else None


class Memory:
    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.lock = threading.Lock()

    def first_use(self, partner: str, nonce: str, *, now: int, expires_at: int) -> bool:
        with self.lock:
            new = nonce not in self.seen
            self.seen.add(nonce)
            return new


@dataclass(frozen=True)
class Pin:
    name: str
    url: str
    key: PublicKey


def shop(url: str) -> Starlette:
    verifier = RequestVerifier(url, Pins(), Memory(), now)
    identity = Identity("shop", SHOP)

    async def echo(request: Request) -> Response:
        body = await request.body()
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        try:
            partner = verifier.request(request.method, target, request.headers.items(), body)
        except ComityError as e:
            return JSONResponse(problem(e), 401, media_type=CONTENT_TYPE)
        return Response(partner.encode() + b":" + body, media_type="text/plain")

    async def no(request: Request) -> Response:
        error = BudgetExhausted("Nothing is left.", advice="Wait.")
        return JSONResponse(problem(error), 403, media_type=CONTENT_TYPE)

    async def oops(request: Request) -> Response:
        return Response(b"<html>", status_code=500, media_type="text/html")

    async def empty(request: Request) -> Response:
        return Response(status_code=204)

    async def big(request: Request) -> Response:
        return StreamingResponse((b"x" * 1000 for _ in range(200)), media_type="text/plain")

    async def away(request: Request) -> Response:
        return RedirectResponse("http://127.0.0.1:1/")

    async def slow(request: Request) -> Response:
        import anyio

        await anyio.sleep(5)
        return Response()

    async def events(request: Request) -> Response:
        body = await request.body()
        target = f"{request.url.path}?{request.url.query}"
        partner = verifier.request("GET", target, request.headers.items(), body)
        told = [b"data: 1\n\n", b"da", b"ta: 2\n\n", f"data: {partner}\n\n".encode()]
        return StreamingResponse(iter(told), media_type="text/event-stream")

    async def silent(request: Request) -> Response:
        import anyio

        async def told():  # type: ignore[no-untyped-def]
            yield b"data: 1\n\n"
            await anyio.sleep(5)

        return StreamingResponse(told(), media_type="text/event-stream")

    async def broken(request: Request) -> Response:
        async def told():  # type: ignore[no-untyped-def]
            yield b"data: 1\n\n"
            raise OSError("gone")

        return StreamingResponse(told(), media_type="text/event-stream")

    async def gateway(request: Request) -> Response:
        return Response(b"bad gateway", status_code=502)

    routes = [
        Route("/v1/peer/echo", echo, methods=["POST", "GET"]),
        *(
            Route(f"/v1/peer/{f.__name__}", f, methods=["GET", "POST"])
            for f in (no, oops, empty, big, away, slow)
        ),
        *(Route(f"/v1/feed/{f.__name__}", f) for f in (events, silent, broken, no, oops, empty, big)),
        Route("/elsewhere/gateway", gateway),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(BodyLimit, limit=100_000)

    def sign(request: object, status: int, kind: str, body: bytes) -> dict[str, str]:
        return identity.sign_response(request, status, kind, body, clock=now)  # type: ignore[arg-type]

    app.add_middleware(SignedAnswers, sign=sign, public_url=url)
    return app


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(
            uvicorn.Config(shop(url), log_config=None, ws="none", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield url
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture
def peers() -> Iterator[Peers]:
    made = Peers(identity=Identity("bank", BANK), clock=now, random=os.urandom, max_response_bytes=100_000)
    yield made
    made.close()


@pytest.fixture
def peer(peers: Peers, served: str) -> HttpPeer:
    connection = peers.connect(Pin("shop", served, SHOP.public))
    assert isinstance(connection, HttpPeer)
    return connection


def test_a_request_arrives_as_the_partner_and_the_answer_is_checked(peer: HttpPeer) -> None:
    answer = peer.request("POST", "/v1/peer/echo?x=1&y=%2F", body=b"\x00\xff", content_type="application/x")
    assert (answer.status, answer.body) == (200, b"bank:\x00\xff")
    assert peer.request("GET", "/v1/peer/echo").body == b"bank:"
    assert peer.request("POST", "/v1/peer/echo", body=memoryview(b"view")).body == b"bank:view"  # type: ignore[arg-type]
    assert peer.request("GET", "/v1/peer/empty").status == 204


def test_many_threads_may_share_a_connection(peer: HttpPeer) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda i: peer.request("POST", "/v1/peer/echo", body=b"%d" % i).body, range(64))
        )
    assert answers == [b"bank:%d" % i for i in range(64)]


def test_a_problem_document_comes_back_as_the_error_it_stands_for(peer: HttpPeer) -> None:
    with pytest.raises(BudgetExhausted, match=r"shop: Nothing is left\. Wait\.") as caught:
        peer.request("GET", "/v1/peer/no")
    assert caught.value.code == "budget_exhausted"


def test_a_key_that_the_partner_does_not_pin_is_told_so(peer: HttpPeer) -> None:
    stranger = replace(peer, identity=Identity("insurer", OTHER))
    with pytest.raises(Refused) as caught:
        stranger.request("GET", "/v1/peer/echo")
    assert caught.value.code == "unknown_key"
    impostor = replace(peer, identity=Identity("bank", OTHER))
    with pytest.raises(Refused) as caught:
        impostor.request("GET", "/v1/peer/echo")
    assert caught.value.code == "signature_invalid"


def test_an_answer_by_another_key_is_a_violation(peer: HttpPeer) -> None:
    with pytest.raises(PeerViolation) as caught:
        replace(peer, key=OTHER.public).request("GET", "/v1/peer/echo")
    assert caught.value.code == "response_signature_invalid"


def test_an_unsigned_answer_is_a_violation_but_a_gateway_is_only_in_the_way(peer: HttpPeer) -> None:
    with pytest.raises(PeerViolation, match="not signed"):
        peer.request("GET", "/nowhere")
    with pytest.raises(PeerUnreachable, match="gateway"):
        peer.request("GET", "/elsewhere/gateway")


def test_answers_without_a_problem_document_and_redirects_are_violations(peer: HttpPeer) -> None:
    for path in ("/v1/peer/oops", "/v1/peer/away"):
        with pytest.raises(PeerViolation):
            peer.request("GET", path)


def test_an_answer_is_read_only_so_far(peer: HttpPeer) -> None:
    with pytest.raises(PeerViolation) as caught:
        peer.request("GET", "/v1/peer/big")
    assert caught.value.code == "response_too_large"


def test_a_body_that_is_too_large_is_refused_with_a_signed_answer(peer: HttpPeer) -> None:
    with pytest.raises(RequestTooLarge):
        peer.request("POST", "/v1/peer/echo", body=b"x" * 100_001)


def test_nobody_there_and_no_answer_in_time_are_unreachable(peer: HttpPeer) -> None:
    with pytest.raises(PeerUnreachable, match="within"):
        peer.request("GET", "/v1/peer/slow", timeout=0.2)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = replace(peer, base_url=f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(PeerUnreachable, match="cannot be reached"):
            nobody.request("GET", "/v1/peer/echo")
    with pytest.raises(PeerUnreachable):
        replace(peer, base_url="http://no-such-host.invalid").request("GET", "/")


@pytest.mark.parametrize(
    "url",
    [
        "http://shop.example", "http://10.0.0.1:8440", "http://localhost.example", "http://127.0.0.1@shop.example",
        "https://user@shop.example", "https://user:word@shop.example", "https://shop.example/path",
        "https://shop.example?x", "https://shop.example?", "https://shop.example#x", "https://shop.example#",
        "https://", "https://:8440", "https://shop.example:port", "https://[::1", "ftp://shop.example",
        "shop.example", "", "https://shop.example\\x", "https://shop .example",
    ],
)  # fmt: skip
def test_a_partner_is_reached_through_tls_or_on_this_machine(peers: Peers, url: str) -> None:
    with pytest.raises(Misuse) as caught:
        peers.connect(Pin("shop", url, SHOP.public))
    assert caught.value.code == "bad_address"


def test_https_anywhere_and_http_on_loopback_are_addresses(peers: Peers) -> None:
    for url in ("https://shop.example", "https://shop.example:8440/", "http://127.0.0.1:1", "http://[::1]:1"):
        peers.connect(Pin("shop", url, SHOP.public))
    peers.connect(Pin("shop", "http://localhost:8440", SHOP.public))


@pytest.mark.parametrize("path", ["v1", "", "/a#b", "/ä"])
def test_an_unusable_path_is_refused_before_anything_is_sent(peer: HttpPeer, path: str) -> None:
    with pytest.raises(Misuse):
        peer.request("GET", path)


def test_a_server_that_is_no_http_server_is_unreachable(peer: HttpPeer) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def babble() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(json.dumps({"not": "http"}).encode() + b"\r\n\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(PeerUnreachable):
            replace(peer, base_url=url).request("GET", "/v1/peer/echo", timeout=5)
        thread.join(timeout=10)


def heard(peer: HttpPeer, path: str, **more: float) -> list[bytes]:
    with peer.stream(path, accept="text/event-stream", **more) as chunks:
        return list(events_of(chunks, limit=1000))


def test_a_stream_is_read_as_it_comes_by_a_signed_request(peer: HttpPeer) -> None:
    assert heard(peer, "/v1/feed/events?after=1") == [b"1", b"2", b"bank"]


def test_a_stream_that_falls_silent_or_breaks_is_given_up(peer: HttpPeer) -> None:
    with pytest.raises(PeerUnreachable), peer.stream(
        "/v1/feed/silent", accept="text/event-stream", idle=0.3
    ) as chunks:  # fmt: skip
        assert next(chunks) == b"data: 1\n\n"
        next(chunks)
    with pytest.raises(PeerUnreachable):
        heard(peer, "/v1/feed/broken")


def test_an_answer_that_is_no_stream_is_checked_like_any_other(peer: HttpPeer) -> None:
    with pytest.raises(BudgetExhausted):
        heard(peer, "/v1/feed/no")
    for path in ("/v1/feed/oops", "/v1/feed/empty", "/v1/feed/big"):
        with pytest.raises(PeerViolation):
            heard(peer, path)
    with pytest.raises(PeerViolation) as caught:
        heard(replace(peer, key=OTHER.public), "/v1/feed/no")
    assert caught.value.code == "response_signature_invalid"
    with pytest.raises(Misuse):
        heard(peer, "no-slash")


def test_nothing_is_streamed_from_a_node_that_is_not_there(peer: HttpPeer) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(PeerUnreachable):
        heard(replace(peer, base_url=f"http://127.0.0.1:{port}"), "/v1/feed/events")


@pytest.mark.parametrize(
    ("chunks", "events"),
    [
        ([b"data: a\ndata: b\n\n"], [b"a\nb"]),
        ([b": comment\nevent: x\nid: 4\nretry: 1\ndata:a\r\n\r\n"], [b"a"]),
        ([b"data: unfinished\n"], []),
        ([b"\n\n\ndata: a\n\n\n"], [b"a"]),
        ([bytes([b]) for b in b"data: slow\n\n"], [b"slow"]),
    ],
)
def test_events_are_read_from_whatever_chunks_come(chunks: list[bytes], events: list[bytes]) -> None:
    assert list(events_of(iter(chunks), limit=100)) == events


@pytest.mark.parametrize(
    "chunk", [b"data: " + b"x" * 200, b"x" * 200, b"data: aaaa\n" * 30, b"data: x\n" * 200]
)
def test_an_endless_event_is_cut_off(chunk: bytes) -> None:
    with pytest.raises(PeerViolation):
        list(events_of(iter([chunk]), limit=100))
