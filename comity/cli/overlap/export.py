"""Exporting an activation, and making later ids unlinkable to earlier ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from comity.cli.agreed import Collaboration, the_collaboration
from comity.cli.calling import ApiKey, Url, calling
from comity.cli.output import Directory, Json, show
from comity.cli.overlap.app import app
from privacy.errors import Misuse

_SUFFIXES = {".csv": "csv", ".parquet": "parquet"}


@app.command()
def export(
    *,
    job: Annotated[str, typer.Argument(help="Id of an activation.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A .csv or .parquet file to write.")],
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Write what an activation came to: the partner's ids, or the own map from row to id.

    Whoever has opted out until now is not in it. Export again before every use.

    Example:

        comity overlap export 5f0d9f9a539d0c4f1b9a553c9f2a6f1c -o audience.csv
    """
    form = _SUFFIXES.get(output.suffix.lower())
    if form is None:
        raise Misuse("an activation is written as .csv or .parquet.", code="unknown_format")
    with calling(directory, url, api_key) as node:
        found = node.job(job)
        content = node.activation(job, form) if found.role == "analyst" else node.activation_map(job, form)
    unfinished = output.with_name(output.name + ".partial")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)
    what = "ids of shared people" if found.role == "analyst" else "rows with their ids"
    value = {"job": job, "file": str(output), "format": form, "bytes": len(content)}
    show(as_json, value, [f"{output}  {what}, {len(content):,} bytes"])


@app.command("rotate-ids")
def rotate_ids(
    *,
    collaboration: Collaboration = None,
    directory: Directory = Path(),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Replace this node's key and salt for activations with a partner now.

    Ids of later activations cannot be linked to those exported before.

    Example:

        comity overlap rotate-ids --dir shop
    """
    with calling(directory, url, api_key) as node:
        found = node.rotate_ids(the_collaboration(node, collaboration))
    show(as_json, found, [f"new ids for activations with {found['partner']} from now on"])
