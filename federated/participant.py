"""The feature holder's node: runs it takes part in, from a partner's offer to its half of the model.

Rows never leave through here: a seat holds a party, the party asks the data gate, and what goes out are
Flower replies (a receipt and counts) and channel frames (ciphertexts and scores).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp

from clean_room.agreements import Agreement
from clean_room.alignments import Alignment
from clean_room.collaboration import PartnerPin
from clean_room.datasets import Catalogue
from clean_room.jobs import Job
from consent.peers import PeerConnection
from federated.apps.client_app import client_app
from federated.card import passive_card
from federated.channel import MailboxChannel, message_bytes
from federated.errors import ComityError, PeerUnreachable, PeerViolation, Refused, TrainingRefused
from federated.gate import DataGate, GateGrant, RoundReceipt
from federated.grid import decode_message, encode_message
from federated.runs import Role, Run, RunError, RunOffer, RunState
from federated.storage import RunStore
from federated.vertical.alignment import AlignedRows, require_fit
from federated.vertical.parties import Outcome, PassiveParty
from federated.vertical.terms import RunTerms
from privacy.keys import KeyRing

__all__ = ["PASSIVE_NODE", "Agreements", "Alignments", "Participant", "model_aad"]

PASSIVE_NODE = 3

_SEATS_MOST = 4
_log = logging.getLogger(__name__)


class Agreements(Protocol):
    """The collaborations of this node; satisfied by `clean_room.collaboration.Collaborations`."""

    def agreement(self, collaboration: str) -> Agreement: ...

    def partner(self, collaboration: str) -> PartnerPin: ...

    def connection(self, collaboration: str) -> PeerConnection: ...


class Alignments(Protocol):
    """What the clean room knows of finished `align` jobs."""

    def job(self, job: str) -> Job:
        """Raises Misuse for an unknown job."""
        ...

    def alignment(self, job: str) -> Alignment:
        """Own rows in the shared order. Raises Misuse(unknown_alignment)."""
        ...


def model_aad(run: str) -> bytes:
    """What a sealed half of a model is bound to."""
    return f"federated/model/{run}".encode()


@dataclass(slots=True)
class _Seat:
    run: Run
    partner: str
    terms: RunTerms
    columns: tuple[str, ...]
    channel: MailboxChannel
    party: PassiveParty
    app: ClientApp
    context: Context
    receipts: list[RoundReceipt] = field(default_factory=list)
    epochs: int = 0
    error: ComityError | None = None
    replies: dict[str, bytes | None] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)
    touched: float = field(default_factory=time.monotonic)


class Participant:
    """Seats of this node in partners' runs. Thread-safe; every method is called with the partner's name."""

    def __init__(
        self,
        *,
        store: RunStore,
        agreements: Agreements,
        catalogue: Catalogue,
        alignments: Alignments,
        gate: DataGate,
        keyring: KeyRing,
        own_key: str,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
        idle_seconds: float = 120.0,
    ) -> None:
        self._store, self._agreements, self._catalogue = store, agreements, catalogue
        self._alignments, self._gate, self._keyring, self._own_key = alignments, gate, keyring, own_key
        self._clock, self._random, self._idle = clock, random, idle_seconds
        self._seats: dict[str, _Seat] = {}
        self._lock = threading.Lock()

    def offer(self, partner: str, document: object) -> dict[str, Any]:
        """Check an offer against the agreement and this node's own lists; take a seat or refuse.

        Answers `{"features": [names], "rows": n}`.
        """
        offer = RunOffer.from_document(document)
        agreement = self._agreed(partner, offer)
        self._require_room(partner)
        dataset = self._catalogue[offer.dataset]
        columns = offer.features or dataset.features
        if not columns or not set(columns) <= set(dataset.features):
            raise TrainingRefused(
                "A column asked for is not listed for training here.",
                rule="column_allowed",
                advice="The partner lists its training columns in its own datasets.toml.",
            )
        source = self._aligned(partner, offer, agreement)
        terms = offer.terms(len(columns))
        now = self._clock().isoformat()
        run = Run(
            id=offer.run,
            role=Role.PASSIVE,
            partner=partner,
            collaboration=offer.collaboration,
            principal=partner,
            request=offer.document(),
            state=RunState.STARTED,
            created_at=now,
            updated_at=now,
            stage="invited",
            alignment=offer.alignment,
        )
        self._gate.approve(
            GateGrant(
                run=offer.run,
                purpose=offer.purpose,
                partner=partner,
                collaboration=offer.collaboration,
                columns=columns,
                source=source,
            )
        )
        most = message_bytes(terms.rows, terms.features)
        channel = MailboxChannel(offer.run, timeout=self._idle, most=most)
        party = PassiveParty(terms, self._gate, channel, columns=columns, random=self._random)

        def done(number: int, outcome: Outcome) -> None:
            seat = self._seats[offer.run]
            seat.receipts.append(outcome.receipt)
            seat.epochs += outcome.epochs
            shown = min(number / (terms.rounds + 1), 1.0)
            self._store.add_receipts(offer.run, number, {self._own(agreement): outcome.receipt.to_dict()})
            self._store.progress(offer.run, stage="training", progress=shown, now=self._clock().isoformat())

        def failed(error: ComityError) -> None:
            self._seats[offer.run].error = error

        seat = _Seat(
            run=run,
            partner=partner,
            terms=terms,
            columns=columns,
            channel=channel,
            party=party,
            app=client_app(offer.run, party, done=done, failed=failed),
            context=Context(0, PASSIVE_NODE, {}, RecordDict(), {}),
        )
        try:
            with self._lock:
                self._require_room(partner)
                self._seats[offer.run] = seat
            self._store.add(run)
        except BaseException:
            self._leave(seat)
            raise
        return {"features": list(columns), "rows": offer.rows}

    def deliver(self, partner: str, run: str, body: bytes) -> None:
        """A Flower message for the seat: starts the round. The same message again changes nothing."""
        seat = self._seat(partner, run)
        message = decode_message(body)
        name = message.metadata.message_id
        if message.metadata.dst_node_id != PASSIVE_NODE or not name or len(name) > 128:
            raise PeerViolation("A Flower message is addressed to another node.")
        with seat.changed:
            if name in seat.replies:
                return
            if any(reply is None for reply in seat.replies.values()):
                raise PeerViolation("A round was started before the last one ended.")
            seat.replies[name] = None

        def work() -> None:
            reply = encode_message(seat.app(message, seat.context))
            with seat.changed:
                # Older replies have been collected: the next round starts only after that.
                seat.replies = {**dict.fromkeys(seat.replies, b""), name: reply}
                seat.changed.notify_all()

        threading.Thread(target=work, name=f"training-{run[:8]}", daemon=True).start()

    def reply(self, partner: str, run: str, message: str, wait: float = 10.0) -> bytes | None:
        """The reply to a message, or None while the round still runs after `wait` seconds."""
        seat = self._seat(partner, run)
        with seat.changed:
            if message not in seat.replies:
                raise PeerViolation("There is no such message in this run.")
            seat.changed.wait_for(lambda: bool(seat.replies[message]), timeout=wait)
            return seat.replies[message]

    def frame(self, partner: str, run: str, frame: bytes) -> None:
        """A channel frame from the partner."""
        self._seat(partner, run).channel.deliver(frame)

    def fetch(self, partner: str, run: str, sequence: int, wait: float = 10.0) -> bytes | None:
        """A channel frame for the partner, or None while there is none."""
        return self._seat(partner, run).channel.fetch(sequence, wait)

    def finish(self, partner: str, run: str, document: object) -> dict[str, Any]:
        """The partner ends the run; after a success this side seals its half of the model.

        The same news twice changes nothing. Raises PeerViolation for a success that is none.
        """
        state = document.get("state") if isinstance(document, Mapping) else None
        if state not in ("succeeded", "failed", "cancelled"):
            raise PeerViolation("A run ended in a state that does not exist.", code="malformed_finish")
        with self._lock:
            seat = self._seats.get(run)
        if seat is None:
            known = self._store.get(run)
            if known.partner != partner or known.role is not Role.PASSIVE:
                raise Refused("That run is not with this partner.", code="not_authorised")
            if known.state.value != state:
                raise Refused(f"This side has ended the run as {known.state}.", code="run_over")
            return {"state": known.state.value}
        if seat.partner != partner:
            raise Refused("That run is not with this partner.", code="not_authorised")
        if state == "succeeded":
            self._succeed(seat)
        else:
            error = seat.error or PeerViolation("The partner ended the run.", code="partner_aborted")
            self._end(seat, RunState(state), None if state == "cancelled" else error)
        return {"state": state}

    def reap(self) -> None:
        """End seats whose partner has been silent for too long."""
        with self._lock:
            silent = [s for s in self._seats.values() if time.monotonic() - s.touched > 2 * self._idle]
        error = PeerUnreachable("The partner went silent during the run.", code="peer_timeout")
        for seat in silent:
            try:
                self._end(seat, RunState.TIMED_OUT, error)
            except Exception as problem:
                # One run that cannot be ended now must not keep the others; it is tried again next time.
                _log.error("run %s could not be ended: %s", seat.run.id, type(problem).__name__)

    def close(self) -> None:
        """End every seat; the partner sees its channel closed."""
        with self._lock:
            seats = list(self._seats.values())
        for seat in seats:
            self._end(seat, RunState.FAILED, PeerUnreachable("This node was stopped.", code="node_stopped"))

    def _agreed(self, partner: str, offer: RunOffer) -> Agreement:
        agreement = self._agreements.agreement(offer.collaboration)
        if self._agreements.partner(offer.collaboration).name != partner:
            raise Refused("That collaboration is not with this partner.", code="not_authorised")
        if offer.purpose not in agreement.terms.purposes:
            raise Refused(
                "That purpose is not agreed.",
                code="purpose_not_agreed",
                advice=f"Agreed: {', '.join(agreement.terms.purposes)}.",
            )
        if agreement.offer(self._own(agreement), offer.dataset) is None:
            raise Refused("That dataset is not part of the collaboration.", code="dataset_not_agreed")
        if offer.rows < agreement.terms.minimum_input:
            raise Refused(
                f"Fewer than {agreement.terms.minimum_input} aligned people would go in.",
                code="input_below_minimum",
            )
        return agreement

    def _require_room(self, partner: str) -> None:
        taken = sum(seat.partner == partner for seat in list(self._seats.values()))
        if taken >= _SEATS_MOST:
            raise TrainingRefused(
                f"{taken} runs with this partner are going on already.",
                rule="seats",
                advice="Wait until one of them is over.",
            )

    def _own(self, agreement: Agreement) -> str:
        return agreement.of_key(self._own_key).name

    def _aligned(self, partner: str, offer: RunOffer, agreement: Agreement) -> AlignedRows:
        job = self._settled(offer.alignment)
        require_fit(job, agreement, partner=partner, purpose=offer.purpose, key=offer.key)
        alignment = self._alignments.alignment(offer.alignment)
        if alignment.dataset != offer.dataset or len(alignment) != offer.rows:
            raise PeerViolation("An offer does not fit the alignment it names.", code="alignment_mismatch")
        made_at = datetime.fromisoformat(job.created_at)
        return AlignedRows.since(made_at, self._catalogue[offer.dataset], alignment.row_index, offer.key)

    def _settled(self, job: str, patience: float = 5.0) -> Job:
        """The align job once it is over here too: the analyst's side ends a moment earlier."""
        ends = time.monotonic() + patience
        while not (found := self._alignments.job(job)).over and time.monotonic() < ends:
            time.sleep(0.05)
        return found

    def _seat(self, partner: str, run: str) -> _Seat:
        with self._lock:
            seat = self._seats.get(run)
        if seat is None or seat.partner != partner:
            raise Refused("There is no such training run with this partner.", code="unknown_run")
        seat.touched = time.monotonic()
        return seat

    def _succeed(self, seat: _Seat) -> None:
        if len(seat.receipts) != seat.terms.rounds + 1 or seat.error is not None:
            raise PeerViolation("The partner calls a run finished that is not.", code="run_incomplete")
        sealed = self._keyring.seal(seat.party.part().to_bytes(), model_aad(seat.run.id))
        now = self._clock().isoformat()
        result = {
            "people": seat.terms.rows,
            "rounds": seat.terms.rounds,
            "epochs": seat.epochs,
            "receipts": [r.use_receipt for r in seat.receipts],
        }
        run = self._store.get(seat.run.id)
        card = passive_card(run, seat.terms, seat.columns, seat.receipts, now)
        ended = run.at(RunState.SUCCEEDED, now, progress=1.0, stage="", result=result, card=card)
        self._store.replace(ended, was=run.state, sealed=sealed)
        self._leave(seat)

    def _end(self, seat: _Seat, state: RunState, error: ComityError | None) -> None:
        seat.channel.abort()
        run = self._store.get(seat.run.id)
        if not run.over:
            shown = (
                None if error is None else RunError(error.code, error.detail, error.advice, error.retryable)
            )
            if state is RunState.CANCELLED and run.state is RunState.STARTED:
                run_state = RunState.CANCELLED
            else:
                run_state = state
            self._store.replace(run.at(run_state, self._clock().isoformat(), error=shown), was=run.state)
        self._leave(seat)

    def _leave(self, seat: _Seat) -> None:
        self._gate.withdraw(seat.run.id)
        with self._lock:
            self._seats.pop(seat.run.id, None)
