"""Rows of several keys, one list a key and segment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from clean_room.group.points import TRUNCATED, WHOLE, Buffer, Points
from clean_room.protocols.messages.base import Encoded
from clean_room.protocols.wire import Reader, Writer

__all__ = ["AnalystRows", "ContributorRows"]


@dataclass(frozen=True, slots=True)
class AnalystRows(Encoded):
    """A's rows, blinded once: `lists[segment][key]`, row n of a segment at place n in each of its lists."""

    KIND: ClassVar[int] = 16
    previous: bytes
    lists: tuple[tuple[Points, ...], ...]

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        _write_rows(w, self.lists)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "AnalystRows")
        message = cls(r.previous, _read_rows(r, "lists", WHOLE))
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class ContributorRows(Encoded):
    """A's rows doubly blinded and truncated (`returned`), and C's blinded once (`own`), as in AnalystRows."""

    KIND: ClassVar[int] = 17
    previous: bytes
    returned: tuple[tuple[Points, ...], ...]
    own: tuple[tuple[Points, ...], ...]

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        _write_rows(w, self.returned)
        _write_rows(w, self.own)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "ContributorRows")
        message = cls(r.previous, _read_rows(r, "returned", TRUNCATED), _read_rows(r, "own", WHOLE))
        r.end()
        return message


def _write_rows(w: Writer, lists: tuple[tuple[Points, ...], ...]) -> None:
    w.number(len(lists[0]) if lists else 0, 1)
    w.points(points for segment in lists for points in segment)


def _read_rows(r: Reader, field: str, width: int) -> tuple[tuple[Points, ...], ...]:
    keys = r.number(1, field, low=2, high=3)
    lists = r.points(field, width)
    if not lists or len(lists) % keys:
        raise r.error(field)
    segments = tuple(lists[i : i + keys] for i in range(0, len(lists), keys))
    if any(len({len(points) for points in segment}) != 1 for segment in segments):
        raise r.error(field)
    return segments
