"""The feed as a response that goes on: one server-sent event a message, for as long as the partner reads.

The next message is made only when the one before has been taken, so a partner that reads slowly is told
later, and more at once, and costs neither memory nor a thread. One that takes nothing at all is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from fastapi import Response
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from consent.event_stream import EVENT_STREAM, render_event
from consent.feed import HEARTBEAT
from consent.outgoing import Delivery, Outgoing
from privacy.errors import ComityError

__all__ = ["FeedStream", "next_message"]

POLL = 0.2
"""Seconds after which is looked for what another process recorded."""
_PAUSE = 0.02  # between two looks, so that a crowd of events makes one message
_TAKEN = 10.0  # seconds a partner has to take a message


class _News:
    """Wakes a coroutine from any thread."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._event = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(self._event.set)

        self._end = outgoing.subscribe(wake)

    async def wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), max(seconds, 0.0))
        self._event.clear()

    def end(self) -> None:
        self._end()


async def next_message(outgoing: Outgoing, delivery: Delivery, seconds: float) -> tuple[bytes, bool]:
    """The next message: at once when there is something to tell, else after `seconds`."""
    news = _News(outgoing)
    ends = asyncio.get_running_loop().time() + seconds
    try:
        while not (outgoing.stopping.is_set() or delivery.closed.is_set()):
            left = ends - asyncio.get_running_loop().time()
            if left <= 0 or await run_in_threadpool(outgoing.waiting, delivery):
                break
            await asyncio.sleep(min(_PAUSE, left))
            await news.wait(min(POLL, left))
    finally:
        news.end()
    return await run_in_threadpool(outgoing.message, delivery)


class FeedStream(Response):
    """Messages of one delivery. Closes the delivery when the partner, or this node, has had enough."""

    media_type = EVENT_STREAM

    def __init__(
        self, outgoing: Outgoing, delivery: Delivery, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status_code=200, headers={"cache-control": "no-store", **(headers or {})})
        # What proxies must be told, lest they hold events back.
        self.headers["x-accel-buffering"] = "no"
        del self.headers["content-length"]
        self._outgoing = outgoing
        self._delivery = delivery

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        gone = asyncio.create_task(_gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._tell(gone, send)
        except (TimeoutError, OSError):
            pass  # the partner does not read any more; it comes back when it can
        finally:
            gone.cancel()
            self._outgoing.close(self._delivery)
        with contextlib.suppress(TimeoutError, OSError):
            await asyncio.wait_for(send({"type": "http.response.body", "body": b""}), _TAKEN)

    async def _tell(self, gone: asyncio.Task[None], send: Send) -> None:
        outgoing, delivery = self._outgoing, self._delivery
        wait = 0.0
        while not (gone.done() or outgoing.stopping.is_set() or delivery.closed.is_set()):
            try:
                body, more = await next_message(outgoing, delivery, wait)
            except ComityError:
                return  # it asks again, and is told the reason in the answer to that
            event = render_event(body, id_=delivery.frontier.size)
            await asyncio.wait_for(
                send({"type": "http.response.body", "body": event, "more_body": True}), _TAKEN
            )
            wait = 0.0 if more else HEARTBEAT


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
