"""Datasets of this node: named, typed views over rows that stay where they lie.

`datasets.toml` names them:

    [datasets.customers]
    source = "data/customers.parquet"      # relative to the file; .parquet .csv .tsv .arrow .feather, a
                                           # folder or a pattern of Parquet files, or a query (see sources/)
    keys = { email = "email", phone = "mobile" }
    region = "CN"                          # default region of its phone numbers
    lineage = "customers"                  # what the ε budget is kept for; copies share one
    features = ["limit_bal", "age"]        # columns joint training may read
    allowed = ["email", "mobile", "age"]   # columns anything may touch at all; without it every column
    retention = { column = "updated_at", days = 730 }

    [datasets.customers.columns.limit_bal] # columns a partner may have measured, with clip bounds
    lower = 0
    upper = 1000000

    [datasets.customers.dimensions.age_band]
    sql = "CASE WHEN age < 30 THEN 'under 30' ELSE '30 and over' END"
    values = ["under 30", "30 and over"]   # public: partners see the names, never who has which

    [datasets.customers.segments]
    active = "orders > 0"

SQL is taken from this file only. Column names, which a query may carry, are looked up in the source's
schema and quoted; a partner never supplies SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clean_room import datasets_file
from clean_room.agreements import ColumnOffer, DatasetOffer, DimensionOffer
from clean_room.datasets_file import Bounds, Dimension
from clean_room.expressions import columns_named
from clean_room.retention import Retention
from clean_room.sources import Opened, Source, SourceState
from clean_room.sources.engine import quoted
from clean_room.statements import as_number, as_text
from privacy.errors import BadInput, Misuse
from privacy.identifiers import Kind

__all__ = ["Bounds", "Catalogue", "Dataset", "Dimension", "Extract", "Retention", "SourceState"]

_BATCH = 65_536
_Rows = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Extract:
    """Rows of one dataset as a query needs them; every array has one entry a row, in the source's order.

    `keys` pa.StringArray (null = missing), `fallbacks` one such array for each further key asked for;
    `row_index` int64, the row's place in the source; `dimensions` one pa.StringArray each; `values` float64
    (NaN = missing) or None. `expired` counts rows left out because their retention is over.
    """

    keys: pa.Array = field(repr=False)
    row_index: _Rows = field(repr=False)
    dimensions: Mapping[str, pa.Array] = field(repr=False)
    values: np.ndarray[Any, np.dtype[np.float64]] | None = field(repr=False)
    fallbacks: Mapping[str, pa.Array] = field(default_factory=dict, repr=False)
    expired: int = 0


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Dataset:
    """One named dataset.

    Reading raises `BadInput` with a code: `source_missing`, `empty_input`, `missing_column`, `not_utf8`,
    `unreadable_file`, `source_failed`, `column_not_numeric`, `retention_column_type`; `StorageError`
    (source_unreachable) when a database does not answer; `Misuse` with a code for what datasets.toml says
    wrongly: `bad_expression`, `bad_query`, `column_not_allowed`, `driver_missing`, `secret_missing`.
    """

    name: str
    source: Source
    keys: Mapping[Kind, str]
    region: str
    lineage: str
    offered: bool
    features: tuple[str, ...]
    columns: Mapping[str, Bounds]
    dimensions: Mapping[str, Dimension]
    segments: Mapping[str, str]
    allowed: tuple[str, ...] | None = None
    retention: Retention | None = None
    clock: Callable[[], datetime] = field(default=_now, repr=False, compare=False)

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
        fallbacks: Sequence[str] = (),
    ) -> Extract:
        """Read the key column, dimensions and one numeric column of the rows in `segment` (None = all).

        Raises `Misuse(unknown_key|unknown_dimension|unknown_segment|unknown_column)` for names, and what the
        class says for what they stand for.
        """
        parts = list(
            self.batches(key, dimensions=dimensions, segment=segment, column=column, fallbacks=fallbacks)
        )
        return Extract(
            keys=pa.concat_arrays([part.keys for part in parts]),
            row_index=np.concatenate([part.row_index for part in parts]),
            dimensions={d: pa.concat_arrays([p.dimensions[d] for p in parts]) for d in dimensions},
            values=None
            if column is None
            else np.concatenate([part.values for part in parts if part.values is not None]),
            fallbacks={f: pa.concat_arrays([p.fallbacks[f] for p in parts]) for f in fallbacks},
            expired=sum(part.expired for part in parts),
        )

    def batches(
        self,
        key: str,
        *,
        dimensions: Sequence[str] = (),
        segment: str | None = None,
        column: str | None = None,
        fallbacks: Sequence[str] = (),
        rows: int = _BATCH,
    ) -> Iterator[Extract]:
        """What `extract` gives, in order, about `rows` rows of the source at a time, in bounded memory.

        A batch has an entry only for rows that are in the segment and whose retention is not over, so it may
        be empty; there is at least one. Raises what `extract` raises, at the first batch or later.
        """
        for wanted in (key, *fallbacks):
            if wanted not in self.keys:
                raise Misuse(f"dataset {self.name} has no {wanted} key column.", code="unknown_key")
        for name in dimensions:
            if name not in self.dimensions:
                raise Misuse(f"dataset {self.name} has no such dimension.", code="unknown_dimension")
        if segment is not None and segment not in self.segments:
            raise Misuse(f"dataset {self.name} has no such segment.", code="unknown_segment")
        if column is not None and column not in self.columns:
            raise Misuse(f"dataset {self.name} has no such measurable column.", code="unknown_column")
        key_columns = [self.keys[Kind(wanted)] for wanted in (key, *fallbacks)]
        expressions = [self.dimensions[d].sql for d in dimensions]
        inside = "TRUE" if segment is None else f"COALESCE(({self.segments[segment]}\n), FALSE)"
        needed = key_columns if column is None else [*key_columns, column]
        named = [*expressions, *([] if segment is None else [self.segments[segment]])]
        with self._opened(needed, named) as (opened, alive):
            shown = [f"{as_text(c, opened.types[c])} AS k{i}" for i, c in enumerate(key_columns)]
            shown += [f"CAST(({sql}\n) AS VARCHAR) AS d{i}" for i, sql in enumerate(expressions)]
            if column is not None:
                shown.append(f"{as_number(self.name, column, opened.types[column])} AS v")
            seen = 0
            for batch in self._stream(opened, [*shown, f"{inside} AS s", f"{alive} AS alive"], rows):
                chosen = np.flatnonzero(_flags(batch, "s") & _flags(batch, "alive"))
                taken = batch if len(chosen) == batch.num_rows else batch.take(pa.array(chosen))
                first, *further = [taken[f"k{i}"].cast(pa.string()) for i in range(len(key_columns))]
                yield Extract(
                    keys=first,
                    row_index=(seen + chosen).astype(np.int64),
                    dimensions={d: taken[f"d{i}"].cast(pa.string()) for i, d in enumerate(dimensions)},
                    values=None
                    if column is None
                    else taken["v"].fill_null(float("nan")).to_numpy(zero_copy_only=False),
                    fallbacks=dict(zip(fallbacks, further, strict=True)),
                    expired=int((~_flags(batch, "alive")).sum()),
                )
                seen += batch.num_rows
            if not seen:
                raise BadInput(f"dataset {self.name} has no rows.", code="empty_input")

    def count(self, segment: str | None = None) -> int:
        """How many rows are to be used, of `segment` or of all. Raises what `extract` raises."""
        if segment is not None and segment not in self.segments:
            raise Misuse(f"dataset {self.name} has no such segment.", code="unknown_segment")
        if segment is None and self.retention is None:
            with self.source.opened(text=()) as opened:
                if opened.count is not None:
                    return opened.count()
        named = [] if segment is None else [self.segments[segment]]
        inside = "TRUE" if segment is None else f"({self.segments[segment]}\n)"
        with self._opened([], named) as (opened, alive):
            sql = f"SELECT count(*) FILTER ({inside} AND {alive}) FROM temp.source"  # noqa: S608 checked at load
            with self.source.reading():
                rows = opened.connection.sql(sql).fetchall()
        return int(rows[0][0])

    def check(self) -> None:
        """Try everything datasets.toml says of this dataset against its source, without fetching its rows.

        Raises what `extract` would, for the first thing that does not hold.
        """
        needed = [*self.keys.values(), *self.columns, *self.features]
        cut = [*(d.sql for d in self.dimensions.values()), *self.segments.values()]
        with self._opened(needed, cut, fetch=False) as (opened, _):
            for name in self.columns:
                as_number(self.name, name, opened.types[name])

    def state(self) -> SourceState:
        """The source as it is now. Raises `BadInput(source_missing|source_not_fixed)`."""
        return self.source.state()

    def take(self, columns: Sequence[str], row_index: _Rows) -> pa.Table:
        """Rows at `row_index`, in that order, of columns listed under `features` (or `columns`).

        Raises `Misuse(column_not_allowed)` for any other column: identifiers never leave this way; and
        `BadInput(source_changed|row_expired|order_not_unique)`.
        """
        for name in columns:
            if name not in self.features and name not in self.columns:
                raise Misuse(
                    f"a column of {self.name} is not listed for this use.",
                    code="column_not_allowed",
                    advice="List it under features in datasets.toml.",
                )
        return self._rows_at(columns, row_index, text=False)

    def identifiers(self, key: str, row_index: _Rows) -> pa.Array:
        """Values of a key column, as text, at `row_index`, in that order. Raises what `take` raises."""
        return self._rows_at([self.keys[Kind(key)]], row_index, text=True)[0].combine_chunks()

    def _rows_at(self, columns: Sequence[str], row_index: _Rows, *, text: bool) -> pa.Table:
        by_place = np.argsort(row_index, kind="stable")
        places, parts, seen = row_index[by_place], [], 0
        with self._opened(columns, []) as (opened, alive):
            self.source.require_places(opened)
            shown = [as_text(c, opened.types[c]) if text else quoted(c) for c in columns]
            named = [f"{sql} AS c{i}" for i, sql in enumerate(shown)]
            for batch in self._stream(opened, [*named, f"{alive} AS alive"], _BATCH):
                first, last = np.searchsorted(places, [seen, seen + batch.num_rows])
                part = batch.take(pa.array(places[first:last] - seen))
                if not _flags(part, "alive").all():
                    raise BadInput(
                        f"the retention of rows of dataset {self.name} is over since they were aligned.",
                        code="row_expired",
                        advice="Align again.",
                    )
                parts.append(part)
                seen += batch.num_rows
        if len(row_index) and int(places[-1]) >= seen:
            raise BadInput(
                f"dataset {self.name} has become shorter since it was aligned.", code="source_changed"
            )
        back = np.empty_like(by_place)
        back[by_place] = np.arange(len(by_place))
        table = pa.Table.from_batches(parts).drop_columns("alive").rename_columns(list(columns))
        return table.take(pa.array(back))

    def sample(self, rows: int) -> pa.Table:
        """The first `rows` rows still to be used, with every column that may be touched."""
        with self._opened(None, []) as (opened, alive):
            sql = f"SELECT * FROM temp.source WHERE {alive} LIMIT {int(rows)}"  # noqa: S608 own SQL
            with self.source.reading():
                table = opened.connection.sql(sql).to_arrow_table()
        return table.select([c for c in table.column_names if self.allowed is None or c in self.allowed])

    @contextmanager
    def _opened(
        self, needed: Sequence[str] | None, expressions: Sequence[str], *, fetch: bool = True
    ) -> Iterator[tuple[Opened, str]]:
        """The source, presented with `needed` columns (None = all) and those of `expressions`, and the SQL
        that is true for rows still to be used. Expressions are known to fit it and to touch allowed columns
        only. Without `fetch` it is not presented."""
        with self.source.opened(text=self.keys.values()) as opened:
            types = opened.types
            permitted = [c for c in types if self.allowed is None or c in self.allowed]
            for name in needed or ():
                if name not in types:
                    raise BadInput(f"dataset {self.name} has no column {name}.", code="missing_column")
                if name not in permitted:
                    raise self._not_allowed(f"column {name}")
            names = self._bound(opened, permitted, expressions)
            wanted = [c for c in permitted if needed is None or c in needed or c.lower() in names]
            alive = "TRUE"
            if self.retention is not None:
                if self.retention.column not in types:
                    raise BadInput(
                        f"dataset {self.name} has no column {self.retention.column}, which dates its rows.",
                        code="missing_column",
                    )
                kind = types[self.retention.column]
                alive = self.retention.condition(self.name, kind, self.clock())
                wanted += [c for c in (self.retention.column,) if c not in wanted]
            if fetch:
                opened.present(wanted or [next(iter(types))])
            yield opened, alive

    def _bound(self, opened: Opened, permitted: Sequence[str], expressions: Sequence[str]) -> frozenset[str]:
        """Names in `expressions`, which DuckDB has bound where there are no other columns than permitted."""
        if not expressions:
            return frozenset()
        names = frozenset().union(*(columns_named(sql) for sql in expressions))
        hidden = {c.lower() for c in opened.types} - {c.lower() for c in permitted}
        if names & hidden:
            raise self._not_allowed("a column that a segment or dimension is cut by")
        shown = ", ".join(quoted(c) for c in permitted) or "NULL"
        tried = ", ".join(f"({sql}\n)" for sql in expressions)
        with self.source.reading():
            opened.connection.execute(f"CREATE TEMP VIEW permitted AS SELECT {shown} FROM temp.shape")  # noqa: S608
            opened.connection.sql(f"DESCRIBE SELECT {tried} FROM temp.permitted")  # noqa: S608 checked at load
        return names

    def _not_allowed(self, what: str) -> Misuse:
        return Misuse(
            f"{what} of dataset {self.name} is not among its allowed columns.",
            code="column_not_allowed",
            advice="Add it to allowed in datasets.toml, or leave it out of what is offered.",
        )

    def _stream(self, opened: Opened, shown: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        sql = f"SELECT {', '.join(shown)} FROM temp.source"  # noqa: S608 quoted, or checked at load
        with self.source.reading():
            reader = opened.connection.sql(sql).to_arrow_reader(rows)
        empty = True
        while True:
            with self.source.reading():
                batch = next(reader, None)
            if batch is None:
                break
            empty = False
            yield batch
        if empty:
            yield _none(reader.schema)


def _none(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)


def _flags(batch: pa.RecordBatch, name: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    flags: np.ndarray[Any, np.dtype[np.bool_]] = batch[name].to_numpy(zero_copy_only=False).astype(np.bool_)
    return flags


class Catalogue:
    """The datasets of `datasets.toml`, by name."""

    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        self._datasets = dict(datasets)

    @classmethod
    def load(cls, path: Path, *, clock: Callable[[], datetime] = _now) -> Catalogue:
        """Read `datasets.toml`; a missing file is an empty catalogue. Raises `Misuse(malformed_datasets)`.

        `clock` says what day it is, for retention.
        """
        if not path.exists():
            return cls({})
        try:
            return cls.parse(path.read_text("utf-8"), base=path.parent, clock=clock)
        except UnicodeDecodeError:
            raise Misuse("datasets.toml is not UTF-8.", code="malformed_datasets") from None

    @classmethod
    def parse(cls, text: str, *, base: Path, clock: Callable[[], datetime] = _now) -> Catalogue:
        """Read the text of a `datasets.toml`; sources are relative to `base`."""
        datasets = {}
        for name, entry in datasets_file.read(text).items():
            datasets[name] = Dataset(
                name=name,
                source=entry.made(name, base),
                keys=entry.keys,
                region=entry.region,
                lineage=entry.lineage or name,
                offered=entry.offered,
                features=entry.features,
                columns=entry.columns,
                dimensions=entry.dimensions,
                segments=entry.segments,
                allowed=entry.allowed,
                retention=entry.retention,
                clock=clock,
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
