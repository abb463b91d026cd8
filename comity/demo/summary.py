"""The printed summary at the end of a demonstration."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from comity.demo.outcome import Outcome

__all__ = ["print_summary"]


def print_summary(console: Console, outcome: Outcome, *, report: Path, kept: Path | None) -> None:
    """One table with every number, one line saying where the page lies."""
    o, m, x, p = outcome.overlap, outcome.model, outcome.optout, outcome.particulars
    table = Table(
        title="What the two partners learnt",
        title_justify="left",
        show_header=False,
        box=None,
        pad_edge=False,
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    low, high = o.ci95
    table.add_row("people in common", f"{o.value:,}", f"95 %: {low:,.0f} to {high:,.0f}, ε = {o.epsilon:g}")
    after_low, after_high = o.after_ci95
    table.add_row(
        "  after the opt-outs", f"{o.after_optout:,}", f"95 %: {after_low:,.0f} to {after_high:,.0f}"
    )
    withheld = sum(c.suppressed for c in outcome.cells)
    table.add_row("cells, age × limit", f"{len(outcome.cells)}", f"{withheld} withheld")
    mlow, mhigh = outcome.measure.ci95
    table.add_row(
        f"average {outcome.measure.column}",
        f"{outcome.measure.mean:,.0f}",
        f"95 %: {mlow:,.0f} to {mhigh:,.0f} NT$",
    )
    table.add_row("AUC, bank alone", f"{m.auc_alone:.4f}", "")
    table.add_row("AUC, bank and shop", f"{m.auc_joint:.4f}", f"{m.people:,} people, residuals encrypted")
    table.add_row(
        "  after the opt-outs", f"{m.auc_joint_after_optout:.4f}", f"{m.people_after_optout:,} people"
    )
    table.add_row(
        "opted out", f"{x.people:,}", f"p99 recorded → enforced at the partner {x.enforced_p99_ms:,.0f} ms"
    )
    table.add_row(
        "  proved absent",
        "yes" if x.non_inclusion_proved else "NO",
        f"{x.proofs:,} proofs, {x.receipts_checked} receipts",
    )
    logs = sum(g.verified for g in outcome.logs)
    entries = sum(g.size for g in outcome.logs)
    table.add_row("logs verified offline", f"{logs} of {len(outcome.logs)}", f"{entries:,} entries")
    receipts = sum(r.verified for r in outcome.receipts)
    table.add_row("receipts verified", f"{receipts} of {len(outcome.receipts)}", "signed by both partners")
    table.add_row(
        "seconds", f"{outcome.seconds:.0f}", f"{p.people_each:,} people each, engine {outcome.engine}"
    )
    console.print()
    console.print(table)
    console.print()
    console.print(f"Report: {report}", soft_wrap=True, highlight=False)
    if kept is not None:
        console.print(f"Kept:   {kept}", soft_wrap=True, highlight=False)
