"""Reading payloads back: what an entry opens to, and a subject's facts in the order of the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from consent.encoding import Leaf, commitment, parse_json, parse_time
from consent.events import GRANTING, RESTRICTING, EventType, Identifier
from consent.recording import PAYLOADS
from consent.rows import SideRow
from consent.state import Fact
from consent.store import LedgerView
from consent.subjects import Opening, SubjectVault, unpack_openings
from privacy.errors import ComityError, Misuse, Tampered

__all__ = [
    "Recorded",
    "facts_of",
    "facts_then",
    "is_decision",
    "missing_named",
    "open_entry",
    "openings_of",
    "whole_record",
]

_LIMIT = 1 << 21
_DECISIONS = {t.value for t in (*GRANTING, *RESTRICTING)}
_LOSING = {EventType.ERASURE_COMPLETED.value, EventType.RESTORE_PERFORMED.value}


class Recorded(NamedTuple):
    """A fact and when it entered the log (microseconds)."""

    fact: Fact
    recorded_at: int


def openings_of(view: LedgerView, vault: SubjectVault, row: SideRow) -> list[Opening]:
    """Unseal one side row. Raises Tampered."""
    if row.subject is None:
        return unpack_openings(vault.open_system(row.sealed))
    subject = view.subjects([row.subject]).get(row.subject)
    if subject is None:
        raise Tampered("A sealed payload belongs to a subject that is not there.", code="bad_side_record")
    key = vault.unwrap(row.subject, subject.wrapped_key)
    return unpack_openings(vault.open(key, row.subject, PAYLOADS, row.sealed))


def checked(leaf: Leaf, opening: Opening) -> dict[str, object]:
    """The payload as a mapping, once it is the one that the leaf commits to. Raises Tampered."""
    if commitment(opening.salt, opening.payload) != leaf.commit:
        raise Tampered("A stored payload is not the one the log commits to.", code="wrong_commitment")
    try:
        body = parse_json(opening.payload, limit=_LIMIT)
    except ComityError as error:
        raise Tampered("A committed payload is not JSON.", code="wrong_commitment") from error
    if not isinstance(body, dict):
        raise Tampered("A committed payload is not an object.", code="wrong_commitment")
    return body


def fact_from(leaf: Leaf, index: int, body: dict[str, object]) -> Fact:
    expires = body.get("expires_at")
    try:
        return Fact(
            EventType(leaf.type),
            str(body["purpose"]),
            str(body["partner"]),
            int(str(body["purpose_version"])),
            parse_time(str(body["effective_at"])),
            None if expires is None else parse_time(str(expires)),
            index,
        )
    except (KeyError, ValueError, ComityError) as error:
        raise Tampered("A committed payload lacks a field.", code="wrong_commitment") from error


def is_decision(type_: str) -> bool:
    """Whether entries of this type are facts about somebody's state."""
    return type_ in _DECISIONS


def missing_named(type_: str, index: int, body: Mapping[str, object]) -> list[tuple[int, int]]:
    """The ranges (first, last) of entries that an erasure or a restore at `index` says no longer open.

    Raises Tampered for ranges that are none, or that reach to `index` or beyond.
    """
    if type_ not in _LOSING:
        return []
    listed, found, after = body.get("entries"), [], -1
    for pair in listed if isinstance(listed, list) else [None]:
        first, last = pair if isinstance(pair, list) and len(pair) == 2 else (0, -1)
        if not (isinstance(first, int) and isinstance(last, int) and after < first <= last < index):
            raise Tampered("An erasure names impossible entries.", code="wrong_commitment")
        found.append((first, last))
        after = last
    return found


def open_entry(view: LedgerView, vault: SubjectVault, index: int) -> tuple[Leaf, Opening]:
    """The leaf of entry `index` and its checked opening. Raises Misuse without one, Tampered."""
    rows = view.entries(index, index + 1)
    if not rows:
        raise Misuse("The log has no entry of this index.", code="not_found")
    side = view.side(rows[0].side)
    if side is None:
        raise Misuse("The payload of this entry has been erased.", code="erased")
    leaf = Leaf.from_bytes(rows[0].leaf)
    opening, _ = open_in(view, vault, side, index, leaf)
    return leaf, opening


def open_in(
    view: LedgerView, vault: SubjectVault, side: SideRow, index: int, leaf: Leaf
) -> tuple[Opening, dict[str, object]]:
    """The opening of entry `index` out of its side row, and its payload, checked against `leaf`."""
    for opening in openings_of(view, vault, side):
        if opening.idx == index:
            return opening, checked(leaf, opening)
    raise Tampered("The payload of an entry is missing from its record.", code="bad_side_record")


def facts_of(view: LedgerView, vault: SubjectVault, subject: bytes) -> Iterator[Recorded]:
    """Every decision about a subject, in the order of the log."""
    openings = [o for row in view.sides_of(subject) for o in openings_of(view, vault, row)]
    for opening in sorted(openings, key=lambda o: o.idx):
        rows = view.entries(opening.idx, opening.idx + 1)
        if not rows:
            raise Tampered("A stored payload has no log entry.", code="bad_side_record")
        leaf = Leaf.from_bytes(rows[0].leaf)
        if is_decision(leaf.type):
            yield Recorded(fact_from(leaf, opening.idx, checked(leaf, opening)), leaf.recorded_at)


def whole_record(view: LedgerView, vault: SubjectVault, subject: bytes) -> list[Recorded]:
    """Every decision about a subject and about those merged into it, in the order of the log."""
    everyone = [subject, *(part for part, _ in view.merged_parts(subject))]
    return sorted(
        (recorded for handle in everyone for recorded in facts_of(view, vault, handle)),
        key=lambda recorded: recorded.fact.idx,
    )


def facts_then(
    view: LedgerView, vault: SubjectVault, subject: bytes, identifier: Identifier, moment: int
) -> list[Recorded]:
    """What was recorded by `moment` about the subject whom the identifier belonged to then."""
    for part, merged_at in view.merged_parts(subject):
        row = view.subjects([part]).get(part)
        if moment < merged_at and row is not None and identifier in vault.open_identifiers(row):
            subject = part
            break
    return [recorded for recorded in facts_of(view, vault, subject) if recorded.recorded_at <= moment]
