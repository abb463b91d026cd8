"""What a person sees and says through a preference link (`consent.preference_links`).

What they say is recorded as their own decision. A "no" always counts. A "yes" counts for exactly what was
shown to them: the page's form carries a MAC over that (`Choices.form`), so an old page cannot bring back
what was withdrawn since; and it names the notice that it rests on.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from consent.encoding import from_micros, to_micros
from consent.events import EVERY_PARTNER, Event, grant, refuse, withdraw
from consent.preference_links import OpenLink
from consent.purposes import EVERY_PURPOSE, Notice, Purpose, ancestry
from consent.signals import Signal, Standard, record_signal, restricted_by
from consent.state import Reason, Standing, StateKey, decide
from consent.terms import ConsentTerms, ConsentType
from privacy.errors import Misuse

if TYPE_CHECKING:
    from consent.ledger import Ledger, Recorded

__all__ = ["Choice", "Choices", "Preferences", "Saved", "Status"]

METHOD = "preference_link"


class Status(StrEnum):
    """How a choice stands."""

    ALLOWED = "allowed"
    DENIED = "denied"
    UNASKED = "unasked"
    LAPSED = "lapsed"
    """agreed to once, and that does not count any more: it ended, or the notice changed"""
    ELSEWHERE = "elsewhere"
    """said no to the partner, who told this node"""


_STATUS = {
    Reason.GRANTED: Status.ALLOWED,
    Reason.RESTRICTED: Status.DENIED,
    Reason.NO_RECORD: Status.UNASKED,
    Reason.EXPIRED: Status.LAPSED,
    Reason.NOT_COVERED: Status.LAPSED,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """One purpose with one partner. `partner` is `*` where no partner is known yet: then only a no counts.

    `signalled`: the browser sends Global Privacy Control and the purpose is a sale or sharing, so a yes
    does not count. `notice` is what a yes would rest on.
    """

    purpose: Purpose
    partner: str
    status: Status
    since: datetime | None
    signalled: bool
    notice: Notice | None

    @property
    def name(self) -> str:
        """The name of the choice in a form."""
        return f"{self.purpose.name}|{self.partner}"

    @property
    def may_allow(self) -> bool:
        elsewhere = self.status is Status.ELSEWHERE
        return (
            self.partner != EVERY_PARTNER and self.notice is not None and not self.signalled and not elsewhere
        )


@dataclass(frozen=True, slots=True)
class Choices:
    """Everything a link lets its person choose, and the MAC that a form about it must carry.

    `titles` are those of the purposes at the top of the tree, by name and language.
    """

    items: tuple[Choice, ...]
    form: str
    everything_denied: bool
    titles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Saved:
    """What became of a form: how many yeses and noes were recorded, and whether yeses were left out because
    what the person was shown had changed (`stale`) or their browser's signal says no (`signalled`)."""

    allowed: int = 0
    denied: int = 0
    stale: bool = False
    signalled: bool = False


class Preferences:
    """Reads and records choices. Thread-safe."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def choices(self, opened: OpenLink, *, signalled: bool = False) -> Choices:
        """How everything stands that the link is about. Only purposes without children are chosen among.

        `signalled`: the request carried Global Privacy Control.
        """
        policy, link = self._ledger.policy, opened.link
        wanted = link.purposes or (EVERY_PURPOSE,)
        listed = [
            purpose
            for purpose in policy.purposes.values()
            if policy.below(purpose.name, policy.version) == [purpose.name]
            and any(top in ("*", purpose.name) or purpose.name.startswith(f"{top}.") for top in wanted)
        ]
        partners = link.partners or tuple(sorted(p.name for p in self._ledger.partners())) or (EVERY_PARTNER,)
        states = self._states(opened)
        restricted = set(restricted_by(Signal(Standard.GPC, "1"), policy)) if signalled else set()
        items = []
        for purpose in listed:
            notice = next((n for n in policy.notices.values() if n.covers(purpose)), None)
            blocked = not restricted.isdisjoint(ancestry(purpose.name))
            for partner in partners:
                status, at = self._status(opened, states, purpose.name, partner)
                since = None if at is None else from_micros(at)
                items.append(Choice(purpose, partner, status, since, blocked, notice))
        form = opened.mac("form", _shown(policy.hash, items))
        if link.purposes or link.partners:
            denied = all(choice.status is Status.DENIED for choice in items)
        else:
            denied = all(map(_all_denied, states))
        titles = {name: purpose.title for name, purpose in policy.purposes.items() if "." not in name}
        return Choices(tuple(items), form, denied, titles)

    def save(
        self,
        opened: OpenLink,
        answers: Mapping[str, bool],
        form: str,
        *,
        language: str,
        screen: str = "",
        signalled: bool = False,
    ) -> Saved:
        """Record the answers (by `Choice.name`) that change something: noes always, yeses if `form` is the
        MAC of what stands now. `screen` is the hex SHA-256 of the page's template. All in one append; a
        signal of the browser is recorded after that.
        """
        with self._ledger.store.read() as view:
            # A yes takes effect when this page was judged current: against a no that is recorded in between
            # it loses.
            moment = from_micros(self._ledger.now(view) + 1)
        choices = self.choices(opened, signalled=signalled)
        current = hmac.compare_digest(choices.form.encode(), form.encode("utf-8", "replace"))
        yes: list[Event] = []
        no: list[Event] = []
        stale = blocked = False
        for choice in choices.items:
            answer = answers.get(choice.name)
            if answer is True and choice.status is not Status.ALLOWED:
                blocked = blocked or choice.signalled
                stale = stale or not current
                if current and choice.may_allow:
                    yes.append(self._yes(opened, choice, moment, language, screen))
            elif answer is False and choice.status is not Status.DENIED:
                agreed = choice.status in (Status.ALLOWED, Status.ELSEWHERE)
                make = withdraw if agreed else refuse
                no.append(
                    make(opened.identifiers, choice.purpose.name, partner=choice.partner, method=METHOD)
                )
        try:
            if yes or no:
                self._ledger.record([*no, *yes])
        except Misuse as error:
            if error.code != "back_dated_grant":
                raise
            stale, yes = True, []
            if no:
                self._ledger.record(no)
        if signalled:
            record_signal(self._ledger, opened.identifiers, Signal(Standard.GPC, "1"))
        return Saved(len(yes), len(no), stale, blocked)

    def deny_everything(self, opened: OpenLink, *, method: str = METHOD) -> Recorded | None:
        """Withdraw everything the link reaches, now and in future; None where that stands already."""
        if self.choices(opened).everything_denied:
            return None
        events = [
            withdraw(opened.identifiers, purpose, partner=partner, method=method)
            for purpose in opened.link.purposes or (EVERY_PURPOSE,)
            for partner in opened.link.partners or (EVERY_PARTNER,)
        ]
        return self._ledger.record(events)

    def ever_denied(self, opened: OpenLink) -> bool:
        """Whether the person has said no to anything, ever."""
        return any(s.restricted_at is not None for state in self._states(opened) for s in state.values())

    def _states(self, opened: OpenLink) -> list[dict[StateKey, Standing]]:
        return [self._ledger.standings(form, kind) for kind, form in opened.identifiers]

    def _status(
        self, opened: OpenLink, states: Sequence[Mapping[StateKey, Standing]], purpose: str, partner: str
    ) -> tuple[Status, int | None]:
        # Not Ledger.check: that a partner's feed is out of date keeps data from being used, and is no choice
        # of the person's.
        policy, now = self._ledger.policy, to_micros(self._ledger.clock())
        found = [decide(state, purpose, partner, max(now, _newest(state)), policy) for state in states]
        denied = next((decision for decision in found if not decision.allowed), None)
        if denied is not None:
            return _STATUS[denied.reason], denied.since
        for kind, form in opened.identifiers:
            asked = self._ledger.check(form, kind, purpose, partner)
            if asked.reason is Reason.RESTRICTED_BY_PARTNER:
                return Status.ELSEWHERE, asked.since
        return Status.ALLOWED, found[0].since

    def _yes(self, opened: OpenLink, choice: Choice, moment: datetime, language: str, screen: str) -> Event:
        notice = choice.notice
        terms = ConsentTerms(
            notice=notice.name if notice else None,
            language=language if notice and language in notice.text else None,
            ui_hash=screen or None,
            recipients=(choice.partner,),
            consent_type=ConsentType.SEPARATE,
        )
        return grant(
            opened.identifiers,
            choice.purpose.name,
            partner=choice.partner,
            effective_at=moment,
            method=METHOD,
            terms=terms,
        )


def _shown(policy: str, items: Sequence[Choice]) -> list[object]:
    return [policy, [[c.name, c.status.value, c.since and c.since.isoformat()] for c in items]]


def _newest(state: Mapping[StateKey, Standing]) -> int:
    """The newest grant: it counts at once, even if the clock has gone back since."""
    return max((s.granted_at or 0 for s in state.values()), default=0)


def _all_denied(state: Mapping[StateKey, Standing]) -> bool:
    """Whether everything with everybody was withdrawn, and nothing granted since."""
    everything = state.get((EVERY_PURPOSE, EVERY_PARTNER))
    at = None if everything is None else everything.restricted_at
    return at is not None and _newest(state) <= at
