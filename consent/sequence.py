"""Whether decisions fit what is already recorded about the same person.

Asked inside the transaction that records them, after the events of the batch that come before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from consent.errors import InvalidConsent
from consent.events import EVERY_PARTNER, Event, EventType
from consent.purposes import ancestry
from consent.state import Fact, Standing, StateKey, step
from consent.store import LedgerView

__all__ = ["back_dated", "in_sequence"]


def back_dated(state: Mapping[StateKey, Standing], fact: Fact) -> bool:
    """Whether a grant is dated before a restriction of the same line of purposes that stands.

    One that repeats the grant in the state, to the microsecond, is not: it changes nothing.
    """
    same = state.get((fact.purpose, fact.partner))
    if same is not None and same.granted_at == fact.effective_at:
        return False
    line = [
        standing
        for purpose in ancestry(fact.purpose)
        for partner in {fact.partner, EVERY_PARTNER}
        if (standing := state.get((purpose, partner))) is not None
    ]
    restricted = max((s.restricted_at for s in line if s.restricted_at is not None), default=None)
    if restricted is None or fact.effective_at >= restricted:
        return False
    return max((s.granted_at for s in line if s.granted_at is not None), default=restricted) <= restricted


def in_sequence(
    tx: LedgerView, events: Sequence[Event], decided: Sequence[tuple[bytes, Event, Fact]], new: set[bytes]
) -> None:
    """Raises InvalidConsent: `back_dated_grant`, `unknown_previous`, with every event's position in `events`.

    `decided` has one (handle, event, fact) for each subject that an event is about, in order; `new` are
    the handles that no event was about before.
    """
    dated = {
        handle
        for handle, event, _ in decided
        if event.type is EventType.GRANTED and event.effective_at is not None
    }
    continued = any(e.terms is not None and e.terms.previous is not None for e in events)
    if not dated and not continued:
        return
    states = tx.standings_of([handle for handle in dated if handle not in new]) if dated - new else {}
    wrong: dict[int, str] = {}  # by identity: an event may stand in a batch more than once
    for handle, event, fact in decided:
        if continued and not _continues(tx, event, handle):
            wrong[id(event)] = "unknown_previous"
        if handle not in dated:
            continue
        state = states.setdefault(handle, {})
        if event.type is EventType.GRANTED and event.effective_at is not None and back_dated(state, fact):
            wrong[id(event)] = "back_dated_grant"
            continue
        key = (fact.purpose, fact.partner)
        state[key] = step(state.get(key), fact)
    if wrong:
        raise _invalid({i: wrong[id(event)] for i, event in enumerate(events) if id(event) in wrong})


def _continues(tx: LedgerView, event: Event, handle: bytes) -> bool:
    """Whether the entry named as the previous one, if any, is about the same person."""
    previous = event.terms.previous if event.terms is not None else None
    if previous is None:
        return True
    rows = tx.entries(previous, previous + 1)
    side = tx.side(rows[0].side) if rows else None
    return side is not None and side.subject == handle


def _invalid(wrong: dict[int, str]) -> InvalidConsent:
    position = min(wrong)
    if wrong[position] == "back_dated_grant":
        error = InvalidConsent(
            "The grant is dated before a withdrawal or refusal that stands.",
            code="back_dated_grant",
            rule="back_dated_grant",
            advice="Only a decision made after it can lift it.",
            position=position,
        )
    else:
        error = InvalidConsent(
            "The entry named as previous is not about this person.",
            code="unknown_previous",
            rule="previous",
            position=position,
        )
    error.positions.update(wrong)
    return error
