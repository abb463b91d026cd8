"""The `comity` command. One file a group; each is imported only when its command runs."""

from __future__ import annotations

from comity.cli.root import app, main

__all__ = ["app", "main"]
