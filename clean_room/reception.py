"""How a contributor takes offers in: new ones, those of a later attempt, and after a restart those it had.

An offer is in its job's journal before the job is recorded, and a job is recorded before any of its budget
is set aside: wherever this node stops, it can go on, or nothing has happened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from clean_room.admission import Admission
from clean_room.contributing import CHANGED, Contributing, shown
from clean_room.countersigning import Countersigning
from clean_room.errors import ConsentStale, Misuse, PeerUnreachable, PeerViolation
from clean_room.jobs import Job, JobError, JobState, Role, Stage
from clean_room.journal import Journals
from clean_room.open_sessions import OpenSessions
from clean_room.sessions import MOST_ATTEMPTS, RESUMING, Offered, Session, read_offer
from clean_room.storage import Store
from privacy.errors import ComityError, Refused

__all__ = ["Reception"]


class Reception:
    """Opens sessions. Calls must come one at a time."""

    def __init__(
        self,
        store: Store,
        *,
        sessions: OpenSessions,
        admission: Admission,
        work: Contributing,
        closing: Countersigning,
        journals: Journals,
        clock: Callable[[], datetime],
        allowance: timedelta,
        approval_window: timedelta,
    ) -> None:
        self._store = store
        self._open = sessions
        self._admission = admission
        self._work = work
        self._closing = closing
        self._journals = journals
        self._clock = clock
        self._allowance = allowance
        self._window = approval_window

    def first(self, partner: str, offered: Offered) -> None:
        """A new offer: check it, record the job, set its cost aside and begin."""
        row = self._open.row(offered.job)
        if row is not None and not row.over and row.role is Role.CONTRIBUTOR and row.partner == partner:
            raise PeerUnreachable("this node is taking its jobs up again after a restart.", code=RESUMING)
        if row is not None:
            raise Misuse("a job of that id is already known here.", code="already_exists")
        agreement, pin = self._admission.parties(partner, offered)
        now = self._clock()
        row = Job(
            id=offered.job,
            role=Role.CONTRIBUTOR,
            query=offered.query,
            partner=partner,
            principal=f"partner:{partner}"[:128],
            state=JobState.SUBMITTED,
            created_at=now.isoformat(),
            updated_at=now.isoformat(),
        )
        try:
            session = self._admission.session(agreement, pin, offered, deadline=now + self._allowance)
            self._open.enter(session)
        except ComityError as error:
            state = JobState.REJECTED if isinstance(error, Refused) else JobState.FAILED
            self._store.jobs.add(replace(row, state=state, error=shown(error)))
            raise
        if session.awaited:
            session.deadline = now + self._window
        # The journal first: a row that is there can be taken up again.
        session.keep()
        self._store.jobs.add(row)
        try:
            self._admission.reserve(session)
        except ComityError as error:
            self._open.end(session, JobState.REJECTED, shown(error))
            raise
        self._start(session)

    def again(self, known: Session, offered: Offered) -> None:
        """An offer for a job that is open: the same once more, or one of a later attempt."""
        with self._open.violations(known), known.lock:
            if offered.attempt <= known.attempt:
                same = hashlib.sha256(offered.raw).hexdigest() == known.offer_digest
                if offered.attempt == known.attempt and not same:
                    raise PeerViolation("an offer came twice, differently.")
                return
            if offered.query != known.asked.query or offered.attempt > MOST_ATTEMPTS:
                raise PeerViolation("an attempt is for another query, or one too many.")
            if known.charged:
                raise ConsentStale(
                    "consents changed after something had left.", rule=CHANGED, advice="Ask again."
                )
        began = known.approved and not known.begun
        try:
            session = self._admission.session(
                *self._admission.parties(known.pin.name, offered, begun=True),
                offered,
                deadline=self._clock() + self._allowance if began else known.deadline,
                period=known.budget_key.period,
            )
        except ComityError as error:
            state = JobState.REJECTED if isinstance(error, Refused) else JobState.FAILED
            self._open.end(known, state, shown(error))
            raise
        with known.lock:
            if known.over or known.charged:
                raise Misuse("this job has ended here.", code="job_over")
            known.drop()
            known.part.discard()
            session.reservation, session.stale_since = known.reservation, known.stale_since
            session.awaited, session.approved = known.awaited, known.approved
            self._open.put(session)
            self._start(session)

    def restored(self, row: Job) -> bool:
        """Take an open session up again, from its journal."""
        kept = self._journals.of(row.id).noted("session")
        if kept is None:
            self._open.give_up(
                row, JobError("interrupted", "the node stopped while the job ran.", retryable=True)
            )
            return False
        try:
            offered = read_offer(kept["document"])
            session = self._admission.session(
                *self._admission.parties(kept["partner"], offered, begun=True),
                offered,
                deadline=datetime.fromisoformat(kept["deadline"]),
                period=kept["period"],
            )
            self._admission.reserve(session)
        except ComityError as refusal:
            self._open.give_up(row, shown(refusal))
            return False
        session.awaited, session.approved, session.begun = kept["awaited"], kept["approved"], kept["begun"]
        session.charged = self._closing.was_charged(session)
        decided = self._store.approvals.get(row.id)
        if session.awaited and decided is not None:
            # The node stopped between a person's decision and what follows from it.
            session.awaited, session.approved = False, decided.decision == "approved"
            session.keep()
        session.resuming = not session.patient  # before anybody can ask
        self._open.put(session)
        if decided is not None and decided.decision == "rejected":
            self._open.end(session, JobState.REJECTED, not_approved(decided.reason))
        elif session.awaited:
            self._store.jobs.move(row.id, JobState.AWAITING_APPROVAL, at=self._now())
        elif session.patient:
            self._store.jobs.move(row.id, JobState.SUBMITTED, at=self._now())
        else:
            self._store.jobs.move(row.id, JobState.STARTED, at=self._now(), reservation=session.reservation)
            self._work.resume(session)
        return True

    def _start(self, session: Session) -> None:
        if session.awaited:
            session.keep()
            state = JobState.AWAITING_APPROVAL
        else:
            session.begun = True
            session.keep()
            state = JobState.STARTED
        self._store.jobs.move(session.job, state, at=self._now(), reservation=session.reservation)
        self._store.jobs.update(session.job, at=self._now(), stage=Stage.NONE)
        if session.begun:
            self._work.begin(session)

    def _now(self) -> str:
        return self._clock().isoformat()


def not_approved(reason: str) -> JobError:
    """What both sides are shown of a person's refusal."""
    return JobError("not_approved", f"a person of the partner did not let the query through: {reason}")
