"""Rotating the key ring: subject keys wrapped anew, lookups hashed anew, in one transaction.

A ring that gains a root still opens what was sealed before, but it derives another lookup key, under which
nobody would be found. So the database says which version its lookups are hashed under (`consent.ledger`
follows it), and this moves it on: from the identifiers sealed for each subject every lookup is made again.
Suppressions cannot be: they are kept without identifiers. Each names its version, so the old roots stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from consent.events import EventType
from consent.ledger import Ledger
from consent.log import Staged
from consent.recording import SystemWork
from consent.store import LedgerTransaction
from consent.subjects import SubjectVault

__all__ = ["Rekeyed", "rekey"]

_PAGE = 2_000


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """`index` is the entry `subject.rekeyed`; None where the lookups were at the newest version already."""

    index: int | None
    version: int
    subjects: int


@dataclass(eq=False)
class RekeyWork:
    """Brings everything sealed for the ledger to the ring's newest version."""

    vault: SubjectVault
    policy_hash: str
    random: Callable[[int], bytes]
    progress: Callable[[int], None] | None = None
    subjects: int = 0

    def stage(self, tx: LedgerTransaction, first: int, now: int) -> list[Staged]:
        version = self.vault.versions[-1]
        fields = {"from": tx.lookup_version(), "to": version}
        self.subjects = self._people(tx, version)
        for start in range(0, first, _PAGE):
            for row in tx.system_sides(start, min(start + _PAGE, first)):
                tx.reseal(row.first_index, self.vault.seal_system(self.vault.open_system(row.sealed)))
        tx.set_lookup_version(version, first)
        return SystemWork(
            EventType.SUBJECT_REKEYED,
            {**fields, "subjects": self.subjects},
            self.vault,
            self.policy_hash,
            self.random,
        ).stage(tx, first, now)

    def _people(self, tx: LedgerTransaction, version: int) -> int:
        merged = tx.merged_subjects()
        hashed: dict[str, Callable[[bytes], bytes]] = {}
        after, done = b"", 0
        while rows := tx.subjects_after(after, _PAGE):
            for row in rows:
                aliases = []
                for kind, canonical in () if row.handle in merged else self.vault.open_identifiers(row):
                    if kind not in hashed:
                        hashed[kind] = self.vault.lookup(kind, version)
                    aliases.append((hashed[kind](canonical), kind))
                tx.rewrap(row.handle, self.vault.rewrap(row.handle, row.wrapped_key), aliases)
            after = rows[-1].handle
            done += len(rows)
            if self.progress is not None:
                self.progress(done)
        return done


def rekey(ledger: Ledger, *, progress: Callable[[int], None] | None = None) -> Rekeyed:
    """Move the ledger to the newest version of its ring; all of it, or nothing when it is interrupted.

    Other processes on the same database find nobody from then on (KeysRotated) until they are restarted.
    """
    vault = ledger.vault
    newest = vault.versions[-1]
    with ledger.store.read() as view:
        if view.lookup_version() == newest:
            vault.use(newest)
            return Rekeyed(None, newest, 0)
    work = RekeyWork(vault, ledger.policy.hash, ledger.random, progress)
    done = ledger.log.append(work)
    vault.use(newest)
    return Rekeyed(done.first, newest, work.subjects)
