"""Partners of a ledger: joining, leaving, another shared key; and what each must be told on the occasion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from consent.events import EventType
from consent.notes import VerifierKey
from consent.rows import PartnerRow
from consent.store import LedgerTransaction
from consent.telling import standing_withdrawals
from privacy.errors import Misuse

if TYPE_CHECKING:
    from consent.ledger import Ledger

__all__ = ["amend", "join", "remove", "rotate"]

_MICROSECOND = timedelta(microseconds=1)


def join(ledger: Ledger, name: str, vkey: str, lease: timedelta | None) -> None:
    """As `Ledger.join_partner`."""
    VerifierKey.from_text(vkey)
    micros = _micros(lease)
    with ledger.store.read() as view:
        known = view.partner(name)
    if known is not None and known.vkey != vkey:
        raise Misuse("This partner joined with another log key.", code="partner_key_changed")
    ledger.leases.forget(name)
    if known is not None:
        with ledger.store.write() as tx:
            _tell_again(tx, ledger, tx.partner(name) or known, lease=micros, fresh_at=None, removed_at=None)
        ledger.announce()
        return

    def keep(tx: LedgerTransaction, first: int, now: int) -> None:
        waiting = standing_withdrawals(tx, name, ledger.policy, now)
        tx.put_partner(PartnerRow(name, vkey, first, sent_seq=len(waiting), lease=micros))
        tx.add_outbox(waiting)

    ledger.record_system(EventType.PARTNER_JOINED, {"partner": name, "vkey": vkey}, keep)
    ledger.announce()


def _micros(lease: timedelta | None) -> int | None:
    if lease is not None and lease <= timedelta(0):
        raise Misuse("A lease is longer than nothing.", code="malformed_lease")
    return None if lease is None else lease // _MICROSECOND


def amend(ledger: Ledger, name: str, lease: timedelta | None, fields: Mapping[str, object]) -> None:
    """As `Ledger.amended_agreement`."""
    micros = _micros(lease)

    def keep(tx: LedgerTransaction, _first: int, _now: int) -> None:
        row = tx.partner(name)
        if row is not None and row.removed_at is None:
            tx.put_partner(replace(row, lease=micros))

    ledger.record_system(EventType.PARTNER_AMENDED, {**fields, "partner": name}, keep)


def remove(ledger: Ledger, name: str, fields: Mapping[str, object]) -> None:
    """As `Ledger.remove_partner`."""

    def keep(tx: LedgerTransaction, _first: int, now: int) -> None:
        row = tx.partner(name)
        if row is not None and row.removed_at is None:
            tx.put_partner(replace(row, removed_at=now))

    ledger.record_system(EventType.PARTNER_REMOVED, {**fields, "partner": name}, keep)
    ledger.leases.forget(name)
    ledger.announce()


def rotate(ledger: Ledger, name: str, fields: Mapping[str, object]) -> None:
    """As `Ledger.rotated_key`."""

    def keep(tx: LedgerTransaction, _first: int, _now: int) -> None:
        row = tx.partner(name)
        if row is not None:
            _tell_again(tx, ledger, row)

    ledger.record_system(EventType.PARTNER_KEY_ROTATED, {**fields, "partner": name}, keep)
    ledger.announce()


def _tell_again(tx: LedgerTransaction, ledger: Ledger, row: PartnerRow, **changes: int | None) -> None:
    """Queue everything that stands once more: under another key nothing told before can be recognised."""
    waiting = standing_withdrawals(tx, row.name, ledger.policy, ledger.now(tx), row.sent_seq)
    tx.add_outbox(waiting)
    tx.put_partner(replace(row, sent_seq=row.sent_seq + len(waiting), **changes))  # type: ignore[arg-type]
