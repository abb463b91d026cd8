"""Points of an activation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

from clean_room.errors import PeerViolation
from clean_room.group.points import WHOLE, Buffer, Points
from clean_room.protocols.messages.base import Encoded
from clean_room.protocols.wire import HASH, Reader, Writer

__all__ = ["PairPoints", "PairSalt"]


@dataclass(frozen=True, slots=True)
class PairSalt(Encoded):
    """The 32 bytes both sides put before an address's hash; the contributor changes them every epoch."""

    KIND: ClassVar[int] = 11
    previous: bytes
    salt: bytes = field(repr=False)

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.fixed(self.salt)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "PairSalt")
        message = cls(r.previous, r.fixed(HASH, "salt"))
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class PairPoints(Encoded):
    """A's points under both keys, reshuffled (`returned`), and C's people under C's key (`own`)."""

    KIND: ClassVar[int] = 12
    previous: bytes
    returned: Points
    own: Points

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.points((self.returned, self.own))
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "PairPoints")
        lists = r.points("lists", WHOLE)
        r.end()
        if len(lists) != 2:
            raise PeerViolation("The message PairPoints has a bad number of lists.")
        return cls(r.previous, *lists)
