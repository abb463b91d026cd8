"""The training room of one node: submit runs, follow them, take part in partners' runs.

Everything it works with is handed in; nothing is read from configuration or the clock. `start` marks what a
crash left behind as failed and begins to work; `close` ends everything in order. Flower's task identity is
one per process, so runs are worked one after the other.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from clean_room.datasets import Catalogue
from consent.encoding import canonical_json
from consent.heard import Enforcement
from federated.coordinator import AligningService, Coordinator
from federated.errors import Refused, TrainingMisuse
from federated.gate import ConsentFilter, DataGate, UseLedger
from federated.grid import quiet_flower
from federated.participant import Agreements, Participant, model_aad
from federated.runs import Role, Run, RunError, RunState, TrainingRequest
from federated.storage import RunStore
from federated.vertical.parties import ModelPart
from privacy.keys import KeyRing
from privacy.signing import SigningKey

__all__ = ["TrainingService", "TrainingSettings"]

_log = logging.getLogger(__name__)
_REAP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How patient the node is, in seconds: with one round, an alignment, and a silent partner."""

    round_seconds: float = 900.0
    align_seconds: float = 1800.0
    silence_seconds: float = 120.0
    flower_home: str = ""
    """A private folder for Flower's own files; empty leaves the process's environment as it is."""


class TrainingService:
    """One node's training room. Thread-safe; one running instance a node."""

    def __init__(
        self,
        engine: sa.Engine,
        *,
        collaborations: Agreements,
        catalogue: Catalogue,
        clean_room: AligningService,
        gate: ConsentFilter,
        uses: UseLedger,
        identity: SigningKey,
        keyring: KeyRing,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
        settings: TrainingSettings | None = None,
    ) -> None:
        """`engine` has the tables of `storage.metadata`; `gate`, `uses`: the consent gate and ledger."""
        self.settings = settings or TrainingSettings()
        self._store = RunStore(engine)
        self._collaborations, self._catalogue = collaborations, catalogue
        self._keyring, self._identity, self._clock, self._random = keyring, identity, clock, random
        self._data_gate = data_gate = DataGate(
            consent=gate, ledger=uses, signer=identity, clock=clock, random=random
        )
        self.participant = Participant(
            store=self._store,
            agreements=collaborations,
            catalogue=catalogue,
            alignments=clean_room,
            gate=data_gate,
            keyring=keyring,
            own_key=identity.public.to_text(),
            clock=clock,
            random=random,
            idle_seconds=self.settings.silence_seconds,
        )
        self._coordinator = Coordinator(
            store=self._store,
            agreements=collaborations,
            catalogue=catalogue,
            clean_room=clean_room,
            gate=data_gate,
            keyring=keyring,
            identity=identity,
            clock=clock,
            random=random,
            round_seconds=self.settings.round_seconds,
            align_seconds=self.settings.align_seconds,
            silence_seconds=self.settings.silence_seconds,
        )
        self._cancels: dict[str, threading.Event] = {}
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None
        self._reaper: threading.Thread | None = None
        self._stopped = threading.Event()
        self._stopping = False

    def start(self) -> None:
        """Clean up after a crash, then begin to work."""
        if self.settings.flower_home:
            quiet_flower(self.settings.flower_home)
        self.recover()
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name="training", daemon=True)
            self._worker.start()
            self._stopped.clear()
            self._reaper = threading.Thread(target=self._reap, name="training reaper", daemon=True)
            self._reaper.start()

    def recover(self) -> list[str]:
        """Fail (`interrupted`) runs that a crash left unfinished; returns their ids. Only while none runs."""
        error = RunError("interrupted", "The node stopped while the run was going on.", "Run it again.", True)
        ended = []
        for run in self._store.open_runs():
            if self._store.replace(run.at(RunState.FAILED, self._now(), error=error), was=run.state):
                ended.append(run.id)
        return ended

    def close(self) -> None:
        """Stop: the run at work is cancelled, seats in partners' runs are given up, the worker is joined."""
        with self._lock:
            self._stopping = True
            for cancel in self._cancels.values():
                cancel.set()
        self.participant.close()
        self._queue.put(None)
        self._stopped.set()
        for thread in (self._worker, self._reaper):
            if thread is not None:
                thread.join(timeout=60)
        self._worker = self._reaper = None

    def submit(self, request: TrainingRequest, *, principal: str, idempotency_key: str | None = None) -> Run:
        """Take a run on as the label holder; work goes on in the background.

        Raises Misuse for unknown names, Refused for what the agreement does not allow, before any run
        exists. With an idempotency key used before by this principal, the earlier run is returned.
        """
        agreement = self._collaborations.agreement(request.collaboration)
        partner = self._collaborations.partner(request.collaboration).name
        own = agreement.of_key(self._identity.public.to_text()).name
        dataset = self._catalogue[request.dataset]
        for purpose in {request.purpose, request.align_purpose or request.purpose}:
            if purpose not in agreement.terms.purposes:
                raise Refused(
                    "That purpose is not agreed.",
                    code="purpose_not_agreed",
                    advice=f"Agreed: {', '.join(agreement.terms.purposes)}.",
                )
        for party, name in ((own, request.dataset), (partner, request.partner_dataset)):
            if agreement.offer(party, name) is None:
                raise Refused(
                    f"That dataset is not among those {party} brought into the collaboration.",
                    code="dataset_not_agreed",
                )
        if not {request.label, *request.features} <= set(dataset.features):
            raise TrainingMisuse(
                "The label or a feature is not listed for training.",
                code="column_not_allowed",
                advice="List it under features in datasets.toml.",
            )
        if idempotency_key is not None and not 1 <= len(idempotency_key) <= 255:
            raise TrainingMisuse("An Idempotency-Key has 1 to 255 characters.", code="malformed_request")
        now = self._now()
        run = Run(
            id=self._random(16).hex(),
            role=Role.ACTIVE,
            partner=partner,
            collaboration=request.collaboration,
            principal=principal,
            request=request.document(),
            state=RunState.SUBMITTED,
            created_at=now,
            updated_at=now,
            alignment=request.alignment,
        )
        digest = hashlib.sha256(canonical_json(request.document())).hexdigest()
        with self._lock:
            if self._stopping:
                raise TrainingMisuse("The node is stopping.", code="stopping")
            kept = self._store.add(run, key=idempotency_key, digest=digest)
            if kept.id == run.id:
                self._cancels[run.id] = threading.Event()
                self._queue.put(run.id)
        return kept

    def enforce(self, told: Enforcement) -> int:
        """A partner's opt-outs are in force: runs with it drop whoever they concern at their next round.

        Returns how many runs that is.
        """
        return self._data_gate.enforce(told.partner, told.purposes)

    def run(self, run: str) -> Run:
        """One run of either role. Raises TrainingMisuse(unknown_run)."""
        return self._store.get(run)

    def runs(self, *, limit: int = 50, after: str | None = None) -> list[Run]:
        """Runs of both roles, newest first."""
        return self._store.page(limit=limit, after=after)

    def receipts(self, run: str) -> list[dict[str, Any]]:
        """The signed round receipts this side holds of a run."""
        self._store.get(run)
        return self._store.receipts(run)

    def card(self, run: str) -> dict[str, Any]:
        """The model card of a succeeded run. Raises TrainingMisuse(no_model)."""
        found = self._store.get(run)
        if found.card is None:
            raise TrainingMisuse("That run left no model here.", code="no_model")
        return dict(found.card)

    def model(self, run: str) -> ModelPart:
        """This side's half of the model, unsealed. Raises TrainingMisuse(no_model) or Tampered."""
        return ModelPart.from_bytes(self._keyring.open(self._store.sealed_model(run), model_aad(run)))

    def cancel(self, run: str) -> Run:
        """Ask a run of this node's own to stop at the next epoch; one that is over stays as it is."""
        found = self._store.get(run)
        if found.role is not Role.ACTIVE:
            raise Refused("The partner runs this one; only it can cancel.", code="not_authorised")
        if found.over:
            return found
        with self._lock:
            cancel = self._cancels.get(run)
        if cancel is not None:
            cancel.set()
        if found.state is not RunState.CANCELLING:
            self._store.replace(found.at(RunState.CANCELLING, self._now()), was=found.state)
        return self._store.get(run)

    def _work(self) -> None:
        while True:
            name = self._queue.get()
            if name is None:
                return
            with self._lock:
                cancel = self._cancels.get(name, threading.Event())
            try:
                self._coordinator.drive(self._store.get(name), cancel)
            except Exception as error:
                # Its text may quote data; its type and place are in the run's record.
                _log.error("training run %s ended unexpectedly: %s", name, type(error).__name__)
            finally:
                with self._lock:
                    self._cancels.pop(name, None)

    def _reap(self) -> None:
        # On a thread of its own: seats in partners' runs expire also while a run of this node's is at work.
        while not self._stopped.wait(_REAP_SECONDS):
            try:
                self.participant.reap()
            except Exception as error:
                _log.error("silent runs could not be ended: %s", type(error).__name__)

    def _now(self) -> str:
        return self._clock().isoformat()
