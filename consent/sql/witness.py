"""What this node has seen of other logs: checkpoints it cosigned, and pairs that do not fit together."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from consent import tables as t
from consent.rows import SplitViewRow, WitnessedRow
from consent.sql.rows import ReadRows, WriteRows


class WitnessView(ReadRows):
    """Reads of the witness."""

    def witnessed(self, origin: str) -> WitnessedRow | None:
        query = sa.select(*t.witnessed.c).where(t.witnessed.c.origin == origin)
        return next((_witnessed(row) for row in self._c.execute(query)), None)

    def all_witnessed(self) -> list[WitnessedRow]:
        return [
            _witnessed(row)
            for row in self._c.execute(sa.select(*t.witnessed.c).order_by(t.witnessed.c.origin))
        ]

    def split_views(self, origin: str | None = None) -> list[SplitViewRow]:
        c = t.split_views.c
        query = sa.select(*c).order_by(c.seen_at.desc(), c.digest)
        if origin is not None:
            query = query.where(c.origin == origin)
        return [SplitViewRow(bytes(row[0]), *row[1:]) for row in self._c.execute(query)]


class WitnessChanges(WriteRows):
    """Writes of the same."""

    def put_witnessed(self, row: WitnessedRow) -> None:
        self._upsert(t.witnessed, [row._asdict()])

    def put_split_view(self, row: SplitViewRow) -> None:
        self._upsert(t.split_views, [row._asdict()])


def _witnessed(row: Any) -> WitnessedRow:
    return WitnessedRow(row[0], row[1], bytes(row[2]), *row[3:])
