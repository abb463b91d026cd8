"""The copy of their record that a person may ask for: everything kept about them, in one document.

It holds what no other output does: their identifiers, and every payload with the salt that opens its entry
in the log. To be handed to them alone, and best before they are erased.
"""

from __future__ import annotations

from collections.abc import Sequence

from consent.encoding import from_micros, render_time
from consent.events import Identifier
from consent.ledger import Ledger
from consent.proofs import to_base64
from consent.state import Standing, StateKey
from consent.store import LedgerView
from consent.subject_receipts import openings_about
from consent.trace import Trace
from privacy.errors import Misuse

__all__ = ["access_copy"]

_PAGE = 1000


def access_copy(ledger: Ledger, identifiers: Sequence[tuple[str, bytes]]) -> dict[str, object]:
    """Everything about the person with these canonical identifiers, as JSON values.

    Raises Misuse: `unknown_subject` for somebody of whom nothing is kept, `several_people`.
    """
    named = [Identifier(*i) for i in identifiers]
    with ledger.store.read() as view:
        ledger.now(view)
        lookups = [ledger.vault.lookup(i.kind)(i.canonical) for i in named]
        handles = list(dict.fromkeys(view.find_subjects(lookups).values()))
        if not handles:
            raise Misuse("Nothing is recorded about this person.", code="unknown_subject")
        if len(handles) > 1:
            raise Misuse(
                "These identifiers belong to several people's records.",
                advice="Ask by one identifier at a time.",
                code="several_people",
            )
        subject = handles[0]
        everyone = [subject, *(part for part, _ in view.merged_parts(subject))]
        row = view.subjects([subject])[subject]
        document = {
            "subject": subject.hex(),
            "merged": [part.hex() for part in everyone[1:]],
            "identifiers": [
                {"kind": kind, "value": canonical.decode("utf-8", "replace")}
                for kind, canonical in ledger.vault.open_identifiers(row)
            ],
            "known_since": from_micros(row.created_at),
            "entries": _entries(ledger, view, everyone),
            "standing": _standing(view.standings_of([subject]).get(subject, {})),
            "told": _told(view, everyone),
            "log": {"origin": ledger.origin, "vkey": ledger.vkey},
        }
    return {**document, "uses": _uses(ledger, subject)}


def _entries(ledger: Ledger, view: LedgerView, everyone: Sequence[bytes]) -> list[dict[str, object]]:
    found = sorted(
        (entry for handle in everyone for entry in openings_about(view, ledger.vault, handle)),
        key=lambda entry: entry[0],
    )
    return [
        {
            "index": index,
            "type": leaf.type,
            "recorded_at": render_time(leaf.recorded_at),
            "payload": body,
            "salt": to_base64(opening.salt),
            "entry": to_base64(leaf.to_bytes()),
        }
        for index, leaf, opening, body in found
    ]


def _standing(state: dict[StateKey, Standing]) -> list[dict[str, object]]:
    def when(micros: int | None) -> str | None:
        return None if micros is None else render_time(micros)

    return [
        {
            "purpose": purpose,
            "partner": partner,
            "granted_at": when(s.granted_at),
            "expires_at": when(s.expires_at),
            "restricted_at": when(s.restricted_at),
            "restriction": s.restriction,
        }
        for (purpose, partner), s in sorted(state.items())
    ]


def _told(view: LedgerView, everyone: Sequence[bytes]) -> list[dict[str, object]]:
    rows = [row for handle in everyone for row in view.outbox_of(handle)]
    return [
        {
            "partner": row.partner,
            "entry": row.idx,
            "type": row.type,
            "recorded_at": render_time(row.recorded_at),
            "enforced_at": None if row.enforced_at is None else render_time(row.enforced_at),
        }
        for row in sorted(rows, key=lambda row: (row.idx, row.partner))
    ]


def _uses(ledger: Ledger, subject: bytes) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    trace, after = Trace(ledger), -1
    while True:
        report = trace.of_subject(subject, after=after, limit=_PAGE)
        found.extend({"index": use.index, **use.receipt.to_dict()} for use in report.uses)
        if report.next is None:
            return found
        after = report.next
