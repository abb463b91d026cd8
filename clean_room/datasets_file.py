"""`datasets.toml` as it is written: read strictly, nothing opened yet."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from clean_room.expressions import require_expression
from clean_room.retention import Retention
from clean_room.sources import AdbcSource, DuckDBSource, FileSource, Source
from privacy.errors import Misuse
from privacy.identifiers import Kind

__all__ = ["Bounds", "Dimension", "Entry", "read"]


@dataclass(frozen=True, slots=True)
class Bounds:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Dimension:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    sql: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _DuckDB:
    """`source = { kind = "duckdb", … }`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    kind: Literal["duckdb"]
    query: str
    order_by: tuple[str, ...] = Field(min_length=1)
    database: str | None = None
    files: dict[str, str] = field(default_factory=dict)

    def made(self, name: str, base: Path) -> Source:
        database = None if self.database is None else base / self.database
        files = {table: base / path for table, path in self.files.items()}
        return DuckDBSource(name, self.query, self.order_by, database, files)


@dataclass(frozen=True, slots=True)
class _Adbc:
    """`source = { kind = "adbc", … }`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", hide_input_in_errors=True)
    kind: Literal["adbc"]
    driver: str
    query: str
    order_by: tuple[str, ...] = Field(min_length=1)
    options: dict[str, str] = field(default_factory=dict, repr=False)

    def made(self, name: str, base: Path) -> Source:
        return AdbcSource(name, self.driver, self.query, self.order_by, self.options, base)


_QUERIES: Mapping[str, TypeAdapter[_DuckDB] | TypeAdapter[_Adbc]] = {
    "duckdb": TypeAdapter(_DuckDB),
    "adbc": TypeAdapter(_Adbc),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One `[datasets.NAME]`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    source: str | dict[str, Any] = field(repr=False)
    keys: dict[Kind, str]
    region: str = "CN"
    lineage: str = ""
    offered: bool = True
    features: tuple[str, ...] = ()
    allowed: tuple[str, ...] | None = None
    retention: Retention | None = None
    columns: dict[str, Bounds] = field(default_factory=dict)
    dimensions: dict[str, Dimension] = field(default_factory=dict)
    segments: dict[str, str] = field(default_factory=dict)

    def made(self, name: str, base: Path) -> Source:
        """The source, with paths relative to `base`; nothing is opened. Raises `Misuse`."""
        if isinstance(self.source, str):
            return FileSource(name, base / self.source)
        query = _QUERIES.get(str(self.source.get("kind")))
        if query is None:
            raise _malformed(f"{name}: the kind of a source must be one of {', '.join(_QUERIES)}")
        asked: _DuckDB | _Adbc = _validated(query, self.source, f"{name}.source")
        return asked.made(name, base)


def read(text: str) -> dict[str, Entry]:
    """The entries by name. Raises `Misuse(malformed_datasets|bad_expression|column_not_allowed)`."""
    try:
        entries = tomllib.loads(text).get("datasets", {})
    except tomllib.TOMLDecodeError as error:
        raise _malformed(f"not valid TOML: {error}") from None
    parsed: dict[str, Entry] = _validated(TypeAdapter(dict[str, Entry]), entries, "")
    for name, entry in parsed.items():
        _check(name, entry)
    return parsed


def _check(name: str, entry: Entry) -> None:
    for label, dimension in entry.dimensions.items():
        require_expression(dimension.sql, f"datasets.toml: {name}: dimension {label}")
    for label, sql in entry.segments.items():
        require_expression(sql, f"datasets.toml: {name}: segment {label}")
    if entry.allowed is None:
        return
    for column in (*entry.keys.values(), *entry.columns, *entry.features):
        if column not in entry.allowed:
            raise Misuse(
                f"datasets.toml: {name}: column {column} is used and not among the allowed columns.",
                code="column_not_allowed",
                advice="Add it to allowed, or leave it out of keys, columns and features.",
            )


def _validated(adapter: TypeAdapter[Any], value: object, where: str) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        # The input itself may hold a password: only the place and the rule are told.
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join([*([where] if where else []), *(str(part) for part in first["loc"])])
        raise _malformed(f"{place}: {first['msg']}") from None


def _malformed(what: str) -> Misuse:
    return Misuse(f"datasets.toml: {what}.", code="malformed_datasets")
