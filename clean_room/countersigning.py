"""The contributor's end of a job: the charge before anything leaves, and the receipt both sign."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from clean_room.activations import Activations
from clean_room.alignments import Alignment, AlignmentStore
from clean_room.armour import armoured, unarmoured
from clean_room.conversations import Finished
from clean_room.epoch_book import EpochBook, Question
from clean_room.errors import PeerViolation
from clean_room.history import History
from clean_room.jobs import Role
from clean_room.protocols.messages import Seal
from clean_room.protocols.terms import EpochTerms, RefreshTerms
from clean_room.receipts import Receipt, receipt_body
from clean_room.sessions import CHARGED, Session, read_time
from clean_room.storage import ReceiptRow, Store
from clean_room.uses import Uses, further_uses, use_of
from consent.encoding import canonical_json
from privacy.budget import BudgetKey, BudgetLedger, ReservationState
from privacy.signing import SigningKey

__all__ = ["REPEATABLE", "Countersigning", "answer_to", "kept_answer"]

REPEATABLE = timedelta(days=1)
"""For how long an analyst whose node stopped at the very end gets the same answer again."""


class Countersigning:
    """Charges, countersigns and files. Every step may be repeated after a crash and counts once."""

    def __init__(
        self,
        store: Store,
        *,
        uses: Uses,
        budget: BudgetLedger,
        alignments: AlignmentStore,
        activations: Activations,
        identity: SigningKey,
        history: History,
        epochs: EpochBook,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._uses = uses
        self._budget = budget
        self._alignments = alignments
        self._activations = activations
        self._identity = identity
        self._history = history
        self._epochs = epochs
        self._clock = clock

    def charge(self, session: Session) -> None:
        """Before the first byte that depends on the data: note the use, spend the budget. Idempotent.

        A refresh takes its generation: EpochOver if another has.
        """
        if session.charged:
            return
        if isinstance(session.terms, RefreshTerms):
            question = Question.of(session.asked, Role.CONTRIBUTOR, session.pin.key.to_text())
            self._epochs.take(question, session.terms.epoch, session.terms.number, session.job)
        if session.given is not None:
            at, transcript = self._clock(), session.transcript
            use = use_of(session.asked.query, session.job, session.given, transcript=transcript, at=at)
            self._uses.begin(use, session.given.members, *further_uses(use, session.given))
        self._history.settle(session.job)
        if session.reservation is not None:
            self._budget.commit(session.reservation)
        session.part.save(CHARGED, b"")
        session.charged = True

    def was_charged(self, session: Session) -> bool:
        """After a restart: whether something that depends on the data may have left."""
        if session.part.load(CHARGED) is not None:
            return True
        if session.reservation is None:
            return False
        return self._budget.reservation(session.reservation).state is ReservationState.COMMITTED

    def countersign(self, session: Session, document: Mapping[str, Any]) -> tuple[Receipt, dict[str, Any]]:
        """Check the analyst's seal and half; sign, file and answer. PeerViolation or Tampered."""
        finished, commitment = session.finished, session.commitment
        if finished is None or commitment is None or session.given is None:
            raise PeerViolation("a job was signed off before it was done.")
        receipt = Receipt.from_document(document.get("receipt"))
        at = read_time(receipt.body.get("at"))
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
        self._keep_rows(session, finished)
        self.charge(session)
        self._file(session, finished, signed)
        return signed, {
            "seal": armoured(seal.to_bytes()),
            "contributor_signature": signed.contributor_signature,
            "budget_left": self._left(session.budget_key),
        }

    def _keep_rows(self, session: Session, finished: Finished) -> None:
        if finished.rows is not None and finished.ids is not None:
            dataset = session.asked.query.partner_dataset
            self._alignments.save(Alignment(session.job, dataset, finished.rows, finished.ids))
        if finished.epoch is not None and isinstance(session.terms, EpochTerms):
            terms = session.terms
            epoch = terms.epoch if isinstance(terms, RefreshTerms) else session.job
            question = Question.of(session.asked, Role.CONTRIBUTOR, session.pin.key.to_text())
            self._epochs.keep(question, epoch, terms.generation, session.job, finished.epoch)
        if finished.publisher_ids is not None and session.given is not None:
            query, partner = session.asked.query, session.pin.name
            self._activations.keep_map(session.job, query, partner, session.given, finished.publisher_ids)

    def _file(self, session: Session, finished: Finished, receipt: Receipt) -> None:
        query = session.asked.query
        at = self._clock()
        if session.given is not None:
            transcript = finished.state.transcript
            use = use_of(query, session.job, session.given, transcript=transcript, at=at, id=receipt.id)
            self._uses.record(use, session.given.members, *further_uses(use, session.given))
        self._store.receipts.add(
            ReceiptRow(
                id=receipt.id,
                job=session.job,
                kind=query.kind,
                collaboration=query.collaboration,
                document=receipt.document(),
                created_at=at.isoformat(),
            )
        )

    def _left(self, key: BudgetKey) -> float | None:
        for status in self._budget.status(key.lineage):
            if status.key == key:
                return status.remaining.epsilon
        return None


def kept_answer(document: Mapping[str, Any], answer: Mapping[str, Any], at: datetime) -> dict[str, Any]:
    """What is kept of a sign-off: what was asked (by hash), what was answered, until when."""
    until = (at + REPEATABLE).isoformat()
    return {"asked": _digest(document), "answer": dict(answer), "until": until}


def answer_to(document: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """The same answer to the same sign-off; PeerViolation for another one."""
    if kept["asked"] != _digest(document):
        raise PeerViolation("a job was signed off twice, differently.")
    return dict(kept["answer"])


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(dict(document))).hexdigest()
