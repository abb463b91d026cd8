"""`comity doctor DIR`: check a node."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from comity.cli.output import Json, document

app = typer.Typer(add_completion=False)

_MARKS = {"ok": "ok  ", "warning": "WARN", "failed": "FAIL"}


@app.command()
def doctor(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The node's directory.")],
    as_json: Json = False,
) -> None:
    """Check the node in DIR: configuration, keys, database, log, engine, port, partners and their clocks.

    The node may run or not; nothing is changed. Exits with 1 if a check failed.

    Example:

        comity doctor bank
    """
    from comity.doctor import Verdict, examine
    from comity.system import utc_now

    findings = []
    for finding in examine(directory, clock=utc_now):
        findings.append(finding)
        if not as_json:
            typer.echo(f"{_MARKS[finding.verdict]}  {finding.check}: {finding.detail}")
            if finding.advice:
                typer.echo(f"        {finding.advice}")
    healthy = all(f.verdict is not Verdict.FAILED for f in findings)
    if as_json:
        document({"healthy": healthy, "findings": [asdict(f) for f in findings]})
    raise typer.Exit(0 if healthy else 1)
