"""Lists of people as points: for an overlap, and for an alignment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

from clean_room.errors import PeerViolation
from clean_room.group.points import TRUNCATED, WHOLE, Buffer, Points
from clean_room.protocols.messages.base import Encoded
from clean_room.protocols.wire import Reader, Writer

__all__ = ["AlignPoints", "AlignedRows", "AnalystPoints", "ContributorPoints"]

ROW_ID = 16


@dataclass(frozen=True, slots=True)
class AnalystPoints(Encoded):
    """A's people, blinded once: one list of whole points a segment."""

    KIND: ClassVar[int] = 3
    previous: bytes
    lists: tuple[Points, ...]

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.points(self.lists)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "AnalystPoints")
        message = cls(r.previous, r.points("lists", WHOLE))
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class ContributorPoints(Encoded):
    """A's people doubly blinded and truncated (`returned`), and C's people blinded once (`own`)."""

    KIND: ClassVar[int] = 4
    previous: bytes
    returned: tuple[Points, ...]
    own: tuple[Points, ...]

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.points(self.returned)
        w.points(self.own)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "ContributorPoints")
        message = cls(r.previous, r.points("returned", TRUNCATED), r.points("own", WHOLE))
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class AlignPoints(Encoded):
    """A's points doubly blinded *in A's order* (`returned`), and C's blinded once (`own`).

    A type of its own: with it the analyst learns which of its rows are shared, as `align` is meant to.
    """

    KIND: ClassVar[int] = 8
    previous: bytes
    returned: Points
    own: Points

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.points((self.returned,))
        w.points((self.own,))
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "AlignPoints")
        returned, own = r.points("returned", TRUNCATED), r.points("own", WHOLE)
        r.end()
        if len(returned) != 1 or len(own) != 1:
            raise PeerViolation("The message AlignPoints has a bad number of lists.")
        return cls(r.previous, returned[0], own[0])


@dataclass(frozen=True, slots=True)
class AlignedRows(Encoded):
    """The shared rows: `positions` in C's list (big-endian u32 each), `ids` (16 random bytes each)."""

    KIND: ClassVar[int] = 9
    previous: bytes
    positions: Buffer = field(repr=False)
    ids: Buffer = field(repr=False)

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.number(memoryview(self.positions).nbytes // 4, 4)
        w.fixed(self.positions)
        w.fixed(self.ids)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "AlignedRows")
        count = r.number(4, "positions", high=1 << 28)
        message = cls(r.previous, r.fixed(4 * count, "positions"), r.fixed(ROW_ID * count, "ids"))
        r.end()
        return message
