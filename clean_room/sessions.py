"""What the contributor holds of a running job, and how a partner's documents about it are read."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from clean_room.armour import unarmoured
from clean_room.collaboration import PartnerPin
from clean_room.conversations import Contribution, Finished
from clean_room.errors import Misuse, PeerViolation
from clean_room.inputs import QueryInput
from clean_room.jobs import Query, Stage
from clean_room.noise import NoisePlan
from clean_room.protocols.messages import InputCommitment, Offer
from clean_room.protocols.terms import MeasureTerms, Terms
from clean_room.rules import Asked
from clean_room.transport import Inbox, Outbox
from privacy.budget import BudgetKey

__all__ = ["Session", "message_limit", "read_offer", "read_time"]

_JOB = re.compile(r"[0-9a-f]{32}")
_CIPHERTEXT = 1 << 20
_HEADER = 1 << 14


@dataclass(slots=True)
class Session:
    """One running job, in memory only. `lock` guards everything that changes; `working` lets one step of the
    protocol run at a time, as a quick partner answers while this side still prepares its own points."""

    job: str
    pin: PartnerPin
    asked: Asked
    terms: Terms
    plan: NoisePlan
    offer: Offer = field(repr=False)
    offer_digest: str
    budget_key: BudgetKey
    reservation: str | None
    last_contact: datetime
    deadline: datetime
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
    charged: bool = False
    doubtful: bool = False
    over: bool = False
    answer: dict[str, Any] | None = field(default=None, repr=False)

    def drop(self) -> None:
        """Forget everything heavy."""
        self.over = True
        self.inboxes.clear()
        self.outboxes.clear()
        self.contribution = self.given = self.finished = None


def message_limit(session: Session, step: int) -> int:
    people = sum(session.offer.commitment.sizes)
    if step == 1:
        return people * 32 + _HEADER
    if isinstance(session.terms, MeasureTerms):
        rows, columns = session.terms.groups
        return rows * columns * len(session.terms.columns) * _CIPHERTEXT + _HEADER
    return people * 20 + _HEADER


def read_offer(document: Mapping[str, Any]) -> tuple[str, Query, bytes]:
    if set(document) != {"job", "query", "offer"}:
        raise PeerViolation("an offer has missing or unknown members.")
    job = document["job"]
    if not isinstance(job, str) or not _JOB.fullmatch(job):
        raise PeerViolation("an offer's job id is malformed.")
    try:
        query = Query.from_document(document["query"])
    except Misuse as error:
        raise PeerViolation(error.detail) from None
    return job, query, unarmoured(document["offer"], "an offer")


def read_time(text: object) -> datetime:
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        raise PeerViolation("the receipt's time is malformed.") from None
    if at.tzinfo is None:
        raise PeerViolation("the receipt's time is malformed.")
    return at
