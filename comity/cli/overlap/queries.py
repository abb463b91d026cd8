"""Asking, following and cancelling queries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comity.cli.calling import ApiKey, Url, calling
from comity.cli.output import Directory, Json, document, show, table
from comity.cli.overlap.app import app
from comity.cli.overlap.question import Question, takes_question
from comity.cli.progress import bar

if TYPE_CHECKING:
    from clean_room.schemas import JobOut


@app.command()
@takes_question
def preview(question: Question) -> None:
    """Say what a query would cost and how sure its answer would be; nothing is sent to the partner.

    Example:

        comity overlap preview --dataset customers --partner-dataset shoppers --by age_band
    """
    with calling(question.directory, question.url, question.api_key) as node:
        found = node.preview(question.query(node))
    lines = [
        f"cost          ε = {found.epsilon:g}, δ = {found.delta:g}",
        f"error bar     ± {found.error_bar} people in total",
        f"              ± {found.error_bar_cell} in each of {found.cells} cells",
        f"own people    {found.people} in {found.rows} rows before consent; {found.minimum_input} needed",
        f"to be sent    {found.bytes_sent / 1e6:.1f} MB from this node",
    ]
    if found.error_bar_sum is not None:
        lines.append(f"error of sum  ± {found.error_bar_sum:g} per cell")
    show(question.as_json, found.model_dump(), lines)


@app.command()
@takes_question
def run(
    question: Question,
    *,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="Asking again with it returns the same job.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the result.")] = True,
) -> None:
    """Ask the partner, and wait for the answer.

    Ctrl-C cancels the query on both sides.

    Examples:

        comity overlap run --dataset customers --partner-dataset shoppers --by age_band

        comity overlap run --kind measure --column repaid --purpose overlap.measure \\
            --dataset customers --partner-dataset shoppers
    """
    with calling(question.directory, question.url, question.api_key) as node:
        job = node.ask(question.query(node), idempotency_key=idempotency_key)
        if wait:
            try:
                with bar(f"{question.kind} with {job.partner}") as update:
                    job = node.wait(job.id, seen=lambda found: update(found.progress))
            except KeyboardInterrupt:
                node.cancel(job.id)
                raise
    _conclude(job, question.as_json)


@app.command("show")
def show_job(
    job: Annotated[str, typer.Argument(help="Its id.")],
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Show a query, its result and whether both partners' signatures on its receipt hold.

    Example:

        comity overlap show 5f0d9f9a539d0c4f1b9a553c9f2a6f1c
    """
    with calling(directory, url, api_key) as node:
        found = node.job(job)
        receipt = None if found.receipt_id is None else node.receipt(found.receipt_id)
    value = found.model_dump() | {"receipt": None if receipt is None else receipt.model_dump()}
    lines = list(_lines(found))
    if receipt is not None:
        lines.append(
            f"receipt       {receipt.id} {'signed by both' if receipt.verified else 'DOES NOT VERIFY'}"
        )
    show(as_json, value, lines)
    if receipt is not None and not receipt.verified:
        raise typer.Exit(4)


@app.command("list")
def list_jobs(
    *,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on from here (next_cursor).")] = None,
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """List queries, newest first: asked by this node, and answered by it.

    Example:

        comity overlap list --dir bank
    """
    with calling(directory, url, api_key) as node:
        page = node.jobs(limit=limit, cursor=cursor)
    rows = [
        (j.id, j.kind, j.role, j.partner, j.state, f"{j.progress:.0%}", j.created_at[:19]) for j in page.items
    ]
    lines = table(["id", "kind", "role", "partner", "state", "done", "since"], rows)
    if page.next_cursor:
        lines.append(f"more: --cursor {page.next_cursor}")
    show(as_json, page.model_dump(), lines)


@app.command()
def cancel(
    job: Annotated[str, typer.Argument(help="Its id.")],
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Stop a query; what it had not yet spent is given back.

    Example:

        comity overlap cancel 5f0d9f9a539d0c4f1b9a553c9f2a6f1c
    """
    with calling(directory, url, api_key) as node:
        found = node.cancel(job)
    show(as_json, found.model_dump(), [f"{found.id} is {found.state}."])


def _conclude(job: JobOut, as_json: bool) -> None:
    """Print the end of a query; a failed one leaves with its error's exit code."""
    from clean_room.client import failure_of

    failure = failure_of(job)
    if failure is not None:
        if as_json:
            document(job.model_dump())
        raise failure
    show(as_json, job.model_dump(), _lines(job))


def _lines(job: JobOut) -> Iterator[str]:
    yield f"{job.id}  {job.kind} with {job.partner}: {job.state}"
    if job.error:
        yield f"why           {job.error['detail']} {job.error['advice']} ({job.error['code']})".rstrip()
    result = job.result
    if result is None:
        return
    if result["suppressed"]:
        yield "result        hidden: fewer people than the agreed minimum cell (which may be none)"
    elif result.get("statistic") == "lift":
        yield from _lift(result)
    elif job.kind == "measure":
        low, high = result["ci95"]
        yield f"{result['statistic']} of {result['column']}: {result['value']:,.2f}"
        yield f"95 %          {low:,.2f} … {high:,.2f}; noise scale {result['noise_scale']:g} on each sum"
        yield f"over          {result['count']:,} people"
    else:
        low, high = result["ci95"]
        rate = f" ({result['rate']} of own)" if result["rate"] else ""
        yield f"shared        {result['value']:,} people{rate}, 95 % {low:,} … {high:,}"
    if len(result["cells"]) > 1:
        rows = [
            (c["analyst"], c["contributor"], *(("hidden", "") if c["suppressed"] else _figures(c)))
            for c in result["cells"]
        ]
        yield ""
        yield from table([job.query["dataset"], job.query["partner_dataset"], "value", "95 %"], rows)
        yield ""
    left = result.get("budget_left")
    yield f"spent         ε = {result['epsilon_spent']:g}" + (
        "" if left is None else f", {left:g} left this month"
    )
    yield f"receipt       {result['receipt_id']}"


def _lift(result: dict[str, Any]) -> Iterator[str]:
    treated, held, more = result["treated"], result["holdout"], result["incremental"]
    yield f"campaign      {treated['rate']:.4g} of {result['column']} a person, {treated['people']:,} people"
    yield f"holdout       {held['rate']:.4g} a person, {held['people']:,} people"
    yield f"incremental   {more['value']:+.4g} a person, 95 % {more['ci95'][0]:+.4g} … {more['ci95'][1]:+.4g}"
    if result["value"] is None or result["ci95"] is None:
        yield "lift          cannot be told: the holdout's rate is not clearly above zero"
    else:
        low, high = result["ci95"]
        yield f"lift          {result['value']:+.1%}, 95 % {low:+.1%} … {high:+.1%}"


def _figures(cell: dict[str, Any]) -> tuple[str, str]:
    low, high = cell["ci95"]
    form = ",d" if isinstance(cell["value"], int) else ",.2f"
    return format(cell["value"], form), f"{format(low, form)} … {format(high, form)}"
