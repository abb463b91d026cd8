"""Erasing people, and the copy of their record that they may ask for first."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comity.cli.consent.app import Method, app
from comity.cli.opening import opened
from comity.cli.output import Directory, Json, document, moment, show, table
from comity.cli.person import Email, Phone, Region, identifiers

if TYPE_CHECKING:
    from consent.erasure import Erased, ErasurePreview


@app.command()
def erase(
    *,
    email: Email = None,
    phone: Phone = None,
    basis: Annotated[
        str, typer.Option(help="The ground: a short word, as in gdpr.17 or pipl.47.")
    ] = "request",
    hold: Annotated[
        str | None,
        typer.Option(help="Keep the data for now on this ground, as in tax_law; opted out at once."),
    ] = None,
    until: Annotated[
        dt.datetime | None, typer.Option(help="When the hold ends (UTC); without it, when released.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; change nothing.")] = False,
    compact: Annotated[
        bool, typer.Option("--compact", help="Rewrite the database's tables of people afterwards.")
    ] = False,
    region: Region = "CN",
    method: Method = "cli",
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Erase a person: opted out of everything with everybody, then forgotten. It cannot be undone.

    Partners are told of the opt-out by the running node. Any one identifier names the person.

    Examples:

        comity consent erase --email - --basis gdpr.17 --dir bank

        comity consent erase --phone 13800138000 --dry-run --dir shop

        comity consent erase --email - --hold tax_law --until 2030-01-01 --dir shop
    """
    from consent.erasure import Hold

    if until is not None and hold is None:
        raise typer.BadParameter("is the end of a hold", param_hint="--until")
    person = identifiers(email, phone, region)
    with opened(directory) as records:
        if dry_run:
            _would(records.erasure.preview(person), as_json)
            return
        ends = None if until is None else until.replace(tzinfo=until.tzinfo or dt.UTC)
        done = records.erasure.erase(
            person, basis=basis, method=method, hold=None if hold is None else Hold(hold, ends)
        )
        scrubbed = done.state != "completed" or records.erasure.scrub(compact=compact)
    lines = [_line(done)]
    if done.partners:
        lines.append(f"Told of the opt-out: {', '.join(done.partners)}.")
    if not scrubbed:
        lines.append("The database was in use: run `comity consent erasures --scrub` to clear what is left.")
    show(as_json, {**asdict(done), "scrubbed": scrubbed}, lines)


def _line(done: Erased) -> str:
    if done.state == "held":
        text = f"opted out and held ({done.hold_basis}) "
        text += "until released" if done.held_until is None else f"until {moment(done.held_until)}"
    else:
        text = f"erased: {done.entries} entries of the log no longer open"
    text = f"already {text}" if done.already else text
    return f"{text[0].upper()}{text[1:]}; request {done.request}."


def _would(seen: ErasurePreview, as_json: bool) -> None:
    who = f"{seen.subjects} record(s) with {seen.identifiers} identifier(s)" if seen.known else "nobody known"
    lines = [f"Would erase {who}; {seen.entries} entries of the log would no longer open."]
    if seen.held:
        lines = ["Held already: nothing would be done."]
    elif seen.suppressed:
        lines = ["Erased already: nothing would be done."]
    if seen.partners:
        lines.append(f"Would be told of the opt-out: {', '.join(seen.partners)}.")
    show(as_json, asdict(seen), lines)


@app.command()
def erasures(
    *,
    release: Annotated[
        str | None, typer.Option(metavar="REQUEST", help="Lift the hold of this request and carry it out.")
    ] = None,
    scrub: Annotated[bool, typer.Option("--scrub", help="Overwrite what deleted rows left behind.")] = False,
    compact: Annotated[
        bool, typer.Option("--compact", help="With --scrub: rewrite the tables whole.")
    ] = False,
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """List requests to be erased; carry out those whose hold has ended. None says whose it is.

    Examples:

        comity consent erasures --dir bank

        comity consent erasures --release 6f1f0a52f3f94be2a4c1d6a7f0c2b9e1 --dir bank
    """
    with opened(directory) as records:
        done = records.erasure.run_due()
        if release is not None:
            done.append(records.erasure.release(release))
        scrubbed = records.erasure.scrub(compact=compact) if done or scrub else None
        found = records.erasure.requests()
    rows = [
        (e.request, e.state, e.basis, moment(e.requested_at), moment(e.completed_at), e.hold_basis,
         moment(e.held_until), e.entries)
        for e in found
    ]  # fmt: skip
    headings = ["request", "state", "basis", "requested", "completed", "hold", "until", "entries"]
    value = {"erasures": [asdict(e) for e in found], "carried_out": [e.request for e in done]}
    lines = table(headings, rows)
    if scrubbed is False:
        lines.append("The database was in use: run again with --scrub later.")
    show(as_json, {**value, "scrubbed": scrubbed}, lines)


@app.command()
def export(
    *,
    email: Email = None,
    phone: Phone = None,
    region: Region = "CN",
    directory: Directory = Path(),
) -> None:
    """Print everything recorded about a person as JSON, identifiers included: the copy they may ask for.

    Example:

        comity consent export --email - --dir bank > record.json
    """
    from consent.access import access_copy

    with opened(directory) as records:
        document(access_copy(records.ledger, identifiers(email, phone, region)))
