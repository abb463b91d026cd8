"""Published policies and receipts of use."""

from __future__ import annotations

import sqlalchemy as sa

from consent import tables as t
from consent.rows import ReceiptRow
from consent.sql.rows import ReadRows, WriteRows


class RecordsView(ReadRows):
    """Reads of policies and receipts."""

    def policies(self) -> list[tuple[int, str, int]]:
        c = t.policies.c
        return [(i, h, v) for i, h, v in self._c.execute(sa.select(c.idx, c.hash, c.version).order_by(c.idx))]

    def receipt(self, receipt_id: str) -> ReceiptRow | None:
        c = t.receipts.c
        query = sa.select(c.id, c.idx, c.kind, c.purpose, c.partner, c.job, c.document).where(
            c.id == receipt_id
        )
        row = self._c.execute(query).one_or_none()
        return None if row is None else ReceiptRow(*row)

    def members(self, receipt_id: str) -> bytes | None:
        query = sa.select(t.receipts.c.members).where(t.receipts.c.id == receipt_id)
        found = self._c.execute(query).scalar_one_or_none()
        return None if found is None else bytes(found)

    def receipts(
        self, before: int | None, limit: int, kind: str | None, partner: str | None
    ) -> list[ReceiptRow]:
        c = t.receipts.c
        query = sa.select(c.id, c.idx, c.kind, c.purpose, c.partner, c.job, c.document)
        for column, value in ((c.kind, kind), (c.partner, partner)):
            if value is not None:
                query = query.where(column == value)
        if before is not None:
            query = query.where(c.idx < before)
        return [ReceiptRow(*row) for row in self._c.execute(query.order_by(c.idx.desc()).limit(limit))]


class RecordsChanges(WriteRows):
    """Writes of the same."""

    def add_policy(self, index: int, hash_: str, version: int, document: str) -> None:
        self._insert(t.policies, ("idx", "hash", "version", "document"), [(index, hash_, version, document)])

    def add_receipt(self, row: ReceiptRow, members: bytes) -> None:
        names = ("id", "idx", "kind", "purpose", "partner", "job", "document", "members")
        self._insert(t.receipts, names, [(*row, members)])
