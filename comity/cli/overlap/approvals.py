"""`comity overlap approve` and `reject`: a person decides about a partner's query."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comity.cli.calling import ApiKey, Url, calling
from comity.cli.output import Directory, Json, show
from comity.cli.overlap.app import app

__all__ = ["approve", "reject"]

_Job = Annotated[str, typer.Argument(help="The query's id, as in comity overlap list.")]


@app.command()
def approve(
    job: _Job,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Kept in this node's records.")] = "",
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Let a partner's query through that waits for a person of this node.

    For data stewards and compliance officers. Who decided, when and why is recorded.

    Example:

        comity overlap approve 5f0d9f9a539d0c4f1b9a553c9f2a6f1c --dir shop
    """
    with calling(directory, url, api_key) as node:
        found = node.approve(job, reason=reason)
    show(as_json, found.model_dump(), [f"{found.id} is let through; {found.partner} may begin it."])


@app.command()
def reject(
    job: _Job,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Shown to the analyst.")],
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Refuse a partner's query that waits for a person of this node; nothing is charged.

    For data stewards and compliance officers. Who decided, when and why is recorded.

    Example:

        comity overlap reject 5f0d9f9a539d0c4f1b9a553c9f2a6f1c --dir shop --reason "the campaign is over"
    """
    with calling(directory, url, api_key) as node:
        found = node.reject(job, reason=reason)
    show(as_json, found.model_dump(), [f"{found.id} is {found.state}."])
