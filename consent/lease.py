"""How long a partner's word is good for.

What this node may do with a partner rests on having heard that partner's opt-outs up to a moment ago. The
agreement says how old the newest verified message may be (the *lease*); past that nobody may be used with
that partner until it is heard again: fail closed.

The process that reads a partner's feed keeps the time by its own steady clock and writes it down now and
then, so that other processes on the same database can tell, too (a little too strictly, never too late).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from consent.rows import PartnerRow

__all__ = ["Leases"]

_SECOND = 1_000_000
_WRITTEN = 3
"""The stored time is renewed when it is a third of the lease old."""


class Leases:
    """When each partner was last known to be up to date. Thread-safe. Times are microseconds.

    `steady` is a clock in seconds that never goes back.
    """

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self.steady = steady
        self._heard: dict[str, float] = {}
        self._held: set[str] = set()
        self._lock = threading.Lock()

    def heard(self, partner: str, moment: float) -> None:
        """A message verified now was made no earlier than at `moment` of the steady clock."""
        with self._lock:
            self._heard[partner] = max(self._heard.get(partner, moment), min(moment, self.steady()))

    def forget(self, partner: str) -> None:
        """Nothing counts that was heard before."""
        with self._lock:
            self._heard.pop(partner, None)

    def hold(self, partner: str) -> None:
        """Let nothing be done with the partner, whatever was heard, until `release`."""
        with self._lock:
            self._held.add(partner)

    def release(self, partner: str) -> None:
        """End a `hold`."""
        with self._lock:
            self._held.discard(partner)

    def age(self, row: PartnerRow, now: int) -> int | None:
        """How long ago the partner was last known to be up to date; None if it never was."""
        moment = self._heard.get(row.name)
        if moment is not None:
            return int((self.steady() - moment) * _SECOND)
        if row.fresh_at is None:
            return None
        return abs(now - row.fresh_at)  # a clock that went back is no reason to trust a stored time

    def expired(self, row: PartnerRow | None, now: int) -> bool:
        """Whether nobody may be used with the partner now. `now` is the wall clock's."""
        if row is not None and row.name in self._held:
            return True
        if row is None or row.lease is None:
            return False
        age = self.age(row, now)
        return age is None or age > row.lease

    def due(self, row: PartnerRow, now: int) -> int | None:
        """The time to write down for other processes, or None while the one stored will do."""
        moment = self._heard.get(row.name)
        if row.lease is None or moment is None:
            return None
        fresh = now - int((self.steady() - moment) * _SECOND)
        if row.fresh_at is not None and abs(fresh - row.fresh_at) < row.lease // _WRITTEN:
            return None
        return fresh
