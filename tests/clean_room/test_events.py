"""A query followed by server-sent events."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from clean_room import events
from clean_room.client import Comity
from clean_room.events import JobWatch, stream
from clean_room.schemas import QueryIn
from privacy.errors import ComityError, Misuse


def read(text: str) -> list[tuple[int, dict[str, Any]]]:
    """(id, data) of every event."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((int(lines["id"]), json.loads(lines["data"])))
    return found


def test_the_events_of_a_query_end_with_its_end(pair):
    job = pair.bank.service.submit(pair.query("align"), principal="ana")
    answer = pair.bank.client.get(f"/v1/overlap-queries/{job.id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    told = read(answer.text)
    ids = [number for number, _ in told]
    assert ids == sorted(set(ids))
    assert {event["id"] for _, event in told} == {job.id}
    assert [event["state"] for _, event in told][-1] == "succeeded"
    assert [event["progress"] for _, event in told] == sorted(event["progress"] for _, event in told)
    assert all("result" not in event for _, event in told)


def test_a_reader_that_comes_back_is_told_only_what_is_new(pair):
    job = pair.bank.run(pair.query("align"))
    path = f"/v1/overlap-queries/{job.id}/events"
    ((last, event),) = read(pair.bank.client.get(path).text)
    assert event["state"] == "succeeded"
    assert read(pair.bank.client.get(path, headers={"last-event-id": str(last)}).text) == []
    for odd in ("", "-1", "abc", "9" * 33, "١"):
        answer = pair.bank.client.get(path, headers={"last-event-id": odd.encode()})
        assert answer.status_code == 422 or len(read(answer.text)) == 1


def test_an_unknown_query_has_no_events(pair):
    answer = pair.bank.client.get(f"/v1/overlap-queries/{'0' * 32}/events")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_job")


def test_a_failure_is_told_with_its_code(pair):
    pair.wire.down = True
    job = pair.bank.run(pair.query("align"))
    ((_, event),) = read(pair.bank.client.get(f"/v1/overlap-queries/{job.id}/events").text)
    assert (event["state"], event["error"]["code"]) == ("timed_out", "peer_unreachable")


def test_a_quiet_query_shows_that_the_node_is_there_and_a_gone_reader_is_forgotten(pair, monkeypatch):
    monkeypatch.setattr(events, "HEARTBEAT", 0.0)
    monkeypatch.setattr(events, "_LOOK", 0.01)
    reached, go_on = threading.Event(), threading.Event()

    def wait(method: str, path: str) -> None:
        if path.endswith("/messages/1/finish"):
            reached.set()
            go_on.wait(20)

    pair.wire.on_request = wait
    job = pair.bank.service.submit(pair.query("align"), principal="ana")
    assert reached.wait(20)
    watch = JobWatch(pair.bank.service.job_changes)

    async def look() -> list[bytes]:
        told: AsyncIterator[bytes] = stream(pair.bank.service, watch, job.id)
        first = [await anext(told) for _ in range(3)]
        await told.aclose()
        return first

    first = asyncio.run(look())
    assert first[0].startswith(b"id: ") and first[1:] == [b": still here\n\n"] * 2
    assert watch._waiting == {}
    pair.bank.service.job_changes.listeners.remove(watch._changed)
    go_on.set()
    assert pair.bank.wait(job.id).state == "succeeded"


def test_a_node_that_stops_ends_the_stream(make_pair):
    pair = make_pair(agree=False, consent=False)
    service = pair.bank.service
    service._stopping.set()

    async def look() -> list[bytes]:
        return [event async for event in stream(service, JobWatch(service.job_changes), "0" * 32)]

    assert asyncio.run(look()) == []


class ThroughTheApp(httpx.BaseTransport):
    """The client's requests, handled by an application in this process."""

    def __init__(self, app: Any, *, broken: str = "") -> None:
        self.client, self.broken = TestClient(app), broken

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self.broken and self.broken in request.url.path:
            raise httpx.ConnectError("no")
        headers = {k: v for k, v in request.headers.items() if k not in {"host", "content-length"}}
        answer = self.client.request(
            request.method, request.url.path, content=request.read(), headers=headers
        )
        return httpx.Response(answer.status_code, headers=dict(answer.headers), content=answer.content)


def question(pair: Any) -> QueryIn:
    return QueryIn(**pair.query("align").document())


@pytest.mark.parametrize("broken", ["", "/events"])
def test_the_client_follows_by_events_or_without_them(pair, broken):
    seen: list[float] = []
    with Comity("http://bank.test", "key", transport=ThroughTheApp(pair.bank.app, broken=broken)) as node:
        job = node.ask(question(pair))
        ended = node.follow(job.id, seen=lambda found: seen.append(found.progress))
    assert ended.state == "succeeded"
    assert seen[-1] == 1.0


def test_the_client_says_what_is_wrong_with_the_events(pair):
    with Comity("http://bank.test", "key", transport=ThroughTheApp(pair.bank.app)) as node:
        with pytest.raises(Misuse) as unknown:
            list(node.events("0" * 32))
        assert unknown.value.code == "unknown_job"
    with (
        Comity("http://bank.test", "key", transport=ThroughTheApp(pair.bank.app, broken="/")) as node,
        pytest.raises(ComityError),
    ):
        list(node.events("0" * 32))
