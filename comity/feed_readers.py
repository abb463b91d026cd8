"""The threads that read partners' feeds: one to listen to each partner, one to tell it what has been done.

A connection that breaks is made again, at once the first time and then after growing pauses with some chance
in them, so that many nodes do not come back to a partner at one moment. What was heard is in the database, so
nothing is lost by any of that. Where something on the way holds event streams back, the feed is polled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from comity.logs import error_place, log
from consent.event_stream import EVENT_STREAM, events_of
from consent.feed import ACKS_PATH, FEED_PATH, HEARTBEAT, Feed, Hearing
from consent.messages import MAX_MESSAGE
from consent.peers import PeerConnection
from privacy.errors import ComityError, PeerUnreachable, PeerViolation

__all__ = ["FeedReaders"]

_SILENCE = 6 * HEARTBEAT  # seconds without a message after which a connection is given up
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_BETWEEN_ACKS = 0.1  # what comes in between is acknowledged together
_POLLS = 120  # answers polled before an event stream is tried again
_LEFT = 3.0  # seconds a stopping thread is waited for


class Connect(Protocol):
    """Connections by partner name; None where no agreement with that partner is open."""

    def __call__(self, partner: str) -> PeerConnection | None: ...


@dataclass
class FeedReaders:
    """Reads the feed of every partner that `partners` names. Start and stop it once."""

    feed: Feed
    partners: Callable[[], Sequence[str]]
    connect: Connect
    random: Callable[[int], bytes] = field(repr=False)
    seconds: float = 0.25
    _readers: dict[str, _Reader] = field(default_factory=dict, repr=False)
    _stopping: threading.Event = field(default_factory=threading.Event, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="feed-readers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop; a message being applied is finished. What was heard and not acknowledged is so later."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for reader in self._readers.values():
            reader.stop()
        for reader in self._readers.values():
            reader.join()
        self._readers.clear()

    def errors(self) -> dict[str, str]:
        """The code of what went wrong with each partner's feed when it was last tried; "" for nothing."""
        return {name: reader.error for name, reader in list(self._readers.items())}

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                wanted = set(self.partners())
                for name in wanted - set(self._readers):
                    self._readers[name] = reader = _Reader(name, self.feed, self.connect, self.random)
                    reader.start()
                for name in set(self._readers) - wanted:
                    self._readers.pop(name).stop()
            except Exception as error:  # the thread outlives whatever one round met
                log.error(
                    "the partners to be heard cannot be read",
                    error=type(error).__name__,
                    at=error_place(error),
                )
            self._stopping.wait(self.seconds)


class _Reader:
    """One partner's feed."""

    def __init__(self, partner: str, feed: Feed, connect: Connect, random: Callable[[int], bytes]) -> None:
        self.partner = partner
        self.error = ""
        self._feed = feed
        self._connect = connect
        self._random = random
        self._polls = 0
        self._failures = 0
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._threads = [
            threading.Thread(target=self._listen, name=f"feed-{partner}", daemon=True),
            threading.Thread(target=self._tell, name=f"feed-acks-{partner}", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._news.set()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(_SILENCE + _LEFT)

    # listening

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                connection = self._connect(self.partner)
                if connection is None:
                    self._stopping.wait(1.0)
                    continue
                self._hear(connection)
                self._stopping.wait(_FIRST_PAUSE / 2)
            except Exception as error:  # whatever it is, the partner is to be heard again
                self._failed(error)
                self._stopping.wait(self._pause())

    def _hear(self, connection: PeerConnection) -> None:
        if self._polls > 0:
            self._polls -= 1
            self._poll(connection)
            return
        hearing = self._feed.incoming.open(self.partner)
        heard = False
        try:
            with connection.stream(_path(hearing), accept=EVENT_STREAM, idle=_SILENCE) as chunks:
                for body in self._until_stopped(events_of(chunks, limit=MAX_MESSAGE)):
                    self._apply(hearing, body)
                    heard = True
        except (PeerUnreachable, PeerViolation) as error:
            if not heard and (error.code == "not_a_stream" or self._failures % 3 == 2):
                self._polls = _POLLS if error.code == "not_a_stream" else 1
            raise
        if not heard and not self._stopping.is_set():
            raise PeerUnreachable("The partner ended its feed before it said anything.")

    def _poll(self, connection: PeerConnection) -> None:
        hearing = self._feed.incoming.open(self.partner)
        answer = connection.request("GET", f"{_path(hearing)}&wait={HEARTBEAT}", timeout=_SILENCE)
        self._apply(hearing, answer.body)

    def _until_stopped(self, events: Iterator[bytes]) -> Iterator[bytes]:
        for body in events:
            if self._stopping.is_set():
                return
            yield body

    def _apply(self, hearing: Hearing, body: bytes) -> None:
        self._feed.incoming.apply(hearing, body)
        self._news.set()
        if self.error:
            log.info("a partner's feed is heard again", partner=self.partner)
        self.error, self._failures = "", 0
        self._feed.incoming.troubles.pop(self.partner, None)

    def _failed(self, error: Exception) -> None:
        code = error.code if isinstance(error, ComityError) else type(error).__name__
        if code != self.error and not self._stopping.is_set():
            where = {} if isinstance(error, ComityError) else {"at": error_place(error)}
            log.warning("a partner's feed is not heard", partner=self.partner, code=code, **where)
        self.error = code
        self._feed.incoming.troubles[self.partner] = code
        self._failures += 1

    def _pause(self) -> float:
        pause = min(_FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10), _LONGEST_PAUSE)
        return pause * (1.0 + self._random(1)[0] / 1024)

    # telling

    def _tell(self) -> None:
        said = ""
        while not self._stopping.is_set():
            self._news.wait()
            self._news.clear()
            try:
                self._acknowledge()
                said = ""
            except Exception as error:  # tried again after the next message
                code = error.code if isinstance(error, ComityError) else type(error).__name__
                if code != said and not self._stopping.is_set():
                    log.warning("a partner does not take an acknowledgement", partner=self.partner, code=code)
                said = code
            self._stopping.wait(_BETWEEN_ACKS)

    def _acknowledge(self) -> None:
        incoming = self._feed.incoming
        due = incoming.acknowledgement(self.partner)
        connection = self._connect(self.partner) if due else None
        if due is None or connection is None:
            return
        seq, body = due
        try:
            connection.request("POST", ACKS_PATH, body=body, content_type="application/json", timeout=10.0)
        except PeerViolation:
            incoming.unacknowledged(self.partner)
            raise
        incoming.acknowledged(self.partner, seq)


def _path(hearing: Hearing) -> str:
    return f"{FEED_PATH}?after={hearing.after}&nonce={hearing.nonce}"
