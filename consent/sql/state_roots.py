"""The state tree's rows, and what has to be brought into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from consent import tables as t
from consent.rows import StateHead
from consent.sql.rows import ReadRows, WriteRows


class StateRootsView(ReadRows):
    """Reads of the state tree."""

    def state_head(self) -> StateHead | None:
        c = t.state_head.c
        row = self._c.execute(sa.select(c.through, c.idx, c.pairs, c.root, c.version)).one_or_none()
        return None if row is None else StateHead(row[0], row[1], row[2], bytes(row[3]), row[4])

    def tree_rows(self, paths: Sequence[str]) -> dict[str, bytes]:
        return {path: bytes(data) for path, data in self._in("path, data", t.state_tree, "path", paths)}

    def changed_subjects(self, start: int, end: int, limit: int) -> tuple[list[bytes], int]:
        c = t.side.c
        query = (
            sa.select(c.first_index, c.subject)
            .where(c.first_index >= start, c.first_index < end)
            .order_by(c.first_index)
            .limit(limit)
        )
        rows = self._c.execute(query).all()
        reached = rows[-1][0] + 1 if len(rows) == limit else end
        return list(dict.fromkeys(bytes(s) for _, s in rows if s is not None)), reached

    def removed_pairs(self) -> list[bytes]:
        return [bytes(key) for (key,) in self._c.execute(sa.select(t.state_removed.c.key))]


class StateRootsChanges(WriteRows):
    """Writes of the same."""

    def put_state_head(self, row: StateHead) -> None:
        self._put(t.state_head, ("id", *StateHead._fields), [(1, *row)])

    def put_tree_rows(self, rows: Mapping[str, bytes | None]) -> None:
        self._remove(t.state_tree, ("path",), [(path,) for path, data in rows.items() if data is None])
        kept = sorted((path, data) for path, data in rows.items() if data is not None)
        self._put(t.state_tree, ("path", "data"), kept)

    def clear_removed_pairs(self) -> None:
        self._c.execute(sa.delete(t.state_removed))
