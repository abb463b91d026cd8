"""Erasing a person: their opt-out first, then the key under which everything about them is sealed.

One transaction records the request, withdraws everything with everybody (so that partners are told), seals
what a partner has not acknowledged yet, deletes the subject, its key, its lookups, payloads and standings,
remembers the identifiers as suppressed, and says in `erasure.completed` which entries no longer open. The
log's entries stay, and stay verifiable: without salt and payload nothing can be learnt from them.

A legal hold postpones the deletion, never the opt-out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from consent.encoding import from_micros, to_micros
from consent.events import EVERY_PARTNER, Event, EventType, Identifier
from consent.frozen import freeze_pseudonyms
from consent.history import openings_of
from consent.journal import ErasureJournal
from consent.ledger import Ledger
from consent.log import Staged
from consent.peers import PairKeys
from consent.purposes import EVERY_PURPOSE, PurposePolicy
from consent.recording import DecisionWork, SystemWork
from consent.store import ErasureRow, LedgerTransaction, LedgerView, SuppressionRow
from consent.subjects import HANDLE_SIZE, PSEUDONYM, SubjectVault
from consent.suppression import SUPPRESSED_FOR, suppressed
from privacy.errors import BadInput, Misuse, Refused

__all__ = ["Erased", "Erasure", "ErasurePreview", "Hold"]

COMPLETED, HELD = "completed", "held"
_WORD = re.compile(r"[a-z][a-z0-9_.:-]{0,63}", re.ASCII)
_MAX_IDENTIFIERS = 8  # of one event; a subject may have more


@dataclass(frozen=True, slots=True)
class Hold:
    """Why the data must be kept for now, and until when; without `until`, until the hold is released."""

    basis: str
    until: datetime | None = None

    def __post_init__(self) -> None:
        _word(self.basis, "hold")
        if self.until is not None:
            to_micros(self.until)


@dataclass(frozen=True, slots=True)
class Erased:
    """What became of a request. `entries` no longer open; `partners` are told of the opt-out."""

    request: str
    state: str
    basis: str
    requested_at: datetime
    entries: int = 0
    completed_index: int | None = None
    completed_at: datetime | None = None
    hold_basis: str | None = None
    held_until: datetime | None = None
    partners: tuple[str, ...] = ()
    already: bool = False


@dataclass(frozen=True, slots=True)
class ErasurePreview:
    """What erasing would do: how many records and entries go, who is told, whether it was done before."""

    known: bool
    suppressed: bool
    held: bool
    subjects: int
    identifiers: int
    entries: int
    partners: tuple[str, ...]


def _word(text: str, what: str) -> str:
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
        handles = _handles(self.waiting)
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


def _handles(row: ErasureRow | None) -> list[bytes]:
    data = b"" if row is None or row.subjects is None else row.subjects
    return [data[i : i + HANDLE_SIZE] for i in range(0, len(data), HANDLE_SIZE)]


class Erasure:
    """Erases people from a ledger, holds and releases requests, and remembers who stays erased.

    `suppress_for` is how long an erased identifier is remembered (None: without end); `journal` keeps a
    sealed copy of those records outside the database, for a restore.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        suppress_for: timedelta | None = SUPPRESSED_FOR,
        journal: ErasureJournal | None = None,
    ) -> None:
        self._ledger = ledger
        self._suppress_for = suppress_for
        self.journal = journal

    def erase(
        self,
        identifiers: Sequence[tuple[str, bytes]],
        *,
        basis: str = "request",
        hold: Hold | None = None,
        actor: str = "subject",
        method: str = "api",
    ) -> Erased:
        """Erase the person with these canonical identifiers; durable and told on return.

        A stranger is suppressed, and partners are told, all the same. Somebody erased before stays so, and
        whose request is held stays held. Raises Refused (several_people), BadInput, StorageError.
        """
        named = tuple(dict.fromkeys(Identifier(*i) for i in identifiers))
        if not named or any(i.kind == PSEUDONYM for i in named):
            raise BadInput("A person is erased by identifiers of their own.", code="no_identifier")
        done = self._already(named)
        if done is not None:
            return done
        work = self._work(basis=_word(basis, "an erasure"), actor=actor, method=method)
        work.identifiers, work.hold = named, hold
        return self._carry_out(work)

    def erase_subject(
        self, handle: bytes, *, basis: str = "request", hold: Hold | None = None, method: str = "api"
    ) -> Erased:
        """As `erase`, for the subject with this handle. Raises Misuse for an unknown one."""
        known = self._ledger.identifiers_of([handle]).get(handle)
        if not known:
            raise Misuse("No subject with this handle is recorded here.", code="not_found")
        return self.erase(known, basis=basis, hold=hold, method=method)

    def preview(self, identifiers: Sequence[tuple[str, bytes]]) -> ErasurePreview:
        """What `erase` would do, and nothing done. Raises as `erase`."""
        ledger, named = self._ledger, [Identifier(*i) for i in identifiers]
        with ledger.store.read() as view:
            people = people_named(view, ledger.vault, named)
            parts = [(handle, *(p for p, _ in view.merged_parts(handle))) for handle, _ in people]
            sides = [side for handles in parts for handle in handles for side in view.sides_of(handle)]
            entries = sum(len(openings_of(view, ledger.vault, side)) for side in sides)
            gone = suppressed(view, ledger.vault, named, ledger.now(view))
            held = self._held(view, [handle for handle, _ in people])
            partners = tuple(row.name for row in view.partners())
        identifiers_known = {i for _, theirs in people for i in theirs}
        return ErasurePreview(
            bool(people),
            not people and len(gone) == len(set(named)),
            held is not None,
            len(people),
            len(identifiers_known),
            entries,
            partners,
        )

    def release(self, request: str) -> Erased:
        """Lift the hold of a request and carry it out. Raises Misuse for one that is not held."""
        with self._ledger.store.read() as view:
            row = view.erasure(request)
        if row is None:
            raise Misuse("There is no erasure request with this id.", code="not_found")
        if row.state != HELD:
            raise Misuse("This request is not on hold.", code="not_held")
        work = self._work(basis=row.basis, actor="controller", method="hold_released")
        work.request, work.waiting = row.request, row
        return self._carry_out(work)

    def run_due(self) -> list[Erased]:
        """Carry out the requests whose hold has ended, and drop suppressions that have."""
        with self._ledger.store.read() as view:
            now = self._ledger.now(view)
            due = [
                row.request
                for row in view.erasures(HELD)
                if row.held_until is not None and row.held_until <= now
            ]
        done = [self.release(request) for request in due]
        with self._ledger.store.write() as tx:
            tx.expire_suppressions(self._ledger.now(tx))
        return done

    def requests(self) -> list[Erased]:
        """Every request, oldest first."""
        with self._ledger.store.read() as view:
            return [_answer(row) for row in view.erasures()]

    def unscrubbed(self) -> int:
        """How many erasures were carried out since the last `scrub`."""
        with self._ledger.store.read() as view:
            return sum(row.scrubbed_at is None for row in view.erasures(COMPLETED))

    def scrub(self, *, compact: bool = False) -> bool:
        """Overwrite what deleted rows left in the database's own files; False if it must be tried again.

        See `docs/erase-a-person.md` for what that can and cannot do on each database.
        """
        with self._ledger.store.read() as view:
            waiting = [row for row in view.erasures(COMPLETED) if row.scrubbed_at is None]
        if not self._ledger.store.scrub(compact=compact):
            return False
        with self._ledger.store.write() as tx:
            now = self._ledger.now(tx)
            for row in waiting:
                tx.put_erasure(replace(row, scrubbed_at=now))
        return True

    def _work(self, *, basis: str, actor: str, method: str) -> ErasureWork:
        ledger = self._ledger
        return ErasureWork(
            request=ledger.random(16).hex(),
            basis=basis,
            actor=actor,
            method=method,
            vault=ledger.vault,
            policy=ledger.policy,
            random=ledger.random,
            pair_keys=ledger.pair_keys,
            suppress_for=self._suppress_for,
            journal=self.journal,
        )

    def _carry_out(self, work: ErasureWork) -> Erased:
        self._ledger.log.append(work)
        self._ledger.announce()
        if work.row is None:
            raise Misuse("The work was not carried out.")
        with self._ledger.store.read() as view:
            partners = tuple(row.name for row in view.partners())
        return replace(_answer(work.row), partners=partners)

    def _already(self, named: Sequence[Identifier]) -> Erased | None:
        ledger = self._ledger
        with ledger.store.read() as view:
            lookups = [ledger.vault.lookup(i.kind)(i.canonical) for i in named]
            handles = list(set(view.find_subjects(lookups).values()))
            if handles:
                held = self._held(view, handles)
                return None if held is None else replace(_answer(held), already=True)
            gone = suppressed(view, ledger.vault, named, ledger.now(view))
            if len(gone) < len(named):
                return None
            by_index = {row.completed_index: row for row in view.erasures(COMPLETED)}
            row = by_index.get(max(s.idx for s in gone.values()))
        return None if row is None else replace(_answer(row), already=True)

    @staticmethod
    def _held(view: LedgerView, handles: Sequence[bytes]) -> ErasureRow | None:
        merged = view.merged_subjects()
        for row in view.erasures(HELD):
            if set(handles) <= {merged.get(handle, handle) for handle in _handles(row)}:
                return row if handles else None
        return None


def _answer(row: ErasureRow) -> Erased:
    def when(micros: int | None) -> datetime | None:
        return None if micros is None else from_micros(micros)

    return Erased(
        row.request,
        row.state,
        row.basis,
        from_micros(row.requested_at),
        row.entries,
        row.completed_index,
        when(row.completed_at),
        row.hold_basis,
        when(row.held_until),
    )
