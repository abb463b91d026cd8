"""The group `comity consent` itself, and what its commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from comity.cli.output import show

if TYPE_CHECKING:
    from consent.ledger import Recorded

__all__ = ["Method", "Partner", "Purposes", "app", "told"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Record and look up consents; receipts and proofs of absence.",
)

Purposes = Annotated[
    list[str] | None, typer.Option("--purpose", help="A dotted purpose, as in overlap.reach; repeatable.")
]
Partner = Annotated[str, typer.Option(help="The partner it is about; * for every partner.")]
Method = Annotated[str, typer.Option(help="How the decision was collected: a short word for the record.")]


def told(as_json: bool, recorded: Recorded, what: str) -> None:
    value = {"recorded": recorded.count, "first_index": recorded.first_index, "log_size": recorded.size}
    entries = "entry" if recorded.count == 1 else f"{recorded.count} entries from"
    show(as_json, value, [f"{what}: {entries} {recorded.first_index} of the log."])
