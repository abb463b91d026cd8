"""Several subjects in one event: what stood against one of them, against whom it counts from then on.

An identifier may be shared (a household's telephone) or be the same person's under another subject. Where
the two cannot be told apart the restriction wins: it spreads, and a grant by others does not lift it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from consent.encoding import from_micros
from consent.events import EVERY_PARTNER, RESTRICTING, Event, EventType
from consent.purposes import ancestry
from consent.state import Standing, StateKey

__all__ = ["carried", "related", "restricted_for", "stands"]

_NOTHING = Standing()


def stands(standing: Standing) -> bool:
    """Whether the restriction is newer than the grant of the same purpose and partner."""
    return standing.restricted_at is not None and (
        standing.granted_at is None or standing.granted_at <= standing.restricted_at
    )


def related(one: StateKey, other: StateKey) -> bool:
    """Whether a decision about `one` can change an answer about `other`."""
    return (one[0] in ancestry(other[0]) or other[0] in ancestry(one[0])) and (
        one[1] == other[1] or EVERY_PARTNER in (one[1], other[1])
    )


def restricted_for(state: Mapping[StateKey, Standing], purpose: str, partner: str) -> bool:
    """Whether a restriction that no grant has lifted stands where a grant of `purpose` would reach."""
    for key, found in state.items():
        if found.restricted_at is None or not related(key, (purpose, partner)):
            continue
        asked = purpose if key[0] in ancestry(purpose) else key[0]
        whom = (key[1] if partner == EVERY_PARTNER else partner, EVERY_PARTNER)
        granted = max(
            (s.granted_at or 0 for (p, who), s in state.items() if p in ancestry(asked) and who in whom),
            default=0,
        )
        if granted <= found.restricted_at:
            return True
    return False


def carried(
    event: Event, states: Mapping[bytes, Mapping[StateKey, Standing]], now: int
) -> list[tuple[bytes, Event]]:
    """The restrictions that each of the event's subjects takes over from the others, before the event.

    They take effect a microsecond before `now`, after every grant recorded earlier: so the event's own
    grant, which names all of them, is the newer one. Beside a restriction of the taker's own they keep
    their time, so that what was granted since stays granted.
    """
    if len(states) < 2:
        return []
    latest: dict[StateKey, tuple[int, str]] = {}
    for state in states.values():
        for key, s in state.items():
            if stands(s):
                found = (s.restricted_at or 0, s.restriction or EventType.WITHDRAWN.value)
                latest[key] = max(latest.get(key, found), found)
    moment = now if event.type in RESTRICTING else now - 1
    return [
        (handle, _restate(event, EventType(type_), key, at))
        for handle, state in states.items()
        for key, type_, at in _missing(state, latest, moment)
    ]


def _missing(
    state: Mapping[StateKey, Standing], latest: Mapping[StateKey, tuple[int, str]], moment: int
) -> Iterator[tuple[StateKey, str, int]]:
    for key, (at, type_) in sorted(latest.items()):
        mine = state.get(key, _NOTHING)
        if not stands(mine):
            yield key, type_, max(at, moment)
        elif (mine.restricted_at or 0) < at:
            yield key, type_, at


def _restate(event: Event, type_: EventType, key: StateKey, at: int) -> Event:
    return replace(
        event,
        type=type_,
        purpose=key[0],
        partner=key[1],
        purpose_version=None,
        effective_at=from_micros(at),
        expires_at=None,
        actor="controller",
        method="linked",
        details=None,
        terms=None,
    )
