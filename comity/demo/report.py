"""`demo-report.html`: one self-contained page, no script and no outside request, from an `Outcome`."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import DictLoader, Environment, StrictUndefined

from comity.demo.outcome import Cell, Outcome
from comity.demo.pictures import area_circles, bars, interval_axis, latency_histogram

__all__ = ["render"]

_TEMPLATE = "report.html.j2"


def render(outcome: Outcome) -> str:
    """The page as text. Everything from outside the template is escaped."""
    source = files("comity.demo").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(
        loader=DictLoader({_TEMPLATE: source}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        grouped=lambda n: f"{n:,.0f}",
        size=_size,
        seconds=_seconds,
        plusminus=_plusminus,
        fixed=_fixed,
        power=_power,
    )
    return environment.get_template(_TEMPLATE).render(
        o=outcome,
        p=outcome.particulars,
        doc=outcome.document(),
        grid=_grid(outcome),
        pictures=_pictures(outcome),
    )


def _pictures(outcome: Outcome) -> dict[str, str]:
    p, o, m = outcome.particulars, outcome.overlap, outcome.model
    sizes = (p.eligible[p.bank], p.eligible[p.shop])
    return {
        "sets": area_circles(
            (p.bank, p.shop),
            sizes,
            o.value,
            (f"≈ {max(sizes[0] - o.value, 0):,}", f"{o.value:,}", f"≈ {max(sizes[1] - o.value, 0):,}"),
        ),
        "intervals": interval_axis(
            [
                ("before the opt-outs", o.value, o.ci95, "both"),
                ("after the opt-outs", o.after_optout, o.after_ci95, "after"),
            ],
            "people in common, 95 % error bars",
        ),
        "auc": bars(
            [
                ("the bank alone", "label, demographics, limit", m.auc_alone, "bank"),
                ("bank and shop", f"{m.people:,} people, encrypted", m.auc_joint, "both"),
                (
                    "after the opt-outs",
                    f"{m.people_after_optout:,} people",
                    m.auc_joint_after_optout,
                    "after",
                ),
            ],
            0.5,
            max(0.8, round(m.auc_joint + 0.06, 1)),
            "0.50 is a coin toss",
        ),
        "latency": latency_histogram(outcome.optout.latencies_ms),
    }


def _grid(outcome: Outcome) -> dict[str, object]:
    """Cells as rows of a table: ages down, limits across, each with its shade from 0 to 1."""
    ages = list(dict.fromkeys(c.age for c in outcome.cells))
    limits = list(dict.fromkeys(c.limit for c in outcome.cells))
    by_place: dict[tuple[str, str], Cell] = {(c.age, c.limit): c for c in outcome.cells}
    most = max((c.value or 0 for c in outcome.cells), default=0) or 1
    rows = []
    for age in ages:
        row = []
        for limit in limits:
            cell = by_place.get((age, limit))
            shade = 0.0 if cell is None or cell.value is None else max(0.0, cell.value / most)
            row.append({"cell": cell, "shade": round(shade, 3)})
        rows.append({"age": age, "cells": row})
    return {"limits": limits, "rows": rows, "withheld": sum(c.suppressed for c in outcome.cells)}


def _size(count: int | None) -> str:
    """Bytes as people read them; a dash for nothing sent."""
    if count is None:
        return "—"
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"


def _seconds(amount: float) -> str:
    return f"{amount:.1f} s" if amount < 100 else f"{int(amount) // 60} min {int(amount) % 60:02d} s"


def _plusminus(interval: tuple[float, float]) -> str:
    """Half the width of an interval, whole unless small."""
    half = (interval[1] - interval[0]) / 2
    return f"{half:,.0f}" if half >= 10 or half == round(half) else f"{half:,.1f}"


def _fixed(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _power(value: float) -> str:
    """A small number as 10⁻⁶ or 2 × 10⁻⁶."""
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if mantissa == "1" else f"{mantissa} × 10{raised}"
