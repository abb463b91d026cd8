"""How often somebody may ask: a token bucket for each key, in memory, bounded in number."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime

__all__ = ["RateLimit"]


class RateLimit:
    """`burst` at once and `per_minute` after that, for each of at most `keys` keys. Thread-safe.

    When there are more keys than that, the one unused for longest is forgotten: its bucket was full again.
    """

    def __init__(
        self, clock: Callable[[], datetime], *, burst: int, per_minute: float, keys: int = 10_000
    ) -> None:
        self._clock = clock
        self._burst = float(burst)
        self._rate = per_minute / 60
        self._keys = keys
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> bool:
        """Whether one more is within the limit; if so it is counted."""
        now = self._clock().timestamp()
        with self._lock:
            left, then = self._buckets.pop(key, (self._burst, now))
            left = min(self._burst, left + max(0.0, now - then) * self._rate)
            allowed = left >= 1
            self._buckets[key] = (left - 1 if allowed else left, now)
            while len(self._buckets) > self._keys:
                self._buckets.popitem(last=False)
        return allowed
