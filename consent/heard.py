"""What was heard of a partner, as decisions, as rows of restrictions, and as orders to running work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from consent.encoding import from_micros
from consent.events import RESTRICTING, Event, EventType, Identifier
from consent.feed_log import FeedLeaf
from consent.messages import unpack_pseudonyms
from consent.rows import InboxRow, RestrictionRow
from consent.store import LedgerTransaction
from consent.subjects import PSEUDONYM

__all__ = [
    "Enforcement",
    "Enforcer",
    "HeardItem",
    "decisions_of",
    "enforcement_of",
    "restriction_rows",
]


@dataclass(frozen=True, slots=True)
class Enforcement:
    """What a partner's messages restricted: told to whoever must stop jobs or drop cached points.

    `pseudonyms` (kind → pseudonyms toward the partner) say who, to whoever can compute them.
    """

    partner: str
    purposes: frozenset[str]
    people: int
    pseudonyms: Mapping[str, frozenset[bytes]] = field(default_factory=dict, repr=False)


Enforcer = Callable[[Enforcement], int]
"""Takes effect before it returns; returns how many running jobs it touched.

What raises is called again, with the same restrictions and perhaps more, until it returns; nothing is
acknowledged, and the lease is not renewed, before that.
"""


@dataclass(frozen=True, slots=True)
class HeardItem:
    """One verified item: its leaf, its bytes, and all pseudonyms that came for it."""

    leaf: FeedLeaf
    raw: bytes
    pseudonyms: Mapping[str, tuple[bytes, ...]] = field(repr=False)


def enforcement_of(partner: str, rows: Sequence[InboxRow]) -> Enforcement:
    """What these rows restrict, all together."""
    purposes: set[str] = set()
    named: dict[str, set[bytes]] = {}
    people = 0
    for row in rows:
        leaf = FeedLeaf.from_bytes(row.leaf)
        if leaf.type in RESTRICTING:
            people += 1
            purposes.update(leaf.purposes)
            for kind, found in unpack_pseudonyms(row.pseudonyms).items():
                named.setdefault(kind, set()).update(found)
    return Enforcement(
        partner, frozenset(purposes), people, {kind: frozenset(found) for kind, found in named.items()}
    )


def decisions_of(partner: str, item: HeardItem) -> Iterable[Event]:
    """A partner's item as decisions about somebody of whom only pseudonyms are known.

    Each pseudonym is a subject of its own, so that whom the partner tells apart later stays apart here.
    """
    identifiers = [
        Identifier(PSEUDONYM, partner.encode() + b"\x00" + kind.encode() + b"\x00" + pseudonym)
        for kind, found in item.pseudonyms.items()
        for pseudonym in found
    ]
    for purpose in item.leaf.purposes:
        for identifier in dict.fromkeys(identifiers):
            yield Event(
                item.leaf.type,
                (identifier,),
                purpose,
                partner,
                effective_at=from_micros(item.leaf.effective_at),
                actor="partner",
                method="feed",
            )


def restriction_rows(
    tx: LedgerTransaction, partner: str, items: Sequence[HeardItem], places: Mapping[int, int], now: int
) -> list[RestrictionRow]:
    """The rows of every pseudonym named, brought forward by these items (latest of each kind of change)."""
    named = list({p for item in items for found in item.pseudonyms.values() for p in found})
    rows = {(r.kind, r.pseudonym, r.purpose): r for r in tx.restrictions_of(partner, named)}
    changed = {}
    for item in items:
        leaf = item.leaf
        if leaf.type not in RESTRICTING and leaf.type is not EventType.GRANTED:
            continue  # a renewal prolongs an agreement; it takes back no opt-out
        at = min(leaf.effective_at, now)
        for kind, found in item.pseudonyms.items():
            for pseudonym in found:
                for purpose in leaf.purposes:
                    key = (kind, pseudonym, purpose)
                    row = rows.get(key) or RestrictionRow(partner, kind, pseudonym, purpose, None, None, 0)
                    if leaf.type in RESTRICTING:
                        at_most = max(row.restricted_at or at, at)
                        row = row._replace(restricted_at=at_most, idx=places[leaf.seq])
                    else:
                        row = row._replace(lifted_at=max(row.lifted_at or at, at), idx=places[leaf.seq])
                    rows[key] = changed[key] = row
    return list(changed.values())
