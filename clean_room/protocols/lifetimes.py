"""When a point comes into a list and when it goes again, over the runs of an epoch; and a side's own list.

An epoch has a cold run, generation 0, and up to R refreshes, generations 1 … R. A lifetime is (b, e): in the
list from generation b on, not in it any more from generation e on; e is `NEVER` for what stays to the end.
There are (R+1)(R+2)/2 of them. A point has one lifetime: what has gone does not come back, or whoever holds
the lists of two runs could follow a single person through both. An epoch in which somebody would come back is
over (`EpochOver`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from clean_room.errors import Misuse
from clean_room.group.points import Points, Random, join, permutation
from clean_room.protocols.terms import Padding

__all__ = ["NEVER", "Change", "EpochOver", "Group", "alive_pairs", "change", "laid", "length_of", "lifetimes"]

NEVER = 255
PADDING, PERSON, DUMMY = 0, 1, 2
_LARGE_CHANGE = 8
"""Padding is laid in for up to an eighth of a list to leave at a time; a larger change is a cold run."""


class EpochOver(Misuse):
    """This refresh cannot be: the query has to be put anew, as a cold run."""

    code = "epoch_over"


def lifetimes(refreshes: int) -> tuple[tuple[int, int], ...]:
    """All lifetimes (b, e) of an epoch, in order."""
    last = refreshes + 1
    return tuple((b, e if e < last else NEVER) for b in range(refreshes + 1) for e in range(b + 1, last + 1))


def alive_pairs(refreshes: int, generation: int) -> int:
    """How many pairs of lifetimes are both in their lists in that generation."""
    return sum(b <= generation < e for b, e in lifetimes(refreshes)) ** 2


def length_of(people: int, padding: Padding, left: int) -> int:
    """How long a list of so many people goes out, with `left` refreshes to come.

    It has padding for each of them: what leaves is filled up to a size class with points that are nobody.
    """
    size = padding.padded(people)
    waste = max(padding.minimum, size // _LARGE_CHANGE // padding.steps + 1)
    return padding.padded(size + left * waste)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The part of an own list that came in one generation, in the order in which it was sent.

    tags: uint64 (n, 2), keyed hash of the person, zero for others. roles: uint8 (n,). ends: uint8 (n,), the
    end of the lifetime: of dummies from the beginning, of others once they have gone.
    """

    tags: npt.NDArray[np.uint64] = field(repr=False)
    roles: npt.NDArray[np.uint8] = field(repr=False)
    ends: npt.NDArray[np.uint8] = field(repr=False)

    def __len__(self) -> int:
        return len(self.roles)


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What a run changes in an own list: `gone[g]`, ascending places in group g; `fresh`, rows that come.

    groups: the earlier groups as they are from now on.
    """

    groups: tuple[Group, ...] = field(repr=False)
    gone: tuple[npt.NDArray[np.int64], ...] = field(repr=False)
    fresh: npt.NDArray[np.int64] = field(repr=False)


def change(
    groups: Sequence[Group],
    tags: npt.NDArray[np.uint64],
    generation: int,
    padding: Padding,
    random: Random,
) -> Change:
    """From the list as it is to one of the people with these `tags`, uint64 (n, 2). Raises EpochOver.

    What leaves a group is filled up to a size class by padding that leaves as well; dummies whose time has
    come are beyond that.
    """
    if not groups:
        return Change((), (), np.arange(len(tags)))
    known = np.concatenate([g.tags[g.roles == PERSON] for g in groups])
    ends = np.concatenate([g.ends[g.roles == PERSON] for g in groups])
    at = join(_points(known), _points(tags))
    if ((at >= 0) & (ends <= generation)).any():
        raise EpochOver("Somebody who had left the list has come back.")
    there = np.zeros(len(tags), dtype=np.bool_)
    there[at[at >= 0]] = True
    new_groups, gone, start = [], [], 0
    for group in groups:
        people = np.flatnonzero(group.roles == PERSON)
        found, start = at[start : start + len(people)] >= 0, start + len(people)
        leaving = people[~found & (group.ends[people] > generation)]
        spare = np.flatnonzero((group.roles == PADDING) & (group.ends > generation))
        filler = padding.padded(len(leaving)) - len(leaving)
        if filler > len(spare):
            raise EpochOver("More people have left than the padding hides.")
        after = group.ends.copy()
        after[leaving] = after[spare[permutation(len(spare), random)[:filler]]] = generation
        new_groups.append(Group(group.tags, group.roles, after))
        gone.append(np.flatnonzero(after == generation))
    return Change(tuple(new_groups), tuple(gone), np.flatnonzero(~there))


def laid(
    tags: npt.NDArray[np.uint64], padding: int, dummies: npt.NDArray[np.uint8], random: Random
) -> tuple[Group, npt.NDArray[np.int64]]:
    """A new group, shuffled: people, padding, dummies with these ends; and the order, for their points."""
    n = len(tags)
    whole = np.zeros((n + padding + len(dummies), 2), dtype=np.uint64)
    whole[:n] = tags
    roles = np.full(len(whole), PADDING, dtype=np.uint8)
    roles[:n], roles[n + padding :] = PERSON, DUMMY
    ends = np.full(len(whole), NEVER, dtype=np.uint8)
    ends[n + padding :] = dummies
    order = permutation(len(whole), random)
    return Group(whole[order], roles[order], ends[order]), order


def _points(tags: npt.NDArray[Any]) -> Points:
    return Points(np.ascontiguousarray(tags, dtype="<u8").tobytes(), 16)
