"""The current state: a pure fold over events, and the decision read off it.

Per subject, purpose and partner one `Standing` remembers the latest grant and the latest restriction.
The rules:

- nothing recorded means no (default deny);
- the later of grant and restriction counts, and on a tie the restriction (withdrawal wins);
- a restriction of a parent purpose, or of every partner, reaches everything below it;
- a grant of a parent covers only the children that existed in the tree version it was given under;
- a grant older than a material change of the notice (`renotice`) does not count any more;
- expiry is evaluated at read, and an expired grant is no better than a refusal made when it was given;
- a renewal extends a grant that stands; it never revives one.

Restrictions and grants commute; renewals are read in the order of the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from consent.events import EVERY_PARTNER, RESTRICTING, EventType
from consent.purposes import EVERY_PURPOSE, PurposePolicy, ancestry

__all__ = ["Decision", "Fact", "Reason", "Standing", "StateKey", "decide", "fold", "step"]

StateKey = tuple[str, str]
"""(purpose, partner) as recorded; either may be `*`."""


class Fact(NamedTuple):
    """What the fold needs of an event. Times are microseconds since 1970 UTC; `idx` is the entry's index."""

    type: EventType
    purpose: str
    partner: str
    version: int
    effective_at: int
    expires_at: int | None
    idx: int


class Standing(NamedTuple):
    """The latest grant and the latest restriction for one (subject, purpose, partner)."""

    granted_at: int | None = None
    granted_version: int | None = None
    expires_at: int | None = None
    granted_index: int | None = None
    restricted_at: int | None = None
    restriction: str | None = None
    restricted_index: int | None = None


_NOTHING = Standing()


def step(standing: Standing | None, fact: Fact) -> Standing:
    """The standing after one more fact about the same purpose and partner."""
    s = standing or _NOTHING
    if fact.type in RESTRICTING:
        if s.restricted_at is not None and s.restricted_at >= fact.effective_at:
            return s
        return Standing(
            s.granted_at, s.granted_version, s.expires_at, s.granted_index,
            fact.effective_at, fact.type.value, fact.idx,
        )  # fmt: skip
    if fact.type is EventType.RENEWED:
        standing_now = (
            s.granted_at is not None
            and s.granted_at <= fact.effective_at
            and (s.restricted_at is None or s.granted_at > s.restricted_at)
            and (s.expires_at is None or s.expires_at > fact.effective_at)
        )
        if not standing_now:
            return s
        return Standing(
            s.granted_at, s.granted_version, fact.expires_at, fact.idx,
            s.restricted_at, s.restriction, s.restricted_index,
        )  # fmt: skip
    if fact.type is not EventType.GRANTED:
        return s
    version, expires, index = fact.version, fact.expires_at, fact.idx
    if s.granted_at is not None:
        if s.granted_at > fact.effective_at:
            return s
        if s.granted_at == fact.effective_at:
            # Two grants of the same moment: the narrower of each.
            version = min(version, s.granted_version or version)
            expires = min((e for e in (expires, s.expires_at) if e is not None), default=None)
    return Standing(
        fact.effective_at, version, expires, index, s.restricted_at, s.restriction, s.restricted_index
    )


def fold(facts: Iterable[Fact]) -> dict[StateKey, Standing]:
    """The state of one subject after these facts, given in the order of the log."""
    state: dict[StateKey, Standing] = {}
    for fact in facts:
        key = (fact.purpose, fact.partner)
        after = step(state.get(key), fact)
        if after is not _NOTHING:
            state[key] = after
    return state


class Reason(StrEnum):
    GRANTED = "granted"
    NO_RECORD = "no_record"
    RESTRICTED = "restricted"
    EXPIRED = "expired"
    NOT_COVERED = "not_covered"
    RESTRICTED_BY_PARTNER = "restricted_by_partner"
    LEASE_EXPIRED = "lease_expired"
    ERASED = "erased"


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, why, since when (microseconds), and the log entry it rests on."""

    allowed: bool
    reason: Reason
    since: int | None = None
    index: int | None = None


def decide(
    state: Mapping[StateKey, Standing], purpose: str, partner: str, at: int, policy: PurposePolicy
) -> Decision:
    """May this subject's data be used for `purpose` with `partner` at `at`? Raises UnknownPurpose."""
    wanted = policy.require(purpose)
    restricted: tuple[int, int] | None = None
    granted: tuple[int, int] | None = None
    expired: tuple[int, int] | None = None
    uncovered = False
    for above in ancestry(purpose):
        for who in (partner, EVERY_PARTNER):
            s = state.get((above, who))
            if s is None:
                continue
            if s.restricted_at is not None:
                found = (s.restricted_at, s.restricted_index or 0)
                restricted = max(restricted or found, found)
            if s.granted_at is None or s.granted_at > at or above == EVERY_PURPOSE:
                continue  # nobody agrees to everything
            if (s.granted_version or 0) < policy.oldest_grant(wanted, above):
                uncovered = True
                continue
            found = (s.granted_at, s.granted_index or 0)
            if s.expires_at is not None and s.expires_at <= at:
                expired = max(expired or found, found)
            else:
                granted = max(granted or found, found)
    latest_no = max((x[0] for x in (restricted, expired) if x), default=None)
    if granted and (latest_no is None or granted[0] > latest_no):
        return Decision(True, Reason.GRANTED, *granted)
    if restricted and (not expired or restricted[0] >= expired[0]):
        return Decision(False, Reason.RESTRICTED, *restricted)
    if expired:
        return Decision(False, Reason.EXPIRED, *expired)
    return Decision(False, Reason.NOT_COVERED if uncovered else Reason.NO_RECORD)
