"""The node's checkpoints on their way to witnesses, and what came back.

Whenever the log has grown, its newest checkpoint goes to every witness. That happens beside the recording of
events and never holds it up. A witness that does not answer is left alone for a while, twice as long each
time; one whose answer is late adds its cosignature when it comes.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from comity.logs import error_place, log
from consent.checkpoint import Checkpoint
from consent.cosignatures import Cosignature, CosignerKey
from consent.log import TransparencyLog
from consent.trust_policy import TrustPolicy
from consent.witness_client import WitnessConnection, ask_witness
from privacy.errors import ComityError

__all__ = ["Cosigning", "WitnessStatus"]

_ROUND = 2.0  # seconds that a round waits for its slowest witness before it publishes what has come
_LONGEST_PAUSE = 300.0  # seconds between two attempts at a witness that does not answer


@dataclass(frozen=True, slots=True)
class WitnessStatus:
    """How it stands with one witness: the size it cosigned last, when, and what went wrong since."""

    name: str
    size: int = 0
    at: dt.datetime | None = None
    error: str = ""
    failures: int = 0


@dataclass(frozen=True, slots=True)
class _Known:
    status: WitnessStatus
    body: str = ""  # the checkpoint cosigned last
    due: float = 0.0  # on the monotonic clock


class Cosigning:
    """Sends checkpoints to witnesses in the background. Start and stop it once."""

    def __init__(
        self,
        log_: TransparencyLog,
        witnesses: Callable[[], Sequence[WitnessConnection]],
        policy: Callable[[], TrustPolicy],
        *,
        seconds: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log_
        self._witnesses = witnesses
        self._policy = policy
        self._seconds = seconds
        self._monotonic = monotonic
        self._known: dict[CosignerKey, _Known] = {}
        self._busy: set[CosignerKey] = set()
        self._gathered: tuple[str, list[Cosignature]] = ("", [])
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="witness")

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="cosigning", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look now; rounds are still no closer together than `seconds`. Called from any thread."""
        self._wake.set()

    def stop(self) -> None:
        """Stop; an answer on its way is waited for."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._pool.shutdown(wait=True, cancel_futures=True)

    def statuses(self) -> list[WitnessStatus]:
        """One a witness, by name."""
        with self._lock:
            return sorted((known.status for known in self._known.values()), key=lambda s: s.name)

    def _run(self) -> None:
        said = ""
        while not self._stopping.is_set():
            code = ""
            try:
                self.round()
            except Exception as error:  # the thread outlives whatever one round met
                code = error.code if isinstance(error, ComityError) else type(error).__name__
                if code != said:
                    log.error("the checkpoint could not be cosigned", code=code, at=error_place(error))
            said = code
            self._stopping.wait(self._seconds)
            self._wake.wait(self._seconds)
            self._wake.clear()

    def round(self) -> int:
        """Ask every witness that is due for the newest checkpoint; returns how many have cosigned it.

        Returns when all have answered or the slowest have had their time; those go on by themselves.
        """
        witnesses = {witness.key: witness for witness in self._witnesses()}
        with self._lock:
            for key in self._known.keys() - witnesses.keys():
                del self._known[key]
        if not witnesses:
            return 0
        checkpoint = self._log.checkpoint()
        with self._lock:
            if self._gathered[0] != checkpoint.body:
                self._gathered = (checkpoint.body, [])
            due = [
                key
                for key in witnesses
                if key not in self._busy and self._due(self._known.get(key), checkpoint)
            ]
            self._busy.update(due)
        asked = [self._pool.submit(self._ask, witnesses[key], checkpoint) for key in due]
        late: set[Future[Cosignature | None]] = set(asked)
        end = self._monotonic() + _ROUND
        while late and (left := end - self._monotonic()) > 0 and not self._stopping.is_set():
            _, late = wait(late, timeout=min(left, 0.2), return_when=FIRST_COMPLETED)
        for future in late:
            future.add_done_callback(lambda done: self._publish_late(done, checkpoint))
        if any(future.result() for future in asked if future not in late):
            self._publish(checkpoint)
        with self._lock:
            return len(self._gathered[1]) if self._gathered[0] == checkpoint.body else 0

    def _due(self, known: _Known | None, checkpoint: Checkpoint) -> bool:
        return known is None or (known.body != checkpoint.body and known.due <= self._monotonic())

    def _ask(self, witness: WitnessConnection, checkpoint: Checkpoint) -> Cosignature | None:
        key = witness.key
        name = getattr(witness, "name", key.name)
        with self._lock:
            known = self._known.get(key, _Known(WitnessStatus(name)))
        try:
            made = ask_witness(witness, checkpoint, self._log.consistency, known.status.size)
        except Exception as error:
            code = error.code if isinstance(error, ComityError) else type(error).__name__
            failures = known.status.failures + 1
            pause = min(self._seconds * 2 ** min(failures, 20), _LONGEST_PAUSE)
            if code != known.status.error:
                log.warning("a witness does not cosign", witness=name, code=code)
            status = replace(known.status, error=code, failures=failures)
            self._note(key, _Known(status, known.body, self._monotonic() + pause), None)
            return None
        if known.status.error:
            log.info("a witness cosigns again", witness=name)
        status = WitnessStatus(name, checkpoint.size, made.at)
        self._note(key, _Known(status, checkpoint.body), (checkpoint.body, made))
        return made

    def _note(self, key: CosignerKey, known: _Known, made: tuple[str, Cosignature] | None) -> None:
        with self._lock:
            self._busy.discard(key)
            self._known[key] = known
            if made is not None and made[0] == self._gathered[0]:
                self._gathered[1].append(made[1])

    def _publish_late(self, done: Future[Cosignature | None], checkpoint: Checkpoint) -> None:
        if done.cancelled() or done.exception() is not None or done.result() is None:
            return
        try:
            self._publish(checkpoint)
        except ComityError as error:
            log.error("the checkpoint could not be cosigned", code=error.code, at=error_place(error))

    def _publish(self, checkpoint: Checkpoint) -> None:
        with self._lock:
            body, made = self._gathered[0], list(self._gathered[1])
        if body == checkpoint.body and made:
            self._log.add_cosignatures(checkpoint, [one.signature for one in made], self._policy())
