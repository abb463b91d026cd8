"""Reading the rows of a register: cells into events, each with what is wrong with it.

Texts, times and terms repeat from row to row, so each is read once.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from consent.events import Event, EventType, Identifier
from consent.purposes import PurposePolicy
from consent.subjects import IDENTIFIER_PROFILE
from consent.terms import ConsentTerms, ConsentType
from consent.validation import Judged, checked
from privacy.errors import BadInput, ComityError
from privacy.identifiers import canonical_column

__all__ = ["COLUMNS", "DECISIONS", "IDENTIFIER_COLUMNS", "RowReader", "column_of", "people_of", "read_table"]

IDENTIFIER_COLUMNS: Mapping[str, str] = {"email": "email", "phone": "phone", "mobile": "phone"}
DECISIONS: Mapping[str, EventType] = {
    "grant": EventType.GRANTED,
    "granted": EventType.GRANTED,
    "refuse": EventType.REFUSED,
    "refused": EventType.REFUSED,
    "withdraw": EventType.WITHDRAWN,
    "withdrawn": EventType.WITHDRAWN,
    "renew": EventType.RENEWED,
    "renewed": EventType.RENEWED,
    "object": EventType.OBJECTION,
    "objection": EventType.OBJECTION,
}
_PLAIN = (
    "decision", "purpose", "purpose_version", "partner", "at", "effective_at", "expires_at", "basis", "actor",
)  # fmt: skip
_TERMS = (
    "notice", "notice_version", "notice_hash", "language", "ui_hash", "jurisdiction", "data_categories",
    "recipients", "transfer_country", "transfer_route", "consent_type",
)  # fmt: skip
COLUMNS = (*_PLAIN, *_TERMS)
_LISTS = frozenset({"data_categories", "recipients"})
_NUMBERS = frozenset({"notice_version"})


class _Unreadable:
    """A cell that is not UTF-8."""


_UNREADABLE = _Unreadable()


def read_table(path: Path) -> pa.Table:
    """A CSV (all columns text), Parquet or Arrow IPC file. Raises BadInput.

    A CSV is UTF-8; a cell that is not spoils its row, not the file.
    """
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pyarrow.parquet.read_table(path)
        if path.suffix.lower() in (".arrow", ".feather", ".ipc"):
            with pa.memory_map(str(path)) as source:
                return pa.ipc.open_file(source).read_all()
        with path.open("rb") as file:
            header = file.readline(1 << 20).decode("utf-8-sig").strip()
        names = next(csv.reader([header]), [])
        # Read as bytes, so that one bad cell is not the end of it; null_values apply to bytes as well.
        options = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.binary()), strings_can_be_null=True, check_utf8=False
        )
        table = pyarrow.csv.read_csv(path, convert_options=options)
        for place, name in enumerate(table.column_names):
            table = table.set_column(place, name, _as_text(table.column(place)))
        return table
    except (OSError, UnicodeDecodeError, pa.ArrowException, csv.Error) as error:
        # Arrow's own message quotes the offending cell.
        raise BadInput(f"{path.name} cannot be read as a table ({type(error).__name__}).") from None


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Bytes as text where all of it is UTF-8, else as they are (`_cells` tells the bad ones apart)."""
    try:
        return column.cast(pa.string())
    except pa.ArrowException:
        return column


def people_of(
    data: pa.Table, kinds: Mapping[str, str], region: str
) -> tuple[list[tuple[Identifier, ...]], Counter[str], frozenset[int]]:
    """The canonical identifiers of every row; how many are unreadable, by code; rows that are not UTF-8."""
    ignored: Counter[str] = Counter()
    out: list[tuple[Identifier, ...]] = [()] * data.num_rows
    unreadable: set[int] = set()
    for name, kind in kinds.items():
        column = data.column(name)
        if pa.types.is_binary(column.type):
            cells = _cells(column)
            unreadable.update(row for row, cell in enumerate(cells) if cell is _UNREADABLE)
            column = pa.array([None if cell is _UNREADABLE else cell for cell in cells], pa.string())
        try:
            made = canonical_column(kind, column, IDENTIFIER_PROFILE, region=region)
        except (pa.ArrowException, ComityError) as error:
            raise BadInput(
                f"The column {name} cannot be read as {kind} addresses.", code="bad_column"
            ) from error
        ignored.update({f"{kind}_{reason}": count for reason, count in made.rejected.items()})
        for row, value in enumerate(made.values.to_pylist()):
            if value is not None:
                out[row] = (*out[row], Identifier(kind, value))
    return out, ignored, frozenset(unreadable)


def _cells(column: pa.ChunkedArray) -> list[object]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return list(pc.utf8_trim_whitespace(column).to_pylist())
    if pa.types.is_binary(column.type):
        return [_text(cell) for cell in column.to_pylist()]
    return list(column.to_pylist())


def _filled(column: list[object] | None, default: str | None, size: int) -> list[object]:
    """The cells of a column, `default` where there is none; lists as tuples."""
    if column is None:
        return [default] * size
    return [
        default if cell is None or cell == "" else tuple(cell) if isinstance(cell, list) else cell
        for cell in column
    ]


def _text(cell: bytes | None) -> object:
    try:
        return None if cell is None else cell.decode().strip()
    except UnicodeDecodeError:
        return _UNREADABLE


class RowReader:
    """Makes the events of a table's rows, checked as `Ledger.record` would."""

    def __init__(
        self,
        policy: PurposePolicy,
        data: pa.Table,
        defaults: Mapping[str, str],
        *,
        method: str,
        latest: datetime,
    ) -> None:
        cells = {name: _cells(data.column(name)) for name in COLUMNS if name in data.column_names}
        self._bad = {
            name: frozenset(row for row, cell in enumerate(column) if cell is _UNREADABLE)
            for name, column in cells.items()
            if pa.types.is_binary(data.column(name).type)
        }
        size = data.num_rows
        self._plain = list(zip(*(_filled(cells.get(n), defaults.get(n), size) for n in _PLAIN), strict=True))
        self._named = tuple(name for name in _TERMS if name in cells or name in defaults)
        self._keys = list(
            zip(*(_filled(cells.get(n), defaults.get(n), size) for n in self._named), strict=True)
        )
        self._policy = policy
        self._method = method
        self._latest = latest
        self._judged: Judged = {}
        self._times: dict[object, datetime | None] = {}
        self._terms: dict[tuple[object, ...], ConsentTerms | ComityError | None] = {}

    def event(self, row: int, people: tuple[Identifier, ...]) -> Event | tuple[str, str]:
        """The event of a row (from 0), or (column, code) of what is wrong with it."""
        for name, rows in self._bad.items():
            if row in rows:
                return name, "invalid_utf8"
        decision, purpose, version, partner, at, effective_at, expires_at, basis, actor = self._plain[row]
        kind = DECISIONS.get(str(decision).lower())
        if kind is None:
            return "decision", "unknown_decision"
        when = effective_at if at is None else at
        effective, expires = self._time(when), self._time(expires_at)
        if when is not None and effective is None:
            return "at", "bad_time"
        if expires_at is not None and expires is None:
            return "expires_at", "bad_time"
        number = None if version is None else _number(version)
        if version is not None and number is None:
            return "purpose_version", "bad_number"
        try:
            event = Event(
                kind,
                people,
                str(purpose),
                "*" if partner is None else str(partner),
                number,
                effective,
                expires,
                actor="subject" if actor is None else str(actor),
                method=self._method,
                basis="consent" if basis is None else str(basis),
                terms=self._terms_of(row) if self._named else None,
            )
            return checked(self._policy, [event], self._latest, self._judged)[0]
        except ComityError as error:
            return column_of(error.code), error.code

    def _terms_of(self, row: int) -> ConsentTerms | None:
        """The terms of a row's cells; raises what makes them malformed."""
        key = self._keys[row]
        try:
            found = self._terms[key]
        except KeyError:
            try:
                found = _terms(dict(zip(self._named, key, strict=True)))
            except ComityError as error:
                found = error
            self._terms[key] = found
        if isinstance(found, ComityError):
            raise found
        return found

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
            self._times[value] = found if found is None else _bounded(found)
        return self._times[value]


def _bounded(moment: datetime) -> datetime | None:
    """None for a time that cannot be written in UTC."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return None


def _terms(cells: Mapping[str, object]) -> ConsentTerms | None:
    fields: dict[str, object] = {}
    for name, cell in cells.items():
        if cell is None:
            continue
        value: object = cell
        if name in _LISTS:
            names = cell if isinstance(cell, tuple) else str(cell).split(";")
            value = tuple(str(each).strip() for each in names if str(each).strip())
        elif name in _NUMBERS:
            value = _number(cell)
            if value is None:
                raise BadInput(f"The field {name} is a whole number.", code="bad_terms")
        elif name == "consent_type":
            try:
                value = ConsentType(str(cell))
            except ValueError:
                raise BadInput("A consent is explicit, separate or written.", code="bad_terms") from None
        else:
            value = str(cell)
        fields[name] = value
    return ConsentTerms(**fields) if fields else None  # type: ignore[arg-type]


def _number(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


_COLUMNS = {
    "unknown_purpose": "purpose",
    "unknown_purpose_version": "purpose_version",
    "bad_purpose": "purpose",
    "bad_partner": "partner",
    "bad_expiry": "expires_at",
    "future_event": "at",
    "unknown_basis": "basis",
    "basis_not_allowed": "basis",
    "unknown_notice": "notice",
    "unknown_notice_version": "notice",
    "unknown_language": "language",
    "notice_required": "notice",
    "notice_outdated": "notice",
    "notice_mismatch": "notice",
    "unknown_category": "data_categories",
    "unknown_route": "transfer_route",
    "transfer_route_required": "transfer_route",
    "explicit_consent_required": "consent_type",
    "separate_consent_required": "consent_type",
    "written_consent_required": "consent_type",
    "guardian_required": "actor",
    "back_dated_grant": "at",
}


def column_of(code: str) -> str:
    """The column that an error of the ledger is about, `row` for none in particular."""
    return _COLUMNS.get(code, "row")
