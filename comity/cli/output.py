"""What commands print: tables and lines for people, one JSON document for machines."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["Directory", "Json", "document", "moment", "show", "table"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Directory = Annotated[
    Path,
    typer.Option(
        "--dir", "-d", envvar="COMITY_DIR", help="The node's directory.", show_default="this folder"
    ),
]


def _plain(value: object) -> object:
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Path):
        return str(value)
    raise TypeError(type(value).__name__)


def document(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print `value` as JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n")


def show(as_json: bool, value: Mapping[str, Any], lines: Iterable[str]) -> None:
    """Print `value` as JSON if asked for, else the lines."""
    if as_json:
        document(value)
    else:
        for line in lines:
            typer.echo(line)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a left-aligned table; dashes where a cell is empty."""
    cells = [[("-" if cell is None or cell == "" else str(cell)) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(headings), *cells]) for i in range(len(headings))]
    out = ["  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip()
           for line in [[h.upper() for h in headings], *cells]]  # fmt: skip
    return out if rows else [*out, "(none)"]


def moment(value: dt.datetime | None) -> str:
    """A time for people, to the second, UTC."""
    return "" if value is None else value.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
