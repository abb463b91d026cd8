"""Consents and opt-outs from a table: CSV, Parquet or Arrow, good rows kept or none, a report row by row."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from consent.events import Event, EventType, Identifier
from consent.ledger import Ledger
from consent.subjects import IDENTIFIER_PROFILE
from consent.suppression import Suppressed, suppressed
from privacy.errors import BadInput, ComityError
from privacy.identifiers import canonical_column

__all__ = ["ImportReport", "RowError", "import_table", "read_table"]

IDENTIFIER_COLUMNS: Mapping[str, str] = {"email": "email", "phone": "phone", "mobile": "phone"}
DECISIONS: Mapping[str, EventType] = {
    "grant": EventType.GRANTED,
    "granted": EventType.GRANTED,
    "refuse": EventType.REFUSED,
    "refused": EventType.REFUSED,
    "withdraw": EventType.WITHDRAWN,
    "withdrawn": EventType.WITHDRAWN,
}
_OTHER = ("decision", "purpose", "partner", "at", "effective_at", "expires_at")
_BATCH = 50_000  # events in one transaction
_REPORTED = 1_000


@dataclass(frozen=True, slots=True)
class RowError:
    """`row` counts from 1, without the header; `code` says what was wrong, never with which value."""

    row: int
    column: str
    code: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """`recorded` events; `rejected` rows, of which `errors` lists the first thousand problems.

    `ignored_identifiers` counts identifiers that could not be read beside another that could, by code.
    """

    rows: int
    recorded: int
    rejected: int
    errors: tuple[RowError, ...] = ()
    ignored_identifiers: Mapping[str, int] = field(default_factory=dict)
    decisions: Mapping[str, int] = field(default_factory=dict)


def read_table(path: Path) -> pa.Table:
    """A CSV (UTF-8, all columns text), Parquet or Arrow IPC file. Raises BadInput."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pyarrow.parquet.read_table(path)
        if path.suffix.lower() in (".arrow", ".feather", ".ipc"):
            with pa.memory_map(str(path)) as source:
                return pa.ipc.open_file(source).read_all()
        with path.open("rb") as file:
            header = file.readline(1 << 20).decode("utf-8-sig").strip()
        names = next(csv.reader([header]), [])
        options = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True
        )
        return pyarrow.csv.read_csv(path, convert_options=options)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        # Arrow's own message quotes the offending cell.
        raise BadInput(f"{path.name} cannot be read as a table ({type(error).__name__}).") from None


def import_table(
    ledger: Ledger,
    table: pa.Table | Path,
    *,
    on_error: Literal["skip", "abort"] = "skip",
    identifiers: Mapping[str, str] = IDENTIFIER_COLUMNS,
    purpose: str | None = None,
    partner: str | None = None,
    decision: str | None = None,
    region: str = "CN",
    method: str = "import",
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Record every row of a table as a decision.

    Columns: one or more identifiers (`identifiers` maps column names to kinds; those present are used),
    and `decision` (grant, refuse, withdraw), `purpose`, and optionally `partner` (default `*`), `at` (or
    `effective_at`) and `expires_at` in ISO 8601; the keyword of the same name fills in for a column that
    is missing. With `on_error="abort"` one bad row stops everything before anything is recorded (BadInput
    with the report in `.report`); with `"skip"` the good rows are recorded. `progress(done, total)` counts
    events. Raises BadInput for a table without the columns it needs.
    """
    data = read_table(table) if isinstance(table, Path) else table
    columns = [name for name in identifiers if name in data.column_names]
    if not columns:
        raise BadInput(
            f"The table needs an identifier column: {', '.join(identifiers)}.", code="missing_column"
        )
    for name, given in (("decision", decision), ("purpose", purpose)):
        if given is None and name not in data.column_names:
            raise BadInput(f"The table needs a column {name}.", code="missing_column")
    if len(set(data.column_names)) != len(data.column_names):
        raise BadInput("Two columns of the table have one name.", code="duplicate_column")
    rows = data.num_rows
    errors: list[RowError] = []
    kinds = {name: identifiers[name] for name in columns}
    people, ignored = _people(data, kinds, region)
    cells = {name: _cells(data, name) for name in _OTHER if name in data.column_names}
    defaults = {"decision": decision, "purpose": purpose, "partner": partner}
    events: list[Event] = []
    decided: Counter[str] = Counter()
    rejected = 0
    make = _Maker(ledger, cells, {k: v for k, v in defaults.items() if v is not None}, method)
    with ledger.store.read() as view:
        everybody = (i for named in people for i in named)
        erased = frozenset(suppressed(view, ledger.vault, everybody, ledger.now(view)))
    for row in range(rows):
        found: Event | tuple[str, str] = ("identifier", "no_identifier")
        if people[row]:
            found = make.event(row, people[row])
        if isinstance(found, Event) and not erased.isdisjoint(people[row]):
            found = ("row", Suppressed.code)
        if isinstance(found, Event):
            events.append(found)
            decided[found.type.value] += 1
        else:
            rejected += 1
            if len(errors) < _REPORTED:
                errors.append(RowError(row + 1, *found))
    if rejected and on_error == "abort":
        raise ImportRefused(ImportReport(rows, 0, rejected, tuple(errors), dict(ignored)))
    recorded = 0
    for start in range(0, len(events), _BATCH):
        recorded += ledger.record(events[start : start + _BATCH], imported=True).count
        if progress is not None:
            progress(min(start + _BATCH, len(events)), len(events))
    return ImportReport(rows, recorded, rejected, tuple(errors), dict(ignored), dict(decided))


class ImportRefused(BadInput):
    """Some rows cannot be read and nothing was recorded; `report` says which."""

    code = "bad_rows"

    def __init__(self, report: ImportReport) -> None:
        super().__init__(
            f"{report.rejected} of {report.rows} rows cannot be read; nothing was recorded.",
            advice="Correct them, or ask for the good rows to be kept.",
        )
        self.report = report


def _people(
    data: pa.Table, kinds: Mapping[str, str], region: str
) -> tuple[list[tuple[Identifier, ...]], Counter[str]]:
    """The canonical identifiers of every row, and how many could not be read, by code."""
    ignored: Counter[str] = Counter()
    out: list[tuple[Identifier, ...]] = [()] * data.num_rows
    for name, kind in kinds.items():
        try:
            made = canonical_column(kind, data.column(name), IDENTIFIER_PROFILE, region=region)
        except (pa.ArrowException, ComityError) as error:
            raise BadInput(
                f"The column {name} cannot be read as {kind} addresses.", code="bad_column"
            ) from error
        ignored.update({f"{kind}_{reason}": count for reason, count in made.rejected.items()})
        for row, value in enumerate(made.values.to_pylist()):
            if value is not None:
                out[row] = (*out[row], Identifier(kind, value))
    return out, ignored


def _cells(data: pa.Table, name: str) -> list[object]:
    column = data.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.utf8_trim_whitespace(column)
    return list(column.to_pylist())


class _Maker:
    """Builds events out of cells; texts and times repeat, so each is read once."""

    def __init__(
        self, ledger: Ledger, cells: Mapping[str, list[object]], defaults: Mapping[str, str], method: str
    ) -> None:
        self._ledger = ledger
        self._cells = cells
        self._defaults = defaults
        self._method = method
        self._purposes: dict[str, str | None] = {}
        self._times: dict[object, datetime | None] = {}

    def _cell(self, name: str, row: int) -> object:
        column = self._cells.get(name)
        value = None if column is None else column[row]
        return self._defaults.get(name) if value is None or value == "" else value

    def event(self, row: int, people: tuple[Identifier, ...]) -> Event | tuple[str, str]:
        """The event of a row, or (column, code) of what is wrong with it."""
        decision, purpose = self._cell("decision", row), self._cell("purpose", row)
        partner = self._cell("partner", row) or "*"
        kind = DECISIONS.get(str(decision).lower())
        if kind is None:
            return "decision", "unknown_decision"
        purpose_code = self._purpose(str(purpose), kind)
        if purpose_code is not None:
            return "purpose", purpose_code
        when = self._cell("at", row) or self._cell("effective_at", row)
        effective, expires = self._time(when), self._time(self._cell("expires_at", row))
        if when is not None and effective is None:
            return "at", "bad_time"
        if self._cell("expires_at", row) is not None and expires is None:
            return "expires_at", "bad_time"
        try:
            event = Event(
                kind,
                people,
                str(purpose),
                str(partner),
                effective_at=effective,
                expires_at=expires,
                method=self._method,
            )
            if effective is not None:
                self._ledger.validate([event])
        except ComityError as error:
            return ("at" if error.code == "future_event" else "row"), error.code
        return event

    def _purpose(self, purpose: str, kind: EventType) -> str | None:
        if purpose == "*" and kind is not EventType.GRANTED:
            return None
        if purpose not in self._purposes:
            try:
                self._ledger.policy.require(purpose)
                self._purposes[purpose] = None
            except ComityError as error:
                self._purposes[purpose] = error.code
        return self._purposes[purpose]

    def _time(self, value: object) -> datetime | None:
        """An aware time; a text or timestamp without offset is UTC. None for what is none."""
        if value not in self._times:
            found: datetime | None = None
            if isinstance(value, datetime):
                found = value
            elif isinstance(value, str) and value:
                try:
                    found = datetime.fromisoformat(value)
                except ValueError:
                    found = None
            if found is not None and found.tzinfo is None:
                found = found.replace(tzinfo=UTC)
            self._times[value] = found
        return self._times[value]
