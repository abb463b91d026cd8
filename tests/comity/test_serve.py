"""A node as a real process, spoken to over real HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from comity.cli import app
from comity.scaffold import make_node
from comity.system import system_random, utc_now


# These share processes that one module starts, and look at what all of them left there.
@pytest.fixture(scope="module")
def node(serve_module: Any) -> Any:
    return serve_module("bank")


def problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert set(document) >= {"type", "title", "status", "detail", "code", "retryable"}
    assert document["status"] == answer.status_code
    return document


def test_it_is_healthy_ready_and_says_who_it_is(node: Any) -> None:
    with httpx.Client(base_url=node.url, trust_env=False) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {"status": "ok"}
        card = client.get("/v1/node").json()
    assert card["name"] == "bank"
    assert card["log_vkey"].startswith(card["log_origin"] + "+")
    assert re.fullmatch(r"([0-9a-f]{4} ){7}[0-9a-f]{4}", card["fingerprint"])


def test_every_answer_carries_an_id_that_is_in_the_log(node: Any) -> None:
    answer = httpx.get(f"{node.url}/nowhere", trust_env=False)
    request_id = answer.headers["x-request-id"]
    assert answer.status_code == 404
    assert problem(answer)["code"] == "no_such_path"
    found: list[int] = []
    ends = time.monotonic() + 10  # the line is written after the answer has gone out
    while not found and time.monotonic() < ends:
        lines = [json.loads(line) for line in node.log.splitlines() if line.endswith("}")]
        found = [line["status"] for line in lines if line.get("request_id") == request_id]
    assert found == [404]


def operations(node: Any) -> Iterator[tuple[str, str]]:
    described = httpx.get(f"{node.url}/openapi.json", trust_env=False).json()
    for path, methods in described["paths"].items():
        for method in methods:
            yield method.upper(), path


OPEN = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/v1/node"),
    # An invitation authenticates itself: it is signed by the inviter and names this node's key.
    ("POST", "/v1/peer/invitations"),
    # Keys that others check receipts and the log by.
    ("GET", "/.well-known/jwks.json"),
    ("GET", "/.well-known/comity-log.vkey"),
    # A witness answers whoever brings a checkpoint signed by a log it knows (C2SP tlog-witness).
    ("POST", "/witness/add-checkpoint"),
    ("GET", "/witness/{origin_hash}/checkpoint"),
    # The token in the address is the authority.
    ("GET", "/preferences/{token}"),
    ("POST", "/preferences/{token}"),
    ("GET", "/preferences/{token}/receipts"),
    ("GET", "/preferences/{token}/absence"),
}


def test_nobody_gets_anywhere_without_a_key_or_a_signature(node: Any) -> None:
    tried = 0
    with httpx.Client(base_url=node.url, trust_env=False) as client:
        for method, path in operations(node):
            if (method, path) in OPEN or path.startswith(("/v1/log", "/log")):
                continue
            concrete = re.sub(r"\{[^}]*\}", "1", path)
            for headers in ({}, {"authorization": "Bearer comity-000000000000-" + "A" * 43}):
                answer = client.request(method, concrete, json={}, headers=headers)
                assert answer.status_code == 401, (method, path, answer.text)
                assert problem(answer)["code"] in ("not_authenticated", "signature_missing")
            tried += 1
    assert tried > 20


def test_a_role_may_do_only_its_own(node: Any) -> None:
    with node.client as admin:
        assert admin.get("/v1/collaborations").status_code == 200
    made = CliRunner().invoke(
        app, ["access", "create", "reports", "--role", "analyst", "--dir", str(node.directory)]
    )
    token = made.stdout.strip()
    with httpx.Client(
        base_url=node.url, headers={"authorization": f"Bearer {token}"}, trust_env=False
    ) as analyst:
        assert analyst.get("/v1/overlap-queries").status_code == 200
        answer = analyst.post("/v1/collaborations", json={})
        assert answer.status_code == 403
        assert problem(answer)["code"] == "not_authorised"


def test_an_operator_key_is_no_partner(node: Any) -> None:
    with node.client as client:
        assert client.post("/v1/peer/jobs", json={}).status_code == 401


@pytest.mark.parametrize(
    "body", [b"{", b"", b"\xff\xfe", b"[" * 50_000, b'{"a":NaN}', b"null", b'"alice@example.com"']
)
def test_a_malformed_body_is_refused_without_being_echoed(node: Any, body: bytes) -> None:
    with node.client as client:
        answer = client.post(
            "/v1/overlap-queries", content=body, headers={"content-type": "application/json"}
        )
    assert 400 <= answer.status_code < 500
    assert "alice" not in answer.text
    problem(answer)


def test_neither_values_nor_made_up_keys_come_back(node: Any) -> None:
    with node.client as client:
        answer = client.post(
            "/v1/overlap-queries", json={"alice@example.com": "13800138000", "dataset": ["bob@x.org"]}
        )
    assert answer.status_code == 422
    document = problem(answer)
    assert document["errors"]
    for value in ("alice", "13800138000", "bob"):
        assert value not in answer.text


def test_a_huge_body_is_refused_by_its_declared_length(node: Any) -> None:
    host, port = node.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(b"POST /v1/overlap-queries HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        said = b""
        while b"\r\n\r\n" not in said or not said.split(b"\r\n\r\n", 1)[1]:
            more = raw.recv(65536)  # head and body may come in two parts
            assert more
            said += more
    assert b"413" in said.split(b"\r\n")[0]
    assert b"request_too_large" in said


def test_a_huge_body_of_undeclared_length_is_refused_too(node: Any) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(2000):
            yield b"x" * 65536

    with node.client as client:
        try:
            answer = client.post("/v1/overlap-queries", content=endless())
        except httpx.HTTPError:
            return  # the node hung up in the middle of it, which is as good
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: " + b"b" * 200_000 + b"\r\n\r\n",
        b"GET /%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/peer/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_junk_on_the_socket_leaves_the_node_standing(node: Any, request_bytes: bytes) -> None:
    host, port = node.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        try:
            raw.sendall(request_bytes)
            raw.shutdown(socket.SHUT_WR)
            said = raw.recv(65536)
        except OSError:
            said = b""
    assert b" 200 " not in said.split(b"\r\n")[0]
    assert httpx.get(f"{node.url}/healthz", trust_env=False).status_code == 200


def test_metrics_are_prometheus_text(node: Any) -> None:
    httpx.get(f"{node.url}/healthz", trust_env=False)
    page = httpx.get(f"{node.url}/metrics", trust_env=False)
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in page.text.splitlines():
        assert line.startswith("#") or re.fullmatch(r'[a-z_]+(\{([a-z]+="[^"]*",?)+\})? [0-9.e+\-]+', line), (
            line
        )
    assert re.search(
        r'comity_http_requests_total\{method="GET",route="/healthz",status="200"\} \d+', page.text
    )
    assert re.search(r"comity_log_entries \d+", page.text)


def test_the_description_is_complete(node: Any) -> None:
    described = httpx.get(f"{node.url}/openapi.json", trust_env=False).json()
    schemas = described["components"]["schemas"]
    assert "HTTPValidationError" not in schemas
    text = json.dumps(described)
    for name in re.findall(r"#/components/schemas/([A-Za-z0-9_\-]+)", text):
        assert name in schemas
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation.get("summary"), (method, path)
            assert "application/problem+json" in operation["responses"]["default"]["content"], (method, path)
            if (method.upper(), path) not in OPEN and not path.startswith(("/v1/log", "/log")):
                assert operation.get("security"), (method, path)


def test_it_survives_a_kill_stops_in_order_and_frees_its_port(serve: Any) -> None:
    killed = serve("bank")
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.process.wait(timeout=30)
    node = serve("bank")
    assert node.url == killed.url
    assert httpx.get(f"{node.url}/readyz", trust_env=False).status_code == 200
    code, out = doctor(node.directory, "--json")
    findings = {f["check"]: f for f in json.loads(out)["findings"]}
    assert (code, {f["verdict"] for f in findings.values()}) == (0, {"ok"})
    assert "runs" in findings["port"]["detail"]
    os.kill(node.process.pid, signal.SIGINT)
    assert node.process.wait(timeout=30) == 0
    assert '"event": "stopped"' in node.log
    assert "Traceback" not in node.log
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", int(node.url.rpartition(":")[2])))


def test_doctor_names_what_is_wrong(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        make_node(tmp_path / "bank", port=port, clock=utc_now, random=system_random)
        (tmp_path / "bank/keys/identity.key").chmod(0o644)
        code, out = doctor(tmp_path / "bank")
    assert code == 1
    assert "FAIL  keys" in out
    assert "chmod 600" in out
    assert "FAIL  port" in out
    assert "ok    database" in out


def doctor(*args: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *map(str, args)])
    return result.exit_code, result.stdout
