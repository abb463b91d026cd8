"""Erasing a person: their opt-out first, then the key under which everything about them is sealed.

One transaction records the request, withdraws everything with everybody (so that partners are told), seals
what a partner has not acknowledged yet, deletes the subject, its key, its lookups, payloads and standings,
remembers the identifiers as suppressed, and says in `erasure.completed` which entries no longer open. The
log's entries stay, and stay verifiable: without salt and payload nothing can be learnt from them.

A legal hold postpones the deletion, never the opt-out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from consent.encoding import from_micros
from consent.events import Identifier
from consent.history import openings_of
from consent.journal import ErasureJournal
from consent.ledger import Ledger
from consent.rows import ErasureRow
from consent.shredding import (
    COMPLETED,
    HELD,
    ErasureWork,
    Hold,
    basis_word,
    people_named,
    waiting_handles,
)
from consent.store import LedgerView
from consent.subjects import PSEUDONYM
from consent.suppression import SUPPRESSED_FOR, suppressed
from privacy.errors import BadInput, Misuse

__all__ = ["Erased", "Erasure", "ErasurePreview", "Hold"]


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
        self.forgetters: list[Callable[[Sequence[tuple[str, bytes]]], None]] = []
        """Called with everything a person was known by, once they have opted out: to drop what is derived."""

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
        work = self._work(basis=basis_word(basis, "an erasure"), actor=actor, method=method)
        work.identifiers, work.hold = named, hold
        return self._carry_out(work)

    def erase_subject(
        self, handle: bytes, *, basis: str = "request", hold: Hold | None = None, method: str = "api"
    ) -> Erased:
        """As `erase`, for the subject with this handle. Raises Misuse for an unknown one."""
        known = self._ledger.identifiers_of([handle]).get(handle)
        if not known:
            raise Misuse("No subject with this handle is recorded here.", code="unknown_subject")
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
            raise Misuse("There is no erasure request with this id.", code="unknown_request")
        if row.state != HELD:
            raise Misuse("This request has been carried out.", code="already_completed")
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
            return len(view.unscrubbed())

    def scrub(self, *, compact: bool = False) -> bool:
        """Overwrite what deleted rows left in the database's own files; False if it must be tried again.

        See `docs/erase-a-person.md` for what that can and cannot do on each database.
        """
        with self._ledger.store.read() as view:
            waiting = view.unscrubbed()
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
        for forget in self.forgetters:
            forget([(i.kind, i.canonical) for i in work.everything if i.kind != PSEUDONYM])
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
            if set(handles) <= {merged.get(handle, handle) for handle in waiting_handles(row)}:
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
