"""For single people: receipts to keep, proofs of absence, preference links, and where their data went."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comity.cli.consent.app import app
from comity.cli.opening import opened
from comity.cli.output import Directory, Json, document, moment, show, table
from comity.cli.person import Email, Phone, Region, identifiers

if TYPE_CHECKING:
    from comity.records import Records
    from consent.notes import VerifierKey
    from consent.people import People
    from consent.preference_links import PreferenceLink

Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the bundle here, for the person.")
]
OptOut = Annotated[
    int | None,
    typer.Option("--opt-out", metavar="ENTRY", help="The opt-out's entry; the latest if left out."),
]


def people(records: Records) -> People:
    """The services for single people; loaded only by the commands that use them."""
    from comity.people import people_of

    return people_of(records)


def subject_of(services: People, person: list[tuple[str, bytes]]) -> bytes:
    """The one subject of these identifiers. Raises `Misuse`: unknown_subject, several_subjects."""
    from privacy.errors import Misuse

    found = services.receipts.subjects(person)
    if not found:
        raise Misuse("Nobody of these identifiers is recorded here.", code="unknown_subject")
    if len(found) > 1:
        raise Misuse("These identifiers belong to different people here.", code="several_subjects")
    return found[0]


def own_receipts(directory: Path, person: list[tuple[str, bytes]], out: Path | None, as_json: bool) -> None:
    """Write or show the receipts of a person."""
    with opened(directory) as records:
        services = people(records)
        bundle = services.receipts.bundle(subject_of(services, person))
        vkey = records.ledger.vkey
    if out is None:
        document(bundle)
        return
    _write(out, json.dumps(bundle, indent=1) + "\n")
    proofs = []
    from consent.tlog_proof import SUFFIX, TlogProof

    for receipt in bundle["receipts"]:
        index = TlogProof.from_text(receipt["proof"]).index
        proofs.append(out.with_name(f"{out.stem}.{index}{SUFFIX}"))
        _write(proofs[-1], receipt["proof"])
    value = {"receipts": len(proofs), "file": out, "proofs": proofs, "verifier_key": vkey}
    show(
        as_json,
        value,
        [
            f"{len(proofs)} receipts in {out}, each also as a {SUFFIX} file.",
            f"Anybody checks them with: comity consent verify-receipt {out} --key {vkey}",
        ],
    )


def _write(path: Path, text: str) -> None:
    from privacy.errors import BadInput

    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise BadInput(f"{path} cannot be written ({error.strerror}).") from None


@app.command("verify-receipt")
def verify_receipt(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A bundle of receipts or of absences, a receipt of use, or a .tlog-proof."
        ),
    ],
    *,
    key: Annotated[
        str, typer.Option("--key", metavar="VKEY", help="The log's verifier key, or a file with it.")
    ] = "",
    log: Annotated[
        str,
        typer.Option(
            metavar="PATH_OR_URL", help="The published log: shows that no receipt of use is missing."
        ),
    ] = "",
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Check what a person was given, offline, trusting nothing but the log's key.

    Without --key, the key of the node in --dir. Exits with 4 if anything was tampered with, and with 1 if an
    absence bundle holds but shows that the person was used, or that receipts are missing.

    Examples:

        comity consent verify-receipt receipts.json --key shop.example/log+0a1b2c3d+AbC…

        comity consent verify-receipt absence.json --key shop.vkey --log https://shop.example/log
    """
    from comity.cli.log import log_reader
    from consent.receipt_files import check_file
    from consent.subject_receipts import read_bundle
    from consent.tlog_proof import HEADER
    from privacy.errors import BadInput

    try:
        with file.open("rb") as given:
            data = given.read((64 << 20) + 1)
    except OSError:
        raise BadInput(f"There is no file {file}.") from None
    content: Mapping[str, Any] | str
    if data.startswith(HEADER.encode()):
        try:
            content = data.decode()
        except UnicodeDecodeError:
            raise BadInput(f"{file} is not UTF-8 text.") from None
    else:
        content = read_bundle(data)
    checked = check_file(content, [_key(key, directory)], log=log_reader(log) if log else None)
    value = {
        "holds": checked.holds,
        "kind": checked.kind,
        "detail": checked.detail,
        "entries": [dict(entry) for entry in checked.entries],
    }
    rows = [
        (e["index"], moment(e.get("recorded_at")), e["type"], *_about(e), e.get("finding", ""))
        for e in checked.entries
    ]
    headings = ["entry", "recorded", "type", "purpose", "partner", "finding"]
    show(as_json, value, [checked.detail, "", *table(headings, rows)])
    raise typer.Exit(0 if checked.holds else 1)


def _about(entry: Mapping[str, Any]) -> tuple[str, str]:
    purposes = entry.get("record", {}).get("purposes")
    if purposes:
        return purposes[0]["purpose"], ", ".join(purposes[0]["recipient_third_parties"])
    return entry.get("purpose", ""), entry.get("partner", "")


def _key(text: str, directory: Path) -> VerifierKey:
    from comity.cli.log import verifier_key

    if text:
        return verifier_key(text)
    with opened(directory) as records:
        return records.ledger.key


@app.command()
def absence(
    *,
    email: Email = None,
    phone: Phone = None,
    opt_out: OptOut = None,
    out: Out = None,
    region: Region = "CN",
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Prove what a person was not in after an opt-out: every later use, in one bundle, checkable offline.

    Exits with 1 if they were in one. The bundle cannot show the absence of uses without a receipt.

    Example:

        comity consent absence --email - --out absence.json --dir shop
    """
    from consent.receipt_files import check_file
    from consent.verify import directory_reader

    person = identifiers(email, phone, region)
    with opened(directory) as records:
        services = people(records)
        bundle = services.absences.bundle(subject_of(services, person), opt_out)
        published = directory_reader(records.config.log_dir)
        checked = check_file(bundle, [records.ledger.key], log=published)
    if out is not None:
        _write(out, json.dumps(bundle, indent=1) + "\n")
        show(as_json, {"holds": checked.holds, "file": out}, [checked.detail, f"The bundle is in {out}."])
    elif as_json:
        document(bundle)
    else:
        typer.echo(checked.detail)
    raise typer.Exit(0 if checked.holds else 1)


@app.command()
def trace(
    *,
    email: Email = None,
    phone: Phone = None,
    opt_out: OptOut = None,
    region: Region = "CN",
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """List the past overlaps, exports and model versions a person was in, and what is done about each.

    By the person, or by an opt-out's entry: then only what it reaches.

    Examples:

        comity consent trace --email - --dir shop

        comity consent trace --opt-out 421 --dir shop
    """
    person = None if opt_out is not None else identifiers(email, phone, region)
    uses: list[dict[str, Any]] = []
    with opened(directory) as records:
        services = people(records)
        after, looked_at, other_key = -1, 0, 0
        while True:
            if opt_out is not None:
                report = services.trace.of_opt_out(opt_out, after=after, limit=10_000)
            else:
                report = services.trace.of_subject(
                    subject_of(services, person or []), after=after, limit=10_000
                )
            uses += report.to_dict()["uses"]
            looked_at += report.looked_at
            other_key += report.other_key
            if report.next is None:
                break
            after = report.next
    rows = [
        (
            use["index"], use["receipt"]["kind"], use["receipt"]["purpose"], use["receipt"]["partner"],
            use["receipt"]["job"], "yes" if use["after_opt_out"] else "",
            "; ".join(f"{c['thing']} {c['status']}" for c in use["consequences"]),
        )
        for use in uses
    ]  # fmt: skip
    headings = ["entry", "kind", "purpose", "partner", "job", "after the opt-out", "what became of it"]
    told = f"In {len(uses)} of {looked_at} recorded uses."
    if other_key:
        told += f" {other_key} uses were keyed by another kind of identifier and cannot be told."
    advice = sorted({c["advice"] for use in uses for c in use["consequences"] if c["advice"]})
    value = {"uses": uses, "looked_at": looked_at, "other_key": other_key}
    show(as_json, value, [told, "", *table(headings, rows), *(["", *advice] if advice else [])])


@app.command()
def link(
    *,
    email: Email = None,
    phone: Phone = None,
    purpose: Annotated[
        list[str] | None, typer.Option("--purpose", help="Only these purposes; repeatable.")
    ] = None,
    partner: Annotated[
        list[str] | None, typer.Option("--partner", help="Only these partners; repeatable.")
    ] = None,
    days: Annotated[float, typer.Option(help="How long the link works.", min=0.001, max=366)] = 30,
    listing: Annotated[bool, typer.Option("--list", help="List the links there are instead.")] = False,
    revoke: Annotated[str | None, typer.Option(metavar="ID", help="End a link instead.")] = None,
    region: Region = "CN",
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Make a link by which one person sees and changes their own choices; shown once, names nobody.

    Examples:

        comity consent link --email - --dir shop

        comity consent link --email - --purpose activation --days 7 --dir shop

        comity consent link --revoke 9f2c41d08be35a76 --dir shop
    """
    from datetime import timedelta

    if listing or revoke is not None:
        with opened(directory) as records:
            links = people(records).links
            found = [links.revoke(revoke)] if revoke is not None else links.links(limit=1000)
        headings = ["link", "made", "by", "works until", "revoked", "purposes", "partners"]
        show(
            as_json,
            {"links": [_link(each) for each in found]},
            table(headings, [_row(each) for each in found]),
        )
        return
    person = identifiers(email, phone, region)
    with opened(directory) as records:
        made = people(records).links.create(
            person,
            purposes=purpose or (),
            partners=partner or (),
            lifetime=timedelta(days=days),
            created_by="cli",
        )
    value = {"link": _link(made.link), "url": made.url, "mail_headers": made.mail_headers}
    show(
        as_json,
        value,
        [made.url, f"Link {made.link.id}, until {moment(made.link.expires_at)}. It is shown this once."],
    )


def _link(each: PreferenceLink) -> dict[str, Any]:
    return {
        "id": each.id,
        "purposes": list(each.purposes),
        "partners": list(each.partners),
        "created_by": each.created_by,
        "created_at": each.created_at,
        "expires_at": each.expires_at,
        "revoked_at": each.revoked_at,
    }


def _row(each: PreferenceLink) -> tuple[object, ...]:
    return (
        each.id,
        moment(each.created_at),
        each.created_by,
        moment(each.expires_at),
        moment(each.revoked_at),
        ", ".join(each.purposes) or "all",
        ", ".join(each.partners) or "all",
    )
