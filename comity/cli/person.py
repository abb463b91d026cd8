"""Naming a person on the command line: options, canonical forms, and never an echo of what was given."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

__all__ = ["Email", "Phone", "Region", "identifiers"]

Email = Annotated[
    str | None, typer.Option("--email", help="The person's e-mail address; - reads it from standard input.")
]
Phone = Annotated[
    str | None, typer.Option("--phone", help="The person's telephone number; - reads it from standard input.")
]
Region = Annotated[str, typer.Option(help="Country of telephone numbers written without one.")]


def identifiers(email: str | None, phone: str | None, region: str) -> list[tuple[str, bytes]]:
    """Canonical identifiers, at least one. Raises `BadInput` naming the kind and reason, never the value."""
    from privacy.errors import BadInput
    from privacy.identifiers import Kind, Rejected, canonical

    found: list[tuple[str, bytes]] = []
    for kind, text in ((Kind.EMAIL, email), (Kind.PHONE, phone)):
        if text is None:
            continue
        given = sys.stdin.readline().strip() if text == "-" else text
        form = canonical(kind, given, region=region)
        if isinstance(form, Rejected):
            raise BadInput(f"The {kind.value} given is not usable ({form.reason}).", code="bad_identifier")
        found.append((kind.value, form))
    if not found:
        raise typer.BadParameter("name the person", param_hint="--email / --phone")
    return found
