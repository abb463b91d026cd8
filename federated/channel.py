"""The pair channel: how the two parties of a run exchange the messages of the inner loop.

One contract, three carriers: `memory_pair` (tests, simulation), `HttpChannel` with `MailboxChannel` at the
other end (signed HTTP between nodes; the default), and whatever else can move frames in order.

Every message travels in frames `CPC1 | flags u8 | sequence u64 | run digest 16 | payload` of at most 8 MiB,
numbered from 0 in each direction. A receiver accepts exactly the next number of its own run: a replayed,
reordered, truncated or foreign frame raises `ChannelViolation` and changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from clean_room.encryption import blocks
from consent.peers import PeerConnection
from federated.errors import ChannelViolation, PeerUnreachable, PeerViolation, TrainingMisuse

__all__ = [
    "FRAME_PAYLOAD",
    "FrameReader",
    "FrameWriter",
    "HttpChannel",
    "MailboxChannel",
    "PairChannel",
    "memory_pair",
    "message_bytes",
]

FRAME_PAYLOAD = 8 << 20
MESSAGE_MOST = 1 << 30
UNDELIVERED_MOST = 4
_CIPHERTEXT_MOST = 1 << 20
_HEAD = struct.Struct("<4sBQ16s")
_MAGIC = b"CPC1"
_LAST, _ABORT = 1, 2


class PairChannel(Protocol):
    """An ordered, reliable, message-preserving line between the two parties of one run.

    One sender and one receiver a side. `receive` waits at most `timeout` seconds (None: the channel's own)
    and raises `PeerUnreachable` when they pass, or `PeerViolation` once the partner has aborted. `abort`
    tells the partner that no more will come; it never raises.
    """

    def send(self, message: bytes) -> None: ...

    def receive(self, timeout: float | None = None) -> bytes: ...

    def abort(self) -> None: ...


def message_bytes(rows: int, features: int) -> int:
    """More than the label holder's longest message of a run can have, in bytes.

    That is a public key, or the residuals of all rows (a ciphertext per 8192) with a number a direction.
    """
    return min(4 * _CIPHERTEXT_MOST + blocks(rows) * _CIPHERTEXT_MOST + 64 * features, MESSAGE_MOST)


def _run_digest(run: str) -> bytes:
    return hashlib.sha256(b"comity/federated/channel/v1\n" + run.encode()).digest()[:16]


@dataclass(slots=True)
class FrameWriter:
    """Cuts messages into numbered frames."""

    run: str
    _next: int = 0

    def frames(self, message: bytes) -> list[bytes]:
        """The frames of one message, in order."""
        if len(message) > MESSAGE_MOST:
            raise TrainingMisuse("A training message is too long for the channel.")
        cuts = range(0, max(len(message), 1), FRAME_PAYLOAD)
        return [self._frame(message[at : at + FRAME_PAYLOAD], _LAST if at == cuts[-1] else 0) for at in cuts]

    def abort(self) -> bytes:
        """The frame that ends the channel for good."""
        return self._frame(b"", _ABORT)

    def _frame(self, payload: bytes, flags: int) -> bytes:
        frame = _HEAD.pack(_MAGIC, flags, self._next, _run_digest(self.run)) + payload
        self._next += 1
        return frame


@dataclass(slots=True)
class FrameReader:
    """Puts frames back together; refuses whatever is not the next one."""

    run: str
    _next: int = 0
    _parts: list[bytes] = field(default_factory=list, repr=False)
    _size: int = 0
    _aborted: bool = False

    def accept(self, frame: bytes) -> bytes | None:
        """Take the next frame; the whole message with its last frame, else None.

        Raises `ChannelViolation` (nothing changed), or `PeerViolation(partner_aborted)` for an abort.
        """
        if self._aborted:
            raise PeerViolation("The partner has ended this training channel.", code="partner_aborted")
        if not _HEAD.size <= len(frame) <= _HEAD.size + FRAME_PAYLOAD:
            raise ChannelViolation("A channel frame is of an impossible length.")
        magic, flags, sequence, run = _HEAD.unpack_from(frame)
        if magic != _MAGIC or run != _run_digest(self.run):
            raise ChannelViolation("A channel frame is malformed or belongs to another run.")
        if sequence != self._next:
            raise ChannelViolation("A channel frame was replayed or came out of order.")
        payload = frame[_HEAD.size :]
        full = len(payload) == FRAME_PAYLOAD
        if flags not in (0, _LAST, _ABORT) or (flags == 0 and not full) or (flags == _ABORT and payload):
            raise ChannelViolation("A channel frame is malformed.")
        if self._size + len(payload) > MESSAGE_MOST:
            raise ChannelViolation("A training message is longer than the channel allows.")
        self._next += 1
        if flags == _ABORT:
            self._aborted = True
            raise PeerViolation("The partner has ended this training channel.", code="partner_aborted")
        self._parts.append(payload)
        self._size += len(payload)
        if flags != _LAST:
            return None
        message = b"".join(self._parts)
        self._parts, self._size = [], 0
        return message

    @property
    def size(self) -> int:
        """Bytes of the message that is not whole yet."""
        return self._size

    @property
    def expected(self) -> int:
        """The sequence number the next frame must have."""
        return self._next


class _QueueChannel:
    """One end of a pair of queues of frames."""

    def __init__(
        self, run: str, inbox: queue.Queue[bytes], outbox: queue.Queue[bytes], timeout: float
    ) -> None:
        self._writer, self._reader = FrameWriter(run), FrameReader(run)
        self._inbox, self._outbox, self._timeout = inbox, outbox, timeout

    def send(self, message: bytes) -> None:
        for frame in self._writer.frames(message):
            self._outbox.put(frame)

    def receive(self, timeout: float | None = None) -> bytes:
        ends = time.monotonic() + (self._timeout if timeout is None else timeout)
        while True:
            try:
                frame = self._inbox.get(timeout=max(ends - time.monotonic(), 0.001))
            except queue.Empty:
                raise PeerUnreachable(
                    "The partner sent nothing on the training channel in time.", code="peer_timeout"
                ) from None
            message = self._reader.accept(frame)
            if message is not None:
                return message

    def abort(self) -> None:
        self._outbox.put(self._writer.abort())


def memory_pair(run: str, *, timeout: float = 60.0) -> tuple[PairChannel, PairChannel]:
    """Both ends of a channel inside one process."""
    there: queue.Queue[bytes] = queue.Queue()
    back: queue.Queue[bytes] = queue.Queue()
    return _QueueChannel(run, back, there, timeout), _QueueChannel(run, there, back, timeout)


class HttpChannel:
    """The end that makes the requests: frames out by POST, frames in by long poll.

    `POST {path}` delivers a frame, `GET {path}/{sequence}` answers 200 with that frame, or 204 when it is
    not there yet. Both may be repeated after `PeerUnreachable`: the mailbox takes a repeat as the same.
    """

    def __init__(
        self,
        connection: PeerConnection,
        run: str,
        *,
        path: str,
        timeout: float = 60.0,
        attempts: int = 3,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._connection, self._path, self._timeout = connection, path, timeout
        self._writer, self._reader = FrameWriter(run), FrameReader(run)
        self._attempts, self._sleep = attempts, sleep
        self._closed = threading.Event()

    def send(self, message: bytes) -> None:
        for frame in self._writer.frames(message):
            self._repeated("POST", self._path, frame)

    def receive(self, timeout: float | None = None) -> bytes:
        ends = time.monotonic() + (self._timeout if timeout is None else timeout)
        while time.monotonic() < ends and not self._closed.is_set():
            frame = self._repeated("GET", f"{self._path}/{self._reader.expected}", b"")
            if frame:
                message = self._reader.accept(frame)
                if message is not None:
                    return message
        raise PeerUnreachable(
            "The partner sent nothing on the training channel in time.", code="peer_timeout"
        )

    def abort(self) -> None:
        self._closed.set()
        # Whoever aborts is leaving already; the partner's own timeout ends its side.
        with contextlib.suppress(Exception):
            self._connection.request("POST", self._path, body=self._writer.abort(), timeout=5.0)

    def _repeated(self, method: str, path: str, body: bytes) -> bytes:
        for attempt in range(self._attempts):
            try:
                return self._connection.request(method, path, body=body, timeout=60.0).body
            except PeerUnreachable:
                if attempt == self._attempts - 1:
                    raise
                self._sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")


class MailboxChannel:
    """The end that answers requests: an endpoint calls `deliver` and `fetch`, the party `send` and `receive`.

    What the party has not received yet is at most `undelivered` messages and `most` bytes; what the partner
    has not fetched, `capacity` frames. Past that either is refused, not buffered.
    """

    def __init__(
        self,
        run: str,
        *,
        timeout: float = 60.0,
        capacity: int = 256,
        undelivered: int = UNDELIVERED_MOST,
        most: int = MESSAGE_MOST,
    ) -> None:
        self._writer, self._reader = FrameWriter(run), FrameReader(run)
        self._timeout, self._capacity = timeout, capacity
        self._undelivered, self._most = undelivered, most
        self._condition = threading.Condition()
        self._inbox: list[bytes] = []
        self._outbox: dict[int, bytes] = {}
        self._sent = 0
        self._last_in = b""
        self._failure: PeerViolation | None = None

    def deliver(self, frame: bytes) -> None:
        """A frame from the partner. The last one again (a retry of a lost answer) is taken as the same."""
        digest = hashlib.sha256(frame).digest()
        with self._condition:
            if digest == self._last_in:
                return
            waiting = sum(map(len, self._inbox)) + self._reader.size
            if len(self._inbox) >= self._undelivered or waiting + len(frame) - _HEAD.size > self._most:
                raise ChannelViolation("The partner sends faster than the protocol allows.")
            try:
                message = self._reader.accept(frame)
            except ChannelViolation:
                raise
            except PeerViolation as error:
                self._failure = error
                self._condition.notify_all()
                return
            self._last_in = digest
            if message is not None:
                self._inbox.append(message)
                self._condition.notify_all()

    def fetch(self, sequence: int, wait: float = 10.0) -> bytes | None:
        """Frame `sequence` for the partner, or None after `wait` seconds; earlier frames are let go."""
        with self._condition:
            if sequence > self._sent or (sequence < self._sent and sequence not in self._outbox):
                raise ChannelViolation("A channel frame was asked for that is not the next one.")
            for old in [n for n in self._outbox if n < sequence]:
                del self._outbox[old]
            self._condition.wait_for(lambda: sequence in self._outbox, timeout=wait)
            return self._outbox.get(sequence)

    def send(self, message: bytes) -> None:
        with self._condition:
            frames = self._writer.frames(message)
            if len(self._outbox) + len(frames) > self._capacity:
                raise PeerUnreachable("The partner does not collect what is sent to it.", code="peer_timeout")
            for frame in frames:
                self._outbox[self._sent] = frame
                self._sent += 1
            self._condition.notify_all()

    def receive(self, timeout: float | None = None) -> bytes:
        with self._condition:
            self._condition.wait_for(
                lambda: bool(self._inbox) or self._failure is not None,
                timeout=self._timeout if timeout is None else timeout,
            )
            if self._inbox:
                return self._inbox.pop(0)
            if self._failure is not None:
                raise self._failure
        raise PeerUnreachable(
            "The partner sent nothing on the training channel in time.", code="peer_timeout"
        )

    def abort(self) -> None:
        with self._condition:
            self._outbox[self._sent] = self._writer.abort()
            self._sent += 1
            if self._failure is None:
                self._failure = PeerViolation("This training channel was ended.", code="partner_aborted")
            self._condition.notify_all()
