"""The head, the tree's tiles, the entries, and the sealed records that open them."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from consent import tables as t
from consent.errors import HeadMoved
from consent.sql.rows import ReadRows, WriteRows
from consent.store import EntryRow, Head, SideRow
from privacy.errors import StorageError


class EntriesView(ReadRows):
    """Reads of the log."""

    def head(self) -> Head:
        row = self._c.execute(sa.select(t.head.c.size, t.head.c.root, t.head.c.recorded_at)).one_or_none()
        if row is None:
            raise StorageError(
                "The ledger's head row is missing.", advice="Open the ledger once to create it."
            )
        return Head(row.size, bytes(row.root), row.recorded_at)

    def tile(self, level: int, index: int) -> bytes:
        mark = "?" if self._sqlite else "%s"
        query = f"SELECT hashes FROM consent_tiles WHERE level = {mark} AND idx = {mark}"  # noqa: S608
        found = self._c.exec_driver_sql(query, (level, index)).scalar_one_or_none()
        return b"" if found is None else bytes(found)

    def entries(self, start: int, end: int) -> list[EntryRow]:
        rows = self._c.execute(
            sa.select(t.entries.c.idx, t.entries.c.leaf, t.entries.c.side)
            .where(t.entries.c.idx >= start, t.entries.c.idx < end)
            .order_by(t.entries.c.idx)
        )
        return [EntryRow(idx, bytes(leaf), side) for idx, leaf, side in rows]

    def leaves(self, start: int, end: int) -> list[bytes]:
        mark = "?" if self._sqlite else "%s"
        query = f"SELECT leaf FROM consent_entries WHERE idx >= {mark} AND idx < {mark} ORDER BY idx"  # noqa: S608
        return [leaf for (leaf,) in self._c.exec_driver_sql(query, (start, end)).cursor.fetchall()]

    def side(self, first_index: int) -> SideRow | None:
        return next(iter(self._sides(t.side.c.first_index == first_index)), None)

    def sides(self, start: int, end: int) -> list[SideRow]:
        return self._sides(t.side.c.first_index >= start, t.side.c.first_index < end)

    def sides_of(self, subject: bytes) -> list[SideRow]:
        return self._sides(t.side.c.subject == subject)

    def _sides(self, *where: sa.ColumnElement[bool]) -> list[SideRow]:
        query = sa.select(t.side.c.first_index, t.side.c.subject, t.side.c.sealed).where(*where)
        rows = self._c.execute(query.order_by(t.side.c.first_index))
        return [SideRow(i, None if s is None else bytes(s), bytes(sealed)) for i, s, sealed in rows]


class EntriesChanges(WriteRows):
    """Writes of the log."""

    def set_head(self, old: Head, new: Head) -> None:
        c = t.head.c
        done = self._c.execute(
            sa.update(t.head)
            .where(c.id == 1, c.size == old.size, c.root == old.root)
            .values(size=new.size, root=new.root, recorded_at=new.recorded_at)
        )
        if done.rowcount != 1:
            raise HeadMoved(
                "Another writer moved the head of the log.", advice="Nothing was written; try again."
            )

    def put_tiles(self, tiles: Sequence[tuple[int, int, bytes]]) -> None:
        self._upsert(t.tiles, [{"level": level, "idx": i, "hashes": hashes} for level, i, hashes in tiles])

    def add_entries(self, rows: Sequence[EntryRow]) -> None:
        self._insert(t.entries, ("idx", "leaf", "side"), rows)

    def add_sides(self, rows: Sequence[SideRow]) -> None:
        self._insert(t.side, SideRow._fields, rows)
