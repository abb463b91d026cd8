"""How a job's messages travel: in chunks of at most 65,536 points, each checked before it is kept.

`JobTransport` is the contract the runner is written against; `http.py` implements it over signed requests.
`Inbox` and `Outbox` are the two ends of one message and do no I/O.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from clean_room.conversations.workshop import Keep
from clean_room.group.points import WHOLE, Buffer
from consent.encoding import canonical_json
from consent.peers import PeerConnection
from privacy.errors import PeerViolation

__all__ = [
    "CHUNK_BYTES",
    "CHUNK_POINTS",
    "MAX_DOCUMENT",
    "HeldChunks",
    "Inbox",
    "JobTransport",
    "Manifest",
    "Outbox",
    "Shelf",
    "post_document",
]

CHUNK_POINTS = 65_536
CHUNK_BYTES = CHUNK_POINTS * WHOLE
MAX_DOCUMENT = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a whole message must come to: its bytes, its chunks and the SHA-256 (hex) over all of it."""

    size: int
    chunks: int
    digest: str

    @classmethod
    def of(cls, payload: Buffer) -> Manifest:
        size = memoryview(payload).nbytes
        return cls(size, max(1, math.ceil(size / CHUNK_BYTES)), hashlib.sha256(payload).hexdigest())

    def document(self) -> dict[str, Any]:
        return {"size": self.size, "chunks": self.chunks, "digest": self.digest}

    @classmethod
    def from_document(cls, document: object, *, limit: int) -> Manifest:
        """Strict reader; raises `PeerViolation` for anything off, or for a message over `limit` bytes."""
        if not isinstance(document, Mapping) or set(document) != {"size", "chunks", "digest"}:
            raise PeerViolation("a message manifest is malformed.")
        size, chunks, digest = document["size"], document["chunks"], document["digest"]
        whole = isinstance(size, int) and isinstance(chunks, int) and not isinstance(size, bool)
        if not whole or not 0 <= size <= limit or chunks != max(1, math.ceil(size / CHUNK_BYTES)):
            raise PeerViolation("a message is of a size the agreed terms do not allow.")
        if not isinstance(digest, str) or len(digest) != 64:
            raise PeerViolation("a message manifest is malformed.")
        return cls(size, chunks, digest)


class JobTransport(Protocol):
    """One analyst's line to one contributor, for one job at a time.

    Each call is one or more signed requests and returns only after the partner has acknowledged. A call
    may be repeated after `PeerUnreachable`: the partner treats a repeat as the same. Refusals come back as
    `Refused` with the partner's code, protocol breaches as `PeerViolation`.
    """

    def offer(self, job: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Returns where the partner stands, as `state` does."""

    def state(self, job: str) -> dict[str, Any]: ...

    def send(self, job: str, step: int, payload: Buffer, *, first: int = 0) -> None:
        """`first` is the first chunk that the partner does not have."""

    def fetch(self, job: str, step: int, manifest: Manifest, *, keep: Keep | None = None) -> bytes:
        """With `keep`, every chunk is kept (`reply-STEP.INDEX`), and those kept are not fetched again."""

    def sign_off(self, job: str, receipt: Mapping[str, Any]) -> dict[str, Any]: ...

    def cancel(self, job: str, code: str) -> None: ...


class Shelf(Protocol):
    """Where the chunks of one message are put down until it is whole."""

    def put(self, index: int, body: bytes) -> None:
        """Returns once the chunk is as safe as it is going to be."""

    def take(self, index: int) -> bytes:
        """A chunk that was put."""


class HeldChunks:
    """A `Shelf` in memory."""

    def __init__(self) -> None:
        self._held: dict[int, bytes] = {}

    def put(self, index: int, body: bytes) -> None:
        """See `Shelf`."""
        self._held[index] = body

    def take(self, index: int) -> bytes:
        """See `Shelf`."""
        return self._held[index]


@dataclass(slots=True)
class Inbox:
    """The receiving end of one message. A chunk out of order, too long or too many changes nothing."""

    limit: int
    shelf: Shelf = field(repr=False, default_factory=HeldChunks)
    _sizes: list[int] = field(default_factory=list, repr=False)
    _digests: list[bytes] = field(default_factory=list, repr=False)
    _done: Manifest | None = None

    @property
    def chunks(self) -> int:
        """How many chunks are here."""
        return len(self._sizes)

    def chunk(self, index: int, body: bytes) -> None:
        """Put chunk `index` on the shelf; one that came before (a retry) is accepted when it is the same."""
        digest = hashlib.sha256(body).digest()
        if 0 <= index < len(self._digests):
            if digest != self._digests[index]:
                raise PeerViolation("a chunk arrived twice, differently.")
            return
        if self._done is not None:
            raise PeerViolation("a chunk arrived after the message was finished.")
        if index != len(self._sizes):
            raise PeerViolation("a chunk arrived out of order.")
        if len(body) > CHUNK_BYTES or sum(self._sizes) + len(body) > self.limit:
            raise PeerViolation("a chunk is longer than the agreed terms allow.")
        if self._sizes and self._sizes[-1] != CHUNK_BYTES:
            raise PeerViolation("a chunk follows one that was short.")
        self.shelf.put(index, body)
        self._sizes.append(len(body))
        self._digests.append(digest)

    def again(self, bodies: Iterable[bytes], done: Manifest | None = None) -> None:
        """Take up a message half received before a restart: chunks that are on the shelf already."""
        for body in bodies:
            self._sizes.append(len(body))
            self._digests.append(hashlib.sha256(body).digest())
        self._done = done

    def finish(self, manifest: Manifest) -> bytes | None:
        """The whole message once, when it is what `manifest` says; None when finished before.

        Raises `PeerViolation` when chunks are missing or the digest does not hold.
        """
        if self._done is not None:
            if manifest != self._done:
                raise PeerViolation("a message was finished twice, differently.")
            return None
        if manifest.chunks != len(self._sizes) or manifest.size != sum(self._sizes):
            raise PeerViolation("a message ended before all of it had arrived.")
        payload = self.whole()
        if hashlib.sha256(payload).hexdigest() != manifest.digest:
            raise PeerViolation("a message does not have the digest it came with.")
        self._done = manifest
        return payload

    def whole(self) -> bytes:
        """All the chunks that are here, joined."""
        return b"".join(self.shelf.take(index) for index in range(len(self._sizes)))


@dataclass(frozen=True, slots=True)
class Outbox:
    """The sending end of one message: any chunk, any number of times."""

    payload: Buffer = field(repr=False)
    manifest: Manifest = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "manifest", Manifest.of(self.payload))

    def chunk(self, index: int) -> bytes:
        """Chunk `index`; raises `PeerViolation` for one the message does not have."""
        view = memoryview(self.payload)
        if not 0 <= index < max(1, math.ceil(view.nbytes / CHUNK_BYTES)):
            raise PeerViolation("a chunk was asked for that the message does not have.")
        return bytes(view[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])


def post_document(
    connection: PeerConnection, path: str, document: Mapping[str, Any], *, method: str = "POST"
) -> dict[str, Any]:
    """Send one JSON document and read the JSON object that answers (an empty answer reads as {})."""
    body = b"" if method == "GET" else canonical_json(dict(document))
    answer = connection.request(method, path, body=body, content_type="application/json")
    if not answer.body:
        return {}
    if len(answer.body) > MAX_DOCUMENT:
        raise PeerViolation("the partner's answer is too long.")
    try:
        parsed = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise PeerViolation("the partner's answer is not JSON.") from None
    if not isinstance(parsed, dict):
        raise PeerViolation("the partner's answer is not a JSON object.")
    return parsed
