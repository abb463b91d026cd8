"""What a source of rows is, to a dataset: columns with types, rows in an order, and a state.

A source is opened, says which columns it has, is told which of them are wanted, and then presents those as
the relation `source` of a DuckDB connection that can do nothing else: no other file, no network, no
extension, no changed setting. What is not wanted is not read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import duckdb

__all__ = ["Opened", "Source", "SourceState"]


@dataclass(frozen=True, slots=True)
class SourceState:
    """What a source looked like at one moment. Equal states: the same rows in the same places.

    `changed_ns` is when any of its files, or a link or folder that leads to one, was last touched, in
    nanoseconds since 1970. The kernel sets it on every write, rename and copy, and unlike the modification
    time nobody can put it back.
    """

    fingerprint: str
    changed_ns: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A source while it is open.

    `types` names DuckDB's type of every column. The relation `shape` has all of them, to try expressions on,
    and may have no rows. `present(columns)`, called once, makes the relation `source` of these columns only,
    with rows in the source's own order. `count`, where there is one, counts rows without fetching them.
    """

    connection: duckdb.DuckDBPyConnection
    types: Mapping[str, str]
    present: Callable[[Sequence[str]], None] = field(repr=False)
    count: Callable[[], int] | None = field(default=None, repr=False)


class Source(Protocol):
    """Rows somewhere. Two reads of the same content give the same rows in the same order.

    Whatever goes wrong is raised as a `ComityError` that quotes neither a value nor a secret; `reading`
    translates what DuckDB raises while rows of an opened source are fetched.
    """

    def opened(self, text: Collection[str]) -> AbstractContextManager[Opened]:
        """Open it; columns named in `text` are not to be taken for numbers where the form leaves it open."""
        ...

    def reading(self) -> AbstractContextManager[None]: ...

    def state(self) -> SourceState:
        """The state now. Raises `BadInput(source_missing)`, and `BadInput(source_not_fixed)` where nothing
        can vouch for rows staying in their places: a database that others write to."""
        ...

    def changed_at(self) -> datetime | None:
        """When its content was last written, where that can be told."""
        ...

    def require_places(self, opened: Opened) -> None:
        """Raise `BadInput(order_not_unique)` unless the order of its rows is fully settled."""
        ...
