"""Server-sent events (WHATWG HTML, §9.2), as far as the feed uses them: one line of data an event.

Written for reading from a partner that may be hostile: what is held of an unfinished event is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from privacy.errors import PeerViolation

__all__ = ["EVENT_STREAM", "events_of", "render_event"]

EVENT_STREAM = "text/event-stream"


def render_event(data: bytes, *, id_: int | None = None) -> bytes:
    """`data` is UTF-8 without a line break."""
    head = b"" if id_ is None else b"id: %d\n" % id_
    return head + b"data: " + data + b"\n\n"


def events_of(chunks: Iterable[bytes], *, limit: int) -> Iterator[bytes]:
    """The data of each event in a stream of chunks. Raises PeerViolation for one of over `limit` bytes.

    Names, ids, retry times and comments are left out; several data lines are joined by line feeds.
    """
    pending = bytearray()
    data: list[bytes] = []
    held = 0
    for chunk in chunks:
        pending += chunk
        while (end := pending.find(b"\n")) >= 0:
            line = bytes(pending[:end]).removesuffix(b"\r")
            del pending[: end + 1]
            if not line:
                if data:
                    yield b"\n".join(data)
                data, held = [], 0
            elif line.startswith(b"data:"):
                value = line[5:].removeprefix(b" ")
                held += len(value)
                data.append(value)
            if held > limit:
                raise PeerViolation("An event of the partner's feed is too large.", code="feed_malformed")
        if len(pending) > limit:
            raise PeerViolation("An event of the partner's feed is too large.", code="feed_malformed")
