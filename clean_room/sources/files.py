"""Files where they lie: one file, or many Parquet files of the same columns."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.ipc as paipc

from clean_room.sources.engine import column_types, explained, literal, lock, open_engine, quoted
from clean_room.sources.source import Opened, SourceState
from privacy.errors import BadInput, Misuse

__all__ = ["FileSource", "add_files", "found", "state_of"]

SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".arrow": "arrow", ".feather": "arrow"}
_PATTERN = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class FileSource:
    """`path` is a file (.parquet .csv .tsv .arrow .feather), a folder of Parquet files, or a pattern with
    * ? or ** that names Parquet files. Many files are read as one, in the order of their paths.

    Raises `Misuse(malformed_datasets)` for a path of no such form.
    """

    name: str
    path: Path

    def __post_init__(self) -> None:
        suffix = self.path.suffix.lower()
        if suffix and suffix not in SUFFIXES:
            raise Misuse(
                f"datasets.toml: {self.name}: source must end in {', '.join(SUFFIXES)}, or be a folder.",
                code="malformed_datasets",
            )

    @contextmanager
    def opened(self, text: Collection[str]) -> Iterator[Opened]:
        files = found(self.name, self.path)
        with open_engine() as connection:
            with self.reading():
                add_files(connection, self.name, "shape", files, text)
                lock(connection, files)
                types = column_types(connection, "shape")

            def present(columns: Sequence[str]) -> None:
                chosen = ", ".join(quoted(c) for c in columns)
                with self.reading():
                    connection.execute(f"CREATE TEMP VIEW source AS SELECT {chosen} FROM shape")  # noqa: S608

            yield Opened(connection, types, present)

    def reading(self) -> AbstractContextManager[None]:
        form = self.path.suffix.lower().lstrip(".") or "parquet"
        return explained(
            self.name,
            wrong="an expression",
            wrong_code="bad_expression",
            unreadable=f"the {form} file",
            unreadable_code="unreadable_file",
        )

    def state(self) -> SourceState:
        return state_of(self.name, [self.path])

    def changed_at(self) -> datetime | None:
        try:
            newest = max(file.stat().st_mtime for file in found(self.name, self.path))
        except OSError:
            return None
        return datetime.fromtimestamp(newest, UTC)

    def require_places(self, opened: Opened) -> None:
        """Rows of a file have an order of their own."""


def found(dataset: str, path: Path) -> list[Path]:
    """The files that a path, folder or pattern leads to, in order. Raises `BadInput`."""
    files = [path.absolute()] if path.is_file() else _many(path)
    if not files:
        raise BadInput(f"the file of dataset {dataset} is not there.", code="source_missing")
    if all(file.stat().st_size == 0 for file in files):
        raise BadInput(f"the file of dataset {dataset} is empty.", code="empty_input")
    if any(_PATTERN & set(str(file)) for file in files):
        raise BadInput(
            f"the path of a file of dataset {dataset} has one of * ? [ in it.",
            code="unreadable_file",
            advice="Rename it.",
        )
    return files


def _many(path: Path) -> list[Path]:
    folder, pattern = _split(path)
    return sorted(f.absolute() for f in folder.glob(pattern) if f.is_file() and f.suffix == ".parquet")


def _split(path: Path) -> tuple[Path, str]:
    """A folder to look in, and what to look for there."""
    for place, part in enumerate(path.parts):
        if _PATTERN & set(part):
            return Path(*path.parts[:place]), "/".join(path.parts[place:])
    return path, "**/*.parquet"


def state_of(dataset: str, paths: Sequence[Path], *, also: str = "") -> SourceState:
    """The state of files, folders and patterns together. Raises `BadInput(source_missing)`."""
    digest, changed = hashlib.sha256(also.encode()), 0
    for path in paths:
        try:
            watched = [path] if path.is_file() else [*_folders(path), *found(dataset, path)]
            for place in watched:
                there, link = place.stat(), place.lstat()
                changed = max(changed, there.st_ctime_ns, link.st_ctime_ns)
                if place.is_file():
                    facts = (str(place), there.st_dev, there.st_ino, there.st_size,
                             there.st_mtime_ns, there.st_ctime_ns, link.st_ctime_ns)  # fmt: skip
                    digest.update(repr(facts).encode())
        except OSError:
            raise BadInput(f"the file of dataset {dataset} is not there.", code="source_missing") from None
    return SourceState(digest.hexdigest(), changed)


def _folders(path: Path) -> list[Path]:
    """Folders whose entries decide which files there are: a file taken away leaves its mark on them only."""
    folder, pattern = _split(path)
    if "/" not in pattern:
        return [folder]
    return [folder, *(below for below in sorted(folder.rglob("*")) if below.is_dir())]


def add_files(
    connection: duckdb.DuckDBPyConnection,
    dataset: str,
    relation: str,
    files: Sequence[Path],
    text: Collection[str],
) -> None:
    """Make the files the relation `relation`. To be called before the connection is locked."""
    form = SUFFIXES[files[0].suffix.lower()]
    target = f"CREATE TEMP VIEW {quoted(relation)} AS SELECT * FROM"
    places = "[" + ", ".join(literal(str(file)) for file in files) + "]"
    if form == "arrow":
        connection.register(relation, _arrow(dataset, files[0]))
    elif form == "parquet":
        connection.execute(f"{target} read_parquet({places})")
    else:
        # A sniffed number would lose the + of a phone number and leading zeros: keys stay text.
        reader = f"read_csv({places}, header=true, sample_size=-1"
        present = column_types(connection, f"{reader})")
        types = ", ".join(f"{literal(c)}: 'VARCHAR'" for c in text if c in present)
        connection.execute(f"{target} {reader}, types={{{types}}})" if types else f"{target} {reader})")


def _arrow(dataset: str, path: Path) -> Any:
    try:
        return pads.dataset(path, format="ipc")
    except pa.ArrowInvalid:
        pass
    try:
        with pa.OSFile(str(path)) as source:
            return paipc.open_stream(source).read_all()
    except (pa.ArrowInvalid, OSError):
        raise BadInput(f"the file of dataset {dataset} is not Arrow IPC.", code="unreadable_file") from None
