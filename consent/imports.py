"""Consents and opt-outs from a table: CSV, Parquet or Arrow, good rows kept or none, a report row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa

from consent.encoding import to_micros
from consent.events import GRANTING, Event, EventType
from consent.import_rows import COLUMNS, IDENTIFIER_COLUMNS, RowReader, column_of, people_of, read_table
from consent.ledger import SKEW, Ledger
from consent.suppression import Suppressed, suppressed
from privacy.errors import BadInput, Misuse, Refused

__all__ = ["IDENTIFIER_COLUMNS", "ImportRefused", "ImportReport", "RowError", "import_table", "read_table"]

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
    """`recorded` events; `rejected` rows, of which `errors` lists the first thousand problems by row.

    `repeated` rows say what the ledger says already, to the microsecond; they are not recorded again.
    `ignored_identifiers` counts identifiers that could not be read beside another that could, by code;
    `decisions` the rows recorded, by type.
    """

    rows: int
    recorded: int
    rejected: int
    errors: tuple[RowError, ...] = ()
    ignored_identifiers: Mapping[str, int] = field(default_factory=dict)
    decisions: Mapping[str, int] = field(default_factory=dict)
    repeated: int = 0


class ImportRefused(BadInput):
    """Some rows cannot be recorded, and nothing was; `report` says which."""

    code = "bad_rows"

    def __init__(self, report: ImportReport) -> None:
        super().__init__(
            f"{report.rejected} of {report.rows} rows cannot be recorded; nothing was.",
            advice="Correct them, or ask for the good rows to be kept.",
        )
        self.report = report


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
    defaults: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Record every row of a table as a decision.

    Columns: one or more identifiers (`identifiers` maps column names to kinds; those present are used),
    and `decision` (grant, refuse, withdraw, renew, object), `purpose`, and optionally `purpose_version`,
    `partner` (default `*`), `at` (or `effective_at`) and `expires_at` in ISO 8601, `basis`, `actor`, and
    the terms (`consent.terms`) under their own names, lists divided by semicolons. The keyword of the same
    name, or `defaults`, fills in for what is missing.

    With `on_error="skip"` the good rows are recorded, in transactions of fifty thousand. With `"abort"` it
    is one transaction of all rows or none: one bad row raises ImportRefused with the report in `.report`.
    `progress(done, total)` counts events. Raises BadInput for a table without the columns it needs.
    """
    data = read_table(table) if isinstance(table, Path) else table
    filled = dict(defaults or {})
    filled.update(
        {
            name: value
            for name, value in (("decision", decision), ("purpose", purpose), ("partner", partner))
            if value is not None
        }
    )
    columns = _columns(data, identifiers, filled)
    people, ignored, unreadable = people_of(data, {name: identifiers[name] for name in columns}, region)
    read = RowReader(ledger.policy, data, filled, method=method, latest=ledger.clock() + SKEW)
    with ledger.store.read() as view:
        everybody = (i for named in people for i in named)
        erased = frozenset(suppressed(view, ledger.vault, everybody, ledger.now(view)))
    tally = _Tally(data.num_rows, ignored)
    rows: list[tuple[int, Event]] = []
    for row, named in enumerate(people):
        found: Event | tuple[str, str]
        if row in unreadable:
            found = ("identifier", "invalid_utf8")
        else:
            found = read.event(row, named) if named else ("identifier", "no_identifier")
        if isinstance(found, Event) and not erased.isdisjoint(named):
            found = ("row", Suppressed.code)
        if isinstance(found, Event):
            rows.append((row, found))
        else:
            tally.reject(row, *found)
    if on_error == "abort":
        _all_or_nothing(ledger, rows, tally)
        if progress is not None:
            progress(len(rows), len(rows))
        return tally.report()
    for start in range(0, len(rows), _BATCH):
        _keep_good(ledger, rows[start : start + _BATCH], tally)
        if progress is not None:
            progress(min(start + _BATCH, len(rows)), len(rows))
    return tally.report()


@dataclass(eq=False)
class _Tally:
    """What the report will say."""

    rows: int
    ignored: Counter[str]
    recorded: int = 0
    rejected: int = 0
    repeated: int = 0
    errors: list[RowError] = field(default_factory=list)
    decided: Counter[str] = field(default_factory=Counter)

    def reject(self, row: int, column: str, code: str) -> None:
        self.rejected += 1
        self.errors.append(RowError(row + 1, column, code))

    def record(self, rows: Sequence[tuple[int, Event]], count: int) -> None:
        self.recorded += count
        self.decided.update(event.type.value for _, event in rows)

    def report(self) -> ImportReport:
        errors = tuple(sorted(self.errors, key=lambda error: error.row)[:_REPORTED])
        return ImportReport(
            self.rows, self.recorded, self.rejected, errors, dict(self.ignored), dict(self.decided),
            self.repeated,
        )  # fmt: skip


def _columns(data: pa.Table, identifiers: Mapping[str, str], filled: Mapping[str, str]) -> list[str]:
    """The identifier columns of a table that can be imported."""
    columns = [name for name in identifiers if name in data.column_names]
    if not columns:
        raise BadInput(
            f"The table needs an identifier column: {', '.join(identifiers)}.", code="missing_column"
        )
    for name in ("decision", "purpose"):
        if name not in filled and name not in data.column_names:
            raise BadInput(f"The table needs a column {name}.", code="missing_column")
    if not set(filled) <= set(COLUMNS):
        raise BadInput(f"Values can be given for: {', '.join(COLUMNS)}.", code="unknown_column")
    if len(set(data.column_names)) != len(data.column_names):
        raise BadInput("Two columns of the table have one name.", code="duplicate_column")
    return columns


def _all_or_nothing(ledger: Ledger, rows: list[tuple[int, Event]], tally: _Tally) -> None:
    if not tally.rejected:
        fresh = _fresh(ledger, rows, tally)
        if not fresh:
            return
        try:
            tally.record(fresh, ledger.record([event for _, event in fresh], imported=True).count)
            return
        except (Misuse, Refused) as error:
            for position, code in _positions(error).items():
                tally.reject(fresh[position][0], column_of(code), code)
            if not tally.rejected:
                raise
    tally.repeated = 0
    raise ImportRefused(tally.report())


def _keep_good(ledger: Ledger, rows: list[tuple[int, Event]], tally: _Tally) -> None:
    """Record those of `rows` that the ledger takes; a row it does not take is found and reported."""
    left = [_fresh(ledger, rows, tally)]
    while left:
        batch = left.pop()
        if not batch:
            continue
        try:
            tally.record(batch, ledger.record([event for _, event in batch], imported=True).count)
        except (Misuse, Refused) as error:
            wrong = _positions(error)
            if not wrong and len(batch) == 1:
                wrong = {0: error.code}
            if not wrong:
                # The error does not say which: the halves do, the earlier first.
                middle = len(batch) // 2
                left += [batch[middle:], batch[:middle]]
                continue
            for position, code in wrong.items():
                tally.reject(batch[position][0], column_of(code), code)
            left.append([each for i, each in enumerate(batch) if i not in wrong])


def _positions(error: Misuse | Refused) -> dict[int, str]:
    """Which events of the batch were at fault, with their codes, as far as the error says."""
    found: object = getattr(error, "positions", None)
    if isinstance(found, dict) and found:
        return dict(found)
    position: object = getattr(error, "position", None)
    return {position: error.code} if isinstance(position, int) else {}


def _fresh(ledger: Ledger, rows: list[tuple[int, Event]], tally: _Tally) -> list[tuple[int, Event]]:
    """The rows that say something new; those that repeat what the ledger holds are counted."""
    dated = [event for _, event in rows if event.effective_at is not None]
    if not dated:
        return rows
    lookups = {
        i: ledger.vault.lookup(i.kind)(i.canonical)
        for event in dated
        for i in dict.fromkeys(event.identifiers)
    }
    with ledger.store.read() as view:
        handles = view.find_subjects(list(lookups.values()))
        states = view.standings_of(list(dict.fromkeys(handles.values())))

    def known(event: Event) -> bool:
        about = {handles.get(lookups[i]) for i in event.identifiers}
        handle = next(iter(about))
        if len(about) > 1 or handle is None or event.effective_at is None:
            return False
        standing = states.get(handle, {}).get((event.purpose, event.partner))
        if standing is None:
            return False
        at = to_micros(event.effective_at)
        if event.type in GRANTING:
            ends = None if event.expires_at is None else to_micros(event.expires_at)
            version = event.purpose_version or ledger.policy.version
            same = (at, version, ends)
            return event.type is EventType.GRANTED and same == (
                standing.granted_at,
                standing.granted_version,
                standing.expires_at,
            )
        return (at, event.type.value) == (standing.restricted_at, standing.restriction)

    fresh = [(row, event) for row, event in rows if event.effective_at is None or not known(event)]
    tally.repeated += len(rows) - len(fresh)
    return fresh
