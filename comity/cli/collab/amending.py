"""Another version of an agreement: propose it, accept what the partner proposes, or decline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comity.cli.calling import ApiKey, Url, calling
from comity.cli.collab.app import app
from comity.cli.collab.terms import Datasets, OwnTerms, lines, read_terms
from comity.cli.output import Directory, Json, show
from privacy.errors import Misuse

Collaboration = Annotated[str, typer.Argument(help="Its id.")]


@app.command()
def amend(
    collaboration: Collaboration,
    *,
    terms: Annotated[
        Path,
        typer.Option(
            "--terms",
            help="A collaboration.toml with all the terms from then on.",
            dir_okay=False,
            exists=True,
        ),
    ],
    dataset: Datasets = None,
    days: Annotated[int, typer.Option(min=1, max=365, help="Days until the proposal expires.")] = 14,
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Propose another version of an agreement; the present one holds until the partner has accepted.

    Example:

        comity collab amend 0d9f9a539d0c4f1b9a553c9f2a6f1c11 --terms stricter.toml --dir bank
    """
    from clean_room.schemas import AmendIn

    asked = AmendIn(terms=read_terms(terms), datasets=dataset, days=days)
    with calling(directory, url, api_key) as node:
        found = node.amend(collaboration, asked)
    show(as_json, found.model_dump(), lines(found))


@app.command("accept-amendment")
def accept_amendment(
    collaboration: Collaboration,
    *,
    terms: OwnTerms = None,
    dataset: Datasets = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Accept the version the partner proposes; the stricter of both sides' numbers will hold.

    Example:

        comity collab accept-amendment 0d9f9a539d0c4f1b9a553c9f2a6f1c11 --yes --dir shop
    """
    from clean_room.schemas import AmendmentAcceptIn

    with calling(directory, url, api_key) as node:
        waiting = node.collaboration(collaboration)
        if "offered" not in waiting.amendments:
            raise Misuse("no amendment of this agreement waits to be accepted.", code="illegal_step")
        if not yes:
            for line in lines(waiting):
                typer.echo(line, err=True)
            typer.confirm("Accept this amendment?", abort=True, err=True)
        stated = None if terms is None else read_terms(terms)
        found = node.accept_amendment(collaboration, AmendmentAcceptIn(terms=stated, datasets=dataset))
    show(as_json, found.model_dump(), lines(found))


@app.command("decline-amendment")
def decline_amendment(
    collaboration: Collaboration,
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Forget what has been proposed, by either side; the version in force goes on.

    Example:

        comity collab decline-amendment 0d9f9a539d0c4f1b9a553c9f2a6f1c11 --dir shop
    """
    with calling(directory, url, api_key) as node:
        found = node.decline_amendment(collaboration)
    show(as_json, found.model_dump(), lines(found))
