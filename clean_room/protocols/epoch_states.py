"""What each side holds of an epoch between its runs, and the dummies that follow from it.

All of it is secret. To bytes as a NumPy archive of plain arrays, for a sealed file.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from clean_room.errors import PeerViolation
from clean_room.group.blinding import BASE_POINT, Blinder
from clean_room.group.points import TRUNCATED, WHOLE, Points
from clean_room.protocols.lifetimes import NEVER, Group, lifetimes
from clean_room.protocols.terms import EpochTerms
from privacy.errors import Tampered

__all__ = ["AnalystEpoch", "ContributorEpoch", "Dying", "Listed"]

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """Points of one generation of a list, in the order one side knows them.

    points: 16 bytes each. ends: uint8, when they went. `at` and `later` only where the other side knows them
    in another order, among dummies: the place there of every point, and of every dummy with its end.
    """

    points: Points = field(repr=False)
    ends: npt.NDArray[np.uint8] = field(repr=False)
    at: npt.NDArray[np.uint32] = field(repr=False)
    later: npt.NDArray[np.uint32] = field(repr=False)
    later_ends: npt.NDArray[np.uint8] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ends)

    @classmethod
    def of(cls, points: Points) -> Listed:
        """Points that have just come."""
        none = np.empty(0, np.uint32)
        return cls(points, np.full(len(points), NEVER, np.uint8), none, none, none.astype(np.uint8))

    @classmethod
    def placed(cls, points: Points, order: Places, dummies: npt.NDArray[np.uint8]) -> Listed:
        """Points that came and went on, followed by dummies with these ends, in `order`."""
        place = np.empty(len(order), dtype=np.uint32)
        place[order] = np.arange(len(order), dtype=np.uint32)
        n = len(points)
        ends = np.full(n, NEVER, np.uint8)
        return cls(points.truncated(), ends, place[:n], place[n:], dummies)

    @property
    def alive(self) -> npt.NDArray[np.bool_]:
        """Which have not gone."""
        return np.equal(self.ends, NEVER)

    def now(self) -> Points:
        """Those that have not gone."""
        return self.points if self.alive.all() else self.points.take(np.flatnonzero(self.alive))

    def without(self, gone: Places, generation: int) -> Listed:
        """The same with those at `gone` gone."""
        ends = self.ends.copy()
        ends[gone] = generation
        return Listed(self.points, ends, self.at, self.later, self.later_ends)

    def places_of(self, gone: Places, generation: int) -> Places:
        """Where the other side knows those at `gone`, and the dummies that go with them; ascending."""
        dummies = self.later[self.later_ends == generation]
        return np.sort(np.concatenate([self.at[gone], dummies]).astype(np.int64))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """For `_packed`."""
        names = ("ends", "at", "later", "later_ends")
        return {"points": self.points.array} | {name: getattr(self, name) for name in names}

    @classmethod
    def read(cls, found: dict[str, npt.NDArray[Any]]) -> Listed:
        """What `arrays` gave."""
        points = Points(found.pop("points").tobytes(), TRUNCATED)
        return cls(points, **found)


@dataclass(frozen=True, slots=True)
class Dying:
    """Dummies that come into a list now: whole points, and the ends of their lifetimes."""

    points: Points
    ends: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class AnalystEpoch:
    """A's: the scalar x, the key of the people's hashes (16 bytes), own list, A's points as C returned them
    and C's points under both keys; a group for each generation so far."""

    scalar: bytes = field(repr=False)
    key: bytes = field(repr=False)
    own: tuple[Group, ...] = field(default=(), repr=False)
    returned: tuple[Listed, ...] = field(default=(), repr=False)
    theirs: tuple[Listed, ...] = field(default=(), repr=False)

    def to_bytes(self) -> bytes:
        """For a sealed file."""
        head = {"scalar": _bytes(self.scalar), "key": _bytes(self.key)}
        return _packed(head, own=self.own, returned=self.returned, theirs=self.theirs)

    @classmethod
    def from_bytes(cls, data: bytes) -> AnalystEpoch:
        """Tampered for anything else."""
        head, lists = _unpacked(data, ("own", "returned", "theirs"))
        return cls(head["scalar"].tobytes(), head["key"].tobytes(), **lists)


@dataclass(frozen=True, slots=True, eq=False)
class ContributorEpoch:
    """C's: the scalar y, the key of the people's hashes, X, the seed of the dummies, D and k of every pair of
    lifetimes; own list, and what A sent with where it was returned."""

    scalar: bytes = field(repr=False)
    key: bytes = field(repr=False)
    partner: bytes = field(repr=False)
    seed: bytes = field(repr=False)
    dummies_per_pair: int
    matching: npt.NDArray[np.int64] = field(repr=False)
    own: tuple[Group, ...] = field(default=(), repr=False)
    sent: tuple[Listed, ...] = field(default=(), repr=False)

    def check_new(self, points: Points) -> None:
        """PeerViolation if A sends a point that it has sent before in this epoch, whether gone or not."""
        new = np.sort(points.words)
        for group in self.sent:
            known = group.points.words
            at = np.minimum(np.searchsorted(new, known), len(new) - 1)
            if len(new) and (new[at] == known).any():
                raise PeerViolation("A point came a second time in an epoch.")

    def dummies(self, terms: EpochTerms, blinder: Blinder) -> tuple[Dying, Dying]:
        """The dummies that come now: into A's returned list, and into the own one."""
        span, d, g = lifetimes(terms.refreshes), terms.dummies, terms.generation
        secrets = hashlib.shake_256(b"comity/epoch-dummies/v1" + self.seed).digest(
            2 * WHOLE * d * terms.pairs
        )
        returned, own = [], []
        ends: tuple[list[int], list[int]] = [], []
        for pair in range(terms.pairs):
            theirs, mine = span[pair // len(span)], span[pair % len(span)]
            if g not in (theirs[0], mine[0]):
                continue
            for number in range(d):
                at = 2 * WHOLE * (pair * d + number)
                s, other = secrets[at : at + WHOLE], secrets[at + WHOLE : at + 2 * WHOLE]
                if mine[0] == g:
                    own.append(blinder.blind(s, BASE_POINT))
                    ends[1].append(mine[1])
                if theirs[0] == g:
                    matches = number < self.matching[pair]
                    returned.append(
                        blinder.blind(s, self.partner) if matches else blinder.blind(other, BASE_POINT)
                    )
                    ends[0].append(theirs[1])
        return (
            Dying(Points(b"".join(returned)), np.array(ends[0], dtype=np.uint8)),
            Dying(Points(b"".join(own)), np.array(ends[1], dtype=np.uint8)),
        )

    def to_bytes(self) -> bytes:
        """For a sealed file."""
        head: dict[str, npt.NDArray[Any]] = {
            "scalar": _bytes(self.scalar),
            "key": _bytes(self.key),
            "partner": _bytes(self.partner),
            "seed": _bytes(self.seed),
            "matching": self.matching,
            "dummies": np.array([self.dummies_per_pair], dtype=np.int64),
        }
        return _packed(head, own=self.own, sent=self.sent)

    @classmethod
    def from_bytes(cls, data: bytes) -> ContributorEpoch:
        """Tampered for anything else."""
        head, lists = _unpacked(data, ("own", "sent"))
        return cls(
            scalar=head["scalar"].tobytes(),
            key=head["key"].tobytes(),
            partner=head["partner"].tobytes(),
            seed=head["seed"].tobytes(),
            dummies_per_pair=int(head["dummies"][0]),
            matching=head["matching"].astype(np.int64),
            **lists,
        )


def _bytes(data: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, dtype=np.uint8)


def _packed(head: dict[str, npt.NDArray[Any]], **lists: tuple[Any, ...]) -> bytes:
    arrays = dict(head)
    for name, groups in lists.items():
        for number, group in enumerate(groups):
            parts: dict[str, npt.NDArray[Any]] = (
                {"tags": group.tags, "roles": group.roles, "ends": group.ends}
                if isinstance(group, Group)
                else group.arrays()
            )
            arrays |= {f"{name}.{number}.{part}": array for part, array in parts.items()}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _unpacked(data: bytes, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        head = {name: array for name, array in found.items() if "." not in name}
        lists = {}
        for name in names:
            groups: dict[int, dict[str, Any]] = {}
            for key, array in found.items():
                of, _, rest = key.partition(".")
                if of == name:
                    number, _, part = rest.partition(".")
                    groups.setdefault(int(number), {})[part] = array
            made = [groups[number] for number in range(len(groups))]
            lists[name] = tuple(Group(**g) if name == "own" else Listed.read(g) for g in made)
    except Exception:  # whatever does not read is not what was written
        raise Tampered("What is held of an epoch cannot be read.") from None
    return head, lists
