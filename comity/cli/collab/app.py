"""The group `comity collab` itself."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Agree with a partner what may be asked.")
