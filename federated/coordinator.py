"""The label holder's node: drives one run from the alignment to the sealed model.

    align (clean room) → offer (partner) → rounds (Flower, in process) → finish (partner) → result, card

The partner seals its half when it is told of the success, before this side calls the run succeeded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, Protocol

from flwr.app import Context, RecordDict

from clean_room.agreements import Agreement
from clean_room.datasets import Catalogue
from clean_room.jobs import Job, JobError, JobState, Query
from clean_room.transport import post_document
from federated.apps.client_app import client_app
from federated.apps.server_app import NodeSeat, RoundSummary, RunSummary, TrainingPlan, server_app
from federated.card import active_card, heads
from federated.channel import HttpChannel, PairChannel
from federated.errors import (
    ComityError,
    PartnerFailed,
    PeerUnreachable,
    PeerViolation,
    Refused,
    TrainingMisuse,
    TrainingRefused,
)
from federated.gate import DataGate, GateGrant
from federated.grid import SERVER_NODE, InProcessGrid, LocalNode, RemoteNode, task_identity
from federated.participant import PASSIVE_NODE, Agreements, Alignments, model_aad
from federated.runs import Run, RunError, RunOffer, RunState, TrainingRequest
from federated.storage import RunStore
from federated.vertical.alignment import AlignedRows, require_fit
from federated.vertical.parties import ActiveParty
from federated.vertical.partition import Partition
from federated.vertical.terms import RunTerms
from privacy.keys import KeyRing
from privacy.signing import SigningKey

__all__ = ["AligningService", "Coordinator"]

ACTIVE_NODE = 2
_ALIGNED, _TRAINED = 0.2, 0.95


class AligningService(Alignments, Protocol):
    """The clean room, as far as a run needs it."""

    def submit(self, query: Query, *, principal: str, idempotency_key: str | None = None) -> Job: ...

    def cancel(self, job: str) -> Job: ...


class _Cancelled(ComityError):
    """The run was asked to stop."""

    code = "cancelled"

    def __init__(self) -> None:
        super().__init__("The run was cancelled.")


@dataclass(frozen=True, slots=True)
class _Prepared:
    terms: RunTerms
    columns: tuple[str, ...]
    partner_columns: tuple[str, ...]


class Coordinator:
    """Drives runs, one `drive` at a time per run; blocking, called from a worker thread."""

    def __init__(
        self,
        *,
        store: RunStore,
        agreements: Agreements,
        catalogue: Catalogue,
        clean_room: AligningService,
        gate: DataGate,
        keyring: KeyRing,
        identity: SigningKey,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
        round_seconds: float = 900.0,
        align_seconds: float = 1800.0,
        silence_seconds: float = 120.0,
    ) -> None:
        self._store, self._agreements, self._catalogue = store, agreements, catalogue
        self._clean_room, self._gate, self._keyring, self._identity = clean_room, gate, keyring, identity
        self._clock, self._random = clock, random
        self._round_seconds, self._align_seconds = round_seconds, align_seconds
        self._silence_seconds = silence_seconds

    def drive(self, run: Run, cancel: threading.Event) -> None:
        """Take a submitted run to its end. Never raises a ComityError: the run's state tells."""
        began = time.monotonic()
        started = run.at(RunState.STARTED, self._now(), stage="aligning")
        if not self._store.replace(started, was=RunState.SUBMITTED):
            self._end(run.id, RunState.CANCELLED, None)
            return
        told = invited = False
        try:
            request = TrainingRequest.from_document(dict(run.request))
            agreement = self._agreements.agreement(request.collaboration)
            alignment = request.alignment or self._align(run, request, cancel)
            started = started.at(RunState.STARTED, self._now(), alignment=alignment, stage="inviting")
            self._store.replace(started, was=RunState.STARTED)
            offer, columns = self._prepare(started, request, agreement)
            # The answer to an offer may be lost after the partner has taken its seat.
            told = True
            prepared = self._invite(request, offer, columns)
            invited = True
            trained = self._train(started, request, agreement, prepared, cancel)
            self._succeed(started, request, prepared, trained, began=began)
        except _Cancelled:
            self._tell(run, "cancelled", told)
            self._end(run.id, RunState.CANCELLED, None)
        except ComityError as error:
            self._tell(run, "failed", told)
            self._end(run.id, _state_of(error, invited), error)
        except Exception as error:
            self._tell(run, "failed", told)
            shown = ComityError(f"An unexpected {type(error).__name__} ended the run.")
            self._end(run.id, RunState.FAILED, shown)
            raise
        finally:
            self._gate.withdraw(run.id)

    def _align(self, run: Run, request: TrainingRequest, cancel: threading.Event) -> str:
        query = Query(
            kind="align",
            collaboration=request.collaboration,
            dataset=request.dataset,
            partner_dataset=request.partner_dataset,
            purpose=request.align_purpose or request.purpose,
            # Whoever said no to the model on either side is not lined up for it in the first place.
            also_for=() if request.align_purpose in (None, request.purpose) else (request.purpose,),
            key=request.key,
        )
        job = self._clean_room.submit(query, principal=run.principal, idempotency_key=f"training-{run.id}")
        ends = time.monotonic() + self._align_seconds
        while not job.over:
            if cancel.wait(0.05) or time.monotonic() > ends:
                self._clean_room.cancel(job.id)
                if cancel.is_set():
                    raise _Cancelled
                raise PeerUnreachable("The alignment took too long.", code="peer_timeout")
            job = self._clean_room.job(job.id)
            self._note(run.id, "aligning", _ALIGNED * job.progress)
        if job.state is not JobState.SUCCEEDED:
            _explain(job)
        return job.id

    def _prepare(
        self, run: Run, request: TrainingRequest, agreement: Agreement
    ) -> tuple[RunOffer, tuple[str, ...]]:
        """The offer to make and this side's columns; the gate is open for the run once they are there."""
        alignment_job = run.alignment
        if alignment_job is None:
            raise TrainingMisuse("The run has no alignment.", code="unknown_alignment")
        dataset = self._catalogue[request.dataset]
        columns = request.features or tuple(c for c in dataset.features if c != request.label)
        alignment = self._clean_room.alignment(alignment_job)
        job = self._clean_room.job(alignment_job)
        require_fit(job, agreement, partner=run.partner, purpose=request.purpose, key=request.key)
        if alignment.dataset != request.dataset:
            raise TrainingMisuse("The alignment named is of another dataset.", code="unknown_alignment")
        if len(alignment) < agreement.terms.minimum_input:
            raise Refused(
                f"Fewer than {agreement.terms.minimum_input} aligned people would go in.",
                code="input_below_minimum",
            )
        made_at = datetime.fromisoformat(job.created_at)
        source = AlignedRows.since(made_at, dataset, alignment.row_index, request.key)
        self._gate.approve(
            GateGrant(
                run=run.id,
                purpose=request.purpose,
                partner=run.partner,
                collaboration=request.collaboration,
                columns=(request.label, *columns),
                source=source,
            )
        )
        split_key = self._keyring.derive("federated", "split", dataset.lineage, run.partner, request.key)
        split = Partition.of(source.identifiers(), split_key, request.test_fraction)
        offer = RunOffer(
            run=run.id,
            collaboration=request.collaboration,
            alignment=alignment_job,
            purpose=request.purpose,
            dataset=request.partner_dataset,
            features=request.partner_features,
            key=request.key,
            rows=len(alignment),
            rounds=request.rounds,
            epochs=request.epochs,
            test_fraction=request.test_fraction,
            l2=request.l2,
            tolerance=request.tolerance,
            held_out=split.to_text(),
        )
        return offer, columns

    def _invite(self, request: TrainingRequest, offer: RunOffer, columns: tuple[str, ...]) -> _Prepared:
        connection = self._agreements.connection(request.collaboration)
        answer = post_document(connection, "/v1/peer/training", offer.document())
        names = answer.get("features")
        if (
            not isinstance(names, list)
            or not 1 <= len(names) <= 4096
            or not all(isinstance(n, str) and 0 < len(n) <= 256 for n in names)
            or (request.partner_features and tuple(names) != request.partner_features)
        ):
            raise PeerViolation("The partner accepted a run with other features than were asked for.")
        return _Prepared(offer.terms(len(names)), columns, tuple(names))

    def _train(
        self,
        run: Run,
        request: TrainingRequest,
        agreement: Agreement,
        prepared: _Prepared,
        cancel: threading.Event,
    ) -> tuple[RunSummary, ActiveParty]:
        terms = prepared.terms
        connection = self._agreements.connection(request.collaboration)
        path = f"/v1/peer/training/{run.id}"
        channel: PairChannel = HttpChannel(
            connection, run.id, path=f"{path}/channel", timeout=self._silence_seconds
        )

        def epoch_done(number: int, epoch: int) -> None:
            if cancel.is_set():
                raise _Cancelled
            done = (number - 1 + epoch / terms.epochs) / terms.rounds
            self._note(run.id, "training", _ALIGNED + (_TRAINED - _ALIGNED) * min(done, 1.0))

        def round_done(done: RoundSummary) -> None:
            receipts = {name: receipt.to_dict() for name, receipt in done.receipts.items()}
            self._store.add_receipts(run.id, done.number, receipts)
            if cancel.is_set():
                raise _Cancelled

        party = ActiveParty(
            terms,
            self._gate,
            channel,
            label=request.label,
            columns=prepared.columns,
            progress=epoch_done,
        )
        own = agreement.of_key(self._identity.public.to_text()).name
        plan = TrainingPlan(
            terms=terms,
            seats={
                ACTIVE_NODE: NodeSeat(own, self._identity.public),
                PASSIVE_NODE: NodeSeat(run.partner, self._agreements.partner(request.collaboration).key),
            },
            random=self._random,
            timeout=self._round_seconds,
        )
        summary, failures = RunSummary(), list[ComityError]()
        number = int.from_bytes(self._random(7), "big")
        grid = InProcessGrid(
            number,
            {
                ACTIVE_NODE: LocalNode(
                    client_app(run.id, party, failed=failures.append),
                    Context(number, ACTIVE_NODE, {}, RecordDict(), {}),
                ),
                PASSIVE_NODE: RemoteNode(connection, path=path, timeout=self._round_seconds),
            },
        )
        try:
            with task_identity(number):
                server_app(plan, summary, on_round=round_done)(
                    grid, Context(number, SERVER_NODE, {}, RecordDict(), {})
                )
        except PartnerFailed:
            # This side's own reason says more than the reply's code, unless it only echoes the partner's.
            own_reasons = [e for e in (*failures, *grid.failures) if e.code != "partner_aborted"]
            if own_reasons:
                raise own_reasons[0] from None
            raise
        finally:
            grid.close()
        return summary, party

    def _succeed(
        self,
        run: Run,
        request: TrainingRequest,
        prepared: _Prepared,
        trained: tuple[RunSummary, ActiveParty],
        *,
        began: float,
    ) -> None:
        summary, party = trained
        own = next(name for name in summary.rounds[-1].receipts if name != run.partner)
        measured = summary.rounds[-1].metrics[own]
        result: dict[str, Any] = {
            "auc_alone": measured["auc_alone"],
            "auc_joint": measured["auc_joint"],
            "people": prepared.terms.rows,
            "train_rows": int(measured["train_rows"]),
            "test_rows": int(measured["test_rows"]),
            "rounds": prepared.terms.rounds,
            "epochs": summary.epochs(own),
            "directions_shown": int(sum(r.metrics[own].get("directions", 0) for r in summary.rounds)),
            "seconds": round(time.monotonic() - began, 3),
            "receipts": [
                {"round": r.number, "party": name, "use_receipt": receipt.use_receipt, "verified": True}
                for r in summary.rounds
                for name, receipt in r.receipts.items()
            ],
            "heads": heads([r.receipts for r in summary.rounds]),
        }
        connection = self._agreements.connection(request.collaboration)
        post_document(connection, f"/v1/peer/training/{run.id}/finish", {"state": "succeeded"})
        now = self._now()
        card = active_card(
            run,
            prepared.terms,
            label=request.label,
            columns=prepared.columns,
            partner_columns=prepared.partner_columns,
            result=result,
            now=now,
        )
        current = self._store.get(run.id)
        ended = current.at(RunState.SUCCEEDED, now, progress=1.0, stage="", result=result, card=card)
        sealed = self._keyring.seal(party.part().to_bytes(), model_aad(run.id))
        self._store.replace(ended, was=current.state, sealed=sealed)

    def _tell(self, run: Run, state: str, told: bool) -> None:
        """Tell a partner that was offered the run; one out of reach finds out by its own timeout."""
        if not told:
            return
        try:
            connection = self._agreements.connection(run.collaboration)
            post_document(connection, f"/v1/peer/training/{run.id}/finish", {"state": state})
        except ComityError:
            pass

    def _end(self, run: str, state: RunState, error: ComityError | None) -> None:
        current = self._store.get(run)
        if current.over:
            return
        if current.state is RunState.CANCELLING and state not in (RunState.CANCELLED, RunState.FAILED):
            state = RunState.FAILED
        shown = None
        if error is not None:
            shown = RunError(error.code, error.detail, error.advice, error.retryable)
        self._store.replace(current.at(state, self._now(), stage="", error=shown), was=current.state)

    def _note(self, run: str, stage: str, progress: float) -> None:
        self._store.progress(run, stage=stage, progress=progress, now=self._now())

    def _now(self) -> str:
        return self._clock().isoformat()


def _state_of(error: ComityError, invited: bool) -> RunState:
    if isinstance(error, PeerUnreachable) and error.code == "peer_timeout":
        return RunState.TIMED_OUT
    if isinstance(error, Refused) and not invited:
        return RunState.REJECTED
    return RunState.FAILED


def _explain(job: Job) -> NoReturn:
    """Raise what ended the alignment, under its own code."""
    error = job.error or JobError("alignment_failed", "")
    code, advice = error.code, error.advice
    detail = f"The alignment ended as {job.state}: {error.detail}".strip()
    if job.state is JobState.TIMED_OUT:
        raise PeerUnreachable(detail, advice=advice, code="peer_timeout")
    if job.state is JobState.REJECTED:
        raise TrainingRefused(detail, advice=advice, code=code)
    raise PartnerFailed(detail, advice=advice, code=code)
