"""What decisions of people say beside who decided: counted over a period, one person's history at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from consent.audit.facts import Decisions, NoticeUse, Route, SeparateConsent
from consent.audit.reading import Opened
from consent.events import GRANTING, RESTRICTING, EventType
from consent.laws import Demand, Law, law_of
from consent.purposes import PurposePolicy
from consent.state import Standing, StateKey, decide

__all__ = ["DecisionTally"]

_GRANTING = {t.value for t in GRANTING}
_ENOUGH = {
    Demand.EXPLICIT: {"explicit", "separate", "written"},
    Demand.SEPARATE: {"separate", "written"},
    Demand.WRITTEN: {"written"},
}
_DECISIONS = {t.value for t in (*GRANTING, *RESTRICTING)}
_NOTICE = ("notice", "notice_version", "language", "notice_hash")
_FEED = ("partner", "feed")


@dataclass(eq=False)
class DecisionTally:
    """Adds up histories. `first` bounds the period from below (an entry index), `at` is its end (µs)."""

    first: int
    at: int
    policy: PurposePolicy
    law: Law
    total: int = 0
    heard: int = 0
    by_purpose: dict[str, Counter[str]] = field(default_factory=dict)
    by_field: dict[str, Counter[str]] = field(default_factory=dict)
    notices: Counter[tuple[str, str, str, str, str]] = field(default_factory=Counter)
    missing_notice: Counter[str] = field(default_factory=Counter)
    signals: Counter[str] = field(default_factory=Counter)
    routes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    standing: Counter[str] = field(default_factory=Counter)
    separate: Counter[str] = field(default_factory=Counter)

    def add(self, history: Sequence[Opened], state: Mapping[StateKey, Standing]) -> None:
        """Count one person: decisions of the period, and the lines that stand at its end."""
        for event in history:
            if event.idx >= self.first:
                if event.leaf.type in _DECISIONS:
                    self._decision(event)
                elif event.leaf.type == EventType.SIGNAL_RECEIVED.value:
                    self.signals[str(event.body.get("signal", "unknown"))] += 1
        by_index = {event.idx: event for event in history}
        for (purpose, partner), standing in state.items():
            if standing.granted_index is None or purpose not in self.policy.purposes:
                continue
            if not decide(state, purpose, partner, self.at, self.policy).allowed:
                continue
            forms = self._forms(purpose)
            if forms:
                self.standing[purpose] += 1
                granted = by_index.get(standing.granted_index)
                self.separate[purpose] += granted is not None and _consent_type(granted, history) in forms

    def _decision(self, event: Opened) -> None:
        body, type_ = event.body, event.leaf.type
        self.total += 1
        if (body.get("actor"), body.get("method")) == _FEED:
            self.heard += 1
        purpose = str(body.get("purpose"))
        self.by_purpose.setdefault(purpose, Counter())[type_] += 1
        for name in ("basis", "actor", "method"):
            self.by_field.setdefault(name, Counter())[str(body.get(name))] += 1
        jurisdiction = body.get("jurisdiction")
        law = law_of(str(jurisdiction)) if jurisdiction else None
        stated = "unstated" if not jurisdiction else "other" if law is None else law.name
        self.by_field.setdefault("law", Counter())[stated] += 1
        if type_ not in _GRANTING:
            return
        self.by_field.setdefault("consent_type", Counter())[str(body.get("consent_type", "unstated"))] += 1
        if "notice" in body:
            name, version, language, hash_ = (str(body.get(field_, "")) for field_ in _NOTICE)
            self.notices[name, version, language, hash_, purpose] += 1
        else:
            self.missing_notice[purpose] += 1
        if "transfer_country" in body or "transfer_route" in body:
            place = (purpose, str(body.get("transfer_country", "")), str(body.get("transfer_route", "")))
            self.routes[place] += 1

    def _forms(self, purpose: str) -> set[str]:
        """The consent types that are enough for a purpose under the law; empty where any is."""
        forms: set[str] = set()
        for rule in self.law.separate_consent(self.policy.require(purpose).traits):
            wanted = _ENOUGH[rule.demands]
            forms = wanted if not forms else forms & wanted
        return forms

    # what came out

    def decisions(self) -> Decisions:
        def counts(name: str) -> dict[str, int]:
            return dict(sorted(self.by_field.get(name, {}).items()))

        return Decisions(
            total=self.total,
            heard=self.heard,
            by_purpose={p: dict(sorted(c.items())) for p, c in sorted(self.by_purpose.items())},
            by_basis=counts("basis"),
            by_actor=counts("actor"),
            by_method=counts("method"),
            by_law=counts("law"),
            by_consent_type=counts("consent_type"),
        )

    def notices_used(self) -> tuple[NoticeUse, ...]:
        return tuple(
            NoticeUse(*texts, grants=n, current=self._current(texts))
            for texts, n in sorted(self.notices.items())
        )

    def _current(self, texts: tuple[str, str, str, str, str]) -> bool:
        name, version, language, hash_, _ = texts
        notice = self.policy.notices.get(name)
        return (
            notice is not None
            and str(notice.version) == version
            and language in notice.text
            and notice.hash(language) == hash_
        )

    def separate_consents(self) -> tuple[SeparateConsent, ...]:
        found = []
        for name, purpose in sorted(self.policy.purposes.items()):
            rules = self.law.separate_consent(purpose.traits)
            if rules:
                articles = tuple(dict.fromkeys(rule.article for rule in rules))
                found.append(SeparateConsent(name, articles, self.standing[name], self.separate[name]))
        return tuple(found)

    def exports(self) -> tuple[Route, ...]:
        return tuple(Route(*place, grants=n) for place, n in sorted(self.routes.items()))


def _consent_type(granted: Opened, history: Sequence[Opened]) -> str:
    """How consent was given: as the grant says, or, for a renewal that is silent, the grant it renews."""
    line = (granted.body.get("purpose"), granted.body.get("partner"))
    for event in sorted(history, key=lambda e: -e.idx):
        same = (event.body.get("purpose"), event.body.get("partner")) == line
        if event.idx <= granted.idx and same and event.leaf.type in _GRANTING:
            if "consent_type" in event.body:
                return str(event.body["consent_type"])
            if event.leaf.type == "consent.granted":
                break
    return "unstated"
