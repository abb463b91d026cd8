"""A query to a database server through an ADBC driver: PostgreSQL, Snowflake, BigQuery, Flight SQL.

Only the columns wanted are asked for, the server puts them in order, and rows arrive as Arrow batches;
expressions of datasets.toml are DuckDB's and run here, over the batches.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from clean_room.sources.engine import column_types, explained, lock, open_engine, quoted
from clean_room.sources.references import resolve
from clean_room.sources.source import Opened, SourceState
from privacy.errors import BadInput, Misuse, StorageError

__all__ = ["DRIVERS", "AdbcSource", "Driver"]


@dataclass(frozen=True, slots=True)
class Driver:
    """An ADBC driver: the package that carries it, how its SQL quotes names, what keeps it from writing."""

    package: str
    quote: str = '"'
    prepare: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        return self.package.replace("-", "_")


DRIVERS: Mapping[str, Driver] = {
    "postgresql": Driver(
        "adbc-driver-postgresql",
        prepare=("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",),
    ),
    "snowflake": Driver("adbc-driver-snowflake"),
    "bigquery": Driver("adbc-driver-bigquery", quote="`"),
    "flightsql": Driver("adbc-driver-flightsql"),
}
_UNREACHABLE = frozenset({"08", "53", "57", "58"})
_WRONG_QUERY = frozenset({"42", "0A", "25"})


@dataclass(frozen=True, slots=True)
class AdbcSource:
    """`query` to the database that `options` lead the driver to.

    Options are the driver's own, such as `uri`; a value may be `env:NAME` or `file:PATH` and is looked up
    each time the source is opened. `order_by` are columns of the result that together tell every row apart.
    Raises `Misuse(malformed_datasets)` for a driver that is not known.
    """

    name: str
    driver: str
    query: str = field(repr=False)
    order_by: tuple[str, ...]
    options: Mapping[str, str] = field(repr=False)
    base: Path = field(default=Path(), repr=False)

    def __post_init__(self) -> None:
        if self.driver not in DRIVERS:
            raise Misuse(
                f"datasets.toml: {self.name}: driver must be one of {', '.join(DRIVERS)}.",
                code="malformed_datasets",
            )

    @contextmanager
    def opened(self, text: Collection[str]) -> Iterator[Opened]:  # noqa: ARG002 a database types its columns
        with ExitStack() as held:
            server = self._connect(held)
            empty = self._ask(held, server, "*", "WHERE 1 = 0").read_all()
            connection = held.enter_context(open_engine())
            lock(connection)
            with self.reading():
                connection.register("given", empty)
                connection.execute(f"CREATE TEMP VIEW shape AS SELECT {_casts(empty.schema)} FROM given")  # noqa: S608
                types = column_types(connection, "shape")
            for column in self.order_by:
                if column not in types:
                    raise BadInput(
                        f"the query of dataset {self.name} has no column {column}, by which it is ordered.",
                        code="missing_column",
                    )

            def present(columns: Sequence[str]) -> None:
                batches = self._ask(
                    held, server, self._names(columns), f"ORDER BY {self._names(self.order_by)}"
                )
                with self.reading():
                    connection.register("arriving", batches)
                    connection.execute(
                        f"CREATE TEMP VIEW source AS SELECT {_casts(batches.schema)} FROM arriving"  # noqa: S608
                    )

            def count() -> int:
                with self._explained(self._module()[0]):
                    found = self._ask(held, server, "count(*) AS n").read_all()
                return int(found.column(0)[0].as_py())

            yield Opened(connection, types, present, count)

    def _module(self) -> tuple[ModuleType, ModuleType]:
        package = DRIVERS[self.driver].package
        try:
            manager = importlib.import_module("adbc_driver_manager")
            return manager, importlib.import_module(DRIVERS[self.driver].module)
        except ImportError:
            raise Misuse(
                f"dataset {self.name} needs the ADBC driver for {self.driver}, which is not installed.",
                code="driver_missing",
                advice=f"Install the package {package}.",
            ) from None

    def _connect(self, held: ExitStack) -> Any:
        manager, driver = self._module()
        options = {
            key: resolve(value, base=self.base, where=f"datasets.toml: {self.name}: option {key}")
            for key, value in self.options.items()
        }
        with self._explained(manager):
            database = manager.AdbcDatabase(driver=driver._driver_path(), **options)
            held.callback(database.close)
            connection = manager.AdbcConnection(database)
            held.callback(connection.close)
            for sql in DRIVERS[self.driver].prepare:
                with manager.AdbcStatement(connection) as statement:
                    statement.set_sql_query(sql)
                    statement.execute_update()
        return connection

    def _names(self, columns: Sequence[str]) -> str:
        return ", ".join(quoted(column, DRIVERS[self.driver].quote) for column in columns)

    def _ask(self, held: ExitStack, server: Any, shown: str, rest: str = "") -> pa.RecordBatchReader:
        manager, _ = self._module()
        # The line break ends a comment the query may close with.
        sql = f"SELECT {shown} FROM ({self.query.strip().rstrip(';')}\n) AS asked {rest}"  # noqa: S608 quoted
        with self._explained(manager):
            statement = manager.AdbcStatement(server)
            held.callback(statement.close)
            statement.set_sql_query(sql)
            handle, _ = statement.execute_query()
            reader = pa.RecordBatchReader._import_from_c(handle.address)
            held.callback(reader.close)
        return reader

    @contextmanager
    def _explained(self, manager: ModuleType) -> Iterator[None]:
        """The driver's messages quote the query, and values; only the class of the error is kept."""
        try:
            yield
        except manager.Error as error:
            state, status = str(error.sqlstate or ""), manager.AdbcStatusCode(error.status_code)
            kind = f" (SQLSTATE {state})" if state else ""
            code = manager.AdbcStatusCode
            if state[:2] in _WRONG_QUERY or (not state and status in {code.INVALID_ARGUMENT, code.NOT_FOUND}):
                raise Misuse(
                    f"the database does not take the query of dataset {self.name}{kind}.",
                    code="bad_query",
                    advice="Try it in the database's own console, as the same user.",
                ) from None
            if status is code.NOT_IMPLEMENTED:
                raise Misuse(
                    f"the driver of dataset {self.name} does not know one of its options{kind}.",
                    code="bad_option",
                ) from None
            if state[:2] in _UNREACHABLE or status in {
                code.IO, code.TIMEOUT, code.UNAUTHENTICATED, code.UNAUTHORIZED, code.CANCELLED
            }:  # fmt: skip
                raise StorageError(
                    f"the database of dataset {self.name} cannot be reached, or does not let this node in"
                    f"{kind}.",
                    code="source_unreachable",
                ) from None
            raise BadInput(
                f"the query of dataset {self.name} failed{kind}.",
                code="source_failed",
                advice="The database's own log says why.",
            ) from None
        except (pa.ArrowException, OSError):
            raise BadInput(
                f"the query of dataset {self.name} failed.",
                code="source_failed",
                advice="The database's own log says why.",
            ) from None

    def reading(self) -> AbstractContextManager[None]:
        return explained(
            self.name,
            wrong="an expression",
            wrong_code="bad_expression",
            unreadable="the query",
            unreadable_code="source_failed",
        )

    def state(self) -> SourceState:
        raise BadInput(
            f"nothing vouches for the rows of dataset {self.name} staying in their places.",
            code="source_not_fixed",
            advice="Others write to its database. For joint training, copy the query's result to a file.",
        )

    def changed_at(self) -> datetime | None:
        return None

    def require_places(self, opened: Opened) -> None:  # noqa: ARG002 none has them
        self.state()


def _casts(schema: pa.Schema) -> str:
    """Columns of a result for DuckDB; a type Arrow has no name for comes as text that is a number."""
    return ", ".join(
        f"CAST({quoted(field.name)} AS DOUBLE) AS {quoted(field.name)}"
        if isinstance(field.type, pa.OpaqueType) and field.type.type_name == "numeric"
        else quoted(field.name)
        for field in schema
    )
