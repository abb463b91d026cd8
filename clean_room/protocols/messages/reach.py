"""Lists on their way around a ring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from clean_room.errors import PeerViolation
from clean_room.group.points import WHOLE, Buffer, Points
from clean_room.protocols.messages.base import Encoded
from clean_room.protocols.wire import Reader, Writer

__all__ = ["ReachList", "ReachOwn", "ReachSizes"]


@dataclass(frozen=True, slots=True)
class ReachSizes(Encoded):
    """How long the list of every party is, in order, without dummies."""

    KIND: ClassVar[int] = 13
    previous: bytes
    lengths: tuple[int, ...]

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.number(len(self.lengths), 1)
        for length in self.lengths:
            w.number(length, 4)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "ReachSizes")
        count = r.number(1, "lengths", low=3, high=8)
        message = cls(r.previous, tuple(r.number(4, "lengths") for _ in range(count)))
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class ReachOwn(Encoded):
    """C's list under C's key. `stated` is n + B + ν; `header` the base point under the same key."""

    KIND: ClassVar[int] = 14
    previous: bytes
    stated: int
    header: bytes
    points: Points

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.number(self.stated, 4)
        w.fixed(self.header)
        w.points((self.points,))
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "ReachOwn")
        stated, header, lists = r.number(4, "stated"), r.fixed(WHOLE, "header"), r.points("points", WHOLE)
        r.end()
        if len(lists) != 1:
            raise PeerViolation("The message ReachOwn has a bad number of lists.")
        return cls(r.previous, stated, header, lists[0])


@dataclass(frozen=True, slots=True)
class ReachList(Encoded):
    """The list of party `owner` in round `hop`, its header point under the same keys."""

    KIND: ClassVar[int] = 15
    previous: bytes
    owner: int
    hop: int
    header: bytes
    points: Points

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.number(self.owner, 1)
        w.number(self.hop, 1)
        w.fixed(self.header)
        w.points((self.points,))
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "ReachList")
        owner, hop = r.number(1, "owner", high=7), r.number(1, "hop", low=1, high=7)
        header, lists = r.fixed(WHOLE, "header"), r.points("points", WHOLE)
        r.end()
        if len(lists) != 1:
            raise PeerViolation("The message ReachList has a bad number of lists.")
        return cls(r.previous, owner, hop, header, lists[0])
