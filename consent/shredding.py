"""What erasing one person writes and deletes, in the one transaction it takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from consent.encoding import to_micros
from consent.events import EVERY_PARTNER, Event, EventType, Identifier
from consent.frozen import freeze_pseudonyms
from consent.history import openings_of
from consent.journal import ErasureJournal
from consent.log import Staged
from consent.peers import PairKeys
from consent.purposes import EVERY_PURPOSE, PurposePolicy
from consent.recording import DecisionWork, SystemWork
from consent.rows import ErasureRow, SuppressionRow
from consent.store import LedgerTransaction, LedgerView
from consent.subjects import HANDLE_SIZE, PSEUDONYM, SubjectVault
from privacy.errors import BadInput, Refused

__all__ = [
    "COMPLETED",
    "HELD",
    "ErasureWork",
    "Hold",
    "basis_word",
    "index_ranges",
    "people_named",
    "waiting_handles",
]

COMPLETED, HELD = "completed", "held"
_WORD = re.compile(r"[a-z][a-z0-9_.:-]{0,63}", re.ASCII)
_MAX_IDENTIFIERS = 8  # of one event; a subject may have more


@dataclass(frozen=True, slots=True)
class Hold:
    """Why the data must be kept for now, and until when; without `until`, until the hold is released."""

    basis: str
    until: datetime | None = None

    def __post_init__(self) -> None:
        basis_word(self.basis, "hold")
        if self.until is not None:
            to_micros(self.until)


def basis_word(text: str, what: str) -> str:
    if _WORD.fullmatch(text) is None:
        raise BadInput(f"The basis of {what} is a short lower-case word, as in gdpr.17 or request.")
    return text


def index_ranges(indexes: Sequence[int]) -> list[list[int]]:
    """Ascending indexes as [first, last] pairs."""
    out: list[list[int]] = []
    for index in sorted(indexes):
        if out and index == out[-1][1] + 1:
            out[-1][1] = index
        else:
            out.append([index, index])
    return out


def people_named(
    view: LedgerView, vault: SubjectVault, identifiers: Sequence[Identifier]
) -> list[tuple[bytes, tuple[Identifier, ...]]]:
    """(handle, all identifiers) of the subjects whom the identifiers belong to.

    One is enough to name a person. Where several people are named, each must be named in full: an
    identifier can be shared, and nobody is erased by somebody else's request. Raises Refused.
    """
    lookups = {vault.lookup(i.kind)(i.canonical): i for i in identifiers}
    handles = list(dict.fromkeys(view.find_subjects(list(lookups)).values()))
    rows = view.subjects(handles)
    found = [(handle, vault.open_identifiers(rows[handle])) for handle in handles]
    if len(found) > 1 and any(set(theirs) - set(identifiers) for _, theirs in found):
        raise Refused(
            "These identifiers belong to several people's records, not all of them named in full.",
            rule="one_person",
            advice="Erase by one identifier at a time, or merge the records first if it is one person.",
            code="several_people",
        )
    return found


@dataclass(eq=False)
class ErasureWork:
    """One request, from the withdrawal to the deletion. `row` is there after a successful append."""

    request: str
    basis: str
    actor: str
    method: str
    vault: SubjectVault
    policy: PurposePolicy
    random: Callable[[int], bytes]
    pair_keys: PairKeys | None
    suppress_for: timedelta | None
    journal: ErasureJournal | None = None
    identifiers: tuple[Identifier, ...] = field(default=(), repr=False)
    waiting: ErasureRow | None = None  # the held request that is carried out now
    hold: Hold | None = None
    row: ErasureRow | None = None
    everything: tuple[Identifier, ...] = field(default=(), repr=False)  # known of the person, once staged

    def stage(self, tx: LedgerTransaction, first: int, now: int) -> list[Staged]:
        staged: list[Staged] = []
        if self.waiting is None:
            fields = {
                "request": self.request,
                "basis": self.basis,
                "actor": self.actor,
                "method": self.method,
            }
            staged += self._say(tx, EventType.ERASURE_REQUESTED, fields, first, now)
            people = people_named(tx, self.vault, self.identifiers)
        else:
            people = self._held(tx)
        everything = list(dict.fromkeys([*(i for _, theirs in people for i in theirs), *self.identifiers]))
        self.everything = tuple(everything)
        staged += self._withdraw(tx, people, first + len(staged), now)
        lookups = [self.vault.lookup(i.kind)(i.canonical) for i in everything]
        handles = list(dict.fromkeys(tx.find_subjects(lookups).values()))
        row = self.waiting or ErasureRow(self.request, COMPLETED, self.basis, now, first)
        at = first + len(staged)
        suppressions = self._suppressions(everything, row.basis, now, at)
        tx.put_suppressions(suppressions)
        if self.hold is not None:
            return staged + self._keep(tx, row, handles, at, now)
        tx.delete_links(
            [self.vault.lookup(i.kind, v)(i.canonical) for i in everything for v in self.vault.versions]
        )
        entries = self._shred(tx, handles)
        # Links to the preference page are kept by lookup, under whichever version was in force.
        lookups = [self.vault.lookup(i.kind, v)(i.canonical) for i in everything for v in self.vault.versions]
        tx.delete_links(lookups)
        if self.journal is not None:
            # Before the commit: that somebody asked is no secret to whoever holds the ring, and a record
            # that came after it could be lost.
            self.journal.add(at, now, suppressions)
        staged += self._say(
            tx,
            EventType.ERASURE_COMPLETED,
            {
                "request": row.request,
                "basis": row.basis,
                "subjects": len(people) or 1,
                "entries": index_ranges(entries),
            },
            at,
            now,
        )
        self.row = replace(
            row, state=COMPLETED, subjects=None, completed_at=now, completed_index=at, entries=len(entries)
        )
        tx.put_erasure(self.row)
        return staged

    def _say(
        self, tx: LedgerTransaction, type_: EventType, fields: Mapping[str, object], first: int, now: int
    ) -> list[Staged]:
        return SystemWork(type_, fields, self.vault, self.policy.hash, self.random).stage(tx, first, now)

    def _suppressions(
        self, identifiers: Sequence[Identifier], basis: str, now: int, at: int
    ) -> list[SuppressionRow]:
        ends = None if self.suppress_for is None else now + self.suppress_for // timedelta(microseconds=1)
        version = self.vault.version
        return [
            SuppressionRow(
                self.vault.suppression(i.kind, version)(i.canonical), version, basis, now, ends, at
            )
            for i in identifiers
            if i.kind != PSEUDONYM
        ]

    def _held(self, tx: LedgerTransaction) -> list[tuple[bytes, tuple[Identifier, ...]]]:
        handles = waiting_handles(self.waiting)
        merged = tx.merged_subjects()
        rows = tx.subjects(list(dict.fromkeys(merged.get(handle, handle) for handle in handles)))
        return [(handle, self.vault.open_identifiers(row)) for handle, row in rows.items()]

    def _withdraw(
        self,
        tx: LedgerTransaction,
        people: Sequence[tuple[bytes, tuple[Identifier, ...]]],
        first: int,
        now: int,
    ) -> list[Staged]:
        """Everything, with everybody: for each person by identifiers of theirs, or for a stranger.

        It is said again when a held request is carried out: in the log these entries stand beside
        `erasure.completed`, which is how a restored node learns from its partners whom it had erased.
        """
        fresh = [i for i in self.identifiers if not any(i in theirs for _, theirs in people)]
        named = [theirs for _, theirs in people]
        # Identifiers not known so far go with the first: partners are told by all of them.
        groups = [(*named[0][:1], *fresh, *named[0][1:]), *named[1:]] if named else [self.identifiers]
        events = [
            Event(
                EventType.WITHDRAWN,
                tuple(theirs[:_MAX_IDENTIFIERS]),
                EVERY_PURPOSE,
                EVERY_PARTNER,
                actor=self.actor,
                method=self.method,
                basis="erasure",
            )
            for theirs in groups
            if theirs
        ]
        if not events:
            return []
        return DecisionWork(events, self.vault, self.policy, self.random).stage(tx, first, now)

    def _keep(
        self, tx: LedgerTransaction, row: ErasureRow, handles: Sequence[bytes], at: int, now: int
    ) -> list[Staged]:
        hold = self.hold or Hold("unnamed")
        until = None if hold.until is None else to_micros(hold.until)
        fields: dict[str, object] = {"request": row.request, "basis": row.basis, "hold": hold.basis}
        if hold.until is not None:
            fields["until"] = hold.until.isoformat()
        self.row = replace(
            row, state=HELD, subjects=b"".join(handles), hold_basis=hold.basis, held_until=until
        )
        tx.put_erasure(self.row)
        return self._say(tx, EventType.ERASURE_HELD, fields, at, now)

    def _shred(self, tx: LedgerTransaction, handles: Sequence[bytes]) -> list[int]:
        """Delete the subjects and whoever was merged into them; returns the entries that no longer open."""
        everyone = list(
            dict.fromkeys(
                part for handle in handles for part in (handle, *(p for p, _ in tx.merged_parts(handle)))
            )
        )
        entries = [
            opening.idx
            for handle in everyone
            for side in tx.sides_of(handle)
            for opening in openings_of(tx, self.vault, side)
        ]
        for handle in everyone:
            freeze_pseudonyms(tx, self.vault, self.pair_keys, handle)
        tx.remove_standings(everyone)
        for handle in everyone:
            tx.forget(handle)
        return entries


def waiting_handles(row: ErasureRow | None) -> list[bytes]:
    data = b"" if row is None or row.subjects is None else row.subjects
    return [data[i : i + HANDLE_SIZE] for i in range(0, len(data), HANDLE_SIZE)]
