"""The contributor's work on a job: reading, hashing, blinding, on threads of its own that wait for nobody.

Consent is asked for when the input is read, again when the analyst's points come, and again before the
first byte that depends on the data leaves. If somebody opted out in between, the analyst begins anew with
the people still allowed. If a partner's opt-outs have not been heard of in time, the step is put off.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from clean_room.activations import Activations
from clean_room.cached_pool import with_points
from clean_room.conversations import Workshop, acceptance, contribute
from clean_room.datasets import Catalogue
from clean_room.epoch_book import EpochBook, Question
from clean_room.errors import ConsentStale
from clean_room.group.pool import BlindingPool
from clean_room.input_records import read_input, write_input
from clean_room.inputs import QueryInput, prepare, still_allowed
from clean_room.jobs import JobError, JobState, Role, Stage
from clean_room.kept_pool import KeptPool
from clean_room.noise import NoiseSource
from clean_room.protocols.attestation import Attestation
from clean_room.protocols.lifetimes import EpochOver
from clean_room.protocols.messages import chained
from clean_room.protocols.terms import EpochTerms, RefreshTerms
from clean_room.repeats import Repeats
from clean_room.rules import MinimumInput
from clean_room.sessions import Session, patience
from clean_room.storage import Store
from clean_room.transport import Outbox
from clean_room.uses import Uses
from privacy.errors import ComityError, Refused
from privacy.signing import SigningKey

if TYPE_CHECKING:
    from consent.gate import ConsentGate

__all__ = ["CHANGED", "Contributing", "shown"]

CHANGED = "consents_changed"
"""The rule of a `ConsentStale` that a new attempt, without those who opted out, gets past."""
# A grant may run out without an entry in the ledger; an answer of the gate is not relied on for longer.
_CONSENT_FRESH = timedelta(minutes=1)
_PUT_OFF = timedelta(seconds=0.5)


class _Ended(Exception):
    pass


class Contributing:
    """Runs the steps of sessions. `end` is called with a session that a step has ended, `repeat` with one
    that asks what an earlier job was asked, `reserve` with one that turns out not to."""

    def __init__(
        self,
        store: Store,
        *,
        catalogue: Catalogue,
        gate: ConsentGate,
        uses: Uses,
        activations: Activations,
        identity: SigningKey,
        pool: BlindingPool,
        noise: NoiseSource,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
        threads: int,
        end: Callable[[Session, JobState, JobError], None],
        repeats: Repeats,
        repeat: Callable[[Session, str], None],
        reserve: Callable[[Session], None],
        epochs: EpochBook,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._gate = gate
        self._uses = uses
        self._activations = activations
        self._identity = identity
        self._pool = pool
        self._noise = noise
        self._clock = clock
        self._random = random
        self._end = end
        self._repeats = repeats
        self._repeat = repeat
        self._reserve = reserve
        self._epochs = epochs
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="contributor")

    def begin(self, session: Session) -> None:
        """Read the input, agree, and blind own people while the analyst's points are on their way."""
        session.begun = True
        self._submit(session, self._begin)

    def resume(self, session: Session) -> None:
        """As `begin`, after a restart: everything that had come is worked through again first."""
        session.begun = session.resuming = True
        self._submit(session, self._begin)

    def go_on(self, session: Session, step: int, payload: bytes) -> None:
        """Message `step` is whole: work on it."""
        self._submit(session, lambda s: self._continue(s, step, payload))

    def take_up(self, session: Session) -> None:
        """Try a step that was put off again, if it is time."""
        with session.lock:
            if session.postponed is None or self._clock() < session.postponed[0]:
                return
            _, step = session.postponed
            session.postponed = None
        self._submit(session, step)

    def ask_again(self, session: Session) -> None:
        """Has somebody in the input opted out since it was asked last? ConsentStale."""
        given, asked_at = session.given, session.asked_at
        if given is None or asked_at is None or session.charged:
            return
        size = self._uses.size()
        recent = self._clock() - asked_at < _CONSENT_FRESH
        if recent and not session.doubtful and size == session.asked_size:
            return
        session.doubtful = False
        query = session.asked.query
        purposes = (query.purpose, *query.also_for)
        if not still_allowed(given, self._gate, kind=query.key, purposes=purposes, partner=session.pin.name):
            raise ConsentStale(
                "consents changed while the query was under way.", rule=CHANGED, advice="Ask again."
            )
        session.asked_at, session.asked_size = self._clock(), size

    def close(self) -> None:
        """Wait for the threads; sessions are to be over."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    # ── steps ───────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, session: Session) -> None:
        self._begin_epoch(session)
        given = self._input(session)
        if self._repeated(session, given):
            return
        workshop = Workshop(
            pool=KeptPool(self._points(session, given), session.part),
            random=session.part.random(self._random),
            noise=self._noise,
            attestation=Attestation(self._identity.sign, session.pin.key.verify),
            progress=lambda done, of: self._tick(session, done / max(1, of)),
            keep=session.part,
            pair_epoch=lambda: self._activations.epoch(session.pin.name).secrets,
            epoch=lambda: self._epoch(session),
        )
        contribution = contribute(session.offer, session.terms, given, session.plan, workshop)
        accept = next(contribution)[0]
        with session.lock:
            self._alive(session)
            session.given = given
            session.asked_at, session.asked_size = given.evidence.checked_at, given.evidence.log_size
            session.commitment = acceptance(session.terms, accept).commitment
            session.contribution = contribution
            session.outboxes = {0: Outbox(accept)}
            session.transcript = chained(accept)
            came = session.received() if session.resuming else []
            self._reach(session, Stage.CONTRIBUTED if came else Stage.INVITED)
        next(contribution)
        for step, payload in came:
            self._continue(session, step, payload)
        session.resuming = False

    def _repeated(self, session: Session, given: QueryInput) -> bool:
        """Whether this was asked before of these people: then the session is over. `DifferencingRisk`."""
        account = session.budget_key.partner
        prepared = self._repeats.prepared(
            session.job, session.asked, given, role=Role.CONTRIBUTOR, partner=account
        )
        seen = self._repeats.admit(prepared, repeats=session.repeats)
        if seen is not None:
            self._repeat(session, seen.job)
            return True
        self._reserve(session)
        return False

    def _begin_epoch(self, session: Session) -> None:
        """Before anybody's data is read: whoever is erased from now on ends what begins here."""
        terms = session.terms
        if isinstance(terms, EpochTerms) and not isinstance(terms, RefreshTerms):
            question = Question.of(session.asked, Role.CONTRIBUTOR, session.pin.key.to_text())
            session.part("epoch-begun", lambda: self._epochs.begin(question, session.job))

    def _epoch(self, session: Session) -> bytes:
        """What is refreshed. EpochOver if this node does not hold it."""
        terms = session.terms
        if not isinstance(terms, RefreshTerms):
            raise EpochOver("this is no refresh.")
        question = Question.of(session.asked, Role.CONTRIBUTOR, session.pin.key.to_text())
        return self._epochs.going_on(question, terms.epoch, terms.number)

    def _points(self, session: Session, given: QueryInput) -> BlindingPool:
        if isinstance(session.terms, RefreshTerms):
            return self._pool  # so few are hashed that the cache would take longer
        lineage, terms = self._catalogue[session.asked.query.partner_dataset].lineage, session.terms
        return with_points(self._pool, lineage, terms.kind, terms.profile, given.people)

    def _input(self, session: Session) -> QueryInput:
        """Who goes in: the same people when a run is taken up again."""
        kept = session.part.load("input")
        if kept is not None:
            return read_input(kept)
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
            sampler=session.sampler,
            fallbacks=query.fallback_keys,
        )
        self._store.jobs.update(session.job, at=self._now(), input=given.counts.document())
        MinimumInput(agreement.terms.minimum_input).check(given.size)
        session.part.save("input", write_input(given))
        return given

    def _continue(self, session: Session, step: int, payload: bytes) -> None:
        contribution = session.contribution
        if contribution is None:
            raise _Ended
        if step == 1:
            self.ask_again(session)
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

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────

    def _submit(self, session: Session, step: Callable[[Session], None]) -> None:
        self._threads.submit(self._work, session, step)

    def _work(self, session: Session, step: Callable[[Session], None]) -> None:
        try:
            with session.working:
                if not session.over:
                    step(session)
        except _Ended:
            pass
        except ConsentStale as error:
            self._stale(session, step, error)
        except EpochOver as error:
            with session.lock:
                session.resuming = False
                session.again = session.epoch_over = not session.charged
            if session.charged:
                self._end(session, JobState.FAILED, shown(error))
        except Refused as error:
            self._end(session, JobState.REJECTED, shown(error))
        except ComityError as error:
            self._end(session, JobState.FAILED, shown(error))
        except Exception as error:  # whatever it is, the job must end and its budget come back
            detail = f"an unexpected {type(error).__name__} ended the job."
            self._end(session, JobState.FAILED, JobError("internal_error", detail))

    def _stale(self, session: Session, step: Callable[[Session], None], error: ConsentStale) -> None:
        """Begin anew, or wait until opt-outs are heard of again; for a while."""
        with session.lock:
            if session.over:
                return
            session.resuming = False
            if error.rule == CHANGED and not session.charged:
                session.again = True
                return
            now = self._clock()
            session.stale_since = session.stale_since or now
            if error.rule != CHANGED and now - session.stale_since < patience(
                session.asked.agreement.terms.lease
            ):
                session.postponed = (now + _PUT_OFF, step)
                return
        self._end(session, JobState.REJECTED, shown(error))

    def _tick(self, session: Session, part: float) -> None:
        self._alive(session)
        session.progress = part

    def _alive(self, session: Session) -> None:
        if session.over:
            raise _Ended

    def _reach(self, session: Session, stage: Stage) -> None:
        session.stage = stage
        self._store.jobs.update(session.job, at=self._now(), stage=stage)

    def _now(self) -> str:
        return self._clock().isoformat()


def shown(error: ComityError) -> JobError:
    """What of an error goes into the job's record."""
    return JobError(error.code, error.detail, error.advice, error.retryable)
