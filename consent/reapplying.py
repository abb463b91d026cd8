"""What a restore repeats: the opt-outs and erasures that partners and the journal still know of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from consent.encoding import from_micros
from consent.events import EVERY_PARTNER, RESTRICTING, Event, EventType, Identifier
from consent.journal import ErasureJournal
from consent.log import Staged
from consent.peers import PairKeys
from consent.purposes import PurposePolicy
from consent.recording import DecisionWork, SystemWork
from consent.rows import OutboxRow, RestrictionRow, SuppressionRow
from consent.shredding import ErasureWork
from consent.store import LedgerTransaction
from consent.subjects import PSEUDONYM, KeyedHash, SubjectVault
from consent.suppression import SUPPRESSED_FOR

if TYPE_CHECKING:
    from consent.restore import Heard, RestorePlan

__all__ = ["RestoreWork"]

_MICROS = 1_000_000
_MAX_IDENTIFIERS = 8
_Pseudonym = tuple[str, str, bytes]  # partner, kind, 32 bytes


@dataclass(eq=False)
class _People:
    """Whom the pseudonyms and suppressions belong to, among the subjects that the backup had."""

    by_pseudonym: dict[_Pseudonym, bytes] = field(default_factory=dict)
    by_suppression: dict[bytes, bytes] = field(default_factory=dict)
    identifiers: dict[bytes, tuple[Identifier, ...]] = field(default_factory=dict)


@dataclass(eq=False)
class RestoreWork:
    """Stages `restore.performed` and all that is repeated after it. The counts are there afterwards."""

    plan: RestorePlan
    vault: SubjectVault
    policy: PurposePolicy
    random: Callable[[int], bytes]
    pair_keys: PairKeys | None
    journal: ErasureJournal | None
    opted_out: int = 0
    erased: int = 0
    unmatched: int = 0

    def stage(self, tx: LedgerTransaction, first: int, now: int) -> list[Staged]:
        plan = self.plan
        people = self._people(tx)
        fields = {
            "entries": [[plan.start, plan.end - 1]] if plan.end > plan.start else [],
            "lost": dict(plan.lost),
            "restrictions": plan.restrictions,
            "erasures": plan.erasures,
            "accepted_lost": plan.unaccounted,
            "partners": sorted(plan.feeds),
            "without": list(plan.silent),
        }
        staged = SystemWork(
            EventType.RESTORE_PERFORMED, fields, self.vault, self.policy.hash, self.random
        ).stage(tx, first, now)
        self._told(tx)
        gone, journalled = self._to_erase(people)
        staged += self._opt_out(tx, people, gone, first + len(staged), now)
        tx.put_suppressions(journalled)
        for handle, basis in gone.items():
            work = ErasureWork(
                request=self.random(16).hex(),
                basis=basis,
                actor="controller",
                method="restore",
                vault=self.vault,
                policy=self.policy,
                random=self.random,
                pair_keys=self.pair_keys,
                suppress_for=SUPPRESSED_FOR,
                journal=self.journal,
                identifiers=people.identifiers[handle][:1],
            )
            staged += work.stage(tx, first + len(staged), now)
        self.erased = len(gone)
        return staged

    def _people(self, tx: LedgerTransaction) -> _People:
        """One pass over everybody, with every keyed hash that is looked for."""
        wanted = {
            (h.partner, kind, p) for h in self.plan.heard for kind, each in h.pseudonyms.items() for p in each
        }
        erased = {lookup: version for entry in self.plan.journal for lookup, version in entry.lookups}
        found = _People()
        if not wanted and not erased:
            return found
        keys: dict[str, bytes] = {}
        for partner in {partner for partner, _, _ in wanted}:
            key = self.pair_keys.pair_key(partner) if self.pair_keys else None
            if key:
                keys[partner] = key
        kinds = {kind for _, kind, _ in wanted}
        hashes = {(partner, kind): KeyedHash(key, kind) for partner, key in keys.items() for kind in kinds}
        merged = tx.merged_subjects()
        for row in tx.all_subjects():
            if row.handle in merged:
                continue
            identifiers = self.vault.open_identifiers(row)
            for kind, canonical in identifiers:
                for partner in keys:
                    hashed = hashes.get((partner, kind))
                    place = (partner, kind, hashed(canonical)) if hashed else None
                    if place in wanted:
                        found.by_pseudonym[place] = row.handle
                        found.identifiers[row.handle] = identifiers
                for version in set(erased.values()):
                    lookup = self.vault.suppression(kind, version)(canonical)
                    if lookup in erased:
                        found.by_suppression[lookup] = row.handle
                        found.identifiers[row.handle] = identifiers
        return found

    def _of(self, people: _People, item: Heard) -> dict[bytes, None]:
        places = [(item.partner, kind, p) for kind, each in item.pseudonyms.items() for p in each]
        return {people.by_pseudonym[place]: None for place in places if place in people.by_pseudonym}

    def _told(self, tx: LedgerTransaction) -> None:
        """The queue toward each partner, as it was: their feed log goes on from what they heard.

        Whose the rows are is not put back: the entries they are about are lost, and what is repeated below
        is told again. Partners acknowledge once more what they had heard already.
        """
        for name, frontier in self.plan.feeds.items():
            rows = [
                OutboxRow(
                    name, item.leaf.seq, item.leaf.entry, b"", item.leaf.type.value,
                    json.dumps(list(item.leaf.purposes)), item.leaf.effective_at, item.leaf.recorded_at,
                )
                for item in self.plan.heard
                if item.partner == name
            ]  # fmt: skip
            partner = tx.partner(name)
            if partner is None:
                continue
            tx.add_outbox(rows)
            # What the partner has told meanwhile is heard again before anything is done with them.
            tx.put_partner(replace(partner, sent_seq=frontier.size, fresh_at=None))

    def _to_erase(self, people: _People) -> tuple[dict[bytes, str], list[SuppressionRow]]:
        """handle → basis of everybody erased since the backup; and who was erased but is not in it."""
        gone: dict[bytes, str] = {}
        for item in self.plan.heard:
            if item.leaf.entry in self.plan.erased_entries and item.leaf.type in RESTRICTING:
                gone.update(dict.fromkeys(self._of(people, item), "restored"))
        strangers = []
        ends = int(SUPPRESSED_FOR.total_seconds()) * _MICROS
        for entry in self.plan.journal:
            for lookup, version in entry.lookups:
                handle = people.by_suppression.get(lookup)
                if handle is not None:
                    gone[handle] = entry.basis or "restored"
                strangers.append(
                    SuppressionRow(
                        lookup, version, entry.basis or "restored", entry.at, entry.at + ends, entry.index
                    )
                )
        return gone, strangers

    def _opt_out(
        self, tx: LedgerTransaction, people: _People, gone: dict[bytes, str], first: int, now: int
    ) -> list[Staged]:
        items = [
            item
            for item in self.plan.heard
            if item.leaf.type in RESTRICTING and item.leaf.entry >= self.plan.start
        ]
        events: list[Event] = []
        strangers: list[tuple[Heard, str, bytes]] = []
        matched: set[bytes] = set()
        for item in items:
            found = self._of(people, item)
            matched |= set(found)
            for handle in found:
                if handle not in gone:
                    named = people.identifiers[handle][:_MAX_IDENTIFIERS]
                    events.extend(_repeated(item, named, EVERY_PARTNER))
            if not found:
                strangers.extend((item, kind, p) for kind, each in item.pseudonyms.items() for p in each)
        self.opted_out = len(matched - set(gone))
        self.unmatched = len({(item.partner, item.leaf.seq) for item, _, _ in strangers})
        staged = self._decide(tx, events, first, now, propagate=True)
        at = first + len(staged)
        places: list[tuple[Heard, str, bytes, str]] = []
        unknown: list[Event] = []
        for item, kind, pseudonym in strangers:
            place = item.partner.encode() + b"\x00" + kind.encode() + b"\x00" + pseudonym
            for event in _repeated(item, (Identifier(PSEUDONYM, place),), item.partner):
                places.append((item, kind, pseudonym, event.purpose))
                unknown.append(event)
        staged += self._decide(tx, unknown, at, now, propagate=False)
        _restrict(tx, places, at, now)
        return staged

    def _decide(
        self, tx: LedgerTransaction, events: Sequence[Event], first: int, now: int, *, propagate: bool
    ) -> list[Staged]:
        if not events:
            return []
        work = DecisionWork(events, self.vault, self.policy, self.random, propagate=propagate)
        return work.stage(tx, first, now)


def _repeated(item: Heard, identifiers: Sequence[Identifier], partner: str) -> Iterator[Event]:
    for purpose in item.leaf.purposes:
        yield Event(
            item.leaf.type,
            tuple(identifiers),
            purpose,
            partner,
            effective_at=from_micros(item.leaf.effective_at),
            actor="controller",
            method="restore",
        )


def _restrict(
    tx: LedgerTransaction, places: Sequence[tuple[Heard, str, bytes, str]], first: int, now: int
) -> None:
    """Somebody the backup does not know is denied by pseudonym, as if the partner had said so."""
    rows: dict[tuple[str, str, bytes, str], RestrictionRow] = {}
    for partner in {item.partner for item, _, _, _ in places}:
        named = [p for item, _, p, _ in places if item.partner == partner]
        rows.update({row[:4]: row for row in tx.restrictions_of(partner, named)})
    changed = {}
    for offset, (item, kind, pseudonym, purpose) in enumerate(places):
        key = (item.partner, kind, pseudonym, purpose)
        row = rows.get(key) or RestrictionRow(*key, None, None, 0)
        at = min(item.leaf.effective_at, now)
        changed[key] = rows[key] = row._replace(
            restricted_at=max(row.restricted_at or at, at), idx=first + offset
        )
    tx.put_restrictions(list(changed.values()))
