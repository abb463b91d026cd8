"""The job transport over signed HTTP: chunks go to `/v1/peer/jobs/{job}/messages/{step}/chunks/{index}`.

Signing, digests and replay protection belong to the `PeerConnection` given; this module knows paths,
chunking and how often to try again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from clean_room.conversations.workshop import Keep
from clean_room.group.points import Buffer
from clean_room.transport import CHUNK_BYTES, Manifest, Outbox, post_document
from consent.peers import PeerConnection
from privacy.errors import PeerUnreachable, PeerViolation

__all__ = ["HttpJobTransport"]

T = TypeVar("T")


class HttpJobTransport:
    """`JobTransport` over one `PeerConnection`; retries what may be repeated before `PeerUnreachable`.

    `attempts` tries of every request, waiting `pause` seconds (doubling) in between.
    """

    def __init__(
        self,
        connection: PeerConnection,
        *,
        attempts: int = 4,
        pause: float = 0.25,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._connection = connection
        self._attempts = attempts
        self._pause = pause
        self._sleep = sleep

    def offer(self, job: str, document: Mapping[str, Any]) -> dict[str, Any]:
        return self._retried(
            lambda: post_document(self._connection, "/v1/peer/jobs", {"job": job, **document})
        )

    def state(self, job: str) -> dict[str, Any]:
        return self._retried(
            lambda: post_document(self._connection, f"/v1/peer/jobs/{job}", {}, method="GET")
        )

    def send(self, job: str, step: int, payload: Buffer, *, first: int = 0) -> None:
        outbox = Outbox(payload)
        manifest = outbox.manifest
        base = f"/v1/peer/jobs/{job}/messages/{step}"
        for index in range(first, manifest.chunks):
            body = outbox.chunk(index)
            path = f"{base}/chunks/{index}"
            self._retried(lambda path=path, body=body: self._connection.request("PUT", path, body=body))  # type: ignore[misc]
        self._retried(lambda: post_document(self._connection, f"{base}/finish", manifest.document()))

    def fetch(self, job: str, step: int, manifest: Manifest, *, keep: Keep | None = None) -> bytes:
        parts = []
        for index in range(manifest.chunks):

            def chunk(index: int = index) -> bytes:
                path = f"/v1/peer/jobs/{job}/replies/{step}/chunks/{index}"
                answer = self._retried(lambda: self._connection.request("GET", path))
                if len(answer.body) != min(CHUNK_BYTES, manifest.size - index * CHUNK_BYTES):
                    raise PeerViolation("a chunk of the partner's reply has the wrong length.")
                return answer.body

            parts.append(chunk() if keep is None else keep(f"reply-{step}.{index}", chunk))
        payload = b"".join(parts)
        if Manifest.of(payload) != manifest:
            raise PeerViolation("the partner's reply does not have the digest it came with.")
        return payload

    def sign_off(self, job: str, receipt: Mapping[str, Any]) -> dict[str, Any]:
        return self._retried(lambda: post_document(self._connection, f"/v1/peer/jobs/{job}/receipt", receipt))

    def cancel(self, job: str, code: str) -> None:
        post_document(self._connection, f"/v1/peer/jobs/{job}/cancel", {"code": code})

    def _retried(self, call: Callable[[], T]) -> T:
        pause = self._pause
        for _ in range(self._attempts - 1):
            try:
                return call()
            except PeerUnreachable:
                self._sleep(pause)
                pause *= 2
        return call()
