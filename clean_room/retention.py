"""How long rows may be used: a column that dates a row, and a number of days."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from pydantic import ConfigDict

from clean_room.sources.engine import quoted
from privacy.errors import BadInput, Misuse

__all__ = ["Retention"]


@dataclass(frozen=True, slots=True)
class Retention:
    """Rows whose `column` lies more than `days` days before today (UTC) are left out of every use.

    So are rows it does not date: nobody can tell how old those are.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    column: str
    days: int

    def __post_init__(self) -> None:
        if not 1 <= self.days <= 36_500:
            raise Misuse("retention: days must be between 1 and 36500.", code="malformed_datasets")

    def condition(self, dataset: str, kind: str, now: datetime) -> str:
        """SQL that is true for a row still to be used; `kind` is DuckDB's type of the column.

        The limit is a midnight, so that all of a day's reads leave out the same rows.
        """
        limit = f"{(now.astimezone(UTC) - timedelta(days=self.days)).date().isoformat()} 00:00:00"
        column = quoted(self.column)
        if kind == "VARCHAR":
            column, kind = f"TRY_CAST({column} AS TIMESTAMPTZ)", "TIMESTAMP WITH TIME ZONE"
        if kind == "TIMESTAMP WITH TIME ZONE":
            return f"COALESCE({column} >= TIMESTAMPTZ '{limit}+00', FALSE)"
        if kind == "DATE" or kind.startswith("TIMESTAMP"):
            return f"COALESCE({column} >= TIMESTAMP '{limit}', FALSE)"
        raise BadInput(
            f"the retention column of dataset {dataset} holds no dates.",
            code="retention_column_type",
            advice="It must be of a date or timestamp type, or text such as 2026-01-31.",
        )
