"""The byte form of messages: fixed header, big-endian lengths, no optional parts, nothing left over.

    0   4  "CMTY"
    4   1  version (1)
    5   1  type
    6   2  reserved, zero
    8  32  hash of the transcript so far (zero in the first message)
    40  …  the fields of the type, in order

Lists of points come as u16 count, then a u32 length each, then all points end to end: a receiver looks at
them in place.
"""

from __future__ import annotations

from collections.abc import Iterable

from clean_room.errors import PeerViolation
from clean_room.group.points import Buffer, Points

__all__ = ["HASH", "MAX_POINTS", "Reader", "Writer"]

MAGIC = b"CMTY"
VERSION = 1
HASH = 32
MAX_POINTS = 1 << 28
"""Points in one message: 8 GiB, more than any one request should carry."""
MAX_LISTS = 4096


class Writer:
    """Collects the parts of one message; large buffers are kept by reference."""

    def __init__(self, kind: int, previous: bytes) -> None:
        self.parts: list[Buffer] = [MAGIC + bytes([VERSION, kind, 0, 0]) + previous]

    def number(self, value: int, size: int) -> None:
        """An unsigned big-endian integer of `size` bytes."""
        self.parts.append(value.to_bytes(size, "big"))

    def fixed(self, value: Buffer) -> None:
        """Bytes whose length the reader knows."""
        self.parts.append(value)

    def block(self, value: Buffer) -> None:
        """Bytes behind a u32 length."""
        self.number(memoryview(value).nbytes, 4)
        self.parts.append(value)

    def points(self, lists: Iterable[Points]) -> None:
        """Lists of points of one width."""
        listed = list(lists)
        self.number(len(listed), 2)
        for points in listed:
            self.number(len(points), 4)
        self.parts.extend(points.buffer for points in listed)


class Reader:
    """Reads fields off one message. Every shortfall is a PeerViolation naming the field, never its value."""

    def __init__(self, data: Buffer, kind: int, message: str) -> None:
        self._data = memoryview(data).cast("B").toreadonly() if memoryview(data).nbytes else memoryview(b"")
        self._at, self._message = 0, message
        header = bytes(self._take(8, "header"))
        if header[:4] != MAGIC or header[6:] != b"\0\0":
            raise self.error("header")
        if header[4] != VERSION:
            raise PeerViolation(f"The message {message} is of another protocol version.")
        if header[5] != kind:
            raise PeerViolation(f"A message {message} was due and another came.")
        self.previous = bytes(self._take(HASH, "previous"))

    def error(self, field: str) -> PeerViolation:
        """The violation to raise for a bad `field`."""
        return PeerViolation(f"The message {self._message} has a bad {field}.")

    def _take(self, size: int, field: str) -> memoryview:
        if size > len(self._data) - self._at:
            raise self.error(field)
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def number(self, size: int, field: str, low: int = 0, high: int | None = None) -> int:
        """An unsigned big-endian integer of `size` bytes within low … high."""
        value = int.from_bytes(self._take(size, field), "big")
        if value < low or (high is not None and value > high):
            raise self.error(field)
        return value

    def fixed(self, size: int, field: str) -> bytes:
        """Exactly `size` bytes."""
        return bytes(self._take(size, field))

    def block(self, field: str, most: int) -> memoryview:
        """Bytes behind a u32 length of at most `most`, in place."""
        return self._take(self.number(4, field, high=most), field)

    def points(self, field: str, width: int) -> tuple[Points, ...]:
        """Lists of points `width` bytes wide, in place."""
        counts = [self.number(4, field) for _ in range(self.number(2, field, high=MAX_LISTS))]
        if sum(counts) > MAX_POINTS:
            raise self.error(field)
        return tuple(Points(self._take(n * width, field), width) for n in counts)

    def end(self) -> None:
        """Refuse whatever is left."""
        if self._at != len(self._data):
            raise self.error("length: bytes are left over")
