"""A query over a DuckDB database, over files, or over both; none of them can be written to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from clean_room.sources.engine import column_types, explained, literal, lock, open_engine, quoted
from clean_room.sources.files import SUFFIXES, add_files, found, state_of
from clean_room.sources.source import Opened, SourceState
from privacy.errors import BadInput, Misuse

__all__ = ["DuckDBSource"]


@dataclass(frozen=True, slots=True)
class DuckDBSource:
    """`query` over the tables of the file `database` and over `files`, each a table by its name.

    A query has no order of its own: its rows are those of `order_by`, columns of its result that together
    tell every row apart. Raises `Misuse(malformed_datasets)` for a query that is not one SELECT.
    """

    name: str
    query: str = field(repr=False)
    order_by: tuple[str, ...]
    database: Path | None = None
    files: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            statements = duckdb.extract_statements(self.query)
        except duckdb.Error:
            statements = []
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise Misuse(f"datasets.toml: {self.name}: query must be one SELECT.", code="malformed_datasets")
        if self.database is None and not self.files:
            raise Misuse(
                f"datasets.toml: {self.name}: name a database, files, or both.", code="malformed_datasets"
            )
        for path in self.files.values():
            if path.suffix and path.suffix.lower() not in SUFFIXES:
                raise Misuse(
                    f"datasets.toml: {self.name}: files must end in {', '.join(SUFFIXES)}.",
                    code="malformed_datasets",
                )

    @contextmanager
    def opened(self, text: Collection[str]) -> Iterator[Opened]:
        files = {table: found(self.name, path) for table, path in self.files.items()}
        allowed = [path for paths in files.values() for path in paths]
        with open_engine() as connection:
            with self._asking():
                for table, paths in files.items():
                    add_files(connection, self.name, table, paths, text)
            if self.database is not None:
                self._attach(connection, self.database)
            with self._asking():
                lock(connection, allowed)
                asked = f"({self.query.strip().rstrip(';')}\n) AS asked"
                connection.execute(f"CREATE TEMP VIEW shape AS SELECT * FROM {asked}")  # noqa: S608 checked
                types = column_types(connection, "temp.shape")
            for column in self.order_by:
                if column not in types:
                    raise BadInput(
                        f"the query of dataset {self.name} has no column {column}, by which it is ordered.",
                        code="missing_column",
                    )

            def present(columns: Sequence[str]) -> None:
                chosen = ", ".join(quoted(c) for c in columns)
                order = ", ".join(quoted(c) for c in self.order_by)
                with self._asking():
                    connection.execute(
                        f"CREATE TEMP VIEW source AS SELECT {chosen} FROM temp.shape ORDER BY {order}"  # noqa: S608
                    )

            yield Opened(connection, types, present)

    def _attach(self, connection: duckdb.DuckDBPyConnection, database: Path) -> None:
        if not database.is_file():
            raise BadInput(f"the database of dataset {self.name} is not there.", code="source_missing")
        try:
            connection.execute(f"ATTACH {literal(str(database.absolute()))} AS given (READ_ONLY)")
            connection.execute("USE given")
        except duckdb.Error:
            raise BadInput(
                f"the database of dataset {self.name} cannot be opened to be read.",
                code="unreadable_file",
                advice="Nobody may hold it open for writing meanwhile.",
            ) from None

    def _asking(self) -> AbstractContextManager[None]:
        return explained(
            self.name,
            wrong="the query",
            wrong_code="bad_query",
            unreadable="the query",
            unreadable_code="source_failed",
        )

    def reading(self) -> AbstractContextManager[None]:
        return explained(
            self.name,
            wrong="an expression",
            wrong_code="bad_expression",
            unreadable="the query",
            unreadable_code="source_failed",
        )

    def _paths(self) -> list[Path]:
        own = [] if self.database is None else [self.database]
        # Changes that are not yet in the database file itself lie beside it.
        beside = [path.with_name(f"{path.name}.wal") for path in own]
        return [*own, *(path for path in beside if path.exists()), *self.files.values()]

    def state(self) -> SourceState:
        return state_of(self.name, self._paths(), also=repr((self.query, self.order_by)))

    def changed_at(self) -> datetime | None:
        try:
            newest = max(path.stat().st_mtime for path in self._paths())
        except OSError:
            return None
        return datetime.fromtimestamp(newest, UTC)

    def require_places(self, opened: Opened) -> None:
        """Two rows that `order_by` does not tell apart could change places from one read to the next."""
        order = ", ".join(quoted(c) for c in self.order_by)
        sql = f"SELECT count(*) > count(DISTINCT ({order})) FROM temp.shape"  # noqa: S608 quoted
        if len(self.order_by) == 1:
            sql = f"SELECT count(*) > count(DISTINCT {order}) FROM temp.shape"  # noqa: S608 quoted
        with self.reading():
            rows = opened.connection.sql(sql).fetchall()
        if rows[0][0]:
            raise BadInput(
                f"order_by of dataset {self.name} does not tell all of its rows apart.",
                code="order_not_unique",
                advice="Name the columns of a key.",
            )
