"""How consents stood over time: one person's history replayed, summed over everybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from consent.audit.facts import Bucket, Lines
from consent.encoding import render_time
from consent.events import GRANTING, RESTRICTING, EventType
from consent.purposes import EVERY_PURPOSE, PurposePolicy
from consent.state import Fact, Reason, Standing, StateKey, decide, step

__all__ = ["LineTally", "Stretches", "classify", "replay"]

_STEPS = (60, 300, 900, 3_600, 21_600, 86_400, 604_800, 2_592_000, 31_536_000)  # seconds
_MOST = 64


@dataclass(frozen=True, slots=True)
class Stretches:
    """The period cut into at most 64 equal stretches of a round length. Times are microseconds."""

    since: int
    until: int
    step: int

    @classmethod
    def of(cls, since: int, until: int) -> Stretches:
        span = max(until - since, 1)
        second = 1_000_000
        for step_ in _STEPS:
            start = since - since % (step_ * second)
            if (until - start) / (step_ * second) <= _MOST:
                return cls(start, until, step_ * second)
        length = -(-span // (_MOST - 1))
        return cls(since, until, length)

    @property
    def count(self) -> int:
        return max(1, -(-(self.until - self.since) // self.step))

    def place(self, moment: int) -> int:
        """The stretch that `moment` falls into; -1 before the period."""
        if moment < self.since:
            return -1
        return min((moment - self.since) // self.step, self.count - 1)


def replay(
    facts: Sequence[tuple[Fact, int]], policy: PurposePolicy, until: int
) -> Iterator[tuple[int, StateKey, bool]]:
    """(moment, line, allowed) at each change of a granted line, from (fact, recorded_at) in log order."""
    state: dict[StateKey, Standing] = {}
    allowed: dict[StateKey, bool] = {}
    for place, (fact, recorded) in enumerate(facts):
        key = (fact.purpose, fact.partner)
        state[key] = step(state.get(key), fact)
        if state[key].granted_at is not None and fact.purpose in policy.purposes:
            allowed.setdefault(key, False)
        ends = facts[place + 1][1] if place + 1 < len(facts) else until
        for moment in (recorded, *_expiries(state, recorded, ends)):
            for line, before in allowed.items():
                now = decide(state, *line, moment, policy).allowed
                if now != before:
                    allowed[line] = now
                    yield moment, line, now


def _expiries(state: dict[StateKey, Standing], after: int, until: int) -> list[int]:
    ends = {s.expires_at for s in state.values() if s.expires_at is not None}
    return sorted(end for end in ends if after < end < until)


def classify(state: dict[StateKey, Standing], line: StateKey, at: int, policy: PurposePolicy) -> str:
    """The field of `Lines` that a line counts for."""
    granted = state[line].granted_at is not None
    if not granted or line[0] == EVERY_PURPOSE:
        return "refused"
    if line[0] not in policy.purposes:
        return "stale"
    decision = decide(state, *line, at, policy)
    if decision.allowed:
        return "standing"
    if decision.reason is Reason.EXPIRED:
        return "expired"
    return "stale" if decision.reason in (Reason.NOT_COVERED, Reason.NO_RECORD) else "withdrawn"


@dataclass(eq=False)
class LineTally:
    """Adds up people: how their lines stand at the end, and when that changed."""

    stretches: Stretches
    policy: PurposePolicy
    until: int
    people: int = 0
    grants: Counter[int] = field(default_factory=Counter)
    restrictions: Counter[int] = field(default_factory=Counter)
    changes: Counter[int] = field(default_factory=Counter)
    lines: dict[str, Counter[str]] = field(default_factory=dict)

    def add(
        self, facts: Sequence[tuple[Fact, int]], merged_at: int | None = None
    ) -> dict[StateKey, Standing]:
        """Count one person's history; returns where they stand.

        With `merged_at`, when the record became part of another's: it stood on its own until then only.
        """
        if merged_at is not None and merged_at <= self.until:
            last: dict[StateKey, bool] = {}
            for moment, line, now in replay(facts, self.policy, merged_at):
                self.changes[self.stretches.place(moment)] += 1 if now else -1
                last[line] = now
            self.changes[self.stretches.place(merged_at)] -= sum(last.values())
            return {}
        state: dict[StateKey, Standing] = {}
        for fact, _ in facts:
            key = (fact.purpose, fact.partner)
            state[key] = step(state.get(key), fact)
        state = {key: s for key, s in state.items() if s != Standing()}
        if not facts:
            return state
        self.people += 1
        for moment, _, now in replay(facts, self.policy, self.until):
            self.changes[self.stretches.place(moment)] += 1 if now else -1
        for line in state:
            self.lines.setdefault(line[0], Counter())[classify(state, line, self.until, self.policy)] += 1
        return state

    def entry(self, type_: str, recorded: int) -> None:
        """Count one log entry of the period, by its type and time alone."""
        if type_ in _GRANTS:
            self.grants[self.stretches.place(recorded)] += 1
        elif type_ in _RESTRICTIONS:
            self.restrictions[self.stretches.place(recorded)] += 1

    def by_purpose(self) -> dict[str, Lines]:
        return {purpose: Lines(**counts) for purpose, counts in sorted(self.lines.items())}

    def opening(self) -> int:
        """Lines standing before the period."""
        return self.changes[-1]

    def timeline(self) -> tuple[Bucket, ...]:
        standing, found = self.opening(), []
        for place in range(self.stretches.count):
            standing += self.changes[place]
            start = render_time(self.stretches.since + place * self.stretches.step)
            found.append(Bucket(start, self.grants[place], self.restrictions[place], standing))
        return tuple(found)


_GRANTS = {t.value for t in GRANTING}
_RESTRICTIONS = {t.value for t in RESTRICTING} - {EventType.EXPIRED.value}
