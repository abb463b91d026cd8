"""Asking, following and cancelling queries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comity.cli.calling import ApiKey, Url, calling
from comity.cli.output import Directory, Json, document, show, table
from comity.cli.overlap.app import app
from comity.cli.progress import bar
from privacy.errors import Misuse

if TYPE_CHECKING:
    from clean_room.client import Comity
    from clean_room.schemas import JobOut, QueryIn

Collaboration = Annotated[
    str | None, typer.Option("--collab", help="Id of the collaboration.", show_default="the only one agreed")
]
Dataset = Annotated[str, typer.Option("--dataset", help="One of this node's datasets.")]
Partners = Annotated[str, typer.Option("--partner-dataset", help="The dataset of the partner to ask about.")]
Purpose = Annotated[str, typer.Option("--purpose", help="One both agreed to.")]
Kind = Annotated[
    str, typer.Option("--kind", help="overlap, measure (a partner's column) or align (row ids).")
]
Key = Annotated[str, typer.Option("--key", help="Identifier to join on: email or phone.")]
By = Annotated[list[str] | None, typer.Option("--by", help="Split own people by this dimension; repeatable.")]
PartnerBy = Annotated[
    list[str] | None, typer.Option("--partner-by", help="Split the partner's by this dimension; repeatable.")
]
Segment = Annotated[str | None, typer.Option("--segment", help="Only own people in this segment.")]
PartnerSegment = Annotated[
    str | None, typer.Option("--partner-segment", help="Only the partner's people in this segment.")
]
Column = Annotated[str | None, typer.Option("--column", help="For measure: the partner's column.")]
Statistic = Annotated[
    str, typer.Option("--statistic", help="For measure: mean, sum, count, variance or lift.")
]
Holdout = Annotated[
    str | None,
    typer.Option("--holdout", help="For lift: the value of the --by dimension left out of the campaign."),
]
Epsilon = Annotated[
    float | None, typer.Option("--epsilon", help="ε to spend.", show_default="the agreement's")
]


def _query(node: Comity, collaboration: str | None, **fields: Any) -> QueryIn:
    from pydantic import ValidationError

    from clean_room.schemas import QueryIn

    if collaboration is None:
        agreed = [c.id for c in node.collaborations() if c.state == "agreed"]
        if len(agreed) != 1:
            raise Misuse(
                "there is not exactly one collaboration in force.",
                advice="Name it with --collab; see comity collab show.",
            )
        collaboration = agreed[0]
    try:
        return QueryIn(collaboration=collaboration, **fields)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise Misuse(f"the query's {where} is not one this version knows.") from None


@app.command()
def preview(
    *,
    collaboration: Collaboration = None,
    dataset: Dataset,
    partner_dataset: Partners,
    purpose: Purpose = "overlap.reach",
    kind: Kind = "overlap",
    key: Key = "email",
    by: By = None,
    partner_by: PartnerBy = None,
    segment: Segment = None,
    partner_segment: PartnerSegment = None,
    column: Column = None,
    statistic: Statistic = "mean",
    holdout: Holdout = None,
    epsilon: Epsilon = None,
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Say what a query would cost and how sure its answer would be; nothing is sent to the partner.

    Example:

        comity overlap preview --dataset customers --partner-dataset shoppers --by age_band
    """
    with calling(directory, url, api_key) as node:
        asked = _query(
            node,
            collaboration,
            kind=kind,
            dataset=dataset,
            partner_dataset=partner_dataset,
            purpose=purpose,
            key=key,
            dimensions=tuple(by or ()),
            partner_dimensions=tuple(partner_by or ()),
            segment=segment,
            partner_segment=partner_segment,
            column=column,
            statistic=statistic,
            holdout=holdout,
            epsilon=epsilon,
        )
        found = node.preview(asked)
    lines = [
        f"cost          ε = {found.epsilon:g}, δ = {found.delta:g}",
        f"error bar     ± {found.error_bar} people in total",
        f"              ± {found.error_bar_cell} in each of {found.cells} cells",
        f"own people    {found.people} in {found.rows} rows before consent; {found.minimum_input} needed",
        f"to be sent    {found.bytes_sent / 1e6:.1f} MB from this node",
    ]
    if found.error_bar_sum is not None:
        lines.append(f"error of sum  ± {found.error_bar_sum:g} per cell")
    show(as_json, found.model_dump(), lines)


@app.command()
def run(
    *,
    collaboration: Collaboration = None,
    dataset: Dataset,
    partner_dataset: Partners,
    purpose: Purpose = "overlap.reach",
    kind: Kind = "overlap",
    key: Key = "email",
    by: By = None,
    partner_by: PartnerBy = None,
    segment: Segment = None,
    partner_segment: PartnerSegment = None,
    column: Column = None,
    statistic: Statistic = "mean",
    holdout: Holdout = None,
    epsilon: Epsilon = None,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="Asking again with it returns the same job.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the result.")] = True,
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Ask the partner, and wait for the answer.

    Ctrl-C cancels the query on both sides.

    Examples:

        comity overlap run --dataset customers --partner-dataset shoppers --by age_band

        comity overlap run --kind measure --column repaid --purpose overlap.measure \\
            --dataset customers --partner-dataset shoppers
    """
    with calling(directory, url, api_key) as node:
        asked = _query(
            node,
            collaboration,
            kind=kind,
            dataset=dataset,
            partner_dataset=partner_dataset,
            purpose=purpose,
            key=key,
            dimensions=tuple(by or ()),
            partner_dimensions=tuple(partner_by or ()),
            segment=segment,
            partner_segment=partner_segment,
            column=column,
            statistic=statistic,
            holdout=holdout,
            epsilon=epsilon,
        )
        job = node.ask(asked, idempotency_key=idempotency_key)
        if wait:
            try:
                with bar(f"{kind} with {job.partner}") as update:
                    job = node.wait(job.id, seen=lambda found: update(found.progress))
            except KeyboardInterrupt:
                node.cancel(job.id)
                raise
    _conclude(job, as_json)


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
