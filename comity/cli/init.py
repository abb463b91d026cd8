"""`comity init DIR`: make a new node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comity.cli.output import Json, show

app = typer.Typer(add_completion=False)


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty directory.")],
    *,
    name: Annotated[
        str, typer.Option(help="How partners know the node.", show_default="the directory's")
    ] = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8440,
    public_url: Annotated[
        str, typer.Option(help="URL partners reach the node at.", show_default="host:port")
    ] = "",
    log_origin: Annotated[
        str, typer.Option(help="Origin of the transparency log, as in bank.example/log.")
    ] = "",
    database: Annotated[str, typer.Option(help="SQLAlchemy URL of the database.")] = "sqlite:///comity.db",
    as_json: Json = False,
) -> None:
    """Make a new node in DIR: a commented node.toml, keys, database and an operator key.

    The operator key in DIR/keys/operator.key lets the commands on this machine talk to the running node.

    Examples:

        comity init bank

        comity init /srv/comity --name bank --port 8440 --public-url https://comity.bank.example
    """
    from comity.scaffold import make_node
    from comity.system import system_random, utc_now

    made = make_node(
        directory,
        name=name or None,
        host=host,
        port=port,
        public_url=public_url,
        origin=log_origin,
        database_url=database,
        clock=utc_now,
        random=system_random,
    )
    config = made.config
    value = {
        "name": config.name,
        "directory": config.directory,
        "url": config.public_url,
        "public_key": made.public_key,
        "fingerprint": made.fingerprint,
        "log_origin": config.log_origin,
        "operator_key": config.operator_key,
    }
    lines = [
        f"Made node {config.name} in {directory}.",
        f"  URL          {config.public_url}",
        f"  public key   {made.public_key}",
        f"  fingerprint  {made.fingerprint}",
        f"  log          {config.log_origin}",
        f"Next: comity serve {directory}",
    ]
    show(as_json, value, lines)
