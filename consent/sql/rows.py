"""What every part of the storage is built from: rows in and out of one open connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

__all__ = ["ReadRows", "WriteRows"]

_IN_LIST = 5_000  # values in one IN (…): well under SQLite's 32,766 variables
_COPY_FROM = 200  # rows from which PostgreSQL's COPY pays
_SCAN = 20_000


def _chunks(values: Sequence[Any], size: int = _IN_LIST) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


class ReadRows:
    """Reads on one open connection."""

    def __init__(self, connection: sa.Connection) -> None:
        self._c = connection
        self._sqlite = connection.dialect.name == "sqlite"

    def _in(
        self, columns: str, table: sa.Table, column: str, values: Sequence[Any], **equal: str
    ) -> Iterator[Any]:
        """Rows whose `column` is among `values`, without one bound parameter object a value."""
        # The names come from the table objects above, never from a caller's data.
        where = "".join(f"{name} = ? AND " for name in equal)
        for chunk in _chunks(list(values)):
            among = f"IN ({','.join('?' * len(chunk))})" if self._sqlite else "= ANY(?)"
            query = f"SELECT {columns} FROM {table.name} WHERE {where}{column} {among}"  # noqa: S608
            yield from self._rows(query, (*equal.values(), *(chunk if self._sqlite else (list(chunk),))))

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query, asked of the driver itself: a point check is a handful of these.

        Marks for values are `?`. Columns of bytes come as bytes from both drivers.
        """
        driver: Any = self._c.connection.driver_connection
        found: list[Any] = driver.execute(
            query if self._sqlite else query.replace("?", "%s"), values
        ).fetchall()
        return found

    def _stream(self, query: sa.Select[Any]) -> Iterator[Any]:
        yield from self._c.execute(query, execution_options={"yield_per": _SCAN})


class WriteRows(ReadRows):
    """Reads and writes inside the one write transaction."""

    def _insert(self, table: sa.Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if not rows:
            return
        names = ", ".join(columns)
        if self._sqlite:
            marks = ", ".join("?" * len(columns))
            statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"  # noqa: S608
            self._c.exec_driver_sql(statement, list(rows))
        elif len(rows) < _COPY_FROM:
            self._c.execute(sa.insert(table), [dict(zip(columns, row, strict=True)) for row in rows])
        else:
            driver: Any = self._c.connection.driver_connection
            with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)

    def _upsert(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            columns = list(rows[0])
            self._put(table, columns, [[row[name] for name in columns] for row in rows])

    def _put(self, table: sa.Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows, replacing what has the same primary key. No key may come twice."""
        if not rows:
            return
        names = ", ".join(columns)
        keys = [column.name for column in table.primary_key]
        changed = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in keys)
        replace = f"ON CONFLICT ({', '.join(keys)}) DO " + (f"UPDATE SET {changed}" if changed else "NOTHING")
        if self._sqlite:
            values = f"VALUES ({', '.join('?' * len(columns))})"
            statement = f"INSERT INTO {table.name} ({names}) {values} {replace}"
            self._c.exec_driver_sql(statement, [tuple(row) for row in rows])
            return
        # One statement for all rows: an array a column costs PostgreSQL far less than a statement a row.
        arrays = ", ".join(f"%s::{_postgres_type(table.c[name])}[]" for name in columns)
        statement = f"INSERT INTO {table.name} ({names}) SELECT * FROM unnest({arrays}) {replace}"  # noqa: S608
        self._c.exec_driver_sql(statement, tuple(list(column) for column in zip(*rows, strict=True)))

    def _remove(self, table: sa.Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Delete the rows with these values in `columns`."""
        if not rows:
            return
        mark = "?" if self._sqlite else "%s"
        where = " AND ".join(f"{name} = {mark}" for name in columns)
        self._c.exec_driver_sql(
            f"DELETE FROM {table.name} WHERE {where}",  # noqa: S608
            [tuple(row) for row in rows],
        )


def _postgres_type(column: sa.Column[Any]) -> str:
    return column.type.compile(dialect=postgresql.dialect()).partition("(")[0]  # type: ignore[no-untyped-call]
