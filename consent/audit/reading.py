"""Reading a whole ledger in bounded memory: entries, the payloads of the system, people one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from consent.encoding import Leaf, parse_json
from consent.history import checked
from consent.purposes import PurposePolicy
from consent.recording import PAYLOADS
from consent.rows import SubjectRow
from consent.store import LedgerView
from consent.subjects import Opening, SubjectVault, unpack_openings
from privacy.errors import Tampered

__all__ = ["Opened", "first_since", "leaves", "people", "published_policy", "recorded_at", "system_events"]

_PAGE = 4_000


class Opened(NamedTuple):
    """An entry whose payload is there, and is the one that the entry commits to."""

    idx: int
    leaf: Leaf
    body: dict[str, object]


def published_policy(document: str) -> PurposePolicy:
    """A policy from the canonical JSON it was published as."""
    return PurposePolicy.from_document(parse_json(document.encode(), limit=1 << 22))


def recorded_at(view: LedgerView, index: int) -> int:
    """When entry `index` was recorded (microseconds). Raises Tampered when it is not there."""
    rows = view.entries(index, index + 1)
    if not rows:
        raise Tampered("The log lacks an entry below its size.", code="malformed_entry")
    return Leaf.from_bytes(rows[0].leaf).recorded_at


def first_since(view: LedgerView, size: int, moment: int) -> int:
    """Index of the first of `size` entries recorded at `moment` or later; `size` if there is none."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        if recorded_at(view, middle) < moment:
            low = middle + 1
        else:
            high = middle
    return low


def leaves(view: LedgerView, start: int, end: int) -> Iterator[tuple[int, Leaf]]:
    """(index, entry) of start ≤ index < end. Raises Tampered where one is missing or malformed."""
    for first in range(start, end, _PAGE):
        rows = view.entries(first, min(first + _PAGE, end))
        if len(rows) != min(first + _PAGE, end) - first:
            raise Tampered("The log lacks entries below its size.", code="malformed_entry")
        for row in rows:
            yield row.idx, Leaf.from_bytes(row.leaf)


def system_events(view: LedgerView, vault: SubjectVault, start: int, end: int) -> Iterator[Opened]:
    """Events about no single person, in the order of the log."""
    for first in range(start, end, _PAGE):
        sides = view.system_sides(first, min(first + _PAGE, end))
        openings = [o for side in sides for o in unpack_openings(vault.open_system(side.sealed))]
        yield from sorted(_opened(view, openings, end), key=lambda event: event.idx)


def people(view: LedgerView, vault: SubjectVault, end: int) -> Iterator[tuple[bytes, list[Opened]]]:
    """Each subject on record with every decision below `end` about them, in the order of the log."""
    after = b""
    while subjects := view.subjects_after(after, _PAGE):
        after = subjects[-1].handle
        yield from _histories(view, vault, subjects, end)


def _histories(
    view: LedgerView, vault: SubjectVault, subjects: list[SubjectRow], end: int
) -> Iterator[tuple[bytes, list[Opened]]]:
    keys = {row.handle: vault.unwrap(row.handle, row.wrapped_key) for row in subjects}
    owners: dict[int, bytes] = {}
    openings: list[Opening] = []
    for side in view.sides_of_all(list(keys)):
        if side.subject is None or side.first_index >= end:
            continue
        opened = unpack_openings(vault.open(keys[side.subject], side.subject, PAYLOADS, side.sealed))
        openings += opened
        owners.update((o.idx, side.subject) for o in opened)
    found: dict[bytes, list[Opened]] = {handle: [] for handle in keys}
    for event in _opened(view, openings, end):
        found[owners[event.idx]].append(event)
    for handle, events in found.items():
        yield handle, sorted(events, key=lambda event: event.idx)


def _opened(view: LedgerView, openings: list[Opening], end: int) -> Iterator[Opened]:
    wanted = [opening for opening in openings if opening.idx < end]
    stored = view.leaves_at([opening.idx for opening in wanted])
    for opening in wanted:
        if opening.idx not in stored:
            raise Tampered("A stored payload has no log entry.", code="bad_side_record")
        leaf = Leaf.from_bytes(stored[opening.idx])
        yield Opened(opening.idx, leaf, checked(leaf, opening))
