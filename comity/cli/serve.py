"""`comity serve DIR`: run a node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The node's directory.")],
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    as_json: Annotated[bool, typer.Option("--json", help="Print the one line of readiness as JSON.")] = False,
) -> None:
    """Run the node in DIR until Ctrl-C or SIGTERM; the log goes to standard error, one JSON object a line.

    Prints one line when it is ready. Refuses an address beyond loopback without TLS or behind_proxy = true.

    Example:

        comity serve bank
    """
    if log_level not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter("must be debug, info, warning or error", param_hint="--log-level")
    from comity.config import load_config

    load_config(directory).check_exposed()
    from comity.server import serve_node

    serve_node(directory, log_level=log_level, ready_json=as_json)
