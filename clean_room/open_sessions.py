"""The sessions a contributor has open, and every way in which one ends.

However a session ends, what it held is settled with it: a reservation that nothing was answered for goes
back, a use that came about is recorded, and nothing of the job stays on disk.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from clean_room.activations import Activations
from clean_room.admission import check_room
from clean_room.alignments import AlignmentStore
from clean_room.contributing import shown
from clean_room.errors import Misuse, PeerViolation
from clean_room.history import History
from clean_room.jobs import Job, JobError, JobState, Stage
from clean_room.journal import Journals
from clean_room.sessions import Session
from clean_room.storage import Store
from clean_room.uses import Uses
from privacy.budget import BudgetLedger
from privacy.errors import BadInput, ComityError, Tampered

__all__ = ["OpenSessions"]


class OpenSessions:
    """Sessions by job. Thread-safe."""

    def __init__(
        self,
        store: Store,
        *,
        budget: BudgetLedger,
        uses: Uses,
        history: History,
        alignments: AlignmentStore,
        activations: Activations,
        journals: Journals,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._budget = budget
        self._uses = uses
        self._history = history
        self._alignments = alignments
        self._activations = activations
        self._journals = journals
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def get(self, job: str) -> Session | None:
        """The session of a job, which may be over."""
        with self._lock:
            return self._sessions.get(job)

    def all(self) -> list[Session]:
        """Every session, those that ended a while ago included."""
        with self._lock:
            return list(self._sessions.values())

    def enter(self, session: Session) -> None:
        """Take a place for a new job's session; `TooManyJobs` if there is none."""
        with self._lock:
            check_room(session, self._sessions.values())
            self._sessions[session.job] = session

    def put(self, session: Session) -> None:
        """Put a session in the place of its job's former one."""
        with self._lock:
            self._sessions[session.job] = session

    def forget(self, session: Session) -> None:
        """Forget a session that is over."""
        with self._lock:
            self._sessions.pop(session.job, None)

    def row(self, job: str) -> Job | None:
        """The record of a job, if there is one."""
        try:
            return self._store.jobs.get(job)
        except Misuse:
            return None

    def end(self, session: Session, state: JobState, error: JobError) -> None:
        """End a session with an error. Idempotent."""
        with session.lock:
            if session.over:
                return
            if session.reservation is not None and not session.charged:
                self._budget.release(session.reservation)
            if session.charged:
                with contextlib.suppress(ComityError):  # then it is settled at the next start
                    self._uses.settle(session.job)
            else:
                self._uses.drop(session.job)
                self._history.forget(session.job)
            self._alignments.discard(session.job)
            self._activations.discard(session.job)
            session.drop()
            session.journal.discard()
            self._store.jobs.move(session.job, state, at=self._now(), error=error)

    def repeat(self, session: Session, earlier: str) -> None:
        """The question was answered before and nothing has changed: nothing is charged or leaves."""
        with session.lock:
            if session.over:
                return
            if session.reservation is not None:
                self._budget.release(session.reservation)
            row = self.row(earlier)
            session.drop()
            session.journal.discard()
            self._store.jobs.move(
                session.job,
                JobState.SUCCEEDED,
                at=self._now(),
                stage=Stage.JOINED,
                progress=1.0,
                result={"repeated_from": earlier, "epsilon_spent": 0.0},
                receipt_id=None if row is None else row.receipt_id,
            )

    def expire(self, session: Session) -> None:
        """End a session that is past its deadline."""
        if not session.over and self._clock() > session.deadline:
            waited = "nobody let the query through in time." if session.patient else None
            error = JobError("timed_out", waited or "the query was open longer than allowed.", retryable=True)
            self.end(session, JobState.TIMED_OUT, error)

    def give_up(self, row: Job, error: JobError) -> None:
        """End a job that has no session."""
        for reservation in self._budget.pending():
            if reservation.job == row.id:
                self._budget.release(reservation.id)
        self._uses.settle(row.id)
        self._history.forget(row.id)
        self._alignments.discard(row.id)
        self._activations.discard(row.id)
        self._journals.of(row.id).discard()
        self._store.jobs.move(row.id, JobState.FAILED, at=self._now(), error=error)

    @contextmanager
    def violations(self, session: Session) -> Iterator[None]:
        """A partner that breaks the protocol ends its job here; the error goes back to it as well."""
        try:
            yield
        except (PeerViolation, Tampered, BadInput) as error:
            self.end(session, JobState.FAILED, shown(error))
            raise

    def _now(self) -> str:
        return self._clock().isoformat()
