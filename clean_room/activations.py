"""Activations of this node after their jobs: kept, held to the consents of now, exported.

An opt-out reaches an id on both sides. The contributor asks its gate about everybody in the map, which knows
this node's opt-outs and those heard of from the partner; who is denied loses the row, and the id goes on a
list. It does so whenever the map is exported, the partner asks, or a sweep finds the ledger grown. The
analyst fetches that list before every export and takes those ids out: it cannot tell whose they are. Where
consents cannot be asked for, or the partner cannot be reached, nothing is exported. What is older than this
node's policy lets it be kept for the purpose is removed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from clean_room.activation_files import ActivationFiles, Audience, PublisherMap, written
from clean_room.group.points import Random
from clean_room.inputs import QueryInput
from clean_room.jobs import Job, JobState, Query, Role
from clean_room.pair_epochs import PairEpoch, PairEpochs
from clean_room.storage import ExportRow, Store
from consent.peers import PeerConnection
from privacy.errors import ComityError, Misuse, PeerViolation
from privacy.keys import KeyRing

if TYPE_CHECKING:
    from consent.gate import ConsentGate

__all__ = ["Activations"]

_KIND = "email"
_ID = 32
_MOST = 1 << 26
"""Suppressed ids in one answer of a partner."""


class _Partners(Protocol):
    def connection(self, collaboration: str) -> PeerConnection: ...


class Activations:
    """Both sides of the activations of one node. Thread-safe."""

    def __init__(
        self,
        store: Store,
        *,
        folder: Path,
        keyring: KeyRing,
        gate: ConsentGate,
        partners: _Partners,
        clock: Callable[[], datetime],
        random: Random,
    ) -> None:
        self._store = store
        self._files = ActivationFiles(folder, keyring)
        self._epochs = PairEpochs(folder, keyring, clock=clock, random=random)
        self._gate = gate
        self._partners = partners
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = -1

    # ── while a job runs ────────────────────────────────────────────────────────────────────────────────

    def epoch(self, partner: str) -> PairEpoch:
        """This node's key and salt toward a partner, as of now."""
        return self._epochs.current(partner)

    def keep_audience(self, job: str, ids: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
        """The analyst's end of a job: `ids` uint8 (n, 32)."""
        self._files.save_audience(Audience(job, ids))

    def keep_map(
        self,
        job: str,
        query: Query,
        partner: str,
        given: QueryInput,
        ids: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    ) -> None:
        """The contributor's end of a job: `ids` uint8 (n, 32), row n of person n of `given`."""
        purposes = (query.purpose, *query.also_for)
        (rows,) = given.rows
        self._files.save_map(
            PublisherMap(job, query.partner_dataset, partner, purposes, rows, ids, given.known)
        )

    def discard(self, job: str) -> None:
        """Remove what is there of a job."""
        with self._lock:
            self._files.discard(job)

    # ── afterwards ──────────────────────────────────────────────────────────────────────────────────────

    def rotate(self, partner: str) -> PairEpoch:
        """A new key and salt toward a partner, from the next activation on."""
        return self._epochs.rotate(partner)

    def end(self, partner: str) -> None:
        """The collaboration is over: key and salt are destroyed, and every map and audience with them."""
        self._epochs.forget(partner)
        with self._lock:
            for job in (*self._files.maps(), *self._files.audiences()):
                if self._store.jobs.get(job).partner == partner:
                    self._files.discard(job)

    def audience(self, job: str, form: str, *, principal: str) -> bytes:
        """The analyst's ids as a file (`csv` or `parquet`), without those suppressed until now.

        Raises `Misuse(unknown_activation)`, `PeerUnreachable` when the partner cannot be asked whom to leave
        out, `Refused(not_agreed)` after the collaboration has ended.
        """
        found = self._finished(job, Role.ANALYST)
        connection = self._partners.connection(found.query.collaboration)
        answer = connection.request("GET", f"/v1/peer/activations/{job}/suppressed", timeout=300.0)
        if len(answer.body) % _ID or len(answer.body) > _ID * _MOST:
            raise PeerViolation("the partner's list of suppressed ids is not a list of ids.")
        suppressed = np.frombuffer(answer.body, dtype=np.uint8).reshape(-1, _ID)
        with self._lock:
            kept = self._files.audience(job)
            current = kept.without(suppressed)
            if len(current.ids) != len(kept.ids):
                self._files.save_audience(current)
        content = written(current.table(), form)
        self._note(job, principal, form, len(current.ids))
        return content

    def publisher_map(self, job: str, form: str, *, principal: str) -> bytes:
        """The contributor's map as a file, without who has opted out. Raises `Misuse(unknown_activation)`,
        `ConsentStale` when the partner's opt-outs have not been heard of for longer than agreed."""
        self._finished(job, Role.CONTRIBUTOR)
        current = self._asked_again(job)
        content = written(current.table(), form)
        self._note(job, principal, form, len(current.ids))
        return content

    def suppressed(self, partner: str, job: str) -> bytes:
        """What the analyst is to leave out: ids of 32 bytes end to end, in the order of their bytes."""
        found = self._finished(job, Role.CONTRIBUTOR)
        if found.partner != partner:
            raise Misuse("no such job.", code="unknown_job")
        return b"".join(sorted(row.tobytes() for row in self._asked_again(job).suppressed))

    def enforce(self, size: int) -> int:
        """Hold every map to the consents of now, if the ledger has another `size` than last time.

        Returns how many lost somebody.
        """
        self.expire()
        if size == self._seen:
            return 0
        shrunk, complete = 0, True
        for job in self._files.maps():
            try:
                before = len(self._files.map(job).rows)
                shrunk += len(self._asked_again(job).rows) < before
            except ComityError:  # consents cannot be asked for now; nothing is exported before they can
                complete = False
        if complete:
            self._seen = size
        return shrunk

    def expire(self) -> int:
        """Remove maps and audiences whose retention under the policy is over. Returns how many."""
        with self._lock:
            over = [job for job in {*self._files.maps(), *self._files.audiences()} if self._expired(job)]
            for job in over:
                self._files.discard(job)
        return len(over)

    def _expired(self, job: str) -> bool:
        found = self._store.jobs.get(job)
        if not found.over:
            return False
        limits = [self._gate.retention(p) for p in (found.query.purpose, *found.query.also_for)]
        shortest = min((limit for limit in limits if limit is not None), default=None)
        ended = datetime.fromisoformat(found.updated_at)
        return shortest is not None and self._clock() - ended > shortest

    def exports(self, job: str) -> Sequence[ExportRow]:
        """Every file made of a job's activation, oldest first."""
        return self._store.exports.of(job)

    def _asked_again(self, job: str) -> PublisherMap:
        """The map, with everybody taken out whom the gate denies now."""
        with self._lock:
            found = self._files.map(job)
            allowed = np.ones(len(found.rows), dtype=np.bool_)
            for purpose in found.purposes:
                answer = self._gate.filter(_KIND, found.known, purpose=purpose, partner=found.partner)
                allowed &= np.asarray(answer.mask, dtype=np.bool_)
            if allowed.all():
                return found
            smaller = found.only(allowed)
            self._files.save_map(smaller)
            return smaller

    def _finished(self, job: str, role: Role) -> Job:
        self.expire()
        found = self._store.jobs.get(job)
        if (found.query.kind, found.role, found.state) != ("activate", role, JobState.SUCCEEDED):
            raise Misuse(
                f"that job is no finished activation of which this node is the {role.value}.",
                code="unknown_activation",
            )
        return found

    def _note(self, job: str, principal: str, form: str, people: int) -> None:
        self._store.exports.add(
            ExportRow(job=job, principal=principal, format=form, people=people, at=self._clock().isoformat())
        )
