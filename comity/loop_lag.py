"""How long the event loop keeps those waiting who are due: what a long call on it does to every request.

A callback is due every 20 ms; how much later it runs is the lag. Heavy work belongs on threads.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping

from comity.metrics import Labels, Metrics

__all__ = ["LoopLag"]

_EVERY = 0.02
_RECENT = 60.0


class LoopLag:
    """The lag of the loop that `watch` runs on. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._peaks: deque[tuple[float, float]] = deque()  # (when, lag) of the last minute, lags descending
        self.largest = 0.0

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            due = self._clock() + _EVERY
            await asyncio.sleep(_EVERY)
            self.record(self._clock(), due)

    def record(self, now: float, due: float) -> None:
        """Take note that what was due then ran now."""
        late = max(0.0, now - due)
        while self._peaks and (self._peaks[-1][1] <= late):
            self._peaks.pop()
        self._peaks.append((now, late))
        while self._peaks[0][0] < now - _RECENT:
            self._peaks.popleft()
        self.largest = max(self.largest, late)

    def recent(self) -> float:
        """The largest lag of the last minute, in seconds."""
        peaks = tuple(self._peaks)
        return peaks[0][1] if peaks else 0.0

    def measure(self, metrics: Metrics) -> None:
        """Show the largest lag of the last minute and of the process."""

        def read() -> Mapping[Labels, float]:
            return {(("over", "minute"),): self.recent(), (("over", "process"),): self.largest}

        metrics.gauge("comity_event_loop_lag_seconds", "Largest delay of a callback that was due.", read)
