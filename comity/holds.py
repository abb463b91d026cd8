"""The thread that carries out erasures whose legal hold has ended, and clears what deleted rows left."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from comity.logs import error_place, log
from consent.erasure import Erasure

__all__ = ["HoldKeeper"]


@dataclass
class HoldKeeper:
    """Looks every `seconds`. Start and stop it once."""

    erasure: Erasure
    seconds: float = 60.0
    _stopping: threading.Event = field(default_factory=threading.Event, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="holds", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while not self._stopping.wait(self.seconds):
            try:
                for done in self.erasure.run_due():
                    log.info("a held erasure was carried out", request=done.request, entries=done.entries)
                if self.erasure.unscrubbed():
                    self.erasure.scrub()
            except Exception as error:  # the thread outlives whatever one round met
                log.error(
                    "held erasures were not looked at", error=type(error).__name__, at=error_place(error)
                )
