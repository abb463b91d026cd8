"""The contributor's desk: answers a partner's offers, chunk by chunk, with a job row of its own.

The partner drives; this side reacts. Every request is checked and answered at once; the work is
`contributing`'s. What a session was agreed on, what came, and what was drawn is in the job's journal before
it is acknowledged: after a crash the session is rebuilt and goes on. Any request may come twice; one that
comes again differently is a breach.

Budget: reserved when an offer is accepted, committed before the first byte of a reply that depends on the
data leaves, released if the job ends before that. The use is noted at the same moment, so that a job that
ends later leaves a receipt in the consent ledger however it ends.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Set
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from clean_room.activations import Activations
from clean_room.admission import Admission
from clean_room.alignments import AlignmentStore
from clean_room.budgets import Accounts
from clean_room.collaboration import Collaborations
from clean_room.contributing import CHANGED, Contributing
from clean_room.countersigning import REPEATABLE, Countersigning, answer_to, kept_answer
from clean_room.datasets import Catalogue
from clean_room.epoch_book import EpochBook
from clean_room.errors import ConsentStale, Misuse, PeerUnreachable, PeerViolation
from clean_room.group.pool import BlindingPool
from clean_room.jobs import Job, JobError, JobState, Role, Stage, concerns
from clean_room.journal import Journals
from clean_room.noise import NoiseSource
from clean_room.open_sessions import OpenSessions
from clean_room.protocols.lifetimes import EpochOver
from clean_room.reception import Reception, not_approved
from clean_room.repeats import Repeats
from clean_room.sessions import RESUMING, Session, read_offer
from clean_room.storage import ApprovalRow, Store
from clean_room.uses import Uses
from privacy.budget import BudgetLedger
from privacy.signing import SigningKey

if TYPE_CHECKING:
    from consent.gate import ConsentGate

__all__ = ["ContributorDesk"]


class ContributorDesk:
    """All sessions in which this node contributes. Thread-safe."""

    def __init__(
        self,
        store: Store,
        *,
        collaborations: Collaborations,
        catalogue: Catalogue,
        gate: ConsentGate,
        budget: BudgetLedger,
        uses: Uses,
        alignments: AlignmentStore,
        activations: Activations,
        journals: Journals,
        identity: SigningKey,
        pool: BlindingPool,
        noise: NoiseSource,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
        threads: int,
        silence: timedelta,
        allowance: timedelta,
        approval_window: timedelta,
        accounts: Accounts,
        repeats: Repeats,
        epochs: EpochBook,
    ) -> None:
        self._store = store
        self._journals = journals
        self._clock = clock
        self._silence = silence
        self._open = OpenSessions(
            store,
            budget=budget,
            uses=uses,
            history=repeats.history,
            alignments=alignments,
            activations=activations,
            journals=journals,
            clock=clock,
        )
        self._admission = Admission(
            collaborations=collaborations,
            catalogue=catalogue,
            budget=budget,
            noise=noise,
            journals=journals,
            accounts=accounts,
            clock=clock,
        )
        self._work = Contributing(
            store,
            catalogue=catalogue,
            gate=gate,
            uses=uses,
            activations=activations,
            identity=identity,
            pool=pool,
            noise=noise,
            clock=clock,
            random=random,
            threads=threads,
            end=self._open.end,
            repeats=repeats,
            repeat=self._open.repeat,
            reserve=self._reserve,
            epochs=epochs,
        )
        self._closing = Countersigning(
            store,
            uses=uses,
            budget=budget,
            alignments=alignments,
            activations=activations,
            identity=identity,
            history=repeats.history,
            epochs=epochs,
            clock=clock,
        )
        self._reception = Reception(
            store,
            sessions=self._open,
            admission=self._admission,
            work=self._work,
            closing=self._closing,
            journals=journals,
            clock=clock,
            allowance=allowance,
            approval_window=approval_window,
        )
        self._answers: dict[str, datetime] = {}
        self._offers = threading.Lock()
        self._stopped = False

    # ── what the partner calls ──────────────────────────────────────────────────────────────────────────

    def offer(self, partner: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Check an offer against the agreement and the budget and start on it.

        An offer of a later attempt takes the place of the one before it, unless something that depends on
        the data has left. Raises `Refused` with the rule's code (the job is kept as rejected),
        `PeerViolation` for an offer whose terms are not what query and agreement lead to.
        """
        offered = read_offer(document)
        with self._offers:
            self._serving()
            known = self._open.get(offered.job)
            if known is None or known.pin.name != partner:
                if not self._is_over(partner, offered.job):
                    self._reception.first(partner, offered)
            elif not known.over:
                self._reception.again(known, offered)
            elif hashlib.sha256(offered.raw).hexdigest() != known.offer_digest:
                raise Misuse("this job has ended here.", code="job_over")
        return self.state(partner, offered.job)

    def state(self, partner: str, job: str) -> dict[str, Any]:
        """Where the job stands on this side; what replies are ready. Counts as a sign of life."""
        self._serving()
        session = self._open.get(job)
        if session is not None:
            self._open.expire(session)
            self._work.take_up(session)
        row = self._store.jobs.get(job)
        if row.role is not Role.CONTRIBUTOR or row.partner != partner:
            raise Misuse("no such job.", code="unknown_job")
        document: dict[str, Any] = {"state": row.state.value, "stage": row.stage.value, "replies": {}}
        if row.result is not None and "repeated_from" in row.result:
            document["repeats"] = row.result["repeated_from"]
        if row.error is not None:
            document["error"] = {"code": row.error.code, "detail": "", "advice": ""}
            if row.state is JobState.REJECTED:
                document["error"] |= {"detail": row.error.detail, "advice": row.error.advice}
        if session is not None and not session.over:
            with session.lock:
                session.last_contact = self._clock()
                document["stage"] = session.stage.value
                document["progress"] = round(session.progress, 4)
                document["attempt"] = session.attempt
                document["again"] = session.again
                document["epoch_over"] = session.epoch_over
                document["waits_for_consent"] = session.postponed is not None
                document["expects"] = session.expects()
                document["replies"] = {
                    str(step): outbox.manifest.document() for step, outbox in session.outboxes.items()
                }
        return document

    def chunk(self, partner: str, job: str, step: int, index: int, body: bytes) -> None:
        """Take one chunk of a message."""
        session = self._running(partner, job)
        with self._open.violations(session), session.lock:
            session.inbox(step).chunk(index, body)

    def finish(self, partner: str, job: str, step: int, manifest: object) -> None:
        """The message is whole: check it and start on it."""
        session = self._running(partner, job)
        with self._open.violations(session), session.lock:
            payload = session.finish(step, manifest)
            if payload is None:
                return
            if session.stage is Stage.INVITED:
                session.stage = Stage.CONTRIBUTED
                self._store.jobs.update(session.job, at=self._now(), stage=session.stage)
        self._work.go_on(session, step, payload)

    def reply(self, partner: str, job: str, step: int, index: int) -> bytes:
        """One chunk of a reply. Before the first that depends on the data, the budget is charged for good."""
        session = self._running(partner, job)
        with session.lock:
            outbox = session.outboxes.get(step)
            if outbox is None:
                raise PeerViolation("a reply was asked for before it is there.")
            if step > 0 and not session.charged:
                self._still_willing(session)
                self._charge(session)
            return outbox.chunk(index)

    def sign_off(self, partner: str, job: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Check the analyst's seal and half of the receipt, sign both, file the receipt and end the job.

        The same request again gets the same answer, for a day.
        """
        session = self._open.get(job)
        if session is None or session.over:
            answer = self._answered(partner, job, document)
            if answer is not None:
                return answer
        session = self._running(partner, job)
        with self._open.violations(session), session.lock:
            if session.over:  # another request with the same content was first
                return self._answered(partner, job, document) or {}
            signed, answer = self._closing.countersign(session, document)
            session.journal.note("answer", kept_answer(document, answer, self._clock()))
            self._answers[job] = self._clock() + REPEATABLE
            self._store.jobs.move(
                job,
                JobState.SUCCEEDED,
                at=self._now(),
                stage=Stage.JOINED,
                progress=1.0,
                receipt_id=signed.id,
            )
            session.drop()
            session.journal.empty(but="answer")
            return answer

    def cancel(self, partner: str, job: str, document: Mapping[str, Any]) -> None:
        """The analyst gives up: because somebody cancelled, or because its side failed."""
        session = self._open.get(job)
        if session is None or session.pin.name != partner or session.over:
            return
        if document.get("code") == "cancelled":
            self._open.end(
                session, JobState.CANCELLED, JobError("cancelled", "the analyst cancelled the query.")
            )
        elif document.get("code") == "timed_out":
            error = JobError("timed_out", "the analyst's node has waited too long.", retryable=True)
            self._open.end(session, JobState.TIMED_OUT, error)
        else:
            error = JobError("peer_failed", "the analyst's node could not go on with the query.")
            self._open.end(session, JobState.FAILED, error)

    # ── what this node calls ────────────────────────────────────────────────────────────────────────────

    def withdraw(self, job: str) -> bool:
        """A person of this node cancels a running contribution."""
        session = self._open.get(job)
        if session is None or session.over:
            return False
        self._open.end(session, JobState.CANCELLED, JobError("cancelled", "cancelled by the contributor."))
        return True

    def approve(self, job: str, *, principal: str, reason: str = "") -> Job:
        """A person lets a waiting query through; the analyst's node then begins it."""
        session = self._awaiting(job)
        with session.lock:
            self._decide(job, "approved", principal, reason)
            session.awaited, session.approved = False, True
            session.keep()
            self._store.jobs.move(job, JobState.SUBMITTED, at=self._now())
        return self._store.jobs.get(job)

    def reject(self, job: str, *, principal: str, reason: str) -> Job:
        """A person refuses a waiting query; the analyst is shown the reason."""
        session = self._awaiting(job)
        with session.lock:
            self._decide(job, "rejected", principal, reason)
            self._open.end(session, JobState.REJECTED, not_approved(reason))
        return self._store.jobs.get(job)

    def enforce(self, partner: str, purposes: Set[str]) -> int:
        """The partner's opt-outs reach these purposes: ask consent again before anything more leaves.

        Returns how many running contributions were told; whether anybody in them is concerned is not said.
        """
        sessions = [s for s in self._open.all() if s.pin.name == partner and not s.over]
        told = [s for s in sessions if concerns(s.asked.query, purposes)]
        for session in told:
            session.doubtful = True
        return len(told)

    def restore(self) -> list[str]:
        """After a restart: take up the sessions that were open. Returns the jobs that could not be.

        Only to be called before anything else is.
        """
        rows = [row for row in self._store.jobs.unfinished() if row.role is Role.CONTRIBUTOR]
        return [row.id for row in rows if not self._reception.restored(row)]

    def keep_answer(self, job: str) -> bool:
        """After a restart: whether the journal of a job that is over holds an answer still to be kept."""
        kept = self._journals.of(job).noted("answer")
        if kept is None:
            return False
        self._answers[job] = datetime.fromisoformat(kept["until"])
        self._journals.of(job).empty(but="answer")
        return True

    def holds(self, job: str) -> bool:
        """Whether the job has a session that goes on."""
        session = self._open.get(job)
        return session is not None and not session.over

    def sweep(self) -> None:
        """End sessions that are silent or open for too long; forget those that ended long ago."""
        now = self._clock()
        for session in self._open.all():
            self._open.expire(session)
            if session.over:
                if now - session.last_contact >= self._silence:
                    self._open.forget(session)
                continue
            self._work.take_up(session)
            if not session.patient and now - session.last_contact >= self._silence:
                error = JobError("timed_out", "the analyst's node has gone silent.", retryable=True)
                self._open.end(session, JobState.TIMED_OUT, error)
        for job in [job for job, until in list(self._answers.items()) if until <= now]:
            self._journals.of(job).discard()
            self._answers.pop(job, None)

    def close(self) -> None:
        """Stop; what is open goes on when the node is started again."""
        self._stopped = True
        for session in self._open.all():
            with session.lock:
                session.drop()
        self._work.close()

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────

    def _reserve(self, session: Session) -> None:
        """Once it is known that a question is no repeat; nothing for a session that has ended meanwhile."""
        with session.lock:
            if not session.over:
                self._admission.reserve(session, repeated=False)

    def _answered(self, partner: str, job: str, document: Mapping[str, Any]) -> dict[str, Any] | None:
        """What this very sign-off was answered before, if it was."""
        row = self._open.row(job)
        if row is None or row.partner != partner or row.role is not Role.CONTRIBUTOR:
            return None
        kept = self._journals.of(job).noted("answer")
        return None if kept is None else answer_to(document, kept)

    def _decide(self, job: str, decision: str, principal: str, reason: str) -> None:
        if len(reason) > 500 or not reason.isprintable():
            raise Misuse("a reason has at most 500 printable characters.", code="malformed_request")
        row = ApprovalRow(job=job, decision=decision, principal=principal, reason=reason, at=self._now())
        self._store.approvals.add(row)

    def _awaiting(self, job: str) -> Session:
        row = self._store.jobs.get(job)
        session = self._open.get(job)
        if row.role is not Role.CONTRIBUTOR or session is None or session.over or not session.awaited:
            raise Misuse("that job does not wait for an approval.", code="wrong_state")
        return session

    def _still_willing(self, session: Session) -> None:
        """Before the first byte that depends on the data leaves: has somebody in it opted out since?"""
        try:
            self._work.ask_again(session)
        except ConsentStale as error:
            session.again = session.again or error.rule == CHANGED
            raise

    def _charge(self, session: Session) -> None:
        try:
            self._closing.charge(session)
        except EpochOver:
            session.again = session.epoch_over = True
            raise ConsentStale(
                "another query has gone on with that epoch.", rule=CHANGED, advice="Ask again."
            ) from None

    def _is_over(self, partner: str, job: str) -> bool:
        """Whether the partner asks about a job that has ended here, maybe before this node restarted."""
        row = self._open.row(job)
        return row is not None and row.over and row.role is Role.CONTRIBUTOR and row.partner == partner

    def _running(self, partner: str, job: str) -> Session:
        self._serving()
        session = self._open.get(job)
        if session is None or session.pin.name != partner:
            row = self._store.jobs.get(job)
            if row.partner != partner or row.role is not Role.CONTRIBUTOR:
                raise Misuse("no such job.", code="unknown_job")
            if not row.over:
                raise PeerUnreachable("this node is taking its jobs up again.", code=RESUMING)
            raise Misuse("this job has ended here.", code="job_over")
        self._open.expire(session)
        if session.over:
            raise Misuse("this job has ended here.", code="job_over")
        session.last_contact = self._clock()
        if session.resuming:
            raise PeerUnreachable("this node is taking the job up again after a restart.", code=RESUMING)
        return session

    def _serving(self) -> None:
        if self._stopped:
            raise PeerUnreachable("this node is stopping.", code="stopping")

    def _now(self) -> str:
        return self._clock().isoformat()
