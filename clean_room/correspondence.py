"""The analyst's exchange with one partner about one job: patient with a partner that is away for a while.

A partner that does not answer is asked again until it has been silent for as long as agreed on this node;
meanwhile the job says that it waits. What was received is in the job's journal and is not asked for twice;
what the partner has is not sent twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, NoReturn, TypeVar

from clean_room.errors import BudgetExhausted, ConsentStale, Misuse, PeerUnreachable, PeerViolation, Refused
from clean_room.journal import Journal
from clean_room.limits import reply_limit
from clean_room.protocols.messages import Accept, Offer
from clean_room.protocols.terms import Terms
from clean_room.sessions import RESUMING, patience
from clean_room.transport import MAX_DOCUMENT, JobTransport, Manifest
from privacy.errors import ComityError

__all__ = ["AwaitingApproval", "BeginAnew", "Correspondence", "PartnerSilent", "Repeated"]

T = TypeVar("T")
_EVERYTHING = 1 << 30


class BeginAnew(Exception):
    """Consents changed before anything that depends on data left, or an epoch is over: start over."""

    def __init__(self, *, epoch_over: bool = False) -> None:
        super().__init__()
        self.epoch_over = epoch_over


class Repeated(Exception):
    """The partner has been asked this before, and its side is as it was: the answer of `job` stands."""

    def __init__(self, job: str) -> None:
        super().__init__()
        self.job = job


class AwaitingApproval(Exception):
    """A person of the partner has still to let the query through."""


class PartnerSilent(Exception):
    """The partner has not answered for longer than this node waits."""

    def __init__(self, last: PeerUnreachable | ComityError) -> None:
        super().__init__()
        self.last = last


class Correspondence:
    """One attempt's messages and replies.

    `part` is the attempt's journal; `wait(seconds)` returns early, or raises, when the job is to stop;
    `waiting(True)` is called when the partner is away, `waiting(False)` when it is back.
    """

    def __init__(
        self,
        transport: JobTransport,
        job: str,
        attempt: int,
        part: Journal,
        *,
        wait: Callable[[float], None],
        waiting: Callable[[bool], None],
        clock: Callable[[], datetime],
        silence: timedelta,
        lease: timedelta | None,
        poll_seconds: float,
    ) -> None:
        self._transport = transport
        self._job = job
        self._attempt = attempt
        self._part = part
        self._wait = wait
        self._waiting = waiting
        self._clock = clock
        self._silence = silence
        self._lease = lease
        self._poll = poll_seconds
        self._expects = (1, 0)

    def offer(self, document: Mapping[str, Any]) -> None:
        """Offer the query, or find out where the partner stands with it.

        Raises `AwaitingApproval`, `BeginAnew`, or the error with which the job has ended there.
        """
        whole = {**document, "attempt": self._attempt}
        try:
            state = self._patiently(lambda: self._transport.offer(self._job, whole))
        except Misuse as error:
            self._explain(error)
        self._judge(state)
        if state.get("state") == "submitted":
            raise BeginAnew  # it was let through meanwhile: with an offer of its own, of the people of now
        if state.get("state") == "succeeded":
            self._expects = (_EVERYTHING, 0)  # only the closing signatures are still to be had, once more
        expects = state.get("expects")
        if isinstance(expects, Mapping):
            step, chunk = expects.get("step"), expects.get("chunk")
            if isinstance(step, int) and isinstance(chunk, int) and step > 0 and chunk >= 0:
                self._expects = (step, chunk)

    def send(self, step: int, message: bytes) -> None:
        """Send message `step`, or what of it the partner does not have."""
        expected, chunk = self._expects
        if step < expected:
            return
        first = chunk if step == expected else 0
        try:
            self._patiently(lambda: self._transport.send(self._job, step, message, first=first))
        except Misuse as error:
            self._explain(error)

    def reply(
        self, number: int, terms: Terms, offer: Offer, accept: Accept | None, willing: Callable[[], None]
    ) -> bytes:
        """Wait for reply `number` and fetch it; `willing` is called right before, and may raise."""
        limit = MAX_DOCUMENT
        if number > 0 and accept is not None:
            limit = reply_limit(terms, offer.commitment.sizes, accept.commitment.sizes, number)
        kept = self._part.noted(f"reply-{number}")
        if kept is not None:
            manifest = Manifest.from_document(kept, limit=limit)
        else:
            manifest = Manifest.from_document(self._announced(number), limit=limit)
            willing()
            self._part.note(f"reply-{number}", manifest.document())
        since = self._clock()
        while True:
            self._wait(0)
            try:
                return self._patiently(
                    lambda: self._transport.fetch(self._job, number, manifest, keep=self._part)
                )
            except Misuse as error:
                self._explain(error)
            except Refused as error:
                if error.code != ConsentStale.code:
                    raise
                # The partner asked once more before its answer left: either it wants to begin anew, or
                # it has not heard of opt-outs in time and may have by the next try.
                state = self.state()
                self._judge(state)
                if error.rule != "lease" or self._clock() - since > patience(self._lease):
                    raise
                self._wait(self._poll)

    def announced(self, number: int) -> None:
        """Wait until reply `number` is ready, without fetching it."""
        self._announced(number)

    def state(self) -> dict[str, Any]:
        """Where the partner stands."""
        return self._patiently(lambda: self._transport.state(self._job))

    def sign_off(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Hand over seal and receipt; the answer."""
        try:
            return self._patiently(lambda: self._transport.sign_off(self._job, document))
        except Misuse as error:
            self._explain(error)

    def _announced(self, number: int) -> object:
        """What reply `number` will be, once it is there."""
        pause = min(0.02, self._poll)
        while True:
            self._wait(0)
            state = self.state()
            self._judge(state)
            replies = state.get("replies")
            document = replies.get(str(number)) if isinstance(replies, Mapping) else None
            if document is not None and state.get("attempt", 1) == self._attempt:
                return document
            self._wait(pause)
            pause = min(self._poll, pause * 1.5)

    def _judge(self, state: Mapping[str, Any]) -> None:
        raise_for(state)
        self._repeated(state)
        if state.get("state") == "awaiting_approval":
            raise AwaitingApproval
        if state.get("again") is True and state.get("attempt") == self._attempt:
            raise BeginAnew(epoch_over=state.get("epoch_over") is True)

    def _explain(self, error: Misuse) -> NoReturn:
        """A partner that says the job is over there also says why: raise that instead."""
        state = self.state()
        raise_for(state)
        self._repeated(state)
        raise error

    @staticmethod
    def _repeated(state: Mapping[str, Any]) -> None:
        said = state.get("repeats")
        if state.get("state") == "succeeded" and isinstance(said, str):
            raise Repeated(said)

    def _patiently(self, call: Callable[[], T]) -> T:
        since: datetime | None = None
        pause = self._poll
        try:
            while True:
                try:
                    return call()
                except ComityError as error:
                    if not error.retryable or isinstance(error, Refused):
                        raise
                    if since is None:
                        since = self._clock()
                        self._waiting(True)
                    # A node that says it is taking the job up again is there.
                    if error.code != RESUMING and self._clock() - since >= self._silence:
                        raise PartnerSilent(error) from None
                self._wait(pause)
                pause = min(2.0, pause * 1.5)
        finally:
            if since is not None:
                self._waiting(False)


def raise_for(state: Mapping[str, Any]) -> None:
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
        gone = PeerUnreachable("the partner stopped waiting for this node.", code="peer_timed_out")
        raise PartnerSilent(gone)
    if code == PeerViolation.code:
        raise PeerViolation("the partner found a breach of the protocol in what this node sent.")
    raise PeerViolation(
        f"the partner's node could not do its half ({code or 'unknown'}).",
        code="peer_failed",
        advice="The partner's job record says why.",
    )


def _plain(text: object) -> str:
    return text[:500] if isinstance(text, str) and text.isprintable() else ""
