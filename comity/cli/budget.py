"""`comity budget`: the privacy budget spent and left."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from comity.cli.output import Directory, Json, show, table

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Show the privacy budget spent and left.")


@app.callback()
def budget() -> None:
    """Show the privacy budget spent and left."""


@app.command("show")
def show_budget(
    lineage: Annotated[str | None, typer.Option(help="Only this dataset lineage.")] = None,
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Show ε and δ per dataset lineage, partner and month: limit, spent, reserved by running jobs, left.

    Example:

        comity budget show --dir shop
    """
    from comity.config import load_config
    from comity.database import check_migrated, open_engine
    from privacy.budget import BudgetLedger, Cost

    config = load_config(directory)
    engine = open_engine(config.database_url)
    try:
        check_migrated(engine)
        ledger = BudgetLedger(engine, limit=Cost(config.budget.epsilon, config.budget.delta))
        found = ledger.status(lineage)
    finally:
        engine.dispose()
    rows = [
        (
            s.key.lineage,
            s.key.partner,
            s.key.period,
            *(f"{c.epsilon:g}" for c in (s.limit, s.committed, s.reserved, s.remaining)),
            f"{s.remaining.delta:.3g}",
        )
        for s in found
    ]
    headings = ["dataset", "partner", "period", "ε limit", "spent", "reserved", "left", "δ left"]
    show(as_json, {"budgets": [asdict(s) for s in found]}, table(headings, rows))
