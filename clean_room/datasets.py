"""Datasets of this node: named, typed views over Parquet, CSV and Arrow files, read where they lie.

`datasets.toml` names them:

    [datasets.customers]
    source = "data/customers.parquet"      # relative to the file; .parquet .csv .tsv .arrow .feather
    keys = { email = "email", phone = "mobile" }
    region = "CN"                          # default region of its phone numbers
    lineage = "customers"                  # what the ε budget is kept for; copies share one
    features = ["limit_bal", "age"]        # columns joint training may read

    [datasets.customers.columns.limit_bal] # columns a partner may have measured, with clip bounds
    lower = 0
    upper = 1000000

    [datasets.customers.dimensions.age_band]
    sql = "CASE WHEN age < 30 THEN 'under 30' ELSE '30 and over' END"
    values = ["under 30", "30 and over"]   # public: partners see the names, never who has which

    [datasets.customers.segments]
    active = "orders > 0"

SQL is taken from this file only. Column names, which a query may carry, are looked up in the file's schema
and quoted; a partner never supplies SQL.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.ipc as paipc
from pydantic import ConfigDict, TypeAdapter, ValidationError

from clean_room.agreements import ColumnOffer, DatasetOffer, DimensionOffer
from privacy.errors import BadInput, Misuse
from privacy.identifiers import Kind

__all__ = ["Bounds", "Catalogue", "Dataset", "Dimension", "Extract", "SourceState"]

_SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".arrow": "arrow", ".feather": "arrow"}
_NUMERIC = re.compile(r"^(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*|BOOLEAN)$")


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
class _Entry:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    source: str
    keys: dict[Kind, str]
    region: str = "CN"
    lineage: str = ""
    offered: bool = True
    features: tuple[str, ...] = ()
    columns: dict[str, Bounds] = field(default_factory=dict)
    dimensions: dict[str, Dimension] = field(default_factory=dict)
    segments: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Extract:
    """Rows of one dataset as a query needs them; every array has one entry a row, in file order.

    `keys` pa.StringArray (null = missing); `row_index` int64, the row's place in the file; `dimensions` one
    pa.StringArray each; `values` float64 (NaN = missing) or None.
    """

    keys: pa.Array = field(repr=False)
    row_index: np.ndarray[Any, np.dtype[np.int64]] = field(repr=False)
    dimensions: Mapping[str, pa.Array] = field(repr=False)
    values: np.ndarray[Any, np.dtype[np.float64]] | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class SourceState:
    """Which file a dataset's path led to, and when it was last touched. Equal states: the same bytes.

    `changed_ns` is the newer change time of the file and of the link to it, in nanoseconds since 1970. The
    kernel sets it on every write, rename and copy, and unlike the modification time nobody can put it back.
    """

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """One named dataset. Reading raises `BadInput` with a code: `source_missing`, `empty_input`,
    `missing_column`, `not_utf8`, `unreadable_file`, `column_not_numeric`; wrong names raise `Misuse`."""

    name: str
    path: Path
    keys: Mapping[Kind, str]
    region: str
    lineage: str
    offered: bool
    features: tuple[str, ...]
    columns: Mapping[str, Bounds]
    dimensions: Mapping[str, Dimension]
    segments: Mapping[str, str]

    def offer(self) -> DatasetOffer:
        """What a partner is shown of this dataset when a collaboration is agreed."""
        return DatasetOffer(
            name=self.name,
            lineage=self.lineage,
            kinds=tuple(kind.value for kind in self.keys),
            columns=tuple(ColumnOffer(n, b.lower, b.upper) for n, b in self.columns.items()),
            dimensions=tuple(DimensionOffer(n, d.values) for n, d in self.dimensions.items()),
            segments=tuple(self.segments),
        )

    def extract(
        self,
        key: str,
        *,
        dimensions: Sequence[str] = (),
        segment: str | None = None,
        column: str | None = None,
    ) -> Extract:
        """Read the key column, dimensions and one numeric column of the rows in `segment` (None = all).

        Raises `Misuse(unknown_key|unknown_dimension|unknown_segment|unknown_column|bad_expression)` for
        names and expressions, and `BadInput` for what the file holds.
        """
        self._check_names(key, dimensions, segment)
        if column is not None and column not in self.columns:
            raise Misuse(f"dataset {self.name} has no such measurable column.", code="unknown_column")
        key_column = self.keys[Kind(key)]
        with self._opened([key_column] if column is None else [key_column, column]) as (connection, types):
            shown = [f"{_as_text(key_column, types[key_column])} AS k"]
            shown += [
                f"CAST(({self.dimensions[d].sql}) AS VARCHAR) AS d{i}" for i, d in enumerate(dimensions)
            ]
            if column is not None:
                if not _NUMERIC.match(types[column]):
                    raise BadInput(
                        f"column {column} of {self.name} is not numeric.", code="column_not_numeric"
                    )
                shown.append(f"CAST({_quoted(column)} AS DOUBLE) AS v")
            inside = "TRUE" if segment is None else f"COALESCE(({self.segments[segment]}), FALSE)"
            chosen = ", ".join(shown)
            table = self._run(connection, f"SELECT {chosen}, {inside} AS s FROM source")  # noqa: S608 quoted
        if table.num_rows == 0:
            raise BadInput(f"dataset {self.name} has no rows.", code="empty_input")
        rows = np.flatnonzero(table["s"].to_numpy()).astype(np.int64)
        table = table.take(pa.array(rows)).combine_chunks()
        values = None
        if column is not None:
            values = table["v"].cast(pa.float64()).fill_null(float("nan")).to_numpy()
        return Extract(
            keys=_chunkless(table["k"]),
            row_index=rows,
            dimensions={name: _chunkless(table[f"d{i}"]) for i, name in enumerate(dimensions)},
            values=values,
        )

    def parts(
        self, key: str, *, dimensions: Sequence[str] = (), segment: str | None = None, rows: int = 1 << 17
    ) -> Iterator[pa.RecordBatch]:
        """All rows in file order, about `rows` at a time, for what is too large to hold.

        Columns `k` (the key), `d0`, `d1`, … (the dimensions) and `s` (whether the row is in `segment`).
        Errors as `extract`.
        """
        self._check_names(key, dimensions, segment)
        key_column, place = self.keys[Kind(key)], 0
        with self._opened([key_column]) as (connection, types):
            shown = [f"{_as_text(key_column, types[key_column])} AS k"]
            shown += [
                f"CAST(({self.dimensions[d].sql}) AS VARCHAR) AS d{i}" for i, d in enumerate(dimensions)
            ]
            inside = "TRUE" if segment is None else f"COALESCE(({self.segments[segment]}), FALSE)"
            sql = f"SELECT {', '.join(shown)}, {inside} AS s FROM source"  # noqa: S608 quoted
            with self._explained():
                for part in connection.sql(sql).to_arrow_reader(rows):
                    place += len(part)
                    yield part
        if not place:
            raise BadInput(f"dataset {self.name} has no rows.", code="empty_input")

    def count(self, segment: str | None = None) -> int:
        """How many rows there are, in `segment` or in all. Errors as `extract`."""
        if segment is not None and segment not in self.segments:
            raise Misuse(f"dataset {self.name} has no such segment.", code="unknown_segment")
        inside = "TRUE" if segment is None else self.segments[segment]
        with self._opened(()) as (connection, _):
            table = self._run(connection, f"SELECT count(*) FILTER ({inside}) AS n FROM source")  # noqa: S608
        return int(table["n"][0].as_py())

    def _check_names(self, key: str, dimensions: Sequence[str], segment: str | None) -> None:
        if key not in self.keys:
            raise Misuse(f"dataset {self.name} has no {key} key column.", code="unknown_key")
        for name in dimensions:
            if name not in self.dimensions:
                raise Misuse(f"dataset {self.name} has no such dimension.", code="unknown_dimension")
        if segment is not None and segment not in self.segments:
            raise Misuse(f"dataset {self.name} has no such segment.", code="unknown_segment")

    def state(self) -> SourceState:
        """The file as it lies there now. Raises `BadInput(source_missing)`."""
        try:
            file, link = self.path.stat(), self.path.lstat()
        except OSError:
            raise BadInput(f"the file of dataset {self.name} is not there.", code="source_missing") from None
        changed = max(file.st_ctime_ns, link.st_ctime_ns)
        return SourceState(file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, changed)

    def take(self, columns: Sequence[str], row_index: np.ndarray[Any, np.dtype[np.int64]]) -> pa.Table:
        """Rows at `row_index`, in that order, of columns listed under `features` (or `columns`).

        Raises `Misuse(column_not_allowed)` for any other column: identifiers never leave this way.
        """
        for name in columns:
            if name not in self.features and name not in self.columns:
                raise Misuse(
                    f"a column of {self.name} is not listed for this use.",
                    code="column_not_allowed",
                    advice="List it under features in datasets.toml.",
                )
        with self._opened(columns) as (connection, _):
            chosen = ", ".join(_quoted(c) for c in columns)
            table = self._run(connection, f"SELECT {chosen} FROM source")  # noqa: S608 quoted
        if len(row_index) and int(row_index.max()) >= table.num_rows:
            raise BadInput(
                f"dataset {self.name} has become shorter since it was aligned.", code="source_changed"
            )
        return table.take(pa.array(row_index))

    @contextmanager
    def _opened(self, needed: Sequence[str]) -> Iterator[tuple[duckdb.DuckDBPyConnection, dict[str, str]]]:
        """The file as the relation `source`, and its column types; `needed` columns are known to be there."""
        if not self.path.is_file():
            raise BadInput(f"the file of dataset {self.name} is not there.", code="source_missing")
        if self.path.stat().st_size == 0:
            raise BadInput(f"the file of dataset {self.name} is empty.", code="empty_input")
        connection = duckdb.connect(":memory:")
        try:
            form = _SUFFIXES[self.path.suffix.lower()]
            place = "'" + str(self.path).replace("'", "''") + "'"
            if form == "arrow":
                connection.register("source", self._arrow())
            elif form == "parquet":
                self._view(connection, "source", f"read_parquet({place})")
            else:
                # A sniffed number would lose the + of a phone number and leading zeros: keys stay text.
                reader = f"read_csv({place}, header=true"
                self._view(connection, "sniffed", f"{reader}, sample_size=-1)")
                present = self._types(connection, "sniffed")
                types = ", ".join(f"{_literal(c)}: 'VARCHAR'" for c in self.keys.values() if c in present)
                self._view(
                    connection,
                    "source",
                    f"{reader}, sample_size=-1, types={{{types}}})" if types else "sniffed",
                )
            types_by_name = self._types(connection, "source")
            for name in needed:
                if name not in types_by_name:
                    raise BadInput(
                        f"the file of dataset {self.name} has no column {name}.", code="missing_column"
                    )
            yield connection, types_by_name
        finally:
            connection.close()

    def _arrow(self) -> Any:
        try:
            return pads.dataset(self.path, format="ipc")
        except pa.ArrowInvalid:
            pass
        try:
            with pa.OSFile(str(self.path)) as source:
                return paipc.open_stream(source).read_all()
        except (pa.ArrowInvalid, OSError):
            raise BadInput(
                f"the file of dataset {self.name} is not Arrow IPC.", code="unreadable_file"
            ) from None

    def _types(self, connection: duckdb.DuckDBPyConnection, view: str) -> dict[str, str]:
        described = self._run(connection, f"DESCRIBE SELECT * FROM {view}")  # noqa: S608 own names
        return dict(
            zip(described["column_name"].to_pylist(), described["column_type"].to_pylist(), strict=True)
        )

    def _view(self, connection: duckdb.DuckDBPyConnection, name: str, source: str) -> None:
        with self._explained():
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM {source}")  # noqa: S608 quoted above

    def _run(self, connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
        with self._explained():
            return connection.sql(sql).to_arrow_table()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (duckdb.BinderException, duckdb.ParserException, duckdb.CatalogException):
            raise Misuse(
                f"an expression of dataset {self.name} in datasets.toml does not fit its file.",
                code="bad_expression",
                advice="Try the expression in DuckDB over the file.",
            ) from None
        except (duckdb.Error, pa.ArrowException, UnicodeDecodeError) as error:
            # DuckDB's own text quotes the offending line, which is personal data: only its kind is kept.
            if re.search(r"utf-?8|unicode", str(error), re.IGNORECASE):
                raise BadInput(
                    f"the file of dataset {self.name} is not UTF-8.",
                    code="not_utf8",
                    advice="Convert it to UTF-8 first.",
                ) from None
            raise BadInput(
                f"the file of dataset {self.name} cannot be read as {self.path.suffix.lstrip('.')}.",
                code="unreadable_file",
                advice="It may be truncated or of another format; write it again.",
            ) from None


class Catalogue:
    """The datasets of `datasets.toml`, by name."""

    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        self._datasets = dict(datasets)

    @classmethod
    def load(cls, path: Path) -> Catalogue:
        """Read `datasets.toml`; a missing file is an empty catalogue. Raises `Misuse(malformed_datasets)`."""
        if not path.exists():
            return cls({})
        try:
            return cls.parse(path.read_text("utf-8"), base=path.parent)
        except UnicodeDecodeError:
            raise Misuse("datasets.toml is not UTF-8.", code="malformed_datasets") from None

    @classmethod
    def parse(cls, text: str, *, base: Path) -> Catalogue:
        """Read the text of a `datasets.toml`; sources are relative to `base`."""
        try:
            entries = tomllib.loads(text).get("datasets", {})
            parsed = TypeAdapter(dict[str, _Entry]).validate_python(entries)
        except tomllib.TOMLDecodeError as error:
            raise Misuse(f"datasets.toml is not valid TOML: {error}", code="malformed_datasets") from None
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise Misuse(f"datasets.toml: {where}: {first['msg']}.", code="malformed_datasets") from None
        datasets = {}
        for name, entry in parsed.items():
            path = base / entry.source
            if path.suffix.lower() not in _SUFFIXES:
                raise Misuse(
                    f"datasets.toml: {name}: source must end in {', '.join(_SUFFIXES)}.",
                    code="malformed_datasets",
                )
            datasets[name] = Dataset(
                name=name,
                path=path,
                keys=entry.keys,
                region=entry.region,
                lineage=entry.lineage or name,
                offered=entry.offered,
                features=entry.features,
                columns=entry.columns,
                dimensions=entry.dimensions,
                segments=entry.segments,
            )
            datasets[name].offer()
        return cls(datasets)

    def __iter__(self) -> Iterator[Dataset]:
        return iter(self._datasets.values())

    def __getitem__(self, name: str) -> Dataset:
        """The dataset; raises `Misuse(unknown_dataset)`."""
        if name not in self._datasets:
            raise Misuse(
                "this node has no dataset of that name.",
                code="unknown_dataset",
                advice="Name it in datasets.toml.",
            )
        return self._datasets[name]

    def offers(self, names: Sequence[str] | None = None) -> tuple[DatasetOffer, ...]:
        """Offers of the named datasets, or of all marked `offered`."""
        chosen = [d for d in self if d.offered] if names is None else [self[n] for n in names]
        return tuple(dataset.offer() for dataset in chosen)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _as_text(column: str, kind: str) -> str:
    # Mobile numbers stored as floats (a column with gaps, written by pandas) must not read as 138….0.
    if kind in {"DOUBLE", "FLOAT"}:
        return f"CAST(TRY_CAST({_quoted(column)} AS BIGINT) AS VARCHAR)"
    return f"CAST({_quoted(column)} AS VARCHAR)"


def _chunkless(column: pa.ChunkedArray) -> pa.Array:
    merged = column.combine_chunks()
    array = (
        merged
        if isinstance(merged, pa.Array)
        else pa.concat_arrays(merged.chunks or [pa.array([], column.type)])
    )
    return array.cast(pa.string())
