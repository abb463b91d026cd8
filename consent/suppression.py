"""The erased stay erased: a keyed record of whom nothing old may bring back.

    suppression = HMAC-SHA256(K_suppression, kind ‖ 0x00 ‖ canonical)

K_suppression is used for nothing else, so a record tells nobody anything but the node that is handed the
same identifier again. It matches nothing else that is kept, and it ends: see `SUPPRESSED_FOR`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from consent.encoding import to_micros
from consent.events import GRANTING, Event, EventType, Identifier
from consent.rows import SuppressionRow
from consent.store import LedgerTransaction, LedgerView
from consent.subjects import PSEUDONYM, SubjectVault
from privacy.errors import Refused

__all__ = ["SUPPRESSED_FOR", "Suppressed", "admit", "suppressed"]

SUPPRESSED_FOR = timedelta(days=3653)
"""How long an erased person is remembered as such, unless a node says otherwise: ten years."""

_OWN_ACT = frozenset({"subject", "guardian", "agent"})


class Suppressed(Refused):
    """The person was erased, and what was asked is older than that or not their own act."""

    code = "suppressed"

    def __init__(self) -> None:
        super().__init__(
            "Somebody named here has been erased since, and may not be brought back.",
            rule="erased_stay_erased",
            advice="Only a newer grant by the person counts; an import never does.",
        )


def suppressed(
    view: LedgerView, vault: SubjectVault, identifiers: Iterable[Identifier], at: int
) -> dict[Identifier, SuppressionRow]:
    """Those of `identifiers` under which somebody was erased, unless the record has ended by `at`."""
    if not view.any_suppression():
        return {}
    named = {
        vault.suppression(i.kind, version)(i.canonical): i
        for i in dict.fromkeys(identifiers)
        if i.kind != PSEUDONYM
        for version in vault.versions
    }
    rows = view.suppressions(list(named))
    return {named[k]: row for k, row in rows.items() if row.expires_at is None or row.expires_at > at}


def admit(
    tx: LedgerTransaction, vault: SubjectVault, events: Sequence[Event], now: int, *, imported: bool
) -> None:
    """Let a batch pass, and lift suppressions by the person's own newer grants. Raises Suppressed.

    From a person's own hand a later restriction passes too: it takes nothing back.
    """
    asked = [event for event in events if imported or event.type in GRANTING]
    if not asked:
        return
    found = suppressed(tx, vault, (i for event in asked for i in event.identifiers), now)
    if not found:
        return
    lifted: list[bytes] = []
    for event in asked:
        for row in (found[i] for i in event.identifiers if i in found):
            at = now if event.effective_at is None else to_micros(event.effective_at)
            newer = event.type is EventType.GRANTED and at > row.erased_at and event.actor in _OWN_ACT
            if imported or not newer:
                raise Suppressed
            lifted.append(row.lookup)
    tx.drop_suppressions(list(dict.fromkeys(lifted)))
