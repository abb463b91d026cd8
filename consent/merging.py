"""Two records that turn out to be one person's, and one record that turns out to be two people's.

A merge moves the identifiers of one subject to the other and restates what it had decided; the most
restrictive wins: what one of them had restricted and not granted again stays restricted, whatever the other
granted later. The entries recorded before keep their own sealed key, so the merged subject stays behind as a
key and a pointer, without identifiers and without state.

A split undoes that, or takes identifiers away from a record that never was one person's. Whoever cannot be
told apart is restricted: both keep every restriction, and neither keeps a grant that came from the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from consent.encoding import SALT_SIZE, canonical_json, commitment, from_micros, parse_json, render_time
from consent.events import Event, EventType, Identifier
from consent.history import facts_of, openings_of
from consent.ledger import Ledger
from consent.linkage import related, stands
from consent.log import Staged
from consent.purposes import PurposePolicy
from consent.recording import DecisionWork
from consent.rows import SideRow, StandingKey, SubjectRow
from consent.state import Standing, StateKey, fold
from consent.store import LedgerTransaction
from consent.subjects import (
    IDENTIFIERS,
    PAYLOADS,
    PSEUDONYM,
    Opening,
    SubjectVault,
    pack_identifiers,
    pack_openings,
)
from privacy.errors import BadInput, Misuse

__all__ = ["Merged", "Merging", "Split", "merged_grants", "merged_restrictions"]

MERGED = "merged"
"""The method of what a merge or a split restates."""

_State = Mapping[StateKey, Standing]


@dataclass(frozen=True, slots=True)
class Merged:
    """`index` is the entry `subject.merged`; `restrictions` and `grants` were restated after it."""

    index: int
    grants: int
    restrictions: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Split:
    """`index` is the entry `correction`; `undone` says that it took an earlier merge back."""

    index: int
    undone: bool
    restrictions: int
    at: datetime


def merged_grants(kept: _State, other: _State) -> dict[StateKey, Standing]:
    """The grants of `other` that are the later ones (or of the same moment), to be restated for `kept`."""
    found = {}
    for key, s in sorted(other.items()):
        mine = kept.get(key, Standing())
        if s.granted_at is not None and (mine.granted_at is None or mine.granted_at <= s.granted_at):
            found[key] = s
    return found


def merged_restrictions(one: _State, other: _State) -> dict[StateKey, tuple[str, int]]:
    """Key → (type, time): every restriction that stands for either, moved past the other's later grants.

    Symmetric in its arguments. What one had granted since a restriction of their own stays granted, unless
    the restriction has to move past it to outlive a grant of the other.
    """
    found: dict[StateKey, tuple[int, str]] = {}
    for mine, theirs in ((one, other), (other, one)):
        for key, s in mine.items():
            if s.restricted_at is None or s.restriction is None or not stands(s):
                continue
            later = [
                g.granted_at
                for place, g in theirs.items()
                if g.granted_at is not None and g.granted_at > s.restricted_at and related(place, key)
            ]
            at = (max([s.restricted_at, *later]), s.restriction)
            found[key] = max(found.get(key, at), at)
    return {key: (type_, at) for key, (at, type_) in sorted(found.items())}


@dataclass(eq=False)
class _Change:
    """What a merge and a split share: reading a subject, saying what happened, restating decisions."""

    identifiers: tuple[Identifier, ...] = field(repr=False)
    vault: SubjectVault
    policy: PurposePolicy
    random: Callable[[int], bytes]
    at: int = 0

    def _subject(self, tx: LedgerTransaction, identifiers: Sequence[Identifier]) -> SubjectRow:
        lookups = [self.vault.lookup(i.kind)(i.canonical) for i in identifiers]
        found = tx.find_subjects(lookups)
        if len(found) != len(set(lookups)):
            raise Misuse("Nobody is recorded by one of these identifiers.", code="unknown_subject")
        if len(set(found.values())) != 1:
            raise Misuse("These identifiers belong to several people's records.", code="several_people")
        handle = next(iter(found.values()))
        return tx.subjects([handle])[handle]

    def _seal(self, tx: LedgerTransaction, row: SubjectRow, identifiers: Sequence[Identifier]) -> None:
        key = self.vault.unwrap(row.handle, row.wrapped_key)
        sealed = self.vault.seal(key, row.handle, IDENTIFIERS, pack_identifiers(identifiers))
        tx.put_identifiers(row.handle, sealed)

    def _say(
        self, tx: LedgerTransaction, first: int, now: int, row: SubjectRow, *, type_: EventType, other: bytes
    ) -> Staged:
        body = {
            "v": 1,
            "effective_at": render_time(now),
            "subject": row.handle.hex(),
            "other": other.hex(),
            "actor": "controller",
            "method": MERGED,
        }
        payload, salt = canonical_json(body), self.random(SALT_SIZE)
        key = self.vault.unwrap(row.handle, row.wrapped_key)
        packed = pack_openings([Opening(first, salt, payload)])
        tx.add_sides([SideRow(first, row.handle, self.vault.seal(key, row.handle, PAYLOADS, packed))])
        self.at = now
        return Staged(type_.value, commitment(salt, payload), self.policy.hash, first)

    def _decide(
        self, tx: LedgerTransaction, events: Sequence[Event], first: int, now: int, *, propagate: bool
    ) -> list[Staged]:
        if not events:
            return []
        work = DecisionWork(events, self.vault, self.policy, self.random, propagate=propagate)
        return work.stage(tx, first, now)

    @staticmethod
    def _restricting(named: Identifier, restrictions: Mapping[StateKey, tuple[str, int]]) -> Iterator[Event]:
        for (purpose, partner), (type_, at) in restrictions.items():
            yield Event(
                EventType(type_), (named,), purpose, partner,
                effective_at=from_micros(at), actor="controller", method=MERGED,
            )  # fmt: skip


@dataclass(eq=False)
class MergeWork(_Change):
    """`identifiers` name the subject that stays, `other` the one that is merged into it."""

    other: tuple[Identifier, ...] = field(default=(), repr=False)
    grants: int = 0
    restrictions: int = 0

    def stage(self, tx: LedgerTransaction, first: int, now: int) -> list[Staged]:
        kept, gone = self._subject(tx, self.identifiers), self._subject(tx, self.other)
        if kept.handle == gone.handle:
            raise Misuse("These identifiers belong to one record already.", code="already_one")
        states = tx.standings_of([kept.handle, gone.handle])
        mine, theirs = states.get(kept.handle, {}), states.get(gone.handle, {})
        grants, restrictions = merged_grants(mine, theirs), merged_restrictions(mine, theirs)
        names = [*self.vault.open_identifiers(kept), *self.vault.open_identifiers(gone)]
        self._seal(tx, kept, names)
        tx.move_aliases(list(tx.aliases_of(gone.handle)), kept.handle)
        tx.remove_standings([gone.handle])
        for part, merged_at in tx.merged_parts(gone.handle):
            tx.set_merged(part, kept.handle, merged_at)
        tx.set_merged(gone.handle, kept.handle, now)
        staged = [self._say(tx, first, now, kept, type_=EventType.SUBJECT_MERGED, other=gone.handle)]
        restated = [
            Event(
                EventType.GRANTED, tuple(names[:1]), purpose, partner, purpose_version=s.granted_version,
                effective_at=None if s.granted_at is None else from_micros(s.granted_at),
                expires_at=None if s.expires_at is None else from_micros(s.expires_at),
                actor="controller", method=MERGED,
            )
            for (purpose, partner), s in grants.items()
        ]  # fmt: skip
        # A merge lifts nothing, so no partner is told of the grants; of the restrictions each is told
        # under every identifier that the person is known by now.
        staged += self._decide(tx, restated, first + 1, now, propagate=False)
        limits = list(self._restricting(names[0], restrictions))
        staged += self._decide(tx, limits, first + len(staged), now, propagate=True)
        self.grants, self.restrictions = len(restated), len(limits)
        return staged


@dataclass(eq=False)
class SplitWork(_Change):
    """Takes `identifiers` away from their subject: back to the one they came from, or to a new one."""

    undone: bool = False
    restrictions: int = 0

    def stage(self, tx: LedgerTransaction, first: int, now: int) -> list[Staged]:
        row = self._subject(tx, self.identifiers)
        moved = set(self.identifiers)
        left = [i for i in self.vault.open_identifiers(row) if i not in moved]
        if not left:
            raise Misuse("All identifiers of the record are named: nobody would be left.", code="nobody_left")
        state = tx.standings_of([row.handle]).get(row.handle, {})
        taken = self._restated_grants(tx, row.handle)
        other = self._part(tx, row.handle, moved) or self._new(tx, now)
        self._seal(tx, row, left)
        self._seal(tx, other, self.identifiers)
        tx.move_aliases([self.vault.lookup(i.kind)(i.canonical) for i in self.identifiers], other.handle)
        earlier: dict[StateKey, Standing] = {}
        if self.undone:
            tx.set_merged(other.handle, None, None)
            earlier = fold(r.fact for r in facts_of(tx, self.vault, other.handle))
            rows = {StandingKey(*key, other.handle): s for key, s in earlier.items()}
            tx.put_standings(rows, set())
        # Said in the record that comes into being, so that a change of its state is noticed at once.
        staged = [self._say(tx, first, now, other, type_=EventType.CORRECTION, other=row.handle)]
        standing = {key: s for key, s in state.items() if stands(s)}
        restrictions = merged_restrictions(standing, earlier)
        limits = list(self._restricting(self.identifiers[0], restrictions))
        limits += [
            Event(
                EventType.INVALIDATED, tuple(left[:1]), purpose, partner,
                effective_at=from_micros(now), actor="controller", method=MERGED,
            )
            for (purpose, partner), s in sorted(state.items())
            if s.granted_index in taken and not stands(s)
        ]  # fmt: skip
        staged += self._decide(tx, limits, first + 1, now, propagate=True)
        self.restrictions = len(limits)
        return staged

    def _part(self, tx: LedgerTransaction, handle: bytes, moved: set[Identifier]) -> SubjectRow | None:
        """The merged subject that had exactly these identifiers."""
        for part, _ in tx.merged_parts(handle):
            row = tx.subjects([part])[part]
            if set(self.vault.open_identifiers(row)) == moved:
                self.undone = True
                return row
        return None

    def _new(self, tx: LedgerTransaction, now: int) -> SubjectRow:
        handle = self.vault.new_handle()
        key, wrapped = self.vault.new_key(handle)
        row = SubjectRow(handle, wrapped, self.vault.seal(key, handle, IDENTIFIERS, b""), now)
        tx.add_subjects([row])
        return row

    def _restated_grants(self, tx: LedgerTransaction, handle: bytes) -> set[int]:
        """Entries of the subject that restate somebody's grant at a merge."""
        found = set()
        for side in tx.sides_of(handle):
            for opening in openings_of(tx, self.vault, side):
                body = parse_json(opening.payload, limit=1 << 21)
                if isinstance(body, dict) and body.get("method") == MERGED and "purpose" in body:
                    found.add(opening.idx)
        return found


class Merging:
    """Merges and splits people's records in a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def merge(self, kept: Sequence[tuple[str, bytes]], other: Sequence[tuple[str, bytes]]) -> Merged:
        """One person from now on: both records are named by any identifiers of theirs.

        Raises Misuse (`unknown_subject`, `several_people`, `already_one`), BadInput, Suppressed.
        """
        ledger = self._ledger
        work = MergeWork(_own(kept), ledger.vault, ledger.policy, ledger.random, other=_own(other))
        done = ledger.log.append(work)
        ledger.announce()
        return Merged(done.first, work.grants, work.restrictions, from_micros(work.at))

    def split(self, identifiers: Sequence[tuple[str, bytes]]) -> Split:
        """Take identifiers of one record away, as another person's from now on.

        Raises Misuse (`unknown_subject`, `several_people`, `nobody_left`), BadInput.
        """
        ledger = self._ledger
        work = SplitWork(_own(identifiers), ledger.vault, ledger.policy, ledger.random)
        done = ledger.log.append(work)
        ledger.announce()
        return Split(done.first, work.undone, work.restrictions, from_micros(work.at))


def _own(identifiers: Sequence[tuple[str, bytes]]) -> tuple[Identifier, ...]:
    named = tuple(dict.fromkeys(Identifier(*i) for i in identifiers))
    if not named or any(i.kind == PSEUDONYM for i in named):
        raise BadInput("A person is named by identifiers of their own.", code="no_identifier")
    return named
