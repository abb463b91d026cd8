"""Pieces of SQL by which columns of a dataset are read."""

from __future__ import annotations

import re

from clean_room.sources.engine import quoted
from privacy.errors import BadInput

__all__ = ["as_number", "as_text"]

_NUMERIC = re.compile(r"^(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*|BOOLEAN)$")


def as_text(column: str, kind: str) -> str:
    """A key column as text; `kind` is its DuckDB type."""
    # Mobile numbers stored as floats (a column with gaps, written by pandas) must not read as 138….0.
    if kind in {"DOUBLE", "FLOAT"}:
        return f"CAST(TRY_CAST({quoted(column)} AS BIGINT) AS VARCHAR)"
    return f"CAST({quoted(column)} AS VARCHAR)"


def as_number(dataset: str, column: str, kind: str) -> str:
    """A measured column as a double. Raises `BadInput(column_not_numeric)`."""
    if not _NUMERIC.match(kind):
        raise BadInput(f"column {column} of {dataset} is not numeric.", code="column_not_numeric")
    return f"CAST({quoted(column)} AS DOUBLE)"
