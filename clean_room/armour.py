"""Bytes as text inside JSON documents: standard base64, read strictly."""

from __future__ import annotations

import base64

from clean_room.errors import PeerViolation
from privacy.errors import ComityError

__all__ = ["armoured", "unarmoured"]


def armoured(raw: bytes) -> str:
    """The text form of `raw`."""
    return base64.b64encode(raw).decode()


def unarmoured(
    text: object, what: str, error: type[ComityError] = PeerViolation, code: str | None = None
) -> bytes:
    """The bytes behind `text`; raises `error` naming `what` for anything that is not base64 text."""
    if not isinstance(text, str):
        raise error(f"{what} is missing.", code=code)
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise error(f"{what} is not base64.", code=code) from None
