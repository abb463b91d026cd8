"""The thread that brings opt-outs to partners: at once when something was recorded, else at every tick.

One partner that is down holds up no other: each is served by a thread of its own while it has something
waiting. What failed, and when to try again, is remembered by the feed in the database; here is only when
to look.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from comity.logs import error_place, log
from consent.peers import PeerConnection
from privacy.errors import ComityError

__all__ = ["FeedPump", "FeedSender"]


class _Pumped(Protocol):
    @property
    def acknowledged(self) -> int: ...
    @property
    def pending(self) -> int: ...
    @property
    def error(self) -> str | None: ...


class FeedSender(Protocol):
    """The sending half of `consent.feed.Feed`."""

    def pump(self, connection: PeerConnection) -> _Pumped:
        """Send what is due to one partner; failures come back in the answer, not as exceptions."""


@dataclass
class FeedPump:
    """Pumps `feed` for every partner that `waiting` names.

    `connect` gives a connection, or None for a partner that is no longer one. Start and stop it once.
    """

    feed: FeedSender
    waiting: Callable[[], Sequence[str]]
    connect: Callable[[str], PeerConnection | None]
    seconds: float = 0.25
    _busy: set[str] = field(default_factory=set, repr=False)
    _said: dict[str, str] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _wake: threading.Event = field(default_factory=threading.Event, repr=False)
    _stopping: threading.Event = field(default_factory=threading.Event, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)
    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(8, thread_name_prefix="feed"), repr=False
    )

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="feed-pump", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look now instead of at the next tick. Called from any thread."""
        self._wake.set()

    def stop(self) -> None:
        """Stop; a message on its way is waited for. What is left goes out at the next start."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(self.seconds)
            self._wake.clear()
            try:
                for partner in self.waiting():
                    self._look_after(partner)
            except Exception as error:  # the thread outlives whatever one round met
                log.error(
                    "the feed could not read its outbox", error=type(error).__name__, at=error_place(error)
                )

    def _look_after(self, partner: str) -> None:
        with self._lock:
            if partner in self._busy or self._stopping.is_set():
                return
            self._busy.add(partner)
        self._pool.submit(self._deliver, partner)

    def _deliver(self, partner: str) -> None:
        try:
            connection = self.connect(partner)
            while connection is not None and not self._stopping.is_set():
                done = self.feed.pump(connection)
                self._tell(partner, done.error or "")
                if done.error is not None or not done.acknowledged or not done.pending:
                    break
        except Exception as error:
            code = error.code if isinstance(error, ComityError) else type(error).__name__
            self._tell(partner, code, at=error_place(error))
        finally:
            with self._lock:
                self._busy.discard(partner)

    def _tell(self, partner: str, code: str, **more: str) -> None:
        """Log when delivery begins to fail, fails otherwise than before, or works again; not every try."""
        with self._lock:
            before, self._said[partner] = self._said.get(partner, ""), code
        if code and code != before:
            log.warning("opt-outs do not get through", partner=partner, code=code, **more)
        elif before and not code:
            log.info("opt-outs get through again", partner=partner)
