"""The head, the tree's tiles, the entries, and the sealed records that open them."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from consent import tables as t
from consent.errors import HeadMoved
from consent.rows import EntryRow, Head, SideRow
from consent.sql.rows import ReadRows, WriteRows
from privacy.errors import StorageError


class EntriesView(ReadRows):
    """Reads of the log."""

    def head(self) -> Head:
        row = next(iter(self._rows("SELECT size, root, recorded_at FROM consent_head")), None)
        if row is None:
            raise StorageError(
                "The ledger's head row is missing.", advice="Open the ledger once to create it."
            )
        return Head(row[0], row[1], row[2])

    def tile(self, level: int, index: int) -> bytes:
        found = self._rows("SELECT hashes FROM consent_tiles WHERE level = ? AND idx = ?", (level, index))
        return found[0][0] if found else b""

    def entries(self, start: int, end: int) -> list[EntryRow]:
        query = "SELECT idx, leaf, side FROM consent_entries WHERE idx >= ? AND idx < ? ORDER BY idx"
        return [EntryRow(*row) for row in self._rows(query, (start, end))]

    def leaves(self, start: int, end: int) -> list[bytes]:
        query = "SELECT leaf FROM consent_entries WHERE idx >= ? AND idx < ? ORDER BY idx"
        return [leaf for (leaf,) in self._rows(query, (start, end))]

    def side(self, first_index: int) -> SideRow | None:
        query = "SELECT first_index, subject, sealed FROM consent_side WHERE first_index = ?"
        return next((SideRow(*row) for row in self._rows(query, (first_index,))), None)

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
