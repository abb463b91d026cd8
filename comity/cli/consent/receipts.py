"""Receipts of use, and proofs that somebody was not in one."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated

import typer

from comity.cli.consent.app import app
from comity.cli.consent.people import own_receipts
from comity.cli.opening import opened
from comity.cli.output import Directory, Json, document, moment, show, table
from comity.cli.person import Email, Phone, Region, identifiers


@app.command()
def receipt(
    receipt_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="A receipt; without one, the newest are listed.")
    ] = None,
    *,
    email: Email = None,
    phone: Phone = None,
    region: Region = "CN",
    limit: Annotated[int, typer.Option(help="How many to list.", min=1, max=1000)] = 20,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write a person's receipts here.")
    ] = None,
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """List receipts of use, show one with its log proof, or prove that a person was not in it.

    With a person and no ID: that person's own receipts, signed and proved, for them to keep. With both,
    exits with 1 if they were in the use: there is no proof of absence then.

    Examples:

        comity consent receipt --dir bank

        comity consent receipt --email - --out receipts.json --dir bank

        comity consent receipt 3c1f… --email - --dir bank --json > absent.json
    """
    if receipt_id is None and (email is not None or phone is not None):
        own_receipts(directory, identifiers(email, phone, region), out, as_json)
        return
    if receipt_id is None:
        _list_receipts(directory, limit, as_json)
        return
    if email is None and phone is None:
        with opened(directory) as records:
            proof = records.ledger.receipt_proof(receipt_id).to_dict()
            vkey = records.ledger.vkey
        document({"vkey": vkey, "proof": proof})
        return
    from consent.receipts import verify_absence

    with opened(directory) as records:
        ledger = records.ledger
        proofs = []
        _, used = ledger.receipt(receipt_id)
        named = identifiers(email, phone, region)
        # Of two identifiers only the kind the use was keyed by says anything; alone, the other is refused.
        for kind, form in [i for i in named if i[0] == used.evidence.key_kind] or named:
            absence, used = ledger.absence_proof(receipt_id, kind, form)
            leaf = ledger.member_leaf(receipt_id, kind, form)
            verify_absence(absence, used.set_root, leaf)
            proofs.append({"kind": kind, "leaf": base64.b64encode(leaf).decode(), "proof": absence.to_dict()})
        value = {
            "vkey": ledger.vkey,
            "absent": True,
            "absences": proofs,
            "receipt": ledger.receipt_proof(receipt_id).to_dict(),
        }
    show(
        as_json,
        value,
        [f"Not in {receipt_id}: {used.kind} for {used.purpose}, {moment(used.at)}. Proof holds."],
    )


def _list_receipts(directory: Path, limit: int, as_json: bool) -> None:
    with opened(directory) as records:
        found = records.ledger.receipts(limit=limit)
    rows = [
        (
            r.id,
            index,
            r.kind,
            r.purpose,
            r.partner,
            "" if r.round is None else r.round,
            r.evidence.count,
            moment(r.at),
        )
        for index, r in found
    ]
    value = {"receipts": [{"index": index, **r.to_dict()} for index, r in found]}
    headings = ["receipt", "entry", "kind", "purpose", "partner", "round", "people", "at"]
    show(as_json, value, table(headings, rows))
