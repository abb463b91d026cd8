"""One attempt at a `reach` as the analyst: several partners at once, each over a line of its own.

As in any query nothing leaves before own rules hold, here those of every agreement, and everybody who goes in
allowed it towards every partner. Partners whose person must let the query through are asked first, so that
the others are not kept waiting. A partner's list is fetched only once all have theirs ready: up to then the
job can begin anew without those who opt out anywhere. Every partner is charged, records the use and signs a
receipt for itself.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from clean_room.agreement_book import HeldAgreements
from clean_room.armour import armoured, unarmoured
from clean_room.asking import Asking, Attempt
from clean_room.collaboration import PartnerPin
from clean_room.contributing import CHANGED
from clean_room.conversations import Workshop
from clean_room.conversations.reach import ReachOutcome, inquire
from clean_room.correspondence import AwaitingApproval, BeginAnew, Correspondence
from clean_room.errors import ConsentStale, Misuse, PeerUnreachable, PeerViolation
from clean_room.input_records import read_input, write_input
from clean_room.inputs import QueryInput, still_allowed
from clean_room.jobs import JobState, Stage
from clean_room.journal import Journal
from clean_room.kept_pool import KeptPool
from clean_room.noise import plan
from clean_room.panel import check_agreed
from clean_room.protocols.attestation import Attestation
from clean_room.protocols.circle import LineOpen
from clean_room.protocols.messages import Accept, InputCommitment, Offer, ReachSizes, Seal, chained
from clean_room.protocols.terms import ReachTerms
from clean_room.questions import read_commitment, terms_for
from clean_room.reach_results import reached
from clean_room.receipts import Receipt, output_hash, receipt_body
from clean_room.rules import Asked, MinimumInput
from clean_room.shared_inputs import prepared_for_all
from clean_room.storage import ReceiptRow
from clean_room.uses import Use, use_of
from consent.encoding import canonical_json, parse_json

__all__ = ["ReachAsking"]

_MOST_RECEIPT = 1 << 20


class _Contact:
    """Lets every partner hear from this node while it works, or waits for one of them: a partner that hears
    nothing gives up."""

    def __init__(self, attempt: Attempt, clock: Callable[[], datetime], silence: timedelta) -> None:
        self._attempt = attempt
        self._clock = clock
        self._every = silence / 4
        self._last = clock()

    def touch(self) -> None:
        """Ask all partners where they stand, if it is time."""
        if self._attempt.offered and self._clock() - self._last >= self._every:
            with contextlib.suppress(PeerUnreachable):
                self._attempt.lines.state(self._attempt.job.id)
            self._last = self._clock()

    def wait(self, seconds: float) -> None:
        """As the attempt's pause."""
        self._attempt.pause(seconds)
        self.touch()


@dataclass(slots=True)
class _Seat:
    """One partner at the table, in the order of the ring."""

    asked: Asked
    pin: PartnerPin
    terms: ReachTerms
    given: QueryInput = field(repr=False)
    part: Journal = field(repr=False)
    line: Correspondence = field(repr=False)
    offer: Offer = field(init=False, repr=False)
    accept: Accept = field(init=False, repr=False)
    lists: Accept = field(init=False, repr=False)
    """As `accept`, with the size of the longest list any partner may be sent."""


class ReachAsking(Asking):
    """Drives an inquiry over several transports."""

    def drive(self, attempt: Attempt) -> None:
        """Take the attempt to the job's success. Raises whatever ends it otherwise, `BeginAnew` included."""
        query = attempt.job.query
        held = HeldAgreements(self._collaborations, attempt.part)
        panel = check_agreed(query, held, self._identity.public.to_text())
        spending = plan(panel[0], self._noise)
        rules = [asked.agreement.terms for asked in panel]
        self._phase(attempt, 0.0, 0.1)
        given = self._inputs(attempt, panel)
        minimum = max(terms.minimum_input for terms in rules)
        MinimumInput(minimum).check(given[0].size)
        contact = _Contact(attempt, self._clock, self._silence)
        table = [self._seat(attempt, n, panel[n], given[n], contact) for n in range(len(panel))]
        outcome = self._circle(attempt, table, minimum, contact)
        for commitment in outcome.theirs:
            read_commitment(commitment.consent, purpose=query.purpose)
        names = [panel[0].analyst, *(seat.pin.name for seat in table)]
        result = reached(outcome, names, spending, max(terms.minimum_cell for terms in rules))
        self._sign_all(attempt, table, outcome, result)

    # ── who goes in ─────────────────────────────────────────────────────────────────────────────────────

    def _inputs(self, attempt: Attempt, panel: Sequence[Asked]) -> list[QueryInput]:
        """The same people towards every partner, and when the attempt is taken up again."""
        parts = [attempt.part.part(place) for place in range(1, len(panel) + 1)]
        kept = [part.load("input") for part in parts]
        if all(one is not None for one in kept):
            given = [read_input(one) for one in kept if one is not None]
        else:
            given = self._agreed_to_by_all(attempt, panel)
            for part, one in zip(parts, given, strict=True):
                part.save("input", write_input(one))
        attempt.asked_size = min(one.evidence.log_size for one in given)
        self._update(attempt, input=given[0].counts.document())
        return given

    def _agreed_to_by_all(self, attempt: Attempt, panel: Sequence[Asked]) -> list[QueryInput]:
        """Read the data and keep who may go in towards every partner."""
        since, lease = self._clock(), _longest_lease(panel)
        while True:
            try:
                return prepared_for_all(self._catalogue[panel[0].query.dataset], self._gate, panel)
            except ConsentStale as error:
                self._wait_for_consent(attempt, error, since, lease)

    def _ask_all_again(self, attempt: Attempt, table: Sequence[_Seat], *, moved: bool, late: bool) -> None:
        """As `_ask_again`, towards every partner."""
        size = self._uses.size()
        if not (attempt.doubtful.is_set() or (moved and size != attempt.asked_size)):
            return
        attempt.doubtful.clear()
        query, since = attempt.job.query, self._clock()
        lease = _longest_lease([seat.asked for seat in table])
        while True:
            try:
                allowed = all(
                    still_allowed(
                        seat.given,
                        self._gate,
                        kind=query.key,
                        purposes=(query.purpose, *query.also_for),
                        partner=seat.pin.name,
                    )
                    for seat in table
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

    # ── the ring ────────────────────────────────────────────────────────────────────────────────────────

    def _seat(
        self,
        attempt: Attempt,
        number: int,
        asked: Asked,
        given: QueryInput,
        contact: _Contact,
    ) -> _Seat:
        terms = terms_for(asked, attempt.job.id, plan(asked, self._noise))
        if not isinstance(terms, ReachTerms):
            raise Misuse("this is not a reach.", code="illegal_step")
        collaboration = asked.query.collaboration
        part = attempt.part.part(number + 1)
        line = Correspondence(
            attempt.lines.to(collaboration),
            attempt.job.id,
            attempt.number,
            part,
            wait=contact.wait,
            waiting=lambda away: self._waiting(attempt, away),
            clock=self._clock,
            silence=self._silence,
            lease=asked.agreement.terms.lease,
            poll_seconds=self._poll,
        )
        return _Seat(asked, self._collaborations.partner(collaboration), terms, given, part, line)

    def _circle(
        self, attempt: Attempt, table: Sequence[_Seat], minimum: int, contact: _Contact
    ) -> ReachOutcome:
        def progress(done: int, of: int) -> None:
            self._tick(attempt, done / max(1, of))
            contact.touch()

        attestations = [Attestation(self._identity.sign, seat.pin.key.verify) for seat in table]
        workshop = Workshop(
            pool=KeptPool(self._points(attempt, table[0].given, table[0].terms), attempt.part),
            random=attempt.part.random(self._random),
            noise=self._noise,
            attestation=attestations[0],
            progress=progress,
            keep=attempt.part,
        )
        inquiry = inquire(
            [seat.terms for seat in table], [seat.given for seat in table], attestations, workshop
        )
        self._offer_all(attempt, table, next(inquiry))
        replies = self._replies(table, 0)
        for seat, reply in zip(table, replies, strict=True):
            seat.accept = Accept.from_bytes(reply)
            MinimumInput(minimum).check(sum(seat.accept.commitment.sizes))
        self._reach(attempt, Stage.INVITED)
        step, last = 0, len(table) + 1
        while True:
            self._phase(attempt, 0.1 + 0.85 * step / (last + 1), 0.85 / (last + 1))
            try:
                messages = inquiry.send(replies)
            except StopIteration as end:
                outcome: ReachOutcome = end.value
                return outcome
            step += 1
            attempt.alive()
            if step == 1:
                _expect_lists(table, messages)
            else:
                self._ask_all_again(attempt, table, moved=step == 2, late=True)
            if step == 2:
                self._begin_uses(attempt, table, messages)
            for seat, message in zip(table, messages, strict=True):
                seat.line.send(step, message)
            if step == 1:
                self._before_lists(attempt, table)
            elif step == 2:
                self._reach(attempt, Stage.CONTRIBUTED)
            replies = self._replies(table, step)
            if step == last:
                self._reach(attempt, Stage.TRANSFORMED)

    def _offer_all(self, attempt: Attempt, table: Sequence[_Seat], offers: Sequence[bytes]) -> None:
        """Those where a person decides come first; nobody else is asked before all of them have."""
        attempt.alive()
        if not attempt.offered:
            attempt.offered = True
            attempt.remember()
        awaited: AwaitingApproval | None = None
        for seat, raw in zip(table, offers, strict=True):
            seat.offer = Offer.from_bytes(raw)
        for seat in sorted(table, key=lambda seat: seat.asked.agreement.terms.approval != "person"):
            if awaited is not None and seat.asked.agreement.terms.approval != "person":
                break
            document = {
                "query": seat.asked.query.document(),
                "offer": armoured(seat.offer.to_bytes()),
            }
            try:
                seat.line.offer(document)
            except AwaitingApproval as waiting:
                awaited = waiting
        if awaited is not None:
            raise awaited

    def _before_lists(self, attempt: Attempt, table: Sequence[_Seat]) -> None:
        """Wait until every partner's list is ready and ask own consents again: then nothing has left yet."""
        answered = any(seat.part.noted("reply-1") is not None for seat in table)
        if not answered:
            for seat in table:
                seat.line.announced(1)
        self._ask_all_again(attempt, table, moved=True, late=answered)

    def _replies(self, table: Sequence[_Seat], number: int) -> tuple[bytes, ...]:
        replies = []
        for seat in table:
            accept = None if number == 0 else seat.accept if number == 1 else seat.lists
            replies.append(seat.line.reply(number, seat.terms, seat.offer, accept, lambda: None))
        return tuple(replies)

    # ── receipts and uses ───────────────────────────────────────────────────────────────────────────────

    def _begin_uses(self, attempt: Attempt, table: Sequence[_Seat], messages: Sequence[bytes]) -> None:
        uses: list[Use] = []
        for seat, message in zip(table, messages, strict=True):
            job = attempt.job.id
            name = hashlib.sha256(f"{job}/{seat.asked.query.collaboration}".encode()).hexdigest()[:32]
            use = use_of(
                seat.asked.query, job, seat.given, transcript=chained(message), at=self._clock(), id=name
            )
            uses.append((use, seat.given.members))
        (first, members), *further = uses
        self._uses.begin(first, members, *further)

    def _sign_all(
        self, attempt: Attempt, table: Sequence[_Seat], outcome: ReachOutcome, result: dict[str, Any]
    ) -> None:
        """Sign and file a receipt with every partner; the first that does not sign ends the job."""
        job, digest, at = attempt.job, output_hash(result), self._clock()
        halves = [self._half_of(table, n, outcome, digest) for n in range(len(table))]
        uses: list[Use] = []
        for seat, half, line in zip(table, halves, outcome.state.lines, strict=True):
            use = use_of(
                seat.asked.query,
                job.id,
                seat.given,
                transcript=line.transcript,
                at=at,
                id=half.id,
                output_hash=digest,
            )
            uses.append((use, seat.given.members))
        # From here the people's data has been used: that is recorded even if no partner answers.
        (first, members), *further = uses
        self._uses.record(first, members, *further)
        partners = [
            self._sign_with(attempt, seat, half, line)
            for seat, half, line in zip(table, halves, outcome.state.lines, strict=True)
        ]
        left = [partner["budget_left"] for partner in partners if partner["budget_left"] is not None]
        result |= {
            "budget_left": min(left) if len(left) == len(partners) else None,
            "receipt_id": partners[0]["receipt_id"],
            "receipts": [partner["receipt_id"] for partner in partners],
            "partners": partners,
            "people": table[0].given.size,
        }
        self._store.jobs.move(
            job.id,
            JobState.SUCCEEDED,
            at=self._now(),
            stage=Stage.JOINED,
            progress=1.0,
            result=result,
            receipt_id=partners[0]["receipt_id"],
        )

    def _sign_with(self, attempt: Attempt, seat: _Seat, half: Receipt, line: LineOpen) -> dict[str, Any]:
        """Exchange seals and signatures with one partner, and file the receipt."""
        sealing, seal = line.seal()
        answer = seat.line.sign_off({"receipt": half.document(), "seal": armoured(seal.to_bytes())})
        sealing.sealed(Seal.from_bytes(unarmoured(answer.get("seal"), "the partner's seal")))
        receipt = half.with_contributor(answer.get("contributor_signature"))
        receipt.check_contributor(seat.pin.key)
        query, left = seat.asked.query, answer.get("budget_left")
        self._store.receipts.add(
            ReceiptRow(
                id=receipt.id,
                job=attempt.job.id,
                kind=query.kind,
                collaboration=query.collaboration,
                document=receipt.document(),
                created_at=self._now(),
            )
        )
        return {
            "name": seat.pin.name,
            "collaboration": query.collaboration,
            "dataset": query.partner_dataset,
            "epsilon_spent": seat.terms.epsilon,
            "delta_spent": seat.terms.delta,
            "budget_left": float(left) if isinstance(left, int | float) else None,
            "receipt_id": receipt.id,
        }

    def _half_of(self, table: Sequence[_Seat], number: int, outcome: ReachOutcome, digest: str) -> Receipt:
        """This side's half of a receipt: made once, so that a repeated sign-off is the same."""
        seat = table[number]

        def made() -> bytes:
            body = receipt_body(
                seat.terms,
                seat.asked.query.kind,
                analyst=outcome.own[number],
                contributor=outcome.theirs[number],
                transcript=outcome.state.lines[number].transcript,
                at=self._clock(),
            )
            return canonical_json(Receipt.by_analyst(body, digest, self._identity).document())

        return Receipt.from_document(parse_json(seat.part("receipt", made), limit=_MOST_RECEIPT))


def _expect_lists(table: Sequence[_Seat], messages: Sequence[bytes]) -> None:
    """Bound what partners may send from now on by the longest list there is."""
    longest = max(ReachSizes.from_bytes(messages[0]).lengths)
    if not longest:
        raise PeerViolation("The lists are empty.")
    for seat in table:
        seat.lists = replace(seat.accept, commitment=InputCommitment((longest,)))


def _longest_lease(panel: Sequence[Asked]) -> timedelta | None:
    leases = [asked.agreement.terms.lease for asked in panel]
    return max((lease for lease in leases if lease is not None), default=None)
