"""From decisions to rows: what one batch of events writes beside the log, in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from consent.encoding import SALT_SIZE, commitment, to_micros
from consent.errors import GrantConflict, KeysRotated
from consent.events import (
    GRANTING,
    Event,
    EventType,
    Identifier,
    decision_payload,
    system_payload,
)
from consent.linkage import carried, restricted_for
from consent.log import Staged, Work
from consent.purposes import PurposePolicy
from consent.rows import SideRow, StandingKey, SubjectRow
from consent.sequence import in_sequence
from consent.state import Fact, Standing, StateKey, step
from consent.store import LedgerTransaction
from consent.subjects import (
    IDENTIFIERS,
    PAYLOADS,
    Opening,
    SubjectVault,
    pack_identifiers,
    pack_opening,
    pack_openings,
    unpack_identifiers,
)
from consent.suppression import admit
from consent.telling import tell_partners

__all__ = [
    "IDENTIFIERS",
    "PAYLOADS",
    "DecisionWork",
    "SystemWork",
]

After = Callable[[LedgerTransaction, int, int], None]
"""`(tx, first index, now)`: more to write in the same transaction."""


@dataclass(eq=False)
class _Subjects:
    """Who the identifiers of a batch belong to: found in the store, or new."""

    tx: LedgerTransaction
    vault: SubjectVault
    now: int
    handles: dict[bytes, bytes] = field(default_factory=dict)
    keys: dict[bytes, AESGCM] = field(default_factory=dict)
    new: dict[bytes, bytes] = field(default_factory=dict)  # handle → wrapped key
    added: dict[bytes, list[Identifier]] = field(default_factory=dict)
    aliases: list[tuple[bytes, str, bytes]] = field(default_factory=list)
    decided: list[int] = field(default_factory=list)  # how many decisions each event became
    at: int = 0
    """the position of the event that is looked at"""

    def resolve(self, events: Sequence[Event], version: int) -> list[tuple[bytes, Event]]:
        """One (handle, event) for each subject an event is about; unknown identifiers get a subject.

        Identifiers that turn out to belong to several subjects restrict or grant for each of them; merging
        is another event. What stood against one of them is first carried over to the others
        (`consent.linkage`). A grant does not lift the restriction of somebody whom it may only share an
        identifier with: see `_granted`. `version` is the policy's.
        """
        lookups = {
            i: self.vault.lookup(i.kind)(i.canonical) for i in {i for e in events for i in e.identifiers}
        }
        handles = self.handles = self.tx.find_subjects(list(lookups.values()))
        linked = any(len(event.identifiers) > 1 for event in events)
        states = self.tx.standings_of(self._mixed(events, lookups))
        earlier: dict[bytes, list[Event]] = {}
        out: list[tuple[bytes, Event]] = []
        for self.at, event in enumerate(events):
            if not linked:
                identifier = event.identifiers[0]
                lookup = lookups[identifier]
                handle = handles.get(lookup)
                if handle is None:
                    handle = handles[lookup] = self._new()
                    self.added[handle] = [identifier]
                    self.aliases.append((lookup, identifier.kind, handle))
                out.append((handle, event))
                self.decided.append(1)
                continue
            found: dict[bytes, None] = {}
            fresh = []
            for identifier in dict.fromkeys(event.identifiers):
                handle = self.handles.get(lookups[identifier])
                if handle is None:
                    fresh.append(identifier)
                else:
                    found[handle] = None
            restated: list[tuple[bytes, Event]] = []
            if len(found) > 1 or (found and fresh):
                about = {handle: self._state(states, earlier, handle, version) for handle in found}
                if event.type in GRANTING:
                    named = {lookups[i] for i in event.identifiers}
                    found = self._granted(event, about, named, bool(fresh))
                restated = carried(event, {handle: about[handle] for handle in found}, self.now)
            if not found:
                found[self._new()] = None
            owner = next(iter(found))
            for identifier in fresh:
                if self.handles.setdefault(lookups[identifier], owner) == owner:
                    self.added.setdefault(owner, []).append(identifier)
                    self.aliases.append((lookups[identifier], identifier.kind, owner))
            decided = [*restated, *((handle, event) for handle in found)]
            for handle, fact in decided:
                earlier.setdefault(handle, []).append(fact)
            self.decided.append(len(decided))
            out.extend(decided)
        return out

    def _new(self) -> bytes:
        """A new subject's handle."""
        handle = self.vault.new_handle()
        key, self.new[handle] = self.vault.new_key(handle)
        self.keys[handle] = AESGCM(key)
        return handle

    def _mixed(self, events: Sequence[Event], lookups: Mapping[Identifier, bytes]) -> list[bytes]:
        """Known subjects whom an event names together with somebody else or with a new identifier."""
        mixed: dict[bytes, None] = {}
        for event in events:
            if len(event.identifiers) > 1:
                about = {self.handles.get(lookups[i]) for i in event.identifiers}
                if len(about) > 1:
                    mixed.update(dict.fromkeys(handle for handle in about if handle is not None))
        return list(mixed)

    def _state(
        self,
        states: dict[bytes, dict[StateKey, Standing]],
        earlier: dict[bytes, list[Event]],
        handle: bytes,
        version: int,
    ) -> dict[StateKey, Standing]:
        """What stands about a subject after the events of this batch that come before."""
        state = states.setdefault(handle, {})
        for event in earlier.pop(handle, ()):
            key = (event.purpose, event.partner)
            state[key] = step(state.get(key), _fact(event, version, self.now, 0))
        return state

    def _granted(
        self,
        event: Event,
        about: Mapping[bytes, Mapping[StateKey, Standing]],
        named: set[bytes],
        fresh: bool,
    ) -> dict[bytes, None]:
        """Those of the subjects named whom a grant is about.

        Somebody restricted is not, when the grant comes with an identifier never seen with them, or names
        only some of theirs beside somebody else's: it may be another person who shares an identifier. Their
        restriction stays, and the new identifier gets a subject of its own. A grant by identifiers of theirs
        alone, or by all of theirs and of the others', lifts it. Raises GrantConflict when nobody is left.
        """
        left = {
            handle: None
            for handle, state in about.items()
            if not restricted_for(state, event.purpose, event.partner)
            or not (fresh or not self._aliases(handle) <= named)
        }
        if not left and not fresh:
            raise GrantConflict(self.at)
        return left

    def _aliases(self, handle: bytes) -> set[bytes]:
        new = {lookup for lookup, _, owner in self.aliases if owner == handle}
        return new | set(self.tx.aliases_of(handle))

    def save(self, handles: Sequence[bytes]) -> None:
        """Write new subjects and aliases; afterwards `keys` has the key of every handle."""
        known = [handle for handle in handles if handle not in self.new]
        stored = self.tx.subjects(known)
        for handle in known:
            self.keys[handle] = AESGCM(self.vault.unwrap(handle, stored[handle].wrapped_key))
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
    """Decisions of people, validated beforehand. `after` writes what the caller needs beside them.

    `ordered` refuses what does not fit the history of its person (`consent.sequence`).
    """

    events: Sequence[Event] = field(repr=False)
    vault: SubjectVault
    policy: PurposePolicy
    random: Callable[[int], bytes]
    propagate: bool = True
    after: After | None = None
    imported: bool = False
    ordered: bool = False

    def joins(self, other: Work) -> bool:
        """Decisions recorded in the same way, with nothing to be written beside them."""
        return (
            isinstance(other, DecisionWork)
            and self.after is None
            and other.after is None
            and self.policy is other.policy
            and (self.propagate, self.imported, self.ordered)
            == (other.propagate, other.imported, other.ordered)
        )

    def stage(self, tx: LedgerTransaction, first: int, now: int) -> list[Staged]:
        return self._stage(tx, first, now)[0]

    def stage_all(
        self, works: Sequence[Work], tx: LedgerTransaction, first: int, now: int
    ) -> list[list[Staged]]:
        mine = [work for work in works if isinstance(work, DecisionWork)]
        together = replace(self, events=[event for work in mine for event in work.events])
        staged, decided = together._stage(tx, first, now)
        out, event, at = [], 0, 0
        for work in mine:
            entries = sum(decided[event : event + len(work.events)])
            out.append(staged[at : at + entries])
            event += len(work.events)
            at += entries
        return out

    def _stage(self, tx: LedgerTransaction, first: int, now: int) -> tuple[list[Staged], list[int]]:
        """The entries, and how many each event became."""
        if tx.lookup_version() != self.vault.version:
            raise KeysRotated
        admit(tx, self.vault, self.events, now, imported=self.imported)
        subjects = _Subjects(tx, self.vault, now)
        decided = subjects.resolve(self.events, self.policy.version)
        order = list(dict.fromkeys(handle for handle, _ in decided))
        subjects.save(order)

        salts = self.random(SALT_SIZE * len(decided))
        openings: dict[bytes, list[bytes]] = {handle: [] for handle in order}
        sides: dict[bytes, int] = {}
        staged: list[Staged] = []
        facts: list[tuple[bytes, Fact]] = []
        policy_hash, current = self.policy.hash, self.policy.version
        for i, (handle, event) in enumerate(decided):
            fact = _fact(event, current, now, first + i)
            payload = decision_payload(event, handle.hex(), fact.version, fact.effective_at, fact.expires_at)
            salt = salts[i * SALT_SIZE : (i + 1) * SALT_SIZE]
            side = sides.setdefault(handle, first + i)
            openings[handle].append(pack_opening(first + i, salt, payload))
            staged.append(Staged(event.type.value, commitment(salt, payload), policy_hash, side))
            facts.append((handle, fact))
        if self.ordered:
            people = [(handle, e, f) for (handle, e), (_, f) in zip(decided, facts, strict=True)]
            in_sequence(tx, self.events, people, set(subjects.new))
        tx.add_sides(
            [
                SideRow(
                    sides[handle],
                    handle,
                    self.vault.seal(subjects.keys[handle], handle, PAYLOADS, b"".join(openings[handle])),
                )
                for handle in order
            ]
        )
        _apply_facts(tx, facts, set(subjects.new))
        if self.propagate:
            learned = subjects.added.keys() - subjects.new.keys()
            tell_partners(tx, facts, self.policy, set(subjects.new), now, learned=learned)
        if self.after is not None:
            self.after(tx, first, now)
        return staged, subjects.decided


def _fact(event: Event, current: int, now: int, index: int) -> Fact:
    effective = now if event.effective_at is None else min(to_micros(event.effective_at), now)
    expires = None if event.expires_at is None else to_micros(event.expires_at)
    version = event.purpose_version or current
    return Fact(event.type, event.purpose, event.partner, version, effective, expires, index)


def _apply_facts(tx: LedgerTransaction, facts: Sequence[tuple[bytes, Fact]], new: set[bytes]) -> None:
    keys = [StandingKey(f.purpose, f.partner, handle) for handle, f in facts]
    known = [key for key in dict.fromkeys(keys) if key.subject not in new]
    before = tx.standings(known) if known else {}
    state: dict[StandingKey, Standing] = dict(before)
    changed: dict[StandingKey, Standing] = {}
    nothing = Standing()
    for key, (_, fact) in zip(keys, facts, strict=True):
        standing = state.get(key)
        after = step(standing, fact)
        if after is not standing and after != nothing:
            state[key] = changed[key] = after
    tx.put_standings(changed, set(before))


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
