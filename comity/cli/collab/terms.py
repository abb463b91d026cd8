"""Options that state terms and offers, and how agreements are printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privacy.errors import BadInput

if TYPE_CHECKING:
    from clean_room.schemas import CollaborationOut

__all__ = ["Datasets", "OwnTerms", "lines", "read_terms"]

OwnTerms = Annotated[
    Path | None,
    typer.Option("--terms", help="A collaboration.toml with this side's terms.", dir_okay=False, exists=True),
]
Datasets = Annotated[
    list[str] | None,
    typer.Option("--dataset", help="Offer only this dataset; repeatable.", show_default="all offered"),
]


def read_terms(path: Path) -> dict[str, Any]:
    """The terms of a `collaboration.toml`, checked."""
    from clean_room.agreements import Terms

    try:
        return Terms.from_toml(path.read_text("utf-8")).document()
    except (OSError, UnicodeDecodeError):
        raise BadInput(f"{path} cannot be read as UTF-8 text.") from None


def lines(agreed: CollaborationOut) -> Iterator[str]:
    """An agreement as people read it."""
    yield f"{agreed.id}  {agreed.state} with {agreed.partner} at {agreed.partner_url}"
    yield f"partner's key   {agreed.partner_fingerprint}"
    if agreed.agreement_hash:
        yield f"agreement       {agreed.agreement_hash}, version {agreed.version}"
    for side, proposal in agreed.amendments.items():
        by = "this side" if side == "proposed" else agreed.partner
        until = proposal["expires_at"][:10]
        yield f"amendment       version {proposal['version']} proposed by {by} until {until}:"
        for name, value in proposal["terms"].items():
            if agreed.terms.get(name) != value:
                yield f"    {name.replace('_', ' '):<22}{_text(agreed.terms.get(name))} → {_text(value)}"
    if "lease_seconds" not in agreed.terms:
        yield f"{'lease seconds':<22}none (agreed before there were leases)"
    for name, value in agreed.terms.items():
        yield f"{name.replace('_', ' '):<22}{_text(value)}"
    for party, offers in agreed.offers.items():
        for offer in offers:
            columns = ", ".join(f"{c['name']} ({c['lower']:g} … {c['upper']:g})" for c in offer["columns"])
            dimensions = ", ".join(d["name"] for d in offer["dimensions"])
            yield (
                f"{party} offers {offer['name']}: keys {', '.join(offer['kinds'])}"
                + (f"; columns {columns}" if columns else "")
                + (f"; split by {dimensions}" if dimensions else "")
            )


def _text(value: object) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
