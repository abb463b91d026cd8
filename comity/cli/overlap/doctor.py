"""`comity overlap doctor`: why so few of a dataset's people would match."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from comity.cli.output import Directory, Json, show, table
from comity.cli.overlap.app import app


@app.command("doctor")
def match_rate(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="One of this node's datasets.")],
    *,
    profile: Annotated[
        str, typer.Option(help="The key profile agreed with the partner, as in comity collab show.")
    ] = "comity-1",
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Find what would lower the match rate of DATASET, before anything is sent. Exits with 1 if much would.

    Tries what datasets.toml says of DATASET, then looks at the own key columns: hashes where identifiers
    belong, placeholders, numbers without a country code, duplicates, coverage. Nothing leaves this machine
    and no value is shown.

    Example:

        comity overlap doctor customers --dir bank
    """
    from clean_room.datasets import Catalogue
    from clean_room.match_rate import Severity, examine
    from comity.config import load_config

    chosen = Catalogue.load(load_config(directory).datasets_file)[dataset]
    chosen.check()
    first, *others = (kind.value for kind in chosen.keys)
    extract = chosen.extract(first, fallbacks=others)
    columns = {first: extract.keys, **extract.fallbacks}
    found = examine(columns, profile=profile, region=chosen.region)
    headings = ["key", "rows", "present", "usable", "people", "not usable because"]
    rows = [
        (c.kind, c.rows, c.present, c.usable, c.distinct,
         ", ".join(f"{why} {n}" for why, n in sorted(c.rejected.items()) if why != "missing"))
        for c in found.coverage
    ]  # fmt: skip
    lines = table(headings, rows)
    share = found.reachable / found.rows if found.rows else 0.0
    lines.append(f"{found.reachable} of {found.rows} rows ({share:.1%}) can match by at least one key.")
    if extract.expired:
        lines.append(f"{extract.expired} more rows are past their retention and in no use.")
    for finding in found.findings:
        lines.append(f"{finding.severity.value}: {finding.kind}: {finding.detail} ({finding.share:.1%}).")
        lines.append(f"      {finding.advice}")
    show(as_json, asdict(found) | {"expired": extract.expired}, lines)
    raise typer.Exit(1 if any(f.severity is Severity.STOP for f in found.findings) else 0)
