"""The clock and the randomness of the machine: the only place in the house that asks for either."""

from __future__ import annotations

import datetime as dt
import os

__all__ = ["system_random", "utc_now"]


def utc_now() -> dt.datetime:
    """The time now, aware, in UTC."""
    return dt.datetime.now(dt.UTC)


def system_random(size: int) -> bytes:
    """`size` bytes from the operating system's generator."""
    return os.urandom(size)
