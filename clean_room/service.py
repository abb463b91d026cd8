"""The clean room of one node: submit queries, follow them, answer partners, look things up.

Everything it works with is handed in; nothing is read from configuration or the clock. `start` takes up
what was under way when the node stopped, in order or not, and begins to work; `close` leaves it to be taken
up again.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from clean_room.activations import Activations
from clean_room.alignments import Alignment, AlignmentStore
from clean_room.budgets import Accounts, AgreedLimits
from clean_room.cached_pool import CachingPool
from clean_room.collaboration import Collaborations
from clean_room.contributor import ContributorDesk
from clean_room.datasets import Catalogue
from clean_room.epoch_book import EpochBook
from clean_room.errors import TooManyJobs
from clean_room.foresight import Engine
from clean_room.group.pool import BlindingPool
from clean_room.history import History
from clean_room.http import HttpJobTransport
from clean_room.jobs import Job, JobError, JobState, Query, Role
from clean_room.journal import Journals
from clean_room.noise import DrawnNoise, NoiseSource, plan
from clean_room.panel import check_agreed
from clean_room.point_cache import PointCache
from clean_room.preview import preview
from clean_room.previewing import Previewing
from clean_room.receipts import check_receipt
from clean_room.repeats import Repeats
from clean_room.runner import AnalystRunner
from clean_room.samples import settled
from clean_room.storage import ApprovalRow, JobStore, Store
from clean_room.transport import JobTransport
from clean_room.uses import UseRecorder, Uses
from consent.encoding import canonical_json
from privacy.budget import BudgetLedger, BudgetStatus
from privacy.errors import ComityError, Misuse
from privacy.keys import KeyRing
from privacy.signing import SigningKey

if TYPE_CHECKING:
    from consent.gate import ConsentGate
    from consent.heard import Enforcement

__all__ = ["CleanRoom", "Settings"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Settings:
    """How the node works its jobs.

    `threads` analyst jobs and as many contributions at a time; `poll_seconds` between looks at a partner;
    `silence_seconds` after which a partner that says nothing is given up; `job_seconds` a job may take in
    all; `attempts` of a request to an unreachable partner, `pause_seconds` (doubling) between. A query that
    waits for a person of the partner waits `approval_days`, and the partner is asked every
    `approval_poll_seconds`. `most_open` queries of one principal may be under way or queued. Up to
    `points_kept` own hashed points are kept sealed, of lists of `points_from` people and more.
    """

    threads: int = 2
    poll_seconds: float = 0.5
    silence_seconds: float = 120.0
    job_seconds: float = 3600.0
    attempts: int = 4
    pause_seconds: float = 0.25
    sweep_seconds: float = 1.0
    points_kept: int = 20_000_000
    points_from: int = 10_000
    approval_days: float = 7.0
    approval_poll_seconds: float = 10.0
    most_open: int = 100


class CleanRoom:
    """One node's clean room. Thread-safe; one running instance a node."""

    def __init__(
        self,
        engine: sa.Engine,
        *,
        collaborations: Collaborations,
        catalogue: Catalogue,
        gate: ConsentGate,
        uses: UseRecorder,
        budget: BudgetLedger,
        identity: SigningKey,
        keyring: KeyRing,
        pool: BlindingPool,
        artefacts: Path,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
        settings: Settings | None = None,
        noise: NoiseSource | None = None,
        transport: Callable[[str], JobTransport] | None = None,
    ) -> None:
        """`engine` has the tables of `storage.metadata`; `uses` is the consent ledger; `artefacts` a folder
        of this package's own. `transport` (collaboration id → line to its partner) is for tests; by
        default jobs travel over `collaborations.connection`."""
        self.settings = settings or Settings()
        self.collaborations = collaborations
        self.catalogue = catalogue
        # The month's ε of the agreement holds beside the node's own limit, atomically: same ledger, same row.
        self.accounts = Accounts(engine, budget)
        limits = AgreedLimits(collaborations, budget, self.accounts)
        self.budget = replace(budget, limits=limits)
        self._store = Store(engine)
        self._identity = identity
        self._clock = clock
        self._random = random
        self._noise = noise or DrawnNoise()
        self._alignments = AlignmentStore(artefacts, keyring)
        self.activations = Activations(
            self._store,
            folder=artefacts,
            keyring=keyring,
            gate=gate,
            partners=collaborations,
            clock=clock,
            random=random,
        )
        self._uses = Uses(uses, artefacts, keyring)
        # Only where there are people enough for hashing them again to take a while.
        self._points = PointCache(
            artefacts / "points",
            keyring,
            today=lambda: (clock() - _EPOCH).days,
            random=random,
            most=self.settings.points_kept,
        )
        speed = Engine(pool)
        pool = CachingPool(pool, self._points, least=self.settings.points_from)
        self._journals = Journals(artefacts / "journal", keyring)
        self._repeats = Repeats(
            History(engine, artefacts / "history", keyring, clock), catalogue, self._store.jobs
        )
        self._epochs = EpochBook(artefacts / "epochs", keyring, clock=clock)
        self._cancels: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        self._submitting = threading.Lock()
        self._stopping = threading.Event()
        self._sweeper: threading.Thread | None = None
        self._analysts = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="analyst")
        self._runner = AnalystRunner(
            self._store,
            collaborations=collaborations,
            catalogue=catalogue,
            gate=gate,
            uses=self._uses,
            alignments=self._alignments,
            activations=self.activations,
            journals=self._journals,
            identity=identity,
            pool=pool,
            noise=self._noise,
            transport=transport or self._http,
            clock=clock,
            random=random,
            stopping=self._stopping,
            poll_seconds=self.settings.poll_seconds,
            silence=timedelta(seconds=self.settings.silence_seconds),
            allowance=timedelta(seconds=self.settings.job_seconds),
            approval_window=timedelta(days=self.settings.approval_days),
            repeats=self._repeats,
            epochs=self._epochs,
        )
        self.contributor = ContributorDesk(
            self._store,
            collaborations=collaborations,
            catalogue=catalogue,
            gate=gate,
            budget=self.budget,
            uses=self._uses,
            alignments=self._alignments,
            activations=self.activations,
            journals=self._journals,
            identity=identity,
            pool=pool,
            noise=self._noise,
            clock=clock,
            random=random,
            threads=self.settings.threads,
            silence=timedelta(seconds=self.settings.silence_seconds),
            allowance=timedelta(seconds=self.settings.job_seconds),
            approval_window=timedelta(days=self.settings.approval_days),
            accounts=self.accounts,
            repeats=self._repeats,
            epochs=self._epochs,
        )
        self._previewing = Previewing(
            self._store,
            collaborations=collaborations,
            catalogue=catalogue,
            gate=gate,
            accounts=self.accounts,
            budget=self.budget,
            repeats=self._repeats,
            identity=identity,
            engine=speed,
            noise=self._noise,
            clock=clock,
        )
        self._asked_for_decisions = clock()

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Take up what was under way, then begin to watch for silent partners and for decisions."""
        self.recover()
        if self._sweeper is None:
            self._sweeper = threading.Thread(target=self._sweep, name="clean-room-sweep", daemon=True)
            self._sweeper.start()

    def recover(self) -> list[str]:
        """Take up the jobs of both roles that a crash, or a stop, left unfinished.

        What has no journal is ended as failed (`interrupted`): its reservation is released, its artefacts are
        removed, a use that was begun is recorded. Returns the ids of those. Only to be called while nothing
        runs.
        """
        ended = self.contributor.restore()
        going_on = []
        for job in self._store.jobs.unfinished():
            if job.role is not Role.ANALYST:
                going_on.append(job.id)
            elif job.state is JobState.SUBMITTED or self._journals.of(job.id).noted("run") is not None:
                going_on.append(job.id)
                if job.state is not JobState.AWAITING_APPROVAL:
                    self._take_on(job)
            else:
                self._alignments.discard(job.id)
                self.activations.discard(job.id)
                detail = "the node stopped while the job ran."
                error = JobError("interrupted", detail, "Ask again.", retryable=True)
                if self._store.jobs.move(job.id, JobState.FAILED, at=self._now(), error=error):
                    ended.append(job.id)
        self._uses.settle_all(but=going_on)
        for job_id in set(self._repeats.history.open_jobs()).difference(going_on):
            self._repeats.history.forget(job_id)
        for job_id in set(self._journals.jobs()).difference(going_on):
            if not self.contributor.keep_answer(job_id):
                self._journals.of(job_id).discard()
        return ended

    def sweep(self) -> None:
        """One round of what is watched for: silent partners, decisions of people."""
        self.contributor.sweep()
        self.activations.enforce(self._uses.size())
        now = self._clock()
        if (
            timedelta()
            <= now - self._asked_for_decisions
            < timedelta(seconds=self.settings.approval_poll_seconds)
        ):
            return
        self._asked_for_decisions = now
        self._repeats.history.sweep()
        self._epochs.sweep(self._agreements)
        for job in self._store.jobs.unfinished():
            waits = job.role is Role.ANALYST and job.state is JobState.AWAITING_APPROVAL
            if waits and self._idle(job.id) and self._runner.decided(job):
                self._take_on(job)

    def close(self) -> None:
        """Stop working and wait for the threads; what is under way goes on at the next start."""
        self._stopping.set()
        with self._lock:
            for cancel in self._cancels.values():
                cancel.set()
        self._analysts.shutdown(wait=True, cancel_futures=True)
        self.contributor.close()
        if self._sweeper is not None:
            self._sweeper.join()
            self._sweeper = None

    # ── queries ─────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, query: Query, *, principal: str, idempotency_key: str | None = None) -> Job:
        """Take a query on and return its job; work goes on in the background.

        Raises `Misuse` for unknown names, `Refused` for what the agreement does not allow, before any job
        exists. With an idempotency key used before by this principal, the earlier job is returned.
        """
        pin = self.collaborations.partner(query.collaboration)
        self.catalogue[query.dataset]
        check_agreed(query, self.collaborations, self._identity.public.to_text())
        if idempotency_key is not None and not 1 <= len(idempotency_key) <= 255:
            raise Misuse("an Idempotency-Key has 1 to 255 characters.", code="malformed_query")
        asked_for, query = query, self._settled(query)
        now = self._now()
        job = Job(
            id=uuid.UUID(bytes=self._random(16), version=4).hex,
            role=Role.ANALYST,
            query=query,
            partner=pin.name,
            principal=principal,
            state=JobState.SUBMITTED,
            created_at=now,
            updated_at=now,
        )
        digest = hashlib.sha256(canonical_json(asked_for.document())).hexdigest()
        with self._submitting:
            if self._stopping.is_set():
                raise Misuse("the node is stopping.", code="stopping")
            known = idempotency_key is not None and self._store.jobs.made_by(principal, idempotency_key)
            if not known and self._store.jobs.open_of(principal) >= self.settings.most_open:
                raise TooManyJobs(
                    "as many queries as may be under way at a time are.", advice="Wait for one to end."
                )
            kept = self._store.jobs.add(job, idempotency_key=idempotency_key, digest=digest)
        if kept.id == job.id:
            self._take_on(job)
        return kept

    def preview(self, query: Query) -> dict[str, Any]:
        """What a query would cost, how sure its answer would be and what somebody could learn by it.

        Nobody's data is sent; the partner is asked what is left of its budget, if it can be reached.
        """
        query = self._settled(query)
        asked = check_agreed(query, self.collaborations, self._identity.public.to_text())[0]
        return self._previewing(asked, preview(asked, self.catalogue[query.dataset], self._noise))

    def left_for(self, partner: str, collaboration: str, dataset: str) -> dict[str, Any]:
        """What a partner may still learn of an agreed dataset this month: ε left."""
        return {"epsilon_left": self._previewing.left_for(partner, collaboration, dataset)}

    def job(self, job: str) -> Job:
        """One job of either role; raises `Misuse(unknown_job)`."""
        return self._store.jobs.get(job)

    def jobs(
        self, *, role: Role | None = None, kind: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[Job], str | None]:
        """A page of jobs, newest first, and the cursor of the next."""
        return self._store.jobs.page(role=role, kind=kind, limit=limit, cursor=cursor)

    def cancel(self, job: str) -> Job:
        """Stop a job of either role; one that has ended stays as it is."""
        found = self._store.jobs.get(job)
        if found.over:
            return found
        if found.role is Role.CONTRIBUTOR:
            self.contributor.withdraw(job)
            return self._store.jobs.get(job)
        with self._lock:
            cancel = self._cancels.get(job)
        if cancel is not None:
            cancel.set()
        self._store.jobs.move(job, JobState.CANCELLING, at=self._now())
        if cancel is None:  # it waits for a person: the partner is told, and the wait ends
            self._take_on(self._store.jobs.get(job))
        return self._store.jobs.get(job)

    def approve(self, job: str, *, principal: str, reason: str = "") -> Job:
        """Let a partner's query through that waits for a person of this node, else `Misuse(wrong_state)`."""
        return self.contributor.approve(job, principal=principal, reason=reason)

    def reject(self, job: str, *, principal: str, reason: str) -> Job:
        """Refuse a partner's query that waits for a person of this node; the analyst is shown the reason."""
        return self.contributor.reject(job, principal=principal, reason=reason)

    def approval(self, job: str) -> ApprovalRow:
        """What a person of this node decided about a partner's query; raises `Misuse(unknown_approval)`."""
        row = self._store.approvals.get(job)
        if row is None:
            raise Misuse("nobody has decided about that query.", code="unknown_approval")
        return row

    @property
    def job_changes(self) -> JobStore:
        """Where to listen for changes of jobs."""
        return self._store.jobs

    @property
    def stopping(self) -> bool:
        """Whether the node is about to stop."""
        return self._stopping.is_set()

    def alignment(self, job: str) -> Alignment:
        """The shared rows of a finished align job, of either role."""
        found = self._store.jobs.get(job)
        if found.query.kind != "align" or found.state is not JobState.SUCCEEDED:
            raise Misuse("that job has no alignment.", code="unknown_alignment")
        return self._alignments.load(job)

    def receipt(self, receipt: str) -> Mapping[str, Any]:
        """A two-sided receipt's document; raises `Misuse(unknown_receipt)`."""
        row = self._store.receipts.get(receipt)
        if row is None:
            raise Misuse("no such receipt.", code="unknown_receipt")
        return row.document

    def verify_receipt(self, receipt: Mapping[str, Any]) -> bool:
        """Whether both signatures on a stored receipt hold, under a version of its agreement."""
        collaboration = str(receipt["body"]["collaboration"])
        try:
            keys = self.collaborations.keys(collaboration)
            agreements = [version.hash for version in self.collaborations.versions(collaboration)]
        except ComityError:
            return False
        return check_receipt(receipt, keys=keys, agreements=agreements).holds

    def budgets(self, lineage: str | None = None) -> list[BudgetStatus]:
        """What partners have spent of this node's datasets."""
        return self.budget.status(lineage)

    def leave(self, collaboration: str) -> dict[str, Any]:
        """Leave a collaboration; contributions running for it end at once."""
        row = self.collaborations.leave(collaboration)
        self.activations.end(row.partner)
        self._end_of(collaboration)
        return self.collaborations.show(row.id)[0]

    def partner_left(self, partner: str, collaboration: str) -> None:
        """The partner has left; its running queries end."""
        self.collaborations.left(partner, collaboration)
        self.activations.end(partner)
        self._end_of(collaboration)

    def enforce(self, told: Enforcement) -> int:
        """A partner's opt-outs are in force: what runs with it asks the gate again before more data leaves.

        Returns how many running jobs were told.
        """
        return self._runner.enforce(told.partner, told.purposes) + self.contributor.enforce(
            told.partner, told.purposes
        )

    def forget(self, identifiers: Sequence[tuple[str, bytes]]) -> None:
        """People, by kind and canonical identifier, are erased: remove their hashed points at once.

        Epochs end: the first run of the next has a fresh key, and them no more.
        """
        self._epochs.forget()
        for kind, canonical in identifiers:
            self._points.forget(kind, [canonical])

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────

    def _agreements(self) -> set[str]:
        """Hashes of the agreements in force."""
        shown = self.collaborations.show()
        return {self.collaborations.agreement(c["id"]).hash for c in shown if c["state"] == "agreed"}

    def _end_of(self, collaboration: str) -> None:
        self._epochs.sweep(self._agreements)
        for job in self._store.jobs.unfinished():
            if collaboration in {
                job.query.collaboration,
                *(other.collaboration for other in job.query.others),
            }:
                self.cancel(job.id)

    def _take_on(self, job: Job) -> None:
        """Have a thread run the job, unless one does."""
        cancel = threading.Event()
        with self._lock:
            if self._stopping.is_set() or job.id in self._cancels:
                return
            self._cancels[job.id] = cancel
            self._analysts.submit(self._run, job, cancel)

    def _idle(self, job: str) -> bool:
        with self._lock:
            return job not in self._cancels

    def _run(self, job: Job, cancel: threading.Event) -> None:
        try:
            self._runner.run(job, cancel)
        finally:
            with self._lock:
                self._cancels.pop(job.id, None)

    def _sweep(self) -> None:
        # The noise library takes seconds to load: better now than in front of a waiting partner.
        self._noise.sums(1.0, 1)
        while not self._stopping.wait(self.settings.sweep_seconds):
            with contextlib.suppress(ComityError):  # such as a database that is away: there is a next round
                self.sweep()

    def _settled(self, query: Query) -> Query:
        """The query with the share of people an estimate looks at decided: a job has one from its start."""
        if query.kind != "estimate":
            return query
        asked = check_agreed(query, self.collaborations, self._identity.public.to_text())[0]
        minimum, noise = asked.agreement.terms.minimum_input, plan(asked, self._noise).half_width
        return settled(query, self.catalogue[query.dataset], minimum=minimum, noise=noise)

    def _http(self, collaboration: str) -> JobTransport:
        return HttpJobTransport(
            self.collaborations.connection(collaboration),
            attempts=self.settings.attempts,
            pause=self.settings.pause_seconds,
        )

    def _now(self) -> str:
        return self._clock().isoformat()
