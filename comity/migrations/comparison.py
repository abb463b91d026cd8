"""What counts as a difference between the tables in a database and those the packages declare."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["COMPARISON", "default_differs"]

_CAST = re.compile(r"::[a-z ]+$")


def default_differs(
    _context: Any, _inspected: Any, _declared: Any, found: str | None, _default: Any, wanted: str | None
) -> bool | None:
    """Compare server defaults by their text; databases spell the same constant differently."""

    def plain(text: str | None) -> str | None:
        return None if text is None else _CAST.sub("", text).strip("()").strip("'")

    return plain(found) != plain(wanted)


COMPARISON: dict[str, Any] = {"compare_type": True, "compare_server_default": default_differs}
