"""Calling a running node over its API: the one in `--dir` with its operator key, or any by URL and key."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privacy.errors import Misuse

if TYPE_CHECKING:
    from clean_room.client import Comity

__all__ = ["ApiKey", "Url", "calling"]

Url = Annotated[
    str | None, typer.Option("--url", help="The node's URL, instead of the one in --dir.", show_default=False)
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="COMITY_API_KEY",
        help="An API key, instead of the operator's in --dir.",
        show_default=False,
    ),
]


@contextmanager
def calling(directory: Path, url: str | None, api_key: str | None) -> Iterator[Comity]:
    """A client of the node; what --url and --api-key do not say is taken from the directory."""
    from clean_room.client import Comity

    verify: ssl.SSLContext | bool = True
    if url is None or api_key is None:
        from comity.config import load_config

        config = load_config(directory)
        if url is None:
            url = config.local_url
            if config.server.tls_certificate:
                verify = ssl.create_default_context(cafile=str(config.path(config.server.tls_certificate)))
        if api_key is None:
            try:
                api_key = config.operator_key.read_text("utf-8").strip()
            except OSError:
                raise Misuse(
                    f"the operator key of {directory} cannot be read.", advice="Give --api-key."
                ) from None
    with Comity(url, api_key, verify=verify) as node:
        yield node
