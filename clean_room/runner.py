"""The analyst's side of a job: drives an inquiry over a transport, from reading data to the filed receipt.

Nothing leaves this node before its own rules hold. Every end is one of the job's terminal states, and the
partner is told when this side gives up, so that its half ends at once rather than by its timeout.

The ε ledger charged is the contributor's: what leaves is about its people, and only the analyst, who holds
its own data in the clear anyway, learns it. The contributor learns padded sizes alone, so the analyst's
own lineage is not charged.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from clean_room.alignments import Alignment, AlignmentStore
from clean_room.armour import armoured, unarmoured
from clean_room.collaboration import Collaborations
from clean_room.conversations import Outcome, Workshop, inquire
from clean_room.datasets import Catalogue
from clean_room.errors import ConsentStale, Misuse, PeerUnreachable, PeerViolation
from clean_room.group.pool import BlindingPool
from clean_room.inputs import QueryInput, prepare, still_allowed
from clean_room.jobs import Job, JobError, JobState, Stage, concerns
from clean_room.noise import NoiseSource, plan
from clean_room.protocols.attestation import Attestation
from clean_room.protocols.messages import Accept, Seal, chained
from clean_room.protocols.terms import Terms
from clean_room.questions import asked_of, read_commitment, terms_for
from clean_room.receipts import Receipt, receipt_body
from clean_room.results import released
from clean_room.rules import AGREED, MinimumInput
from clean_room.storage import ReceiptRow, Store
from clean_room.transport import MAX_DOCUMENT, JobTransport, Manifest
from clean_room.uses import Uses, use_of
from consent.encoding import canonical_json
from privacy.errors import BudgetExhausted, ComityError, Refused
from privacy.signing import PublicKey, SigningKey

if TYPE_CHECKING:
    from consent.gate import ConsentGate

__all__ = ["AnalystRunner"]

_REPLY_LIMIT = 1 << 34


class _Cancelled(Exception):
    pass


class _TimedOut(Exception):
    pass


@dataclass(slots=True)
class _Run:
    """One job while it runs."""

    job: Job
    transport: JobTransport = field(repr=False)
    deadline: datetime
    cancel: threading.Event
    offered: bool = False
    partner: str = ""
    doubtful: threading.Event = field(default_factory=threading.Event, repr=False)
    base: float = 0.0
    span: float = 0.0
    shown: float = 0.0


class AnalystRunner:
    """Runs submitted jobs to their end. `run` never raises for anything that happens to the job."""

    def __init__(
        self,
        store: Store,
        *,
        collaborations: Collaborations,
        catalogue: Catalogue,
        gate: ConsentGate,
        uses: Uses,
        alignments: AlignmentStore,
        identity: SigningKey,
        pool: BlindingPool,
        noise: NoiseSource,
        transport: Callable[[str], JobTransport],
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
        poll_seconds: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._collaborations = collaborations
        self._catalogue = catalogue
        self._gate = gate
        self._uses = uses
        self._alignments = alignments
        self._identity = identity
        self._pool = pool
        self._noise = noise
        self._transport = transport
        self._clock = clock
        self._random = random
        self._poll = poll_seconds
        self._sleep = sleep
        self._running: dict[str, _Run] = {}

    def enforce(self, partner: str, purposes: Set[str]) -> int:
        """The partner's opt-outs reach these purposes: ask consent again before anything more leaves.

        Returns how many running jobs were told; whether anybody in them is concerned is not said.
        """
        told = [
            run
            for run in list(self._running.values())
            if run.partner == partner and concerns(run.job.query, purposes)
        ]
        for run in told:
            run.doubtful.set()
        return len(told)

    def run(self, job: Job, cancel: threading.Event, deadline: datetime) -> None:
        """Take one submitted job to a terminal state."""
        run: _Run | None = None
        try:
            if not self._store.jobs.move(job.id, JobState.STARTED, at=self._now()):
                return
            run = _Run(job, self._transport(job.query.collaboration), deadline, cancel)
            run.partner = self._collaborations.partner(job.query.collaboration).name
            self._running[job.id] = run
            self._drive(run)
        except _Cancelled:
            self._stop(run, "cancelled")
            self._store.jobs.move(job.id, JobState.CANCELLING, at=self._now())
            self._end(job, JobState.CANCELLED, JobError("cancelled", "cancelled by the analyst."))
        except _TimedOut:
            self._stop(run, "timed_out")
            self._end(job, JobState.TIMED_OUT, JobError("timed_out", "the job took longer than allowed."))
        except Refused as error:
            self._stop(run, error.code)
            self._end(job, JobState.REJECTED, _shown(error))
        except ComityError as error:
            self._stop(run, error.code)
            self._end(job, JobState.FAILED, _shown(error))
        except Exception as error:  # whatever it is, the job must end and the partner be told
            self._stop(run, "internal_error")
            detail = f"an unexpected {type(error).__name__} ended the job."
            self._end(job, JobState.FAILED, JobError("internal_error", detail))
        finally:
            self._running.pop(job.id, None)

    def _drive(self, run: _Run) -> None:
        job, query = run.job, run.job.query
        agreement = self._collaborations.agreement(query.collaboration)
        pin = self._collaborations.partner(query.collaboration)
        asked = asked_of(query, agreement, self._identity.public.to_text())
        AGREED.check(asked)
        spending = plan(asked, self._noise)
        terms = terms_for(asked, job.id, spending)
        self._phase(run, 0.0, 0.1)
        given = prepare(
            self._catalogue[query.dataset],
            self._gate,
            kind=query.key,
            purpose=query.purpose,
            also_for=query.also_for,
            partner=pin.name,
            profile=agreement.terms.key_profile,
            dimensions=query.dimensions,
            segment=query.segment,
        )
        self._update(run, input=given.counts.document())
        MinimumInput(agreement.terms.minimum_input).check(given.size)
        outcome = self._converse(run, terms, given, pin.key, agreement.terms.minimum_input)
        read_commitment(outcome.theirs.consent, purpose=query.purpose)
        result = released(outcome, asked, terms, spending, [len(cell) for cell in given.people])
        self._sign_off(run, terms, given, outcome, result)

    def _converse(
        self, run: _Run, terms: Terms, given: QueryInput, partner: PublicKey, minimum: int
    ) -> Outcome:
        workshop = Workshop(
            pool=self._pool,
            random=self._random,
            noise=self._noise,
            attestation=Attestation(self._identity.sign, partner.verify),
            progress=lambda done, of: self._tick(run, done / max(1, of)),
        )
        inquiry = inquire(terms, given, workshop)
        offer = next(inquiry)
        if offer is None:
            raise Misuse("an inquiry begins with an offer.", code="illegal_step")
        self._alive(run)
        run.offered = True
        run.transport.offer(run.job.id, {"query": run.job.query.document(), "offer": armoured(offer)})
        sent = replies = 0
        while True:
            reply = self._reply(run, replies)
            if replies == 0:
                MinimumInput(minimum).check(sum(Accept.from_bytes(reply).commitment.sizes))
                self._update(run, stage=Stage.INVITED)
            elif replies == 1:
                self._update(run, stage=Stage.TRANSFORMED)
            # Own hashing and blinding comes after the first reply, blinding the partner's after the second.
            self._phase(run, *((0.1, 0.35), (0.6, 0.3), (0.9, 0.05), (0.95, 0.02))[min(replies, 3)])
            replies += 1
            try:
                message = inquiry.send(reply)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome
            self._alive(run)
            if message is not None:
                sent += 1
                self._ask_again(run, given, moved=sent == 1)
                if sent == 2:
                    # What follows the points depends on the join; for `align` it tells whom both know.
                    self._begin_use(run, given, chained(message))
                self._send(run, sent, message)
                if sent == 1:
                    self._update(run, stage=Stage.CONTRIBUTED)

    def _ask_again(self, run: _Run, given: QueryInput, *, moved: bool) -> None:
        """Before something leaves: has somebody in it opted out since it was read, here or at the partner?

        With `moved` the answer of before counts no more if the ledger has grown since.
        """
        stale = moved and self._uses.moved_since(given.evidence.log_size)
        if not (stale or run.doubtful.is_set()):
            return
        run.doubtful.clear()
        query = run.job.query
        purposes = (query.purpose, *query.also_for)
        if not still_allowed(given, self._gate, kind=query.key, purposes=purposes, partner=run.partner):
            raise ConsentStale("consents changed while the query was under way.", advice="Ask again.")

    def _send(self, run: _Run, step: int, message: bytes) -> None:
        try:
            run.transport.send(run.job.id, step, message)
        except Misuse as error:
            self._explain(run, error)

    def _reply(self, run: _Run, number: int) -> bytes:
        """Wait for reply `number` and fetch it."""
        pause = min(0.02, self._poll)
        while True:
            self._alive(run)
            state = run.transport.state(run.job.id)
            self._raise_for(state)
            replies = state.get("replies")
            document = replies.get(str(number)) if isinstance(replies, Mapping) else None
            if document is not None:
                limit = MAX_DOCUMENT if number == 0 else _REPLY_LIMIT
                manifest = Manifest.from_document(document, limit=limit)
                try:
                    return run.transport.fetch(run.job.id, number, manifest)
                except Misuse as error:
                    self._explain(run, error)
            self._sleep(pause)
            pause = min(self._poll, pause * 1.5)

    def _sign_off(
        self, run: _Run, terms: Terms, given: QueryInput, outcome: Outcome, result: dict[str, Any]
    ) -> None:
        job = run.job
        sealing, seal = outcome.state.seal()
        body = receipt_body(
            terms,
            job.query.kind,
            analyst=outcome.own,
            contributor=outcome.theirs,
            transcript=outcome.state.transcript,
            at=self._clock(),
        )
        output_hash = hashlib.sha256(canonical_json(result)).hexdigest()
        half = Receipt.by_analyst(body, output_hash, self._identity)
        # From here the people's data has been used: that is recorded even if the partner never answers.
        self._record(run, given, half, outcome)
        document = {"receipt": half.document(), "seal": armoured(seal.to_bytes())}
        try:
            answer = run.transport.sign_off(job.id, document)
        except Misuse as error:
            self._explain(run, error)
        sealing.sealed(Seal.from_bytes(unarmoured(answer.get("seal"), "the partner's seal")))
        receipt = half.with_contributor(answer.get("contributor_signature"))
        receipt.check_contributor(self._collaborations.partner(job.query.collaboration).key)
        if outcome.rows is not None and outcome.ids is not None:
            self._alignments.save(Alignment(job.id, job.query.dataset, outcome.rows, outcome.ids))
        self._store.receipts.add(
            ReceiptRow(
                id=receipt.id,
                job=job.id,
                kind=job.query.kind,
                collaboration=job.query.collaboration,
                document=receipt.document(),
                created_at=self._now(),
            )
        )
        left = answer.get("budget_left")
        result |= {
            "budget_left": left if isinstance(left, int | float) else None,
            "receipt_id": receipt.id,
            "people": given.size,
        }
        self._store.jobs.move(
            job.id,
            JobState.SUCCEEDED,
            at=self._now(),
            stage=Stage.JOINED,
            progress=1.0,
            result=result,
            receipt_id=receipt.id,
        )

    def _record(self, run: _Run, given: QueryInput, receipt: Receipt, outcome: Outcome) -> None:
        use = use_of(
            run.job.query,
            run.job.id,
            given,
            transcript=outcome.state.transcript,
            at=self._clock(),
            id=receipt.id,
            output_hash=receipt.output_hash,
        )
        self._uses.record(use, given.members)

    def _begin_use(self, run: _Run, given: QueryInput, transcript: bytes) -> None:
        use = use_of(run.job.query, run.job.id, given, transcript=transcript, at=self._clock())
        self._uses.begin(use, given.members)

    def _explain(self, run: _Run, error: Misuse) -> NoReturn:
        """A partner that says the job is over there also says why: raise that instead."""
        self._raise_for(run.transport.state(run.job.id))
        raise error

    def _raise_for(self, state: Mapping[str, Any]) -> None:
        """Turn a partner's terminal state into the error that ends this side."""
        ended = state.get("state")
        if ended not in {"cancelled", "failed", "rejected", "timed_out"}:
            return
        said = state.get("error")
        error = said if isinstance(said, Mapping) else {}
        code, detail, advice = (_plain(error.get(name)) for name in ("code", "detail", "advice"))
        if ended == "rejected":
            kind = {BudgetExhausted.code: BudgetExhausted, ConsentStale.code: ConsentStale}.get(code, Refused)
            raise kind(detail or "the partner refused the query.", code=code or "refused", advice=advice)
        if ended == "cancelled":
            raise PeerViolation("the partner cancelled the query.", code="peer_cancelled")
        if ended == "timed_out":
            raise PeerUnreachable("the partner stopped waiting for this node.", code="peer_timed_out")
        if code == PeerViolation.code:
            raise PeerViolation("the partner found a breach of the protocol in what this node sent.")
        raise PeerViolation(
            f"the partner's node could not do its half ({code or 'unknown'}).",
            code="peer_failed",
            advice="The partner's job record says why.",
        )

    def _alive(self, run: _Run) -> None:
        if run.cancel.is_set():
            raise _Cancelled
        if self._clock() > run.deadline:
            raise _TimedOut

    def _phase(self, run: _Run, base: float, span: float) -> None:
        run.base, run.span = base, span
        self._tick(run, 0.0)

    def _tick(self, run: _Run, part: float) -> None:
        self._alive(run)
        progress = run.base + run.span * part
        if progress - run.shown >= 0.02:
            run.shown = progress
            self._update(run, progress=progress)

    def _update(self, run: _Run, **changes: Any) -> None:
        self._store.jobs.update(run.job.id, at=self._now(), **changes)

    def _stop(self, run: _Run | None, code: str) -> None:
        """Tell the partner, if it knows of the job, that this side has stopped."""
        if run is None or not run.offered:
            return
        with contextlib.suppress(Exception):
            run.transport.cancel(run.job.id, code)

    def _end(self, job: Job, state: JobState, error: JobError) -> None:
        with contextlib.suppress(ComityError):  # then it is settled at the next start
            self._uses.settle(job.id)
        if not self._store.jobs.move(job.id, state, at=self._now(), error=error):
            # Cancelled while it was failing: the failure is the truer ending.
            self._store.jobs.move(job.id, JobState.FAILED, at=self._now(), error=error)

    def _now(self) -> str:
        return self._clock().isoformat()


def _shown(error: ComityError) -> JobError:
    return JobError(error.code, error.detail, error.advice, error.retryable)


def _plain(text: object) -> str:
    return text[:500] if isinstance(text, str) and text.isprintable() else ""
