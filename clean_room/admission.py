"""Which offers a contributor lets in: the agreement, the rules, the terms, how many at a time, the budget."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from datetime import datetime

from clean_room.agreement_book import version_mismatch
from clean_room.agreements import Agreement
from clean_room.budgets import Accounts
from clean_room.collaboration import Collaborations, PartnerPin
from clean_room.datasets import Catalogue
from clean_room.errors import PeerViolation, TooManyJobs
from clean_room.journal import Journals
from clean_room.noise import NoiseSource, plan, spent
from clean_room.protocols.messages import Offer
from clean_room.protocols.terms import RefreshTerms, parse_terms
from clean_room.questions import asked_of, read_commitment, terms_for
from clean_room.rules import AGREED, MinimumInput
from clean_room.samples import partners_sampler
from clean_room.sessions import Offered, Session
from privacy.budget import BudgetLedger, Cost
from privacy.errors import Refused

__all__ = ["Admission", "check_room"]

_MOST_SESSIONS = 32
_MOST_SESSIONS_OF_ONE = 8
_MOST_WAITING_OF_ONE = 32


class Admission:
    """Makes sessions of offers. What it decides follows from the offer, the agreement and the budget alone,
    so that after a restart an offer let in before is let in again."""

    def __init__(
        self,
        *,
        collaborations: Collaborations,
        catalogue: Catalogue,
        budget: BudgetLedger,
        noise: NoiseSource,
        journals: Journals,
        accounts: Accounts,
        clock: Callable[[], datetime],
    ) -> None:
        self._collaborations = collaborations
        self._catalogue = catalogue
        self._budget = budget
        self._noise = noise
        self._journals = journals
        self._accounts = accounts
        self._clock = clock

    def parties(self, partner: str, offered: Offered, *, begun: bool = False) -> tuple[Agreement, PartnerPin]:
        """The agreement an offer is under, and who sent it. Refused if it is not with this partner.

        That is the version in force; a job that has `begun` ends under the one it began with.
        """
        collaboration = offered.query.collaboration
        agreement = self._collaborations.agreement(collaboration)
        pin = self._collaborations.partner(collaboration)
        if pin.name != partner:
            raise Refused("that collaboration is not with this partner.", code="not_authorised")
        if begun:
            meant = parse_terms(Offer.from_bytes(offered.raw).terms).rules
            agreement = self._collaborations.under(collaboration, meant)
        return agreement, pin

    def session(
        self,
        agreement: Agreement,
        pin: PartnerPin,
        offered: Offered,
        *,
        deadline: datetime,
        period: str | None = None,
    ) -> Session:
        """The session of an offer that the rules allow; nothing is reserved or written yet.

        `period` is the month charged, by default this one. Refused, or PeerViolation for terms that are not
        what query and agreement lead to.
        """
        asked = asked_of(offered.query, agreement, pin.key.to_text())
        offer = Offer.from_bytes(offered.raw)
        theirs = parse_terms(offer.terms)
        if theirs.rules != agreement.hash:
            raise version_mismatch()
        AGREED.check(asked)
        dataset = self._catalogue[asked.query.partner_dataset]
        noise = plan(asked, self._noise)
        shared = self._collaborations.pair_key(pin.name)
        sampler = partners_sampler(asked.query, shared, agreement.hash, self._clock(), theirs)
        refresh = (theirs.epoch, theirs.number) if isinstance(theirs, RefreshTerms) else None
        terms = terms_for(asked, offered.job, noise, sampler, refresh)
        if theirs != terms:
            raise PeerViolation("the terms offered are not what the query and the agreement lead to.")
        read_commitment(offer.commitment.consent, purpose=terms.purpose)
        # Sizes are padded, so this says no only to what is too little beyond doubt.
        MinimumInput(agreement.terms.minimum_input).check(sum(offer.commitment.sizes))
        now = self._clock()
        journal = self._journals.of(offered.job)
        return Session(
            job=offered.job,
            attempt=offered.attempt,
            pin=pin,
            asked=asked,
            terms=terms,
            sampler=sampler,
            plan=spent(terms, noise),
            offer=offer,
            offer_digest=hashlib.sha256(offered.raw).hexdigest(),
            budget_key=self._accounts.key(dataset.lineage, pin, period or now.strftime("%Y-%m")),
            last_contact=now,
            deadline=deadline,
            journal=journal,
            part=journal.part(offered.attempt),
            document=offered.document,
            awaited=agreement.terms.approval == "person",
            repeats=offered.repeats,
        )

    def reserve(self, session: Session, *, repeated: bool | None = None) -> None:
        """Set the session's cost aside; the same job is charged once however often this is called.

        A repeat costs nothing: while it is only said to be one (`repeated` None), nothing is set aside.
        Raises `BudgetExhausted`.
        """
        if session.plan.epsilon > 0 and (session.repeats is None or repeated is False):
            cost = Cost(session.plan.epsilon, session.plan.delta)
            session.reservation = self._budget.reserve(session.budget_key, cost, job=session.job)


def check_room(session: Session, running: Iterable[Session]) -> None:
    """Raises `TooManyJobs` if there is no room for one more beside those."""
    others = [s for s in running if not s.over]
    if session.awaited:
        waiting = sum(s.awaited and s.pin.name == session.pin.name for s in others)
        full = waiting >= _MOST_WAITING_OF_ONE
    else:
        busy = [s.pin.name for s in others if not s.awaited]
        full = len(busy) >= _MOST_SESSIONS or busy.count(session.pin.name) >= _MOST_SESSIONS_OF_ONE
    if full:
        raise TooManyJobs("too many queries are running here.", advice="Try later.")
