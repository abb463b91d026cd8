"""`comity consent policy` and `signal`: what consents are held to, and what devices ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comity.cli.consent.app import Partner, app
from comity.cli.opening import opened
from comity.cli.output import Directory, Json, show, table
from comity.cli.person import Email, Phone, Region, identifiers

__all__ = ["policy", "signal"]


@app.command()
def policy(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A policy to check; without one, the node's own.")
    ] = None,
    *,
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Show the purposes, their notices and what each law asks for; or check a FILE before it is published.

    Examples:

        comity consent policy --dir bank

        comity consent policy purposes.yaml --dir bank
    """
    from consent.laws import laws
    from consent.purposes import PurposePolicy
    from consent.succession import may_follow

    with opened(directory) as records:
        found = records.ledger.policy
        if file is not None:
            proposed = PurposePolicy.load(file)
            may_follow(found, proposed)
            found = proposed
    purposes = [
        {
            "purpose": p.name,
            "since": p.since,
            "renotice": p.renotice,
            "traits": sorted(p.traits),
            "notices": [notice.name for notice in found.notices_for(p.name)],
            "retention_days": None if p.retention is None else p.retention.days,
            "consent_form": [
                f"{each.name} {rule.article}"
                for each in laws().values()
                for rule in each.separate_consent(p.traits)
            ],
        }
        for p in found.purposes.values()
    ]
    value = {
        "policy": found.name,
        "version": found.version,
        "hash": found.hash,
        "laws": list(found.laws),
        "purposes": purposes,
    }
    headings = ["purpose", "since", "renotice", "traits", "notices", "days kept", "form of consent asked by"]
    rows = [tuple(_cell(each) for each in purpose.values()) for purpose in purposes]
    show(as_json, value, [f"{found.name}, version {found.version}, {found.hash}", *table(headings, rows)])


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value or "")


@app.command()
def signal(
    *,
    standard: Annotated[str, typer.Option(help="gpc, tcf or gpp.")],
    raw: Annotated[str, typer.Option(help="The signal as it came; 1 for GPC.")],
    email: Email = None,
    phone: Phone = None,
    partner: Partner = "*",
    region: Region = "CN",
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Record a person's preference signal and what it restricts. It never allows anything.

    Example:

        comity consent signal --email - --standard gpc --raw 1 --dir shop
    """
    from consent.signals import read_signal, record_signal, restricted_by

    person = identifiers(email, phone, region)
    what = read_signal(standard, raw)
    with opened(directory) as records:
        vendor = records.config.consent.vendor or None
        restricted = restricted_by(what, records.ledger.policy, vendor=vendor)
        done = record_signal(records.ledger, person, what, partner=partner, vendor=vendor)
    value = {"restricted": list(restricted), "recorded": 0 if done is None else done.count}
    told = "nothing new" if done is None else f"{done.count} entries from {done.first_index} of the log"
    show(as_json, value, [f"Restricts {', '.join(restricted) or 'nothing'}: {told}."])
