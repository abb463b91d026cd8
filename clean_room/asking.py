"""One attempt at a query as the analyst: from reading data to the filed receipt.

Nothing leaves this node before its own rules hold. Consent is asked for when the input is read, again
before the own points leave, and again before the partner's answer, which counts as a use, is fetched: who
opted out by then is not in the result, because the job begins anew without them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from clean_room.activations import Activations
from clean_room.agreement_book import HeldAgreements
from clean_room.alignments import Alignment, AlignmentStore
from clean_room.armour import armoured, unarmoured
from clean_room.cached_pool import with_points
from clean_room.collaboration import Collaborations
from clean_room.contributing import CHANGED
from clean_room.conversations import Outcome, Workshop, acceptance, inquire
from clean_room.correspondence import BeginAnew, Correspondence, Repeated
from clean_room.datasets import Catalogue
from clean_room.epoch_book import EpochBook, Held, Question
from clean_room.errors import ConsentStale, Misuse, PeerViolation
from clean_room.group.pool import BlindingPool
from clean_room.input_records import read_input, write_input
from clean_room.inputs import QueryInput, prepare, still_allowed
from clean_room.jobs import Job, JobState, Role, Stage
from clean_room.journal import Journal
from clean_room.kept_pool import KeptPool
from clean_room.lines import Lines
from clean_room.noise import REFRESHES, NoiseSource, in_epochs, plan, spent
from clean_room.protocols.attestation import Attestation
from clean_room.protocols.lifetimes import EpochOver
from clean_room.protocols.messages import Offer, Seal, chained
from clean_room.protocols.terms import EpochTerms, RefreshTerms, Terms
from clean_room.questions import asked_of, read_commitment, terms_for
from clean_room.receipts import Receipt, output_hash, receipt_body
from clean_room.repeats import Repeats
from clean_room.results import released
from clean_room.rules import AGREED, Asked, MinimumInput
from clean_room.samples import Sampler, own_sampler
from clean_room.sessions import patience
from clean_room.storage import ReceiptRow, Store
from clean_room.transport import JobTransport
from clean_room.uses import Uses, further_uses, use_of
from consent.encoding import canonical_json, parse_json
from privacy.signing import PublicKey, SigningKey

if TYPE_CHECKING:
    from consent.gate import ConsentGate

__all__ = ["Asking", "Attempt"]

_MOST_RECEIPT = 1 << 20
_STALE_PAUSE = 0.5


@dataclass(slots=True)
class Attempt:
    """One job while it runs. `part` is the journal of this attempt; `pause` and `alive` raise when the job is
    to stop; `remember` writes down where it stands. `lines` and `partners` are all there are, for a reach;
    `transport` and `partner` are the first.
    """

    job: Job
    transport: JobTransport = field(repr=False)
    partner: str
    lines: Lines = field(repr=False)
    partners: frozenset[str]
    number: int
    deadline: datetime
    pause: Callable[[float], None] = field(repr=False)
    alive: Callable[[], None] = field(repr=False)
    part: Journal = field(init=False, repr=False)
    remember: Callable[[], None] = field(init=False, repr=False)
    resumed: bool = False
    offered: bool = False
    parked: str | None = None
    doubtful: threading.Event = field(default_factory=threading.Event, repr=False)
    asked_size: int = 0
    stage: Stage = Stage.NONE
    base: float = 0.0
    span: float = 0.0
    shown: float = 0.0


@dataclass(frozen=True, slots=True)
class _Course:
    """What an attempt has to do with, once it knows."""

    line: Correspondence = field(repr=False)
    terms: Terms
    given: QueryInput = field(repr=False)
    minimum: int
    repeats: str | None = None
    question: Question | None = None
    held: Held | None = field(default=None, repr=False)


class Asking:
    """Drives an inquiry over a transport."""

    def __init__(
        self,
        store: Store,
        *,
        collaborations: Collaborations,
        catalogue: Catalogue,
        gate: ConsentGate,
        uses: Uses,
        alignments: AlignmentStore,
        activations: Activations,
        identity: SigningKey,
        pool: BlindingPool,
        noise: NoiseSource,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
        poll_seconds: float,
        silence: timedelta,
        repeats: Repeats,
        epochs: EpochBook,
    ) -> None:
        self._store = store
        self._collaborations = collaborations
        self._catalogue = catalogue
        self._gate = gate
        self._uses = uses
        self._alignments = alignments
        self._activations = activations
        self._identity = identity
        self._pool = pool
        self._noise = noise
        self._clock = clock
        self._random = random
        self._poll = poll_seconds
        self._silence = silence
        self._repeats = repeats
        self._epochs = epochs

    def drive(self, attempt: Attempt) -> None:
        """Take the attempt to the job's success. Raises whatever ends it otherwise, `BeginAnew` included."""
        query = attempt.job.query
        # An attempt taken up again goes on under the version of the agreement it began with.
        agreement = HeldAgreements(self._collaborations, attempt.part).agreement(query.collaboration)
        pin = self._collaborations.partner(query.collaboration)
        asked = asked_of(query, agreement, self._identity.public.to_text())
        AGREED.check(asked)
        spending = plan(asked, self._noise)
        # The month a sample is of is that in which the question was asked, however long it has to wait.
        asked_at, shared = (
            datetime.fromisoformat(attempt.job.created_at),
            self._collaborations.pair_key(pin.name),
        )
        sampler = own_sampler(query, shared, agreement.hash, asked_at)
        question = Question.of(asked, Role.ANALYST, pin.key.to_text()) if in_epochs(asked) else None
        held = self._held(attempt, question)
        refresh = None if held is None else (held.epoch, held.generation)
        terms = terms_for(asked, attempt.job.id, spending, sampler, refresh)
        spending = spent(terms, spending)
        self._phase(attempt, 0.0, 0.1)
        given = self._input(attempt, asked, sampler)
        MinimumInput(agreement.terms.minimum_input).check(given.size)
        line = Correspondence(
            attempt.transport,
            attempt.job.id,
            attempt.number,
            attempt.part,
            wait=attempt.pause,
            waiting=lambda away: self._waiting(attempt, away),
            clock=self._clock,
            silence=self._silence,
            lease=agreement.terms.lease,
            poll_seconds=self._poll,
        )
        seen = self._seen(attempt, asked, given, pin.key)
        course = _Course(line, terms, given, agreement.terms.minimum_input, seen, question, held)
        try:
            outcome = self._converse(attempt, course, pin.key)
        except Repeated as said:
            self._repeat(attempt, seen, said.job)
            return
        except (EpochOver, BeginAnew) as error:
            if question is not None and (isinstance(error, EpochOver) or error.epoch_over):
                self._epochs.drop(question)
            raise BeginAnew from None
        read_commitment(outcome.theirs.consent, purpose=query.purpose)
        result = released(outcome, asked, terms, spending, [len(cell) for cell in given.people])
        self._sign_off(attempt, course, outcome, result)

    def _held(self, attempt: Attempt, question: Question | None) -> Held | None:
        """What there is to refresh, the same when the attempt is taken up again; its state is kept apart.

        Asked before anybody's data is read: whoever is erased from now on ends what begins here.
        """
        if question is None:
            return None

        def found() -> bytes:
            held = self._epochs.held(question)
            if held is None or held.generation > REFRESHES:
                return self._epochs.begin(question, attempt.job.id)
            return replace(held, state=b"").to_bytes()

        kept = attempt.part("held", found)
        return Held.from_bytes(kept) if kept else None

    def _state(self, course: _Course) -> bytes:
        """What is refreshed. EpochOver if it has gone."""
        if course.question is None or course.held is None:
            raise EpochOver("there is nothing to refresh.")
        return self._epochs.going_on(course.question, course.held.epoch, course.held.generation)

    def _seen(self, attempt: Attempt, asked: Asked, given: QueryInput, partner: PublicKey) -> str | None:
        """The job that had this very question with these people, once it is over. `DifferencingRisk`."""
        job = attempt.job.id
        prepared = self._repeats.prepared(job, asked, given, role=Role.ANALYST, partner=partner.to_text())
        while (seen := self._repeats.admit(prepared)) is not None and not seen.settled:
            attempt.pause(self._poll)
        return None if seen is None else seen.job

    def _repeat(self, attempt: Attempt, seen: str | None, said: str) -> None:
        """The partner says that its side is as it was: the answer is the one of before."""
        earlier = None if seen != said else self._repeats.answered(said)
        if earlier is None or earlier.result is None:
            raise PeerViolation("the partner named another answer than was asked for.")
        self._repeats.history.forget(attempt.job.id)
        free: dict[str, Any] = dict.fromkeys(("epsilon_spent", "delta_spent"), 0.0)
        cost = {name: earlier.result[name] for name in free if name in earlier.result}
        free |= {"repeated_from": said, "first_cost": cost, "budget_left": None}
        self._store.jobs.move(
            attempt.job.id,
            JobState.SUCCEEDED,
            at=self._now(),
            stage=Stage.JOINED,
            progress=1.0,
            result={**earlier.result, **free},
            receipt_id=earlier.receipt_id,
        )

    def _input(self, attempt: Attempt, asked: Asked, sampler: Sampler | None) -> QueryInput:
        """Who goes in: the same people when the attempt is taken up again."""
        kept = attempt.part.load("input")
        given = read_input(kept) if kept is not None else self._prepared(attempt, asked, sampler)
        if kept is None:
            attempt.part.save("input", write_input(given))
        attempt.asked_size = given.evidence.log_size
        self._update(attempt, input=given.counts.document())
        return given

    def _prepared(self, attempt: Attempt, asked: Asked, sampler: Sampler | None) -> QueryInput:
        """Read the data; wait for a while if the partner's opt-outs have not been heard of in time."""
        query, terms = asked.query, asked.agreement.terms
        since = self._clock()
        while True:
            try:
                return prepare(
                    self._catalogue[query.dataset],
                    self._gate,
                    kind=query.key,
                    purpose=query.purpose,
                    also_for=query.also_for,
                    partner=attempt.partner,
                    profile=terms.key_profile,
                    dimensions=query.dimensions,
                    segment=query.segment,
                    sampler=sampler,
                    fallbacks=query.fallback_keys,
                )
            except ConsentStale as error:
                self._wait_for_consent(attempt, error, since, terms.lease)

    def _points(self, attempt: Attempt, given: QueryInput, terms: Terms) -> BlindingPool:
        if isinstance(terms, RefreshTerms):
            return self._pool  # so few are hashed that the cache would take longer
        lineage = self._catalogue[attempt.job.query.dataset].lineage
        return with_points(self._pool, lineage, terms.kind, terms.profile, given.people)

    def _wait_for_consent(
        self, attempt: Attempt, error: ConsentStale, since: datetime, lease: timedelta | None
    ) -> None:
        if error.rule != "lease" or self._clock() - since >= patience(lease):
            raise error
        self._update(attempt, stage=Stage.CONSENT_STALE)
        attempt.pause(min(_STALE_PAUSE, max(self._poll, 0.01)))
        self._update(attempt, stage=attempt.stage)

    def _converse(self, attempt: Attempt, course: _Course, partner: PublicKey) -> Outcome:
        line, terms, given = course.line, course.terms, course.given
        workshop = Workshop(
            pool=KeptPool(self._points(attempt, given, terms), attempt.part),
            random=attempt.part.random(self._random),
            noise=self._noise,
            attestation=Attestation(self._identity.sign, partner.verify),
            progress=lambda done, of: self._tick(attempt, done / max(1, of)),
            keep=attempt.part,
            epoch=lambda: self._state(course),
        )
        inquiry = inquire(terms, given, workshop)
        first = next(inquiry)
        if first is None:
            raise Misuse("an inquiry begins with an offer.", code="illegal_step")
        offer, accept = Offer.from_bytes(first), None
        attempt.alive()
        if not attempt.offered:
            attempt.offered = True
            attempt.remember()
        repeats = {} if course.repeats is None else {"repeats": course.repeats}
        line.offer({"query": attempt.job.query.document(), "offer": armoured(first), **repeats})
        sent = replies = 0
        while True:
            reply = line.reply(
                replies, terms, offer, accept, partial(self._before_answer, attempt, given, replies)
            )
            if replies == 0:
                accept = acceptance(terms, reply)
                MinimumInput(course.minimum).check(sum(accept.commitment.sizes))
                self._reach(attempt, Stage.INVITED)
            elif replies == 1:
                self._reach(attempt, Stage.TRANSFORMED)
            # Own hashing and blinding comes after the first reply, blinding the partner's after the second.
            self._phase(attempt, *((0.1, 0.35), (0.6, 0.3), (0.9, 0.05), (0.95, 0.02))[min(replies, 3)])
            replies += 1
            try:
                message = inquiry.send(reply)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome
            attempt.alive()
            if message is not None:
                sent += 1
                # Once the partner's answer is here, only what is sent beyond it can still be held back.
                answered = attempt.part.noted("reply-1") is not None
                if sent > 1 or not answered:
                    self._ask_again(attempt, given, moved=sent == 1 or attempt.resumed, late=answered)
                if sent == 2:
                    # What follows the points depends on the join; for `align` it tells whom both know.
                    self._begin_use(attempt, given, chained(message))
                line.send(sent, message)
                if sent == 1:
                    self._reach(attempt, Stage.CONTRIBUTED)

    def _before_answer(self, attempt: Attempt, given: QueryInput, number: int) -> None:
        if number == 1:
            self._ask_again(attempt, given, moved=True, late=False)

    def _ask_again(self, attempt: Attempt, given: QueryInput, *, moved: bool, late: bool) -> None:
        """Has somebody in the input opted out since it was asked last, here or at the partner?

        With `moved` the answer of before counts no more if the ledger has grown since. Raises `BeginAnew`,
        or, when it is `late` because the partner's answer has come, ConsentStale.
        """
        size = self._uses.size()
        if not (attempt.doubtful.is_set() or (moved and size != attempt.asked_size)):
            return
        attempt.doubtful.clear()
        query, since = attempt.job.query, self._clock()
        purposes = (query.purpose, *query.also_for)
        lease = self._collaborations.agreement(query.collaboration).terms.lease
        while True:
            try:
                allowed = still_allowed(
                    given, self._gate, kind=query.key, purposes=purposes, partner=attempt.partner
                )
                break
            except ConsentStale as error:
                self._wait_for_consent(attempt, error, since, lease)
        if allowed:
            attempt.asked_size = size
        elif late:
            raise ConsentStale(
                "consents changed while the query was under way.", rule=CHANGED, advice="Ask again."
            )
        else:
            raise BeginAnew

    def _sign_off(self, attempt: Attempt, course: _Course, outcome: Outcome, result: dict[str, Any]) -> None:
        line, terms, given = course.line, course.terms, course.given
        job = attempt.job
        sealing, seal = outcome.state.seal()
        half = self._half(attempt, terms, outcome, result)
        # From here the people's data has been used: that is recorded even if the partner never answers.
        self._record(attempt, given, half, outcome)
        document = {"receipt": half.document(), "seal": armoured(seal.to_bytes())}
        answer = line.sign_off(document)
        sealing.sealed(Seal.from_bytes(unarmoured(answer.get("seal"), "the partner's seal")))
        receipt = half.with_contributor(answer.get("contributor_signature"))
        receipt.check_contributor(self._collaborations.partner(job.query.collaboration).key)
        if outcome.rows is not None and outcome.ids is not None:
            self._alignments.save(Alignment(job.id, job.query.dataset, outcome.rows, outcome.ids))
        if outcome.epoch is not None and course.question is not None and isinstance(terms, EpochTerms):
            epoch = terms.epoch if isinstance(terms, RefreshTerms) else job.id
            self._epochs.keep(course.question, epoch, terms.generation, job.id, outcome.epoch)
        if outcome.publisher_ids is not None and not result["suppressed"]:
            self._activations.keep_audience(job.id, outcome.publisher_ids)
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
        self._repeats.history.settle(job.id)
        self._store.jobs.move(
            job.id,
            JobState.SUCCEEDED,
            at=self._now(),
            stage=Stage.JOINED,
            progress=1.0,
            result=result,
            receipt_id=receipt.id,
        )

    def _half(self, attempt: Attempt, terms: Terms, outcome: Outcome, result: dict[str, Any]) -> Receipt:
        """This side's half of the receipt: made once, so that a repeated sign-off is the same."""

        def made() -> bytes:
            body = receipt_body(
                terms,
                attempt.job.query.kind,
                analyst=outcome.own,
                contributor=outcome.theirs,
                transcript=outcome.state.transcript,
                at=self._clock(),
            )
            return canonical_json(Receipt.by_analyst(body, output_hash(result), self._identity).document())

        return Receipt.from_document(parse_json(attempt.part("receipt", made), limit=_MOST_RECEIPT))

    def _record(self, attempt: Attempt, given: QueryInput, receipt: Receipt, outcome: Outcome) -> None:
        use = use_of(
            attempt.job.query,
            attempt.job.id,
            given,
            transcript=outcome.state.transcript,
            at=self._clock(),
            id=receipt.id,
            output_hash=receipt.output_hash,
        )
        self._uses.record(use, given.members, *further_uses(use, given))

    def _begin_use(self, attempt: Attempt, given: QueryInput, transcript: bytes) -> None:
        use = use_of(attempt.job.query, attempt.job.id, given, transcript=transcript, at=self._clock())
        self._uses.begin(use, given.members, *further_uses(use, given))

    def _waiting(self, attempt: Attempt, away: bool) -> None:
        self._update(attempt, stage=Stage.PARTNER_AWAY if away else attempt.stage)

    def _reach(self, attempt: Attempt, stage: Stage) -> None:
        attempt.stage = stage
        self._update(attempt, stage=stage)

    def _phase(self, attempt: Attempt, base: float, span: float) -> None:
        attempt.base, attempt.span = base, span
        self._tick(attempt, 0.0)

    def _tick(self, attempt: Attempt, part: float) -> None:
        attempt.alive()
        progress = attempt.base + attempt.span * part
        if progress - attempt.shown >= 0.02:
            attempt.shown = progress
            self._update(attempt, progress=progress)

    def _update(self, attempt: Attempt, **changes: Any) -> None:
        self._store.jobs.update(attempt.job.id, at=self._now(), **changes)

    def _now(self) -> str:
        return self._clock().isoformat()
