"""Evidence against a log: two checkpoints it signed that do not fit together.

    fork       two roots of one size: proof by itself, to anybody who has the log's key
    unproven   a later checkpoint that was never shown to extend the earlier: to be asked about

A fork becomes an entry of this node's own log, which names both checkpoints in its payload; an unproven
one is only kept, one a log, because anybody who has a checkpoint can send it with a wrong proof.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING

from consent.events import EventType
from consent.rows import SplitViewRow
from consent.store import LedgerTransaction

if TYPE_CHECKING:
    from consent.ledger import Ledger

__all__ = ["FORK", "UNPROVEN", "SplitViews"]

FORK = "fork"
UNPROVEN = "unproven"
_MOST = 16  # forks of one log that are each worth an entry; it can sign any number of them
_AGAIN = 60_000_000  # microseconds between two unproven checkpoints of one log that are worth a write


def _body(checkpoint: str) -> str:
    return checkpoint[: checkpoint.rfind("\n\n") + 1]


class SplitViews:
    """Keeps and lists evidence. The checkpoints handed in have been verified as the log's own."""

    def __init__(self, ledger: Ledger, told: Callable[[SplitViewRow], None] | None = None) -> None:
        self._ledger = ledger
        self._told = told

    def listing(self, origin: str | None = None) -> list[SplitViewRow]:
        """Newest first; of one log or of all."""
        with self._ledger.store.read() as view:
            return view.split_views(origin)

    def keep(self, origin: str, kind: str, first: str, second: str) -> SplitViewRow | None:
        """Keep a pair, unless it is kept already or enough is kept of this log. Durable on return.

        `first` and `second` are signed notes. Returns the row that was written, None where none was.
        """
        bodies = "\x00".join(sorted((_body(first), _body(second)))) if kind == FORK else ""
        digest = sha256(f"{kind}\x00{origin}\x00{bodies}".encode()).digest()
        with self._ledger.store.read() as view:
            there = [row for row in view.split_views(origin) if row.kind == kind]
            now = self._ledger.now(view)
        same = next((row for row in there if row.digest == digest), None)
        row = SplitViewRow(digest, origin, kind, first, second, now, None)
        if kind == FORK:
            if same is not None or len(there) >= _MOST:
                return None
            row = self._record(row)
        else:
            if same is not None and (now - same.seen_at < _AGAIN or _body(same.second) == _body(second)):
                return None
            with self._ledger.store.write() as tx:
                tx.put_split_view(row)
        if self._told is not None:
            self._told(row)
        return row

    def _record(self, row: SplitViewRow) -> SplitViewRow:
        written: list[SplitViewRow] = []

        def beside(tx: LedgerTransaction, first: int, now: int) -> None:
            written[:] = [row._replace(idx=first, seen_at=now)]
            tx.put_split_view(written[0])

        fields = {"kind": "split_view", "origin": row.origin, "first": row.first, "second": row.second}
        self._ledger.record_system(EventType.FEED_EVIDENCE, fields, beside)
        return written[0]
