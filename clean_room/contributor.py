"""The contributor's desk: answers a partner's offers, chunk by chunk, with a job row of its own.

The partner drives; this side reacts. Every request is checked and answered at once; reading, hashing and
blinding happen on the desk's own threads, which never wait for a partner. What a session holds is in
memory only: after a crash nothing half-received is left, and the job is marked failed at the next start.

Budget: reserved when an offer is accepted, committed before the first byte of a reply that depends on the
data leaves, released if the job ends before that. The use is noted at the same moment, so that a job that
ends later leaves a receipt in the consent ledger however it ends.

Consent: asked for when the offer is accepted, and again when the analyst's points come if the ledger has
grown since; a job has a deadline, so neither answer is used for long.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from clean_room.alignments import Alignment, AlignmentStore
from clean_room.armour import armoured, unarmoured
from clean_room.collaboration import Collaborations, PartnerPin
from clean_room.conversations import Workshop, contribute
from clean_room.datasets import Catalogue
from clean_room.errors import ConsentStale, Misuse, PeerViolation
from clean_room.group.pool import BlindingPool
from clean_room.inputs import QueryInput, prepare, still_allowed
from clean_room.jobs import Job, JobError, JobState, Role, Stage, concerns
from clean_room.noise import NoiseSource, plan
from clean_room.protocols.attestation import Attestation
from clean_room.protocols.messages import Accept, Offer, Seal, chained
from clean_room.protocols.terms import parse_terms
from clean_room.questions import asked_of, read_commitment, terms_for
from clean_room.receipts import Receipt, receipt_body
from clean_room.rules import AGREED, Asked, MinimumInput
from clean_room.sessions import Session, message_limit, read_offer, read_time
from clean_room.storage import ReceiptRow, Store
from clean_room.transport import Inbox, Manifest, Outbox
from clean_room.uses import Uses, use_of
from consent.encoding import canonical_json
from privacy.budget import BudgetKey, BudgetLedger, Cost
from privacy.errors import BadInput, ComityError, Refused, Tampered
from privacy.signing import SigningKey

if TYPE_CHECKING:
    from consent.gate import ConsentGate

__all__ = ["ContributorDesk"]

_MOST_SESSIONS = 32
_MOST_SESSIONS_OF_ONE = 8
# A grant may run out without an entry in the ledger; an answer of the gate is not relied on for longer.
_CONSENT_FRESH = timedelta(minutes=1)


class _Ended(Exception):
    pass


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
        identity: SigningKey,
        pool: BlindingPool,
        noise: NoiseSource,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
        threads: int,
        silence: timedelta,
        allowance: timedelta,
    ) -> None:
        self._store = store
        self._collaborations = collaborations
        self._catalogue = catalogue
        self._gate = gate
        self._budget = budget
        self._uses = uses
        self._alignments = alignments
        self._identity = identity
        self._pool = pool
        self._noise = noise
        self._clock = clock
        self._random = random
        self._silence = silence
        self._allowance = allowance
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="contributor")
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    # ── what the partner calls ──────────────────────────────────────────────────────────────────────────

    def offer(self, partner: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Check an offer against the agreement and the budget and start on it.

        Raises `Refused` with the rule's code (the job is kept as rejected), `PeerViolation` for an offer
        whose terms are not what query and agreement lead to.
        """
        job, query, raw = read_offer(document)
        digest = hashlib.sha256(raw).hexdigest()
        known = self._session(job)
        if known is not None and known.pin.name == partner and known.offer_digest == digest:
            return self.state(partner, job)
        agreement = self._collaborations.agreement(query.collaboration)
        pin = self._collaborations.partner(query.collaboration)
        if pin.name != partner:
            raise Refused("that collaboration is not with this partner.", code="not_authorised")
        now = self._clock()
        self._store.jobs.add(
            Job(
                id=job,
                role=Role.CONTRIBUTOR,
                query=query,
                partner=partner,
                principal=f"partner:{partner}"[:128],
                state=JobState.SUBMITTED,
                created_at=now.isoformat(),
                updated_at=now.isoformat(),
            )
        )
        try:
            asked = asked_of(query, agreement, pin.key.to_text())
            session = self._admit(job, asked, pin, raw, digest)
        except ComityError as error:
            state = JobState.REJECTED if isinstance(error, Refused) else JobState.FAILED
            self._store.jobs.move(job, state, at=self._now(), error=_shown(error))
            raise
        self._store.jobs.move(job, JobState.STARTED, at=self._now(), reservation=session.reservation)
        self._threads.submit(self._work, session, self._begin)
        return self.state(partner, job)

    def state(self, partner: str, job: str) -> dict[str, Any]:
        """Where the job stands on this side; what replies are ready. Counts as a sign of life."""
        session = self._session(job)
        if session is not None:
            self._expire(session)
        row = self._store.jobs.get(job)
        if row.role is not Role.CONTRIBUTOR or row.partner != partner:
            raise Misuse("no such job.", code="unknown_job")
        document: dict[str, Any] = {"state": row.state.value, "stage": row.stage.value, "replies": {}}
        if row.error is not None:
            document["error"] = {"code": row.error.code, "detail": "", "advice": ""}
            if row.state is JobState.REJECTED:
                document["error"] |= {"detail": row.error.detail, "advice": row.error.advice}
        if session is not None and not session.over:
            with session.lock:
                session.last_contact = self._clock()
                document["stage"] = session.stage.value
                document["progress"] = round(session.progress, 4)
                document["replies"] = {
                    str(step): outbox.manifest.document() for step, outbox in session.outboxes.items()
                }
        return document

    def chunk(self, partner: str, job: str, step: int, index: int, body: bytes) -> None:
        """Take one chunk of a message."""
        session = self._running(partner, job)
        with self._violations(session), session.lock:
            self._inbox(session, step).chunk(index, body)

    def finish(self, partner: str, job: str, step: int, manifest: object) -> None:
        """The message is whole: check it and start on it."""
        session = self._running(partner, job)
        with self._violations(session), session.lock:
            inbox = self._inbox(session, step)
            payload = inbox.finish(Manifest.from_document(manifest, limit=inbox.limit))
            if payload is None:
                return
            session.expected = step + 1
            if session.stage is Stage.INVITED:
                self._reach(session, Stage.CONTRIBUTED)
        self._threads.submit(self._work, session, lambda s: self._continue(s, step, payload))

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
        """Check the analyst's seal and half of the receipt, sign both, file the receipt and end the job."""
        known = self._session(job)
        if known is not None and known.answer is not None and known.pin.name == partner:
            return known.answer
        session = self._running(partner, job)
        with self._violations(session), session.lock:
            if session.answer is not None:
                return session.answer
            finished, commitment = session.finished, session.commitment
            if finished is None or commitment is None or session.given is None:
                raise PeerViolation("a job was signed off before it was done.")
            receipt = Receipt.from_document(document.get("receipt"))
            theirs = receipt.body.get("at")
            at = read_time(theirs)
            expected = receipt_body(
                session.terms,
                session.asked.query.kind,
                analyst=session.offer.commitment,
                contributor=commitment,
                transcript=finished.state.transcript,
                at=at,
            )
            if canonical_json(expected) != canonical_json(dict(receipt.body)):
                raise PeerViolation("the receipt does not describe the run this node took part in.")
            receipt.check_analyst(session.pin.key)
            _, seal = finished.state.sealed(Seal.from_bytes(unarmoured(document.get("seal"), "the seal")))
            signed = receipt.countersigned(self._identity)
            if finished.rows is not None and finished.ids is not None:
                dataset = session.asked.query.partner_dataset
                self._alignments.save(Alignment(job, dataset, finished.rows, finished.ids))
            self._charge(session)
            self._file(session, signed)
            session.answer = {
                "seal": armoured(seal.to_bytes()),
                "contributor_signature": signed.contributor_signature,
                "budget_left": self._left(session.budget_key),
            }
            self._store.jobs.move(
                job,
                JobState.SUCCEEDED,
                at=self._now(),
                stage=Stage.JOINED,
                progress=1.0,
                receipt_id=signed.id,
            )
            session.drop()
            return session.answer

    def cancel(self, partner: str, job: str, document: Mapping[str, Any]) -> None:
        """The analyst gives up: because somebody cancelled, or because its side failed."""
        session = self._session(job)
        if session is None or session.pin.name != partner or session.over:
            return
        if document.get("code") == "cancelled":
            self._end(session, JobState.CANCELLED, JobError("cancelled", "the analyst cancelled the query."))
        else:
            error = JobError("peer_failed", "the analyst's node could not go on with the query.")
            self._end(session, JobState.FAILED, error)

    # ── what this node calls ────────────────────────────────────────────────────────────────────────────

    def withdraw(self, job: str) -> bool:
        """A person of this node cancels a running contribution."""
        session = self._session(job)
        if session is None or session.over:
            return False
        self._end(session, JobState.CANCELLED, JobError("cancelled", "cancelled by the contributor."))
        return True

    def enforce(self, partner: str, purposes: Set[str]) -> int:
        """The partner's opt-outs reach these purposes: ask consent again before anything more leaves.

        Returns how many running contributions were told; whether anybody in them is concerned is not said.
        """
        with self._lock:
            sessions = [s for s in self._sessions.values() if s.pin.name == partner and not s.over]
        told = [s for s in sessions if concerns(s.asked.query, purposes)]
        for session in told:
            session.doubtful = True
        return len(told)

    def sweep(self) -> None:
        """End sessions that are silent or open for too long; forget those that ended long ago."""
        now = self._clock()
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            self._expire(session)
            if now - session.last_contact < self._silence:
                continue
            if session.over:
                with self._lock:
                    self._sessions.pop(session.job, None)
            else:
                error = JobError("timed_out", "the analyst's node has gone silent.", retryable=True)
                self._end(session, JobState.TIMED_OUT, error)

    def close(self) -> None:
        """End every session and wait for the threads."""
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            if not session.over:
                self._end(
                    session, JobState.FAILED, JobError("interrupted", "the node stopped.", retryable=True)
                )
        self._threads.shutdown(wait=True, cancel_futures=True)

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────

    def _admit(self, job: str, asked: Asked, pin: PartnerPin, raw: bytes, digest: str) -> Session:
        AGREED.check(asked)
        dataset = self._catalogue[asked.query.partner_dataset]
        noise = plan(asked, self._noise)
        terms = terms_for(asked, job, noise)
        offer = Offer.from_bytes(raw)
        if parse_terms(offer.terms) != terms:
            raise PeerViolation("the terms offered are not what the query and the agreement lead to.")
        read_commitment(offer.commitment.consent, purpose=terms.purpose)
        # Sizes are padded, so this says no only to what is too little beyond doubt.
        MinimumInput(asked.agreement.terms.minimum_input).check(sum(offer.commitment.sizes))
        key = BudgetKey(dataset.lineage, pin.name, self._clock().strftime("%Y-%m"))
        with self._lock:
            running = [s.pin.name for s in self._sessions.values() if not s.over]
            if len(running) >= _MOST_SESSIONS or running.count(pin.name) >= _MOST_SESSIONS_OF_ONE:
                raise Refused("too many queries are running here.", code="too_many_jobs", advice="Try later.")
        reservation = None
        if noise.epsilon > 0:
            reservation = self._budget.reserve(key, Cost(noise.epsilon, noise.delta), job=job)
        session = Session(
            job=job,
            pin=pin,
            asked=asked,
            terms=terms,
            plan=noise,
            offer=offer,
            offer_digest=digest,
            budget_key=key,
            reservation=reservation,
            last_contact=self._clock(),
            deadline=self._clock() + self._allowance,
        )
        with self._lock:
            self._sessions[job] = session
        return session

    def _begin(self, session: Session) -> None:
        query, agreement = session.asked.query, session.asked.agreement
        column = None if query.column is None else session.asked.partners.column(query.column)
        given = prepare(
            self._catalogue[query.partner_dataset],
            self._gate,
            kind=query.key,
            purpose=query.purpose,
            also_for=query.also_for,
            partner=session.pin.name,
            profile=agreement.terms.key_profile,
            dimensions=query.partner_dimensions,
            segment=query.partner_segment,
            column=column,
        )
        self._store.jobs.update(session.job, at=self._now(), input=given.counts.document())
        MinimumInput(agreement.terms.minimum_input).check(given.size)
        workshop = Workshop(
            pool=self._pool,
            random=self._random,
            noise=self._noise,
            attestation=Attestation(self._identity.sign, session.pin.key.verify),
            progress=lambda done, of: self._tick(session, done / max(1, of)),
        )
        contribution = contribute(session.offer, session.terms, given, session.plan, workshop)
        accept = next(contribution)[0]
        with session.lock:
            self._alive(session)
            session.given = given
            session.commitment = Accept.from_bytes(accept).commitment
            session.contribution = contribution
            session.outboxes[0] = Outbox(accept)
            self._reach(session, Stage.INVITED)
        next(contribution)

    def _continue(self, session: Session, step: int, payload: bytes) -> None:
        contribution, given = session.contribution, session.given
        if contribution is None or given is None:
            raise _Ended
        if step == 1:
            self._ask_again(session, given)
        try:
            replies = contribution.send(payload)
        except StopIteration as end:
            session.finished = end.value
            replies = end.value.replies
        with session.lock:
            self._alive(session)
            for payload_out in replies:
                if payload_out:
                    session.transcript = chained(payload_out)
                session.outboxes[max(session.outboxes) + 1] = Outbox(payload_out)
            if session.stage is Stage.CONTRIBUTED:
                self._reach(session, Stage.TRANSFORMED)

    def _still_willing(self, session: Session) -> None:
        """Before the first byte that depends on the data leaves: has somebody in it opted out since?"""
        if not session.doubtful or session.given is None:
            return
        try:
            self._ask_again(session, session.given)
        except Refused as error:
            self._end(session, JobState.REJECTED, _shown(error))
            raise

    def _ask_again(self, session: Session, given: QueryInput) -> None:
        evidence, query = given.evidence, session.asked.query
        recent = self._clock() - evidence.checked_at < _CONSENT_FRESH
        if recent and not session.doubtful and not self._uses.moved_since(evidence.log_size):
            return
        session.doubtful = False
        purposes = (query.purpose, *query.also_for)
        if not still_allowed(given, self._gate, kind=query.key, purposes=purposes, partner=session.pin.name):
            raise ConsentStale("consents changed while the query was under way.", advice="Ask again.")

    def _work(self, session: Session, step: Callable[[Session], None]) -> None:
        try:
            with session.working:
                if not session.over:
                    step(session)
        except _Ended:
            pass
        except Refused as error:
            self._end(session, JobState.REJECTED, _shown(error))
        except ComityError as error:
            self._end(session, JobState.FAILED, _shown(error))
        except Exception as error:  # whatever it is, the job must end and its budget come back
            detail = f"an unexpected {type(error).__name__} ended the job."
            self._end(session, JobState.FAILED, JobError("internal_error", detail))

    def _tick(self, session: Session, part: float) -> None:
        self._alive(session)
        session.progress = part

    def _alive(self, session: Session) -> None:
        if session.over:
            raise _Ended

    def _reach(self, session: Session, stage: Stage) -> None:
        session.stage = stage
        self._store.jobs.update(session.job, at=self._now(), stage=stage)

    def _charge(self, session: Session) -> None:
        if session.charged:
            return
        if session.given is not None:
            at, transcript = self._clock(), session.transcript
            use = use_of(session.asked.query, session.job, session.given, transcript=transcript, at=at)
            self._uses.begin(use, session.given.members)
        if session.reservation is not None:
            self._budget.commit(session.reservation)
        session.charged = True

    def _end(self, session: Session, state: JobState, error: JobError) -> None:
        with session.lock:
            if session.over:
                return
            if session.reservation is not None and not session.charged:
                self._budget.release(session.reservation)
            if session.charged:
                with contextlib.suppress(ComityError):  # then it is settled at the next start
                    self._uses.settle(session.job)
            self._store.jobs.move(session.job, state, at=self._now(), error=error)
            session.drop()

    def _expire(self, session: Session) -> None:
        if not session.over and self._clock() > session.deadline:
            error = JobError("timed_out", "the query was open longer than allowed.", retryable=True)
            self._end(session, JobState.TIMED_OUT, error)

    def _file(self, session: Session, receipt: Receipt) -> None:
        query = session.asked.query
        row = ReceiptRow(
            id=receipt.id,
            job=session.job,
            kind=query.kind,
            collaboration=query.collaboration,
            document=receipt.document(),
            created_at=self._now(),
        )
        if session.given is not None and session.finished is not None:
            transcript, at = session.finished.state.transcript, self._clock()
            use = use_of(query, session.job, session.given, transcript=transcript, at=at, id=receipt.id)
            self._uses.record(use, session.given.members)
        self._store.receipts.add(row)

    def _left(self, key: BudgetKey) -> float | None:
        for status in self._budget.status(key.lineage):
            if status.key == key:
                return status.remaining.epsilon
        return None

    def _inbox(self, session: Session, step: int) -> Inbox:
        if step < session.expected and step in session.inboxes:
            return session.inboxes[step]
        if step != session.expected or session.contribution is None:
            raise PeerViolation("a message came out of turn.")
        return session.inboxes.setdefault(step, Inbox(message_limit(session, step)))

    def _running(self, partner: str, job: str) -> Session:
        session = self._session(job)
        if session is None or session.pin.name != partner:
            row = self._store.jobs.get(job)
            if row.partner != partner or row.role is not Role.CONTRIBUTOR:
                raise Misuse("no such job.", code="unknown_job")
            raise Misuse("this job has ended here.", code="job_over")
        self._expire(session)
        if session.over:
            raise Misuse("this job has ended here.", code="job_over")
        session.last_contact = self._clock()
        return session

    def _session(self, job: str) -> Session | None:
        with self._lock:
            return self._sessions.get(job)

    def _violations(self, session: Session) -> _FailOnViolation:
        return _FailOnViolation(self, session)

    def _now(self) -> str:
        return self._clock().isoformat()


class _FailOnViolation:
    """A partner that breaks the protocol ends its job here; the error goes back to it as well."""

    def __init__(self, desk: ContributorDesk, session: Session) -> None:
        self._desk = desk
        self._session = session

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PeerViolation | Tampered | BadInput):
            self._desk._end(self._session, JobState.FAILED, _shown(error))


def _shown(error: ComityError) -> JobError:
    return JobError(error.code, error.detail, error.advice, error.retryable)
