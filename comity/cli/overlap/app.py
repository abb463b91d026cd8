"""The group `comity overlap` itself."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Ask how many people two partners share.")
