"""What the contributor holds of a running job, how it is kept, and how a partner's documents are read."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from clean_room.armour import unarmoured
from clean_room.collaboration import PartnerPin
from clean_room.conversations import Contribution, Finished
from clean_room.errors import Misuse, PeerViolation
from clean_room.inputs import QueryInput
from clean_room.jobs import Query, Stage
from clean_room.journal import Journal
from clean_room.limits import message_limit
from clean_room.noise import NoisePlan
from clean_room.protocols.messages import InputCommitment, Offer
from clean_room.protocols.terms import Terms
from clean_room.rules import Asked
from clean_room.samples import Sampler
from clean_room.transport import Inbox, Manifest, Outbox
from privacy.budget import BudgetKey

__all__ = [
    "CHARGED",
    "MOST_ATTEMPTS",
    "RESUMING",
    "KeptChunks",
    "Offered",
    "Session",
    "patience",
    "read_offer",
    "read_time",
]

_JOB = re.compile(r"[0-9a-f]{32}")
_OFFERED = frozenset({"job", "query", "offer", "attempt", "repeats"})
MOST_ATTEMPTS = 8
"""How often a job is begun, at most, because consents changed before anything that depends on data left."""
CHARGED = "charged"
RESUMING = "resuming"
"""Code of the answer of a node that works through what came before its restart: ask again in a moment."""


@dataclass(slots=True)
class Session:
    """One attempt at one running job. `lock` guards everything that changes; `working` lets one step of the
    protocol run at a time, as a quick partner answers while this side still prepares its own points.

    `again` says that the analyst must begin anew with the people still allowed, or, with `epoch_over`, with a
    first run; `resuming` that what came
    before a restart is not worked through yet; `awaited` that a person has still to let the query through.
    """

    job: str
    attempt: int
    pin: PartnerPin
    asked: Asked
    terms: Terms
    plan: NoisePlan
    offer: Offer = field(repr=False)
    offer_digest: str
    budget_key: BudgetKey
    last_contact: datetime
    deadline: datetime
    journal: Journal = field(repr=False)
    part: Journal = field(repr=False)
    document: Mapping[str, Any] = field(repr=False)
    sampler: Sampler | None = None
    reservation: str | None = None
    repeats: str | None = None
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    working: threading.Lock = field(default_factory=threading.Lock, repr=False)
    inboxes: dict[int, Inbox] = field(default_factory=dict, repr=False)
    outboxes: dict[int, Outbox] = field(default_factory=dict, repr=False)
    contribution: Contribution | None = field(default=None, repr=False)
    given: QueryInput | None = field(default=None, repr=False)
    commitment: InputCommitment | None = None
    finished: Finished | None = field(default=None, repr=False)
    expected: int = 1
    stage: Stage = Stage.NONE
    progress: float = 0.0
    transcript: bytes = b""
    asked_at: datetime | None = None
    asked_size: int = 0
    charged: bool = False
    doubtful: bool = False
    again: bool = False
    epoch_over: bool = False
    resuming: bool = False
    awaited: bool = False
    approved: bool = False
    begun: bool = False
    stale_since: datetime | None = None
    postponed: tuple[datetime, Callable[[Session], None]] | None = field(default=None, repr=False)
    over: bool = False

    @property
    def patient(self) -> bool:
        """Whether the analyst may be silent: while a person decides, and until it has heard of that."""
        return self.awaited or (self.approved and not self.begun)

    def keep(self) -> None:
        """Write down what the session is rebuilt from."""
        self.journal.note(
            "session",
            {
                "partner": self.pin.name,
                "document": dict(self.document),
                "attempt": self.attempt,
                "deadline": self.deadline.isoformat(),
                "period": self.budget_key.period,
                "awaited": self.awaited,
                "approved": self.approved,
                "begun": self.begun,
            },
        )

    def inbox(self, step: int) -> Inbox:
        """Where message `step` is collected. PeerViolation for one out of turn."""
        if step < self.expected and step in self.inboxes:
            return self.inboxes[step]
        if step != self.expected or 0 not in self.outboxes:
            raise PeerViolation("a message came out of turn.")
        return self._collected(step)

    def _collected(self, step: int) -> Inbox:
        if step not in self.inboxes:
            limit = message_limit(self.terms, self.offer.commitment.sizes, step)
            self.inboxes[step] = Inbox(limit, KeptChunks(self.part, step))
        return self.inboxes[step]

    def finish(self, step: int, document: object) -> bytes | None:
        """The message is whole: its bytes, once; from then on it stays what it is, also after a restart."""
        inbox = self.inbox(step)
        manifest = Manifest.from_document(document, limit=inbox.limit)
        payload = inbox.finish(manifest)
        if payload is not None:
            self.part.note(f"message-{step}", manifest.document())
            self.expected = step + 1
        return payload

    def received(self) -> list[tuple[int, bytes]]:
        """After a restart: put what had come into the inboxes and return the messages that are whole."""
        whole: list[tuple[int, bytes]] = []
        self.inboxes.clear()
        self.expected = step = 1
        while True:
            shelf = KeptChunks(self.part, step)
            bodies = list(shelf)
            document = self.part.noted(f"message-{step}")
            if not bodies:
                return whole
            inbox = self._collected(step)
            done = None if document is None else Manifest.from_document(document, limit=inbox.limit)
            inbox.again(bodies, done)
            if done is None:
                return whole
            whole.append((step, b"".join(bodies)))
            self.expected = step = step + 1

    def expects(self) -> dict[str, int]:
        """Which chunk of which message has not come yet."""
        inbox = self.inboxes.get(self.expected)
        return {"step": self.expected, "chunk": 0 if inbox is None else inbox.chunks}

    def drop(self) -> None:
        """Forget everything heavy."""
        self.over = True
        self.inboxes.clear()
        self.outboxes.clear()
        self.contribution = self.given = self.finished = None
        self.postponed = None


class KeptChunks:
    """The chunks of one message in a journal. Implements `transport.Shelf`."""

    def __init__(self, part: Journal, step: int) -> None:
        self._part = part
        self._step = step

    def put(self, index: int, body: bytes) -> None:
        """See `Shelf`."""
        self._part.save(f"message-{self._step}.{index}", body)

    def take(self, index: int) -> bytes:
        """See `Shelf`."""
        body = self._part.load(f"message-{self._step}.{index}")
        if body is None:
            raise Misuse("a chunk that was kept is gone.", code="illegal_step")
        return body

    def __iter__(self) -> Any:
        index = 0
        while (body := self._part.load(f"message-{self._step}.{index}")) is not None:
            yield body
            index += 1


@dataclass(frozen=True, slots=True)
class Offered:
    """An offer as it came. `attempt` counts from 1; `repeats` is the job it is said to repeat."""

    job: str
    query: Query
    raw: bytes = field(repr=False)
    attempt: int
    document: Mapping[str, Any] = field(repr=False)
    repeats: str | None = None


def read_offer(document: Mapping[str, Any]) -> Offered:
    """A partner's offer, read strictly. PeerViolation."""
    if not {"job", "query", "offer"} <= set(document) <= _OFFERED:
        raise PeerViolation("an offer has missing or unknown members.")
    job, attempt = document["job"], document.get("attempt", 1)
    if not isinstance(job, str) or not _JOB.fullmatch(job):
        raise PeerViolation("an offer's job id is malformed.")
    if not isinstance(attempt, int) or isinstance(attempt, bool) or not 1 <= attempt <= 1 << 16:
        raise PeerViolation("an offer's attempt is malformed.")
    try:
        query = Query.from_document(document["query"])
    except Misuse as error:
        raise PeerViolation(error.detail) from None
    repeats = document.get("repeats")
    if repeats is not None and not (isinstance(repeats, str) and _JOB.fullmatch(repeats)):
        raise PeerViolation("an offer repeats something that is no job.")
    return Offered(job, query, unarmoured(document["offer"], "an offer"), attempt, document, repeats)


def read_time(text: object) -> datetime:
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        raise PeerViolation("the receipt's time is malformed.") from None
    if at.tzinfo is None:
        raise PeerViolation("the receipt's time is malformed.")
    return at


def patience(lease: timedelta | None) -> timedelta:
    """How long a job waits for opt-outs to be heard of again: four leases, at least ten seconds."""
    return max(timedelta(seconds=10), 4 * (lease or timedelta()))
