"""Before a node serves: what have partners seen of it, and is that more than it has itself?

A partner that does not answer is no reason not to start (two nodes could never start otherwise), but nobody
may be used with that partner until it has answered and its feed has been heard up to where it was then. A
partner that has seen more stops the node, also when it says so later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from comity.logs import log
from consent.errors import RolledBack
from consent.heads import ask_heads, compare_heads
from consent.ledger import Ledger
from consent.peers import PeerConnection
from privacy.errors import ComityError

__all__ = ["HeadsWatch"]

_PATIENCE = 3.0  # seconds a partner is waited for before the node serves
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 10.0


@dataclass
class HeadsWatch:
    """Compares with every partner once: `check` before serving, and the rest in the background.

    `connect` gives a connection, or None for a partner with whom no agreement is open.
    """

    ledger: Ledger
    partners: Callable[[], Sequence[str]]
    connect: Callable[[str], PeerConnection | None]
    _due: dict[str, int | None] = field(default_factory=dict, repr=False)
    _stopping: threading.Event = field(default_factory=threading.Event, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)

    def check(self) -> None:
        """Ask everybody at once. Raises RolledBack; who does not answer is held back."""
        names = [name for name in self.partners() if self.connect(name) is not None]
        for name in names:
            self._due[name] = None
            self.ledger.leases.hold(name)
        if not names:
            return
        with ThreadPoolExecutor(min(16, len(names)), thread_name_prefix="heads") as pool:
            # Every answer is looked at, whichever comes first.
            found = [pool.submit(self._compare, name) for name in names]
            for future in found:
                future.result()

    def start(self) -> None:
        """Go on asking those who have not answered."""
        if self._due:
            self._thread = threading.Thread(target=self._run, name="heads", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop asking."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def waiting(self) -> list[str]:
        """Partners held back until they have been compared with."""
        return sorted(self._due)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while self._due and not self._stopping.wait(pause):
            pause = min(pause * 1.5, _LONGEST_PAUSE)
            for name in list(self._due):
                try:
                    self._compare(name)
                except RolledBack as error:
                    log.critical("this node is an old copy of itself", partner=name, detail=error.detail)
                    self.ledger.log.halt(error.detail, error.advice)
                    return

    def _compare(self, name: str) -> None:
        """Settle one partner if it answers. Raises RolledBack."""
        sent = self._due.get(name)
        try:
            if sent is None:
                connection = self.connect(name)
                if connection is None:
                    self._settle(name)
                    return
                heads = ask_heads(self.ledger, connection, timeout=_PATIENCE)
                compare_heads(self.ledger, name, heads)
                sent = self._due[name] = heads.sent
            if self.ledger.partner(name).heard_seq >= sent:
                self._settle(name)
        except RolledBack:
            raise
        except ComityError as error:
            log.warning("a partner cannot say what it has seen", partner=name, code=error.code)

    def _settle(self, name: str) -> None:
        self._due.pop(name, None)
        self.ledger.leases.release(name)
