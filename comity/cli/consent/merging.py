"""Records that are one person's, and a record that is two people's."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from comity.cli.consent.app import app
from comity.cli.opening import opened
from comity.cli.output import Directory, Json, show
from comity.cli.person import Email, Phone, Region, identifiers

OtherEmail = Annotated[
    str | None, typer.Option("--other-email", help="An e-mail address of the other record.")
]
OtherPhone = Annotated[
    str | None, typer.Option("--other-phone", help="A telephone number of the other record.")
]


@app.command()
def merge(
    *,
    email: Email = None,
    phone: Phone = None,
    other_email: OtherEmail = None,
    other_phone: OtherPhone = None,
    region: Region = "CN",
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Record that two records are one person's. What either had restricted stays restricted.

    Example:

        comity consent merge --email - --other-phone 13800138000 --dir bank
    """
    from consent.merging import Merging

    kept = identifiers(email, phone, region)
    other = identifiers(other_email, other_phone, region)
    with opened(directory) as records:
        done = Merging(records.ledger).merge(kept, other)
    said = f"{done.restrictions} restrictions and {done.grants} grants"
    line = f"Merged: {said} restated after entry {done.index}."
    show(as_json, asdict(done), [line])


@app.command()
def split(
    *,
    email: Email = None,
    phone: Phone = None,
    region: Region = "CN",
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Take identifiers away from a record, as another person's: a merge taken back, or a mistake corrected.

    Both keep every restriction; neither keeps a grant that came from the other.

    Example:

        comity consent split --phone 13800138000 --dir bank
    """
    from consent.merging import Merging

    with opened(directory) as records:
        done = Merging(records.ledger).split(identifiers(email, phone, region))
    what = "The merge is taken back" if done.undone else "Split"
    show(as_json, asdict(done), [f"{what}: entry {done.index}; {done.restrictions} restrictions restated."])
