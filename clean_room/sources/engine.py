"""A DuckDB connection shut off from everything but the files it is to read."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from privacy.errors import BadInput, Misuse, StorageError

__all__ = ["column_types", "explained", "literal", "lock", "open_engine", "quoted"]

_CONFIG = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_extension_repositories": "forbidden",
    "allow_persistent_secrets": "false",
    # Variables of this program must not be tables to an expression.
    "python_enable_replacements": "false",
}


@contextmanager
def open_engine() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection of its own in memory. What it spills goes into a private folder and with it."""
    with tempfile.TemporaryDirectory(prefix="comity-spill-", ignore_cleanup_errors=True) as spill:
        connection = duckdb.connect(":memory:", config={**_CONFIG, "temp_directory": spill})
        try:
            # A date without a zone means the same on every machine.
            connection.execute("SET TimeZone = 'UTC'")
            yield connection
        finally:
            connection.close()


def lock(connection: duckdb.DuckDBPyConnection, paths: Sequence[Path] = ()) -> None:
    """From here on: these files and no others, no network, no extensions, no change of settings."""
    listed = ", ".join(literal(str(path)) for path in paths)
    connection.execute(f"SET allowed_paths = [{listed}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def quoted(name: str, mark: str = '"') -> str:
    """`name` as an SQL identifier."""
    return mark + name.replace(mark, mark + mark) + mark


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def column_types(connection: duckdb.DuckDBPyConnection, relation: str) -> Mapping[str, str]:
    """Columns of a relation in order, each with its DuckDB type."""
    described = connection.sql(f"DESCRIBE SELECT * FROM {relation}").to_arrow_table()  # noqa: S608 own names
    return dict(zip(described["column_name"].to_pylist(), described["column_type"].to_pylist(), strict=True))


@contextmanager
def explained(
    dataset: str, *, wrong: str, wrong_code: str, unreadable: str, unreadable_code: str
) -> Iterator[None]:
    """Say in own words what DuckDB or Arrow raised: theirs quote the offending line, which is personal data.

    `wrong` is said where the SQL does not fit, `unreadable` where the rows cannot be read.
    """
    try:
        yield
    except (duckdb.BinderException, duckdb.ParserException, duckdb.CatalogException):
        raise Misuse(
            f"{wrong} of dataset {dataset} in datasets.toml does not fit.",
            code=wrong_code,
            advice="Try it in DuckDB over the same rows.",
        ) from None
    except duckdb.PermissionException:
        raise Misuse(
            f"{wrong} of dataset {dataset} in datasets.toml reaches for something it may not have.",
            code="not_permitted",
            advice="It may read the files and the database named for it, and nothing else.",
        ) from None
    except (duckdb.OutOfMemoryException, MemoryError):
        raise StorageError(f"there is too little memory to read dataset {dataset}.") from None
    except (duckdb.Error, pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if re.search(r"utf-?8|unicode", str(error), re.IGNORECASE):
            raise BadInput(
                f"the text in dataset {dataset} is not UTF-8.",
                code="not_utf8",
                advice="Convert it to UTF-8 first.",
            ) from None
        raise BadInput(f"{unreadable} of dataset {dataset} cannot be read.", code=unreadable_code,
                       advice="It may be truncated or of another format.") from None  # fmt: skip
