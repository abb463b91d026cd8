"""Lists that change from run to run of an epoch. The first run is a change of nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

from clean_room.errors import PeerViolation
from clean_room.group.points import TRUNCATED, WHOLE, Buffer, Points
from clean_room.protocols.messages.base import Encoded
from clean_room.protocols.wire import Reader, Writer

__all__ = ["AnalystChange", "ContributorChange"]

_MOST_GROUPS = 8
_MOST_PLACES = 1 << 29


@dataclass(frozen=True, slots=True)
class AnalystChange(Encoded):
    """What changes in A's list: `gone[g]`, ascending places (big-endian u32 each) in what A sent in
    generation g; `added`, blinded once."""

    KIND: ClassVar[int] = 18
    previous: bytes
    gone: tuple[Buffer, ...] = field(repr=False)
    added: Points

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        _write_places(w, self.gone)
        w.points((self.added,))
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "AnalystChange")
        gone, lists = _read_places(r, "gone"), r.points("added", WHOLE)
        r.end()
        if len(lists) != 1:
            raise PeerViolation("The message AnalystChange has a bad number of lists.")
        return cls(r.previous, gone, lists[0])


@dataclass(frozen=True, slots=True)
class ContributorChange(Encoded):
    """What changes in the two lists A joins: of A's doubly blinded points `returned_gone` and `returned`
    (truncated), of C's own `own_gone` and `own`, as in AnalystChange."""

    KIND: ClassVar[int] = 19
    previous: bytes
    returned_gone: tuple[Buffer, ...] = field(repr=False)
    returned: Points
    own_gone: tuple[Buffer, ...] = field(repr=False)
    own: Points

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        _write_places(w, self.returned_gone)
        w.points((self.returned,))
        _write_places(w, self.own_gone)
        w.points((self.own,))
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "ContributorChange")
        returned_gone, returned = _read_places(r, "returned_gone"), r.points("returned", TRUNCATED)
        own_gone, own = _read_places(r, "own_gone"), r.points("own", WHOLE)
        r.end()
        if len(returned) != 1 or len(own) != 1:
            raise PeerViolation("The message ContributorChange has a bad number of lists.")
        return cls(r.previous, returned_gone, returned[0], own_gone, own[0])


def _write_places(w: Writer, places: tuple[Buffer, ...]) -> None:
    w.number(len(places), 1)
    for group in places:
        w.block(group)


def _read_places(r: Reader, name: str) -> tuple[Buffer, ...]:
    groups = tuple(r.block(name, _MOST_PLACES) for _ in range(r.number(1, name, high=_MOST_GROUPS)))
    if any(memoryview(group).nbytes % 4 for group in groups):
        raise r.error(name)
    return groups
