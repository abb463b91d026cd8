"""A job's progress as server-sent events: one when it changes, the last when it has ended.

Several processes may serve one database, so besides what this process is told of its own changes it looks
now and then. An event's id is the time of the change in microseconds; a reader that comes back with the
last one it saw is told only what is new.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from clean_room.jobs import Job
from clean_room.service import CleanRoom
from clean_room.storage import JobStore
from consent.api import Guards
from consent.encoding import canonical_json
from consent.event_stream import EVENT_STREAM, render_event

__all__ = ["JobWatch", "add_events", "stream"]

HEARTBEAT = 10.0
"""Seconds after which a reader is told that the node is there."""
_LOOK = 1.0  # for what another process changed
_PAUSE = 0.05  # between two events, so that a crowd of changes makes one


class JobWatch:
    """Wakes whoever waits for a change of a job in this process. Thread-safe."""

    def __init__(self, jobs: JobStore) -> None:
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        self._lock = threading.Lock()
        jobs.listeners.append(self._changed)

    def subscribe(self, job: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake`, from any thread, when the job changes; returns what ends that."""
        with self._lock:
            self._waiting.setdefault(job, []).append(wake)

        def end() -> None:
            with self._lock:
                waiting = self._waiting.get(job, [])
                with contextlib.suppress(ValueError):
                    waiting.remove(wake)
                if not waiting:
                    self._waiting.pop(job, None)

        return end

    def _changed(self, job: str) -> None:
        with self._lock:
            waiting = list(self._waiting.get(job, ()))
        for wake in waiting:
            wake()


async def stream(service: CleanRoom, watch: JobWatch, job: str, seen: int = 0) -> AsyncIterator[bytes]:
    """The events of a job until it has ended or the node stops. `seen`: the id of the last one known."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(changed.set)

    end = watch.subscribe(job, wake)
    told, spoken = seen, loop.time()
    try:
        while not service.stopping:
            changed.clear()
            found = await run_in_threadpool(service.job, job)
            number = _number(found)
            if number != told:
                told, spoken = number, loop.time()
                yield render_event(canonical_json(_shown(found)), id_=number)
            if found.over:
                return
            if loop.time() - spoken >= HEARTBEAT:
                spoken = loop.time()
                yield b": still here\n\n"
            await asyncio.sleep(_PAUSE)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _LOOK)
    finally:
        end()


def add_events(router: APIRouter, service: CleanRoom, guards: Guards) -> None:
    """The route of the events."""
    anyone = Depends(guards.role("analyst", "data_steward", "compliance_officer"))
    watch = JobWatch(service.job_changes)

    @router.get(
        "/v1/overlap-queries/{job}/events",
        tags=["overlap queries"],
        summary="Follow a query",
        description="Server-sent events: one for every change, with state, stage and progress, until the "
        "query has ended; a comment every ten seconds meanwhile. `Last-Event-ID` says what was seen already.",
        response_class=StreamingResponse,
        responses={200: {"content": {EVENT_STREAM: {}}}},
    )
    async def events(
        job: str, _: str = anyone, last_event_id: Annotated[str, Header(max_length=32)] = ""
    ) -> StreamingResponse:
        await run_in_threadpool(service.job, job)  # one that is unknown is a problem, not a stream
        seen = int(last_event_id) if last_event_id.isascii() and last_event_id.isdigit() else 0
        return StreamingResponse(
            stream(service, watch, job, seen),
            media_type=EVENT_STREAM,
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )


def _number(job: Job) -> int:
    return int(datetime.fromisoformat(job.updated_at).timestamp() * 1_000_000)


def _shown(job: Job) -> dict[str, object]:
    error = None if job.error is None else {"code": job.error.code, "detail": job.error.detail}
    return {
        "id": job.id,
        "state": job.state.value,
        "stage": job.stage.value,
        "progress": round(job.progress, 4),
        "updated_at": job.updated_at,
        "error": error,
    }
