"""Values that stand elsewhere: "env:NAME" in the environment, "file:PATH" in a file."""

from __future__ import annotations

import os
from pathlib import Path

from privacy.errors import Misuse

__all__ = ["resolve"]


def resolve(value: str, *, base: Path, where: str) -> str:
    """`value`, or what it refers to; paths are relative to `base`.

    Raises `Misuse(secret_missing)`, which names `where` and what was referred to, never what was found.
    """
    scheme, _, target = value.partition(":")
    if scheme == "env":
        if target not in os.environ:
            raise Misuse(f"{where}: the environment variable {target} is not set.", code="secret_missing")
        return os.environ[target]
    if scheme == "file":
        try:
            return (base / target).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError, ValueError):
            raise Misuse(
                f"{where}: the file {target} cannot be read as text.", code="secret_missing"
            ) from None
    return value
