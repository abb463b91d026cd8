"""Asking, following and cancelling queries."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comity.cli.calling import ApiKey, Url, calling
from comity.cli.output import Directory, Json, document, show, table
from comity.cli.overlap.answers import lines_of, preview_lines, receipt_lines
from comity.cli.overlap.app import app
from comity.cli.overlap.question import Question, takes_question
from comity.cli.progress import bar

if TYPE_CHECKING:
    from clean_room.schemas import JobOut


@app.command()
@takes_question
def preview(question: Question) -> None:
    """Say what a query would cost, how sure its answer would be and what could be learnt by it.

    Nobody's data is sent; the partner is asked what is left of the month's budget, if it can be reached.

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
    lines += preview_lines(found)
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
                    job = node.follow(job.id, seen=lambda found: update(found.progress))
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
    from clean_room.receipts import check_receipt
    from privacy.signing import PublicKey

    with calling(directory, url, api_key) as node:
        found = node.job(job)
        first = [] if found.receipt_id is None else [found.receipt_id]
        receipts = [node.receipt(name) for name in (found.result or {}).get("receipts") or first]
        agreed = [node.collaboration(receipt.body["collaboration"]) for receipt in receipts]
    value = found.model_dump() | {"receipt": receipts[0].model_dump() if receipts else None}
    checks = [
        check_receipt(
            receipt.model_dump(exclude={"verified"}),
            keys={name: PublicKey.from_text(key) for name, key in under.parties.items()},
            agreements=under.versions,
            result=found.result if found.role == "analyst" else None,
        )
        for receipt, under in zip(receipts, agreed, strict=True)
    ]
    if checks:
        value["receipt_check"] = asdict(checks[0])
        value["receipt_checks"] = {r.id: asdict(c) for r, c in zip(receipts, checks, strict=True)}
    printed = [line for r, c in zip(receipts, checks, strict=True) for line in receipt_lines(r, c)]
    show(as_json, value, [*lines_of(found), *printed])
    if not all(checked.holds for checked in checks):
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
    show(as_json, job.model_dump(), lines_of(job))
