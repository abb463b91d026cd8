"""Numbers and dates coarsened into ranges."""

from __future__ import annotations

import datetime as dt
import re
from bisect import bisect_right
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal, InvalidOperation

__all__ = ["DateEdges", "DateWidth", "NotInBucket", "NumberEdges", "NumberWidth"]

_EXACT = Context(prec=80)
_MAGNITUDE = 30  # decimal exponents beyond it are mistakes, and costly ones
_DATE = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[T ].*)?", re.ASCII)
_COMPACT_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})", re.ASCII)


class NotInBucket(ValueError):
    """A value is no number, or no date; the message says which, never the value."""


def number(value: object) -> Decimal:
    """A finite number from a number or its text. Raises `NotInBucket`."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise NotInBucket("is not a number")
    text = str(value).strip()
    if len(text) > 100:
        raise NotInBucket("is not a number")
    try:
        parsed = Decimal(text)
    except InvalidOperation:
        raise NotInBucket("is not a number") from None
    if not parsed.is_finite():
        raise NotInBucket("is NaN or infinite")
    if parsed and not -_MAGNITUDE <= parsed.adjusted() <= _MAGNITUDE:
        raise NotInBucket("is too large or too small a number")
    return parsed


def day(value: object) -> dt.date:
    """A date from a date, a time stamp or ISO-like text. Raises `NotInBucket`."""
    if isinstance(value, dt.datetime):
        return value.date()
    if isinstance(value, dt.date):
        return value
    match = None
    if isinstance(value, str):
        match = _DATE.fullmatch(value.strip()) or _COMPACT_DATE.fullmatch(value.strip())
    if match is None:
        raise NotInBucket("is not a date")
    try:
        return dt.date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        raise NotInBucket("is not a date") from None


@dataclass(frozen=True, slots=True)
class NumberWidth:
    """Ranges of equal width from 0: 23 in width 5 is ``[20, 25)``."""

    width: Decimal

    def label(self, value: object) -> str:
        """The range that `value` falls into. Raises `NotInBucket`."""
        steps = _EXACT.divide(number(value), self.width).to_integral_value(ROUND_FLOOR)
        low = _EXACT.multiply(steps, self.width)
        return f"[{_plain(low)}, {_plain(_EXACT.add(low, self.width))})"


@dataclass(frozen=True, slots=True)
class NumberEdges:
    """Ranges between given edges, open at both ends of the list: ``<18``, ``[18, 30)``, ``>=65``."""

    edges: tuple[Decimal, ...]

    def label(self, value: object) -> str:
        """The range that `value` falls into. Raises `NotInBucket`."""
        i = bisect_right(self.edges, number(value))
        return _between([_plain(e) for e in self.edges], i)


@dataclass(frozen=True, slots=True)
class DateWidth:
    """Whole calendar years: 1992-03-04 in width 5y is ``1990-1994``, in 1y ``1992``."""

    years: int

    def label(self, value: object) -> str:
        """The years that `value` falls into. Raises `NotInBucket`."""
        low = day(value).year // self.years * self.years
        return f"{low:04d}" if self.years == 1 else f"{low:04d}-{low + self.years - 1:04d}"


@dataclass(frozen=True, slots=True)
class DateEdges:
    """Ranges between given days."""

    edges: tuple[dt.date, ...]

    def label(self, value: object) -> str:
        """The range that `value` falls into. Raises `NotInBucket`."""
        i = bisect_right(self.edges, day(value))
        return _between([e.isoformat() for e in self.edges], i)


def _between(edges: list[str], i: int) -> str:
    if i == 0:
        return f"<{edges[0]}"
    if i == len(edges):
        return f">={edges[-1]}"
    return f"[{edges[i - 1]}, {edges[i]})"


def _plain(value: Decimal) -> str:
    """Without exponent or trailing zeros."""
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
