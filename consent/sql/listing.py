"""The state and the receipts of use, read page by page."""

from __future__ import annotations

import sqlalchemy as sa

from consent import tables as t
from consent.rows import ReceiptRow, StandingKey
from consent.sql.rows import ReadRows
from consent.state import Standing

_MEMBERS = 36  # bytes before the leaves: magic and salt
_LEAVES = "SELECT substr(members, %s, %s) FROM consent_receipts WHERE idx = %s"
_LEAVES_SQLITE = _LEAVES.replace("%s", "?")


class ListingView(ReadRows):
    """Reads for people who look through what is recorded."""

    def standings_page(
        self, after: StandingKey | None, limit: int, purpose: str | None, partner: str | None
    ) -> list[tuple[StandingKey, Standing]]:
        c = t.state.c
        keys = (c.purpose, c.partner, c.subject)
        query = sa.select(*keys, *(c[name] for name in Standing._fields)).order_by(*keys)
        for column, value in ((c.purpose, purpose), (c.partner, partner)):
            if value is not None:
                query = query.where(column == value)
        if after is not None:
            query = query.where(sa.tuple_(*keys) > sa.tuple_(*(sa.literal(part) for part in after)))
        rows = self._c.execute(query.limit(limit))
        return [(StandingKey(p, who, bytes(s)), Standing(*rest)) for p, who, s, *rest in rows]

    def uses_after(self, index: int, limit: int) -> list[ReceiptRow]:
        c = t.receipts.c
        query = sa.select(c.id, c.idx, c.kind, c.purpose, c.partner, c.job, c.document)
        found = self._c.execute(query.where(c.idx > index).order_by(c.idx).limit(limit))
        return [ReceiptRow(*row) for row in found]

    def member_leaves(self, index: int, start: int, count: int) -> bytes:
        # Written out: a trace asks this once a receipt, and building the statement would take longer.
        found = self._c.exec_driver_sql(
            _LEAVES_SQLITE if self._sqlite else _LEAVES,
            (_MEMBERS + start * 32 + 1, count * 32, index),
        )
        return bytes(found.scalar_one())
