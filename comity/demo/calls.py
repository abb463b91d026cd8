"""Calls of a partner's own people to its node's HTTP API, and the wait for long work."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx

from clean_room.client import Comity, failure_of
from clean_room.schemas import JobOut, QueryIn
from comity.demo.sites import Site
from comity.problems import from_problem
from privacy.errors import PeerUnreachable, Refused, StorageError

__all__ = ["NodeCalls", "calls_to"]

_ENDED = frozenset({"succeeded", "failed", "cancelled", "rejected", "timed_out"})
# Routes carry braces of their own ("/v1/peer/jobs/{job}"), so the labels end at the last one.
_TRAFFIC = re.compile(
    r'^comity_http_(request|response)_bytes_total\{.*route="/v1/(?:peer|feed).*\} (\d+)$', re.MULTILINE
)


class NodeCalls:
    """The API of one running node, called with its operator key; `room` is the clean room's typed client."""

    def __init__(self, site: Site, room: Comity, client: httpx.Client, alive: Callable[[], None]) -> None:
        self.site = site
        self.room = room
        self._client = client
        self._alive = alive

    def get(self, path: str, **query: str | int) -> Any:
        """The JSON at `path`; raises the error family a problem document stands for."""
        return self._answer("GET", path, params=query)

    def post(self, path: str, body: object) -> Any:
        """The JSON answered to `body`."""
        return self._answer("POST", path, json=body)

    def ask(self, query: QueryIn, *, seconds: float, progress: Callable[[float], None]) -> JobOut:
        """Ask the partner and wait for the answer; raises what a query that failed ended with."""

        def seen(job: JobOut) -> None:
            self._alive()
            progress(job.progress)

        job = self.room.wait(self.room.ask(query).id, timeout=seconds, pause=0.1, seen=seen)
        failure = failure_of(job)
        if failure is not None:
            raise failure
        return job

    def text(self, path: str) -> str:
        """The text at `path`."""
        return self._response("GET", path).text

    def follow(self, path: str, *, seconds: float, progress: Callable[[float], None]) -> dict[str, Any]:
        """Wait for a job or run at `path` to succeed and return it; raises what it ended with."""
        deadline = time.monotonic() + seconds
        while True:
            found: dict[str, Any] = self.get(path)
            progress(float(found["progress"]))
            if found["state"] == "succeeded":
                return found
            if found["state"] in _ENDED:
                error = found.get("error") or {}
                told = (
                    f"{self.site.name}: {error.get('detail') or found['state']} {error.get('advice') or ''}"
                )
                kind = Refused if found["state"] == "rejected" else PeerUnreachable
                raise kind(told.strip(), code=error.get("code") or found["state"])
            if time.monotonic() > deadline:
                raise PeerUnreachable(f"{self.site.name}: {path} was not done after {seconds:.0f} seconds.")
            self._alive()
            time.sleep(0.1)

    def peer_bytes(self) -> tuple[int, int]:
        """Bytes of bodies this node has received from and answered to its partner so far."""
        counted = {"request": 0, "response": 0}
        for which, amount in _TRAFFIC.findall(self.text("/metrics")):
            counted[which] += int(amount)
        return counted["request"], counted["response"]

    def _response(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, path, **more)
        except httpx.HTTPError as error:
            self._alive()
            raise PeerUnreachable(
                f"the node {self.site.name} did not answer ({type(error).__name__})."
            ) from None
        if answer.is_success:
            return answer
        document: object = None
        with contextlib.suppress(ValueError):
            document = answer.json()
        if isinstance(document, Mapping):
            raise from_problem(self.site.name, answer.status_code, document)
        raise StorageError(f"the node {self.site.name} answered {answer.status_code} to {method} {path}.")

    def _answer(self, method: str, path: str, **more: Any) -> Any:
        return self._response(method, path, **more).json()


@contextlib.contextmanager
def calls_to(site: Site, alive: Callable[[], None]) -> Iterator[NodeCalls]:
    """Calls to the node of `site`; `alive` raises when its process has ended."""
    headers = {"authorization": f"Bearer {site.operator_key}"}
    with (
        httpx.Client(base_url=site.url, headers=headers, trust_env=False, timeout=120.0) as client,
        Comity(site.url, site.operator_key, timeout=120.0) as room,
    ):
        yield NodeCalls(site, room, client, alive)
