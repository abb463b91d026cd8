"""The analyst's side of a job: from a submitted query to one of its terminal states, across restarts.

Every end is one of the job's terminal states, and the partner is told when this side gives up, so that its
half ends at once rather than by its timeout. A node that stops leaves its jobs as they are; `run` takes
each up where its journal says it was.

The ε ledger charged is the contributor's: what leaves is about its people, and only the analyst, who holds
its own data in the clear anyway, learns it. The contributor learns padded sizes alone, so the analyst's
own lineage is not charged.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Set
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from clean_room.activations import Activations
from clean_room.alignments import AlignmentStore
from clean_room.asking import Asking, Attempt
from clean_room.collaboration import Collaborations
from clean_room.contributing import CHANGED, shown
from clean_room.correspondence import AwaitingApproval, BeginAnew, PartnerSilent
from clean_room.datasets import Catalogue
from clean_room.epoch_book import EpochBook
from clean_room.errors import ConsentStale
from clean_room.group.pool import BlindingPool
from clean_room.jobs import Job, JobError, JobState, Stage, concerns
from clean_room.journal import Journal, Journals
from clean_room.lines import Lines
from clean_room.noise import NoiseSource
from clean_room.reach_asking import ReachAsking
from clean_room.repeats import Repeats
from clean_room.sessions import MOST_ATTEMPTS
from clean_room.storage import Store
from clean_room.transport import JobTransport
from clean_room.uses import Uses
from privacy.errors import ComityError, PeerUnreachable, Refused
from privacy.signing import SigningKey

if TYPE_CHECKING:
    from consent.gate import ConsentGate

__all__ = ["AnalystRunner"]


class _Cancelled(Exception):
    pass


class _Stopped(Exception):
    pass


class _TimedOut(Exception):
    pass


class AnalystRunner:
    """Runs submitted jobs to their end. `run` never raises for anything that happens to the job."""

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
        journals: Journals,
        identity: SigningKey,
        pool: BlindingPool,
        noise: NoiseSource,
        transport: Callable[[str], JobTransport],
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
        stopping: threading.Event,
        poll_seconds: float,
        silence: timedelta,
        allowance: timedelta,
        approval_window: timedelta,
        repeats: Repeats,
        epochs: EpochBook,
    ) -> None:
        self._history = repeats.history
        self._store = store
        self._collaborations = collaborations
        self._uses = uses
        self._alignments = alignments
        self._activations = activations
        self._journals = journals
        self._transport = transport
        self._clock = clock
        self._stopping = stopping
        self._allowance = allowance
        self._window = approval_window
        drivers: dict[str, type[Asking]] = {"": Asking, "reach": ReachAsking}
        self._asking = {
            kind: driver(
                store,
                collaborations=collaborations,
                catalogue=catalogue,
                gate=gate,
                uses=uses,
                alignments=alignments,
                activations=activations,
                identity=identity,
                pool=pool,
                noise=noise,
                clock=clock,
                random=random,
                poll_seconds=poll_seconds,
                silence=silence,
                repeats=repeats,
                epochs=epochs,
            )
            for kind, driver in drivers.items()
        }
        self._running: dict[str, Attempt] = {}

    def enforce(self, partner: str, purposes: Set[str]) -> int:
        """The partner's opt-outs reach these purposes: ask consent again before anything more leaves.

        Returns how many running jobs were told; whether anybody in them is concerned is not said.
        """
        told = [
            attempt
            for attempt in list(self._running.values())
            if partner in attempt.partners and concerns(attempt.job.query, purposes)
        ]
        for attempt in told:
            attempt.doubtful.set()
        return len(told)

    def run(self, job: Job, cancel: threading.Event) -> None:
        """Take one job to a terminal state, or to where it waits for a person or for the next start."""
        attempt: Attempt | None = None
        journal = self._journals.of(job.id)
        try:
            job = self._store.jobs.get(job.id)
            if job.over:
                return
            attempt = self._attempt(job, journal, cancel)
            if job.state is not JobState.STARTED and job.state is not JobState.CANCELLING:
                self._store.jobs.move(job.id, JobState.STARTED, at=self._now())
            if job.state is JobState.CANCELLING:
                raise _Cancelled
            self._running[job.id] = attempt
            while True:
                try:
                    self._asking.get(job.query.kind, self._asking[""]).drive(attempt)
                    journal.discard()
                    return
                except BeginAnew:
                    self._next(attempt, journal)
        except _Stopped:
            return
        except AwaitingApproval:
            self._park(attempt, journal)
        except _Cancelled:
            self._stop(attempt, "cancelled")
            self._store.jobs.move(job.id, JobState.CANCELLING, at=self._now())
            self._end(job, JobState.CANCELLED, JobError("cancelled", "cancelled by the analyst."))
        except _TimedOut:
            self._stop(attempt, "timed_out")
            self._end(job, JobState.TIMED_OUT, JobError("timed_out", "the job took longer than allowed."))
        except PartnerSilent as silent:
            self._stop(attempt, "timed_out")
            detail = f"this node gave up waiting: {silent.last.detail}"
            error = JobError(silent.last.code, detail, "Ask again when the partner's node runs.", True)
            self._end(job, JobState.TIMED_OUT, error)
        except Refused as error:
            self._stop(attempt, error.code)
            self._end(job, JobState.REJECTED, shown(error))
        except ComityError as error:
            self._stop(attempt, error.code)
            self._end(job, JobState.FAILED, shown(error))
        except Exception as error:  # whatever it is, the job must end and the partner be told
            self._stop(attempt, "internal_error")
            detail = f"an unexpected {type(error).__name__} ended the job."
            self._end(job, JobState.FAILED, JobError("internal_error", detail))
        finally:
            self._running.pop(job.id, None)

    def decided(self, job: Job) -> bool:
        """Whether the person a parked job waits for has decided, or it has waited for long enough."""
        began = self._journals.of(job.id).noted("run") or {}
        parked = began.get("parked")
        if parked is None or self._clock() >= datetime.fromisoformat(parked) + self._window:
            return True
        try:
            state = Lines(job.query, self._transport).state(job.id)
        except PeerUnreachable:
            return False
        except ComityError:
            return True
        return state.get("state") != JobState.AWAITING_APPROVAL.value

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────

    def _attempt(self, job: Job, journal: Journal, cancel: threading.Event) -> Attempt:
        """Where the job stands: at its first attempt, or at the one its journal names."""
        kept = journal.noted("run")
        now = self._clock()
        lines = Lines(job.query, self._transport)
        attempt = Attempt(
            job=job,
            transport=lines.to(job.query.collaboration),
            partner=self._collaborations.partner(job.query.collaboration).name,
            lines=lines,
            partners=frozenset(self._collaborations.partner(name).name for name in lines.collaborations),
            number=1,
            deadline=now + self._allowance,
            pause=lambda seconds: self._pause(attempt, cancel, seconds),
            alive=lambda: self._alive(attempt, cancel),
        )
        if kept is not None:
            attempt.number, attempt.offered = kept["attempt"], kept["offered"]
            attempt.parked = kept["parked"]
            if attempt.parked is None:
                attempt.deadline = datetime.fromisoformat(kept["deadline"])
            elif now >= datetime.fromisoformat(attempt.parked) + self._window:
                attempt.deadline = now - self._allowance
            else:
                attempt.number += 1
        attempt.part = journal.part(attempt.number)
        attempt.resumed = kept is not None
        attempt.remember = lambda: self._remember(attempt, journal)
        attempt.remember()
        return attempt

    def _remember(self, attempt: Attempt, journal: Journal, *, parked: str | None = None) -> None:
        journal.note(
            "run",
            {
                "attempt": attempt.number,
                "deadline": attempt.deadline.isoformat(),
                "offered": attempt.offered,
                "parked": parked,
            },
        )

    def _next(self, attempt: Attempt, journal: Journal) -> None:
        if attempt.number >= MOST_ATTEMPTS:
            raise ConsentStale(
                "consents kept changing while the query was under way.", rule=CHANGED, advice="Ask again."
            )
        attempt.part.discard()
        attempt.number += 1
        attempt.part = journal.part(attempt.number)
        attempt.shown = 0.0
        attempt.remember()
        self._store.jobs.update(attempt.job.id, at=self._now(), stage=Stage.NONE, progress=0.0)

    def _park(self, attempt: Attempt | None, journal: Journal) -> None:
        """Wait for a person without a thread and without people's data on disk."""
        if attempt is None:
            return
        attempt.part.discard()
        self._history.forget(attempt.job.id)
        self._remember(attempt, journal, parked=attempt.parked or self._now())
        self._store.jobs.move(attempt.job.id, JobState.AWAITING_APPROVAL, at=self._now(), progress=0.0)

    def _pause(self, attempt: Attempt, cancel: threading.Event, seconds: float) -> None:
        cancel.wait(seconds)
        self._alive(attempt, cancel)

    def _alive(self, attempt: Attempt, cancel: threading.Event) -> None:
        if self._stopping.is_set():
            raise _Stopped
        if cancel.is_set():
            raise _Cancelled
        if self._clock() > attempt.deadline:
            raise _TimedOut

    def _stop(self, attempt: Attempt | None, code: str) -> None:
        """Tell the partner, if it knows of the job, that this side has stopped."""
        if attempt is None or not attempt.offered:
            return
        with contextlib.suppress(Exception):
            attempt.lines.cancel(attempt.job.id, code)

    def _end(self, job: Job, state: JobState, error: JobError) -> None:
        with contextlib.suppress(ComityError):  # then it is settled at the next start
            self._uses.settle(job.id)
        self._history.forget(job.id)
        self._alignments.discard(job.id)
        self._activations.discard(job.id)
        self._journals.of(job.id).discard()
        if not self._store.jobs.move(job.id, state, at=self._now(), error=error):
            # Cancelled while it was failing: the failure is the truer ending.
            self._store.jobs.move(job.id, JobState.FAILED, at=self._now(), error=error)

    def _now(self) -> str:
        return self._clock().isoformat()
