"""Table files as streams of record batches: CSV, TSV, Parquet and Arrow IPC, by their suffix.

CSV is read as text throughout. Guessing types would turn ``0138…`` into a number and lose what makes an
identifier an identifier. Library errors are replaced by ours, because theirs quote the offending row.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from privacy.errors import BadInput

__all__ = ["TableReader", "TableWriter", "open_table", "open_writer", "table_format"]

_BATCH_ROWS = 65_536
_BLOCK = 4 << 20  # bytes of CSV held at a time; no row is longer
_CELL_LIMIT = 1 << 20  # bytes
_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_TEXTUAL = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)


def table_format(path: Path) -> str:
    """`csv`, `tsv`, `parquet` or `arrow`. Raises `BadInput` for another suffix."""
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise BadInput(
            f"{path.name}: this kind of file is not a table that can be masked.",
            advice=f"Known suffixes: {', '.join(_FORMATS)}.",
        ) from None


@dataclass(frozen=True, slots=True)
class TableReader:
    """An open table: its schema, its rows if known beforehand, and its batches, once."""

    schema: pa.Schema
    rows: int | None
    batches: Iterator[pa.RecordBatch] = field(repr=False)


@contextmanager
def open_table(path: Path) -> Iterator[TableReader]:
    """Open a table for reading. Raises `BadInput` for whatever cannot be read as what its suffix says."""
    kind = table_format(path)
    if not path.is_file():
        raise BadInput(f"There is no file {path}.", code="no_such_file")
    if path.stat().st_size == 0:
        raise BadInput(f"{path.name} is empty.", code="empty_file")
    with ExitStack() as held:
        with _said_plainly(path):
            reader = _open(path, kind, held)
        yield reader


def _open(path: Path, kind: str, held: ExitStack) -> TableReader:
    match kind:
        case "parquet":
            file = held.enter_context(pq.ParquetFile(path, pre_buffer=False))
            _unique(path, file.schema_arrow.names)
            batches = _checked(path, file.iter_batches(batch_size=_BATCH_ROWS))
            return TableReader(file.schema_arrow.remove_metadata(), file.metadata.num_rows, batches)
        case "arrow":
            reader = held.enter_context(_open_ipc(held.enter_context(pa.OSFile(str(path)))))
            _unique(path, reader.schema.names)
            return TableReader(reader.schema.remove_metadata(), None, _checked(path, _ipc_batches(reader)))
        case _:
            delimiter = "," if kind == "csv" else "\t"
            schema = pa.schema([(name, pa.string()) for name in _csv_header(path, delimiter)])
            return TableReader(schema, None, _checked(path, _csv_batches(path, delimiter, schema)))


@contextmanager
def _said_plainly(path: Path) -> Iterator[None]:
    """Turn the readers' errors, which may quote rows, into ours, which do not."""
    try:
        yield
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    except (pa.ArrowException, OSError, csv.Error, pl.exceptions.PolarsError) as error:
        text = str(error)
        row = re.search(r"Row #(\d+)", text)
        place = f"{path.name}, row {row[1]}" if row else path.name
        if "UTF8" in text or "UTF-8" in text:
            raise _not_utf8(path) from None
        if "straddl" in text or ("block" in text.lower() and "increase" in text):
            raise BadInput(
                f"{place}: a row is longer than {_BLOCK >> 20} MiB, or a quote is never closed.",
                code="cell_too_long",
            ) from None
        if "Expected" in text and "columns" in text:
            raise BadInput(
                f"{place}: a row does not have as many cells as the header.", code="ragged_table"
            ) from None
        raise BadInput(
            f"{place} is damaged, truncated, or not what its suffix says.", code="unreadable_table"
        ) from None


def _not_utf8(path: Path) -> BadInput:
    return BadInput(f"{path.name} is not UTF-8 text.", code="not_utf8", advice="Re-encode it as UTF-8.")


def _checked(path: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches whose cells are of reasonable size and whose text is UTF-8."""
    at = 0
    while True:
        with _said_plainly(path):
            batch = next(batches, None)
            if batch is None:
                return
            batch.validate(full=True)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if any(test(column.type) for test in _TEXTUAL):
                longest = pc.max(pc.binary_length(column)).as_py()
                if longest is not None and longest > _CELL_LIMIT:
                    row = at + pc.index(pc.greater(pc.binary_length(column), _CELL_LIMIT), True).as_py() + 1
                    raise BadInput(
                        f"{path.name}: column {name}, row {row} holds more than {_CELL_LIMIT >> 20} MiB.",
                        code="cell_too_long",
                    )
        at += batch.num_rows
        yield batch


def _unique(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(
            f"{path.name}: more than one column is named {', '.join(twice)}.", code="duplicate_column"
        )
    if not names or not all(names):
        raise BadInput(f"{path.name}: a column has no name.", code="unnamed_column")


def _csv_header(path: Path, delimiter: str) -> list[str]:
    with path.open("rb") as file:
        start = file.read(_CELL_LIMIT)
    # Incremental, since the megabyte may end inside a character.
    text = codecs.getincrementaldecoder("utf-8-sig")().decode(start)
    names = next(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True), [])
    _unique(path, names)
    return names


def _csv_batches(path: Path, delimiter: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    # An open file rather than its path: given a path, the reader runs dozens of blocks ahead.
    with path.open("rb") as file:
        try:
            reader = pacsv.open_csv(
                file,
                read_options=pacsv.ReadOptions(block_size=_BLOCK, use_threads=False),
                parse_options=pacsv.ParseOptions(
                    delimiter=delimiter,
                    newlines_in_values=True,
                    # With a single column an empty line is a row whose cell is empty.
                    ignore_empty_lines=len(schema) > 1,
                ),
                convert_options=pacsv.ConvertOptions(
                    column_types=schema, null_values=[""], strings_can_be_null=True
                ),
            )
        except pa.ArrowInvalid as error:
            if "Empty CSV" in str(error):  # a header and nothing else
                return
            raise
        if reader.schema.names != schema.names:
            raise BadInput(f"{path.name}: the header cannot be read.", code="unreadable_table")
        yield from reader


def _open_ipc(source: pa.NativeFile) -> Any:
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)


def _ipc_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        whole: Iterator[pa.RecordBatch] = (reader.get_batch(i) for i in range(reader.num_record_batches))
    else:
        whole = iter(reader)
    for batch in whole:
        for at in range(0, batch.num_rows, _BATCH_ROWS):
            yield batch.slice(at, _BATCH_ROWS)


class TableWriter(Protocol):
    """Takes batches of one schema, then is closed; the caller owns the file's name and its fate."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Append a batch."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


def open_writer(path: Path, kind: str, schema: pa.Schema) -> TableWriter:
    """Open `path` for writing as `kind` (of `table_format`)."""
    match kind:
        case "parquet":
            return _ParquetOut(path, schema)
        case "arrow":
            return _IpcOut(path, schema)
        case _:
            return _CsvOut(path, schema, "," if kind == "csv" else "\t")


class _ParquetOut:
    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()


class _IpcOut:
    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pa.ipc.new_file(str(path), schema)

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()


class _CsvOut:
    def __init__(self, path: Path, schema: pa.Schema, delimiter: str) -> None:
        nested = [f.name for f in schema if pa.types.is_nested(f.type) or pa.types.is_binary(f.type)]
        if nested:
            raise BadInput(
                f"The columns {', '.join(nested)} do not fit into a CSV file.",
                code="not_in_csv",
                advice="Write Parquet, or drop them.",
            )
        self._file = path.open("wb")
        self._delimiter = delimiter
        header = io.StringIO()
        csv.writer(header, delimiter=delimiter, lineterminator="\n").writerow(schema.names)
        self._file.write(header.getvalue().encode())

    def write(self, batch: pa.RecordBatch) -> None:
        frame = pl.from_arrow(pa.Table.from_batches([batch]))
        if not isinstance(frame, pl.DataFrame):
            raise TypeError("a record batch is a data frame")
        frame.write_csv(self._file, include_header=False, separator=self._delimiter)

    def close(self) -> None:
        self._file.close()
