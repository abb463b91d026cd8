"""From decisions to rows: what one batch of events writes beside the log, in the same transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from consent.encoding import SALT_SIZE, commitment, to_micros
from consent.events import (
    GRANTING,
    PROPAGATED,
    Event,
    EventType,
    Identifier,
    decision_payload,
    system_payload,
)
from consent.log import Staged
from consent.purposes import EVERY_PURPOSE, PurposePolicy
from consent.state import Fact, Standing, step
from consent.store import (
    LedgerTransaction,
    OutboxRow,
    SideRow,
    StandingKey,
    SubjectRow,
)
from consent.subjects import (
    Opening,
    SubjectVault,
    pack_identifiers,
    pack_openings,
    unpack_identifiers,
)

__all__ = ["DecisionWork", "SystemWork", "purposes_checked", "standing_withdrawals"]

PAYLOADS = b"consent/payloads"
IDENTIFIERS = b"consent/identifiers"

After = Callable[[LedgerTransaction, int, int], None]
"""`(tx, first index, now)`: more to write in the same transaction."""


@dataclass(eq=False)
class _Subjects:
    """Who the identifiers of a batch belong to: found in the store, or new."""

    tx: LedgerTransaction
    vault: SubjectVault
    now: int
    handles: dict[bytes, bytes] = field(default_factory=dict)
    keys: dict[bytes, bytes] = field(default_factory=dict)
    new: dict[bytes, bytes] = field(default_factory=dict)  # handle → wrapped key
    added: dict[bytes, list[Identifier]] = field(default_factory=dict)
    aliases: list[tuple[bytes, str, bytes]] = field(default_factory=list)

    def resolve(self, events: Sequence[Event]) -> list[tuple[bytes, Event]]:
        """One (handle, event) for each subject an event is about; unknown identifiers get a subject.

        Identifiers that turn out to belong to several subjects restrict or grant for each of them; merging
        is another event.
        """
        lookups = {
            i: self.vault.lookup(i.kind)(i.canonical) for i in {i for e in events for i in e.identifiers}
        }
        self.handles = self.tx.find_subjects(list(lookups.values()))
        out: list[tuple[bytes, Event]] = []
        for event in events:
            found: dict[bytes, None] = {}
            fresh = []
            for identifier in event.identifiers:
                handle = self.handles.get(lookups[identifier])
                if handle is None:
                    fresh.append(identifier)
                else:
                    found[handle] = None
            if not found:
                handle = self.vault.new_handle()
                self.keys[handle], self.new[handle] = self.vault.new_key(handle)
                found[handle] = None
            owner = next(iter(found))
            for identifier in fresh:
                if self.handles.setdefault(lookups[identifier], owner) == owner:
                    self.added.setdefault(owner, []).append(identifier)
                    self.aliases.append((lookups[identifier], identifier.kind, owner))
            out.extend((handle, event) for handle in found)
        return out

    def save(self, handles: Sequence[bytes]) -> None:
        """Write new subjects and aliases; afterwards `keys` has the key of every handle."""
        known = [handle for handle in handles if handle not in self.new]
        stored = self.tx.subjects(known)
        for handle in known:
            self.keys[handle] = self.vault.unwrap(handle, stored[handle].wrapped_key)
        rows = []
        for handle, wrapped in self.new.items():
            rows.append(SubjectRow(handle, wrapped, self._seal(handle, self.added.get(handle, [])), self.now))
        self.tx.add_subjects(rows)
        for handle, added in self.added.items():
            if handle not in self.new:
                opened = self.vault.open(self.keys[handle], handle, IDENTIFIERS, stored[handle].identifiers)
                self.tx.put_identifiers(handle, self._seal(handle, [*unpack_identifiers(opened), *added]))
        self.tx.add_aliases(self.aliases)

    def _seal(self, handle: bytes, identifiers: Sequence[Identifier]) -> bytes:
        return self.vault.seal(self.keys[handle], handle, IDENTIFIERS, pack_identifiers(identifiers))


@dataclass(frozen=True)
class DecisionWork:
    """Decisions of people, validated beforehand. `after` writes what the caller needs beside them."""

    events: Sequence[Event] = field(repr=False)
    vault: SubjectVault
    policy: PurposePolicy
    random: Callable[[int], bytes]
    propagate: bool = True
    after: After | None = None

    def stage(self, tx: LedgerTransaction, first: int, now: int) -> list[Staged]:
        subjects = _Subjects(tx, self.vault, now)
        decided = subjects.resolve(self.events)
        order = list(dict.fromkeys(handle for handle, _ in decided))
        subjects.save(order)

        salts = self.random(SALT_SIZE * len(decided))
        openings: dict[bytes, list[Opening]] = {handle: [] for handle in order}
        sides: dict[bytes, int] = {}
        staged: list[Staged] = []
        facts: list[tuple[bytes, Fact]] = []
        policy_hash, current = self.policy.hash, self.policy.version
        for i, (handle, event) in enumerate(decided):
            effective = now if event.effective_at is None else min(to_micros(event.effective_at), now)
            expires = None if event.expires_at is None else to_micros(event.expires_at)
            version = event.purpose_version or current
            payload = decision_payload(event, handle.hex(), version, effective, expires)
            salt = salts[i * SALT_SIZE : (i + 1) * SALT_SIZE]
            side = sides.setdefault(handle, first + i)
            openings[handle].append(Opening(first + i, salt, payload))
            staged.append(Staged(event.type.value, commitment(salt, payload), policy_hash, side))
            facts.append(
                (
                    handle,
                    Fact(event.type, event.purpose, event.partner, version, effective, expires, first + i),
                )
            )
        tx.add_sides(
            [
                SideRow(
                    sides[handle],
                    handle,
                    self.vault.seal(subjects.keys[handle], handle, PAYLOADS, pack_openings(openings[handle])),
                )
                for handle in order
            ]
        )
        _apply_facts(tx, facts, set(subjects.new))
        if self.propagate:
            _queue(tx, facts, self.policy, set(subjects.new), now)
        if self.after is not None:
            self.after(tx, first, now)
        return staged


def _apply_facts(tx: LedgerTransaction, facts: Sequence[tuple[bytes, Fact]], new: set[bytes]) -> None:
    keys = dict.fromkeys(StandingKey(f.purpose, f.partner, handle) for handle, f in facts)
    known = [key for key in keys if key.subject not in new]
    before = tx.standings(known) if known else {}
    state: dict[StandingKey, Standing] = dict(before)
    changed: dict[StandingKey, Standing] = {}
    for handle, fact in facts:
        key = StandingKey(fact.purpose, fact.partner, handle)
        after = step(state.get(key), fact)
        if after != Standing() and after is not state.get(key):
            state[key] = changed[key] = after
    tx.put_standings(changed, set(before))


def _queue(
    tx: LedgerTransaction,
    facts: Sequence[tuple[bytes, Fact]],
    policy: PurposePolicy,
    new: set[bytes],
    now: int,
) -> None:
    """Queue what each partner must be told: restrictions, and grants that lift what they were told."""
    for partner in tx.partners():
        about = [(h, f) for h, f in facts if f.partner in ("*", partner.name)]
        granting = [h for h, f in about if f.type in GRANTING and h not in new]
        told = tx.told(partner.name, list(dict.fromkeys(granting))) if granting else set()
        rows: list[OutboxRow] = []
        for handle, fact in about:
            if fact.type in PROPAGATED:
                told.add(handle)
                purposes = [fact.purpose]
            elif handle in told:
                purposes = policy.below(fact.purpose, fact.version)
            else:
                continue
            seq = partner.sent_seq + len(rows) + 1
            rows.append(
                OutboxRow(
                    partner.name, seq, fact.idx, handle, fact.type.value, json.dumps(purposes),
                    fact.effective_at, now,
                )
            )  # fmt: skip
        if rows:
            tx.add_outbox(rows)
            tx.put_partner(replace(partner, sent_seq=partner.sent_seq + len(rows)))


def standing_withdrawals(tx: LedgerTransaction, partner: str, now: int) -> list[OutboxRow]:
    """What a partner who joins now must be told: everything withdrawn before, in the order of the log."""
    types = {t.value for t in PROPAGATED}
    found = sorted(
        (s.restricted_index, key.purpose, s.restriction, s.restricted_at, key.subject)
        for key, s in tx.all_standings()
        if s.restriction in types
        and s.restricted_at is not None
        and s.restricted_index is not None
        and key.partner in ("*", partner)
        and (s.granted_at is None or s.granted_at <= s.restricted_at)
    )
    return [
        OutboxRow(partner, seq, index, subject, str(type_), json.dumps([purpose]), at, now)
        for seq, (index, purpose, type_, at, subject) in enumerate(found, 1)
    ]


@dataclass(frozen=True)
class SystemWork:
    """One event that is about no single person."""

    type: EventType
    fields: Mapping[str, object] = field(repr=False)
    vault: SubjectVault
    policy_hash: str
    random: Callable[[int], bytes]
    after: After | None = None

    def stage(self, tx: LedgerTransaction, first: int, now: int) -> list[Staged]:
        payload = system_payload(now, self.fields)
        salt = self.random(SALT_SIZE)
        tx.add_sides(
            [SideRow(first, None, self.vault.seal_system(pack_openings([Opening(first, salt, payload)])))]
        )
        if self.after is not None:
            self.after(tx, first, now)
        return [Staged(self.type.value, commitment(salt, payload), self.policy_hash, first)]


def purposes_checked(policy: PurposePolicy, events: Sequence[Event]) -> None:
    """Raises UnknownPurpose for the first event whose purpose its tree version does not hold."""
    seen: set[tuple[str, int | None]] = set()
    for event in events:
        key = (event.purpose, event.purpose_version)
        if key not in seen:
            if event.purpose != EVERY_PURPOSE:
                policy.require(*key)
            seen.add(key)
