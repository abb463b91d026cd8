"""Recording and looking up what people decided."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from comity.cli.consent.app import Method, Partner, Purposes, app, told
from comity.cli.consent.terms import (
    ConsentForm,
    Country,
    Jurisdiction,
    Language,
    Notice,
    Recipients,
    Route,
    terms_of,
)
from comity.cli.opening import opened
from comity.cli.output import Directory, Json, moment, show, table
from comity.cli.person import Email, Phone, Region, identifiers


@app.command("import")
def import_file(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A CSV, Parquet or Arrow table, one decision a row.")
    ],
    *,
    decision: Annotated[
        str | None, typer.Option(help="grant, refuse or withdraw, where there is no such column.")
    ] = None,
    purpose: Annotated[str | None, typer.Option(help="The purpose, where there is no such column.")] = None,
    partner: Annotated[str | None, typer.Option(help="The partner, where there is no such column.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=KIND", help="An identifier column, as in mail=email; repeatable."),
    ] = None,
    keep_good: Annotated[
        bool, typer.Option("--keep-good", help="Record the good rows even if others cannot be read.")
    ] = False,
    fill: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="For rows without it, as in jurisdiction=CN; repeatable.",
        ),
    ] = None,
    region: Region = "CN",
    method: Method = "import",
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Record the decisions in FILE: all rows, or none if one cannot be read.

    Columns: email, phone or mobile (or those named with --column); decision, purpose;
    and optionally partner, at, expires_at, basis, actor, and the terms: notice, language,
    jurisdiction, consent_type, recipients, transfer_country, transfer_route.

    Examples:

        comity consent import consents.parquet --dir bank

        comity consent import optouts.csv --decision withdraw --purpose "*" --column mail=email --dir shop
    """
    from comity.cli.progress import counter
    from consent.imports import IDENTIFIER_COLUMNS, import_table
    from privacy.errors import BadInput

    if not file.is_file():
        raise BadInput(f"There is no file {file}.")
    columns = dict(_column(given) for given in column) if column else IDENTIFIER_COLUMNS
    with opened(directory) as records, counter(f"importing {file.name}") as progress:
        report = import_table(
            records.ledger,
            file,
            on_error="skip" if keep_good else "abort",
            identifiers=columns,
            purpose=purpose,
            partner=partner,
            decision=decision,
            region=region,
            method=method,
            defaults=dict(_filled(each) for each in fill or ()),
            progress=progress,
        )
    lines = [
        f"{report.recorded} decisions recorded from {report.rows} rows; {report.rejected} rows rejected, "
        f"{report.repeated} known already."
    ]
    lines += [f"row {e.row}, {e.column}: {e.code}" for e in report.errors[:20]]
    show(as_json, asdict(report), lines)


def _filled(given: str) -> tuple[str, str]:
    name, _, value = given.partition("=")
    if not name or not value:
        raise typer.BadParameter("is NAME=VALUE", param_hint="--set")
    return name, value


def _column(given: str) -> tuple[str, str]:
    name, _, kind = given.rpartition("=")
    if not name or kind not in ("email", "phone"):
        raise typer.BadParameter("is NAME=email or NAME=phone", param_hint="--column")
    return name, kind


@app.command()
def grant(
    *,
    purpose: Annotated[list[str], typer.Option(help="A dotted purpose, as in overlap.reach; repeatable.")],
    email: Email = None,
    phone: Phone = None,
    partner: Partner = "*",
    notice: Notice = None,
    language: Language = None,
    jurisdiction: Jurisdiction = None,
    consent_type: ConsentForm = None,
    recipient: Recipients = None,
    transfer_country: Country = None,
    transfer_route: Route = None,
    region: Region = "CN",
    method: Method = "cli",
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Record that a person agrees to a purpose.

    Examples:

        comity consent grant --email - --purpose overlap.reach --dir bank

        comity consent grant --email - --purpose overlap.reach --partner shop --notice general
        --language zh --jurisdiction CN --consent-type separate --dir bank
    """
    from consent.events import grant as granted

    person = identifiers(email, phone, region)
    terms = terms_of(
        notice=notice,
        language=language,
        jurisdiction=jurisdiction,
        consent_type=consent_type,
        recipients=recipient,
        country=transfer_country,
        route=transfer_route,
    )
    with opened(directory) as records:
        events = [granted(person, p, partner=partner, method=method, terms=terms) for p in purpose]
        done = records.ledger.record(events)
    told(as_json, done, "Granted")


@app.command()
def withdraw(
    *,
    email: Email = None,
    phone: Phone = None,
    purpose: Purposes = None,
    partner: Partner = "*",
    region: Region = "CN",
    method: Method = "cli",
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Record that a person opts out; of everything, unless purposes are named.

    Partners are told by the running node, at once or when it next starts.

    Example:

        comity consent withdraw --phone 13800138000 --dir shop
    """
    from consent.events import withdraw as withdrawn

    person = identifiers(email, phone, region)
    with opened(directory) as records:
        events = [withdrawn(person, p, partner=partner, method=method) for p in purpose or ["*"]]
        done = records.ledger.record(events)
    told(as_json, done, "Withdrawn")


@app.command()
def refuse(
    *,
    purpose: Annotated[list[str], typer.Option(help="A dotted purpose, as in overlap.reach; repeatable.")],
    email: Email = None,
    phone: Phone = None,
    partner: Partner = "*",
    region: Region = "CN",
    method: Method = "cli",
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Record that a person was asked and said no.

    Example:

        comity consent refuse --email - --purpose model.credit --dir bank
    """
    from consent.events import refuse as refused

    person = identifiers(email, phone, region)
    with opened(directory) as records:
        done = records.ledger.record([refused(person, p, partner=partner, method=method) for p in purpose])
    told(as_json, done, "Refused")


@app.command("show")
def show_person(
    *,
    email: Email = None,
    phone: Phone = None,
    region: Region = "CN",
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Show everything a person has decided, oldest first. The person is not named in the output.

    Example:

        comity consent show --email - --dir bank
    """
    (kind, form), *_ = identifiers(email, phone, region)
    with opened(directory) as records:
        history = records.ledger.history(form, kind)
    rows = [
        (h["index"], moment(_time(h["recorded_at"])), h["type"], h["purpose"], h["partner"],
         moment(_time(h["effective_at"])), moment(_time(h["expires_at"])))
        for h in history
    ]  # fmt: skip
    headings = ["entry", "recorded", "event", "purpose", "partner", "effective", "expires"]
    show(as_json, {"history": history}, table(headings, rows))


def _time(value: object) -> Any:
    return value


@app.command()
def check(
    *,
    purpose: Annotated[str, typer.Option(help="A dotted purpose, as in overlap.reach.")],
    partner: Annotated[str, typer.Option(help="The partner the data would be used with.")],
    email: Email = None,
    phone: Phone = None,
    region: Region = "CN",
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Say whether a person's data may be used for a purpose with a partner, now. Exits with 1 if not.

    Example:

        comity consent check --email - --purpose overlap.reach --partner shop --dir bank
    """
    (kind, form), *_ = identifiers(email, phone, region)
    with opened(directory) as records:
        decision = records.ledger.check(form, kind, purpose, partner)
    value = {"allowed": decision.allowed, "reason": decision.reason.value}
    show(as_json, value, [f"{'allowed' if decision.allowed else 'not allowed'} ({decision.reason.value})"])
    raise typer.Exit(0 if decision.allowed else 1)
