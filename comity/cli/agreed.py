"""Which collaboration a command is about: the one named, or the only one in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from privacy.errors import Misuse

if TYPE_CHECKING:
    from clean_room.schemas import CollaborationOut

__all__ = ["Collaboration", "the_collaboration"]

Collaboration = Annotated[
    str | None, typer.Option("--collab", help="Id of the collaboration.", show_default="the only one agreed")
]


class _Lister(Protocol):
    def collaborations(self) -> list[CollaborationOut]: ...


def the_collaboration(node: _Lister, named: str | None) -> str:
    """`named`, or the only one in force at the node. Raises `Misuse` when there is none or several."""
    if named is not None:
        return named
    agreed = [found.id for found in node.collaborations() if found.state == "agreed"]
    if len(agreed) != 1:
        raise Misuse(
            "there is not exactly one collaboration in force.",
            advice="Name it with --collab; see comity collab show.",
        )
    return agreed[0]
