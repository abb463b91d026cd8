"""Checking whatever a person was given: one entry point for every kind of file this room hands out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from consent.absence import ABSENCE_FORMAT, AbsenceReport, verify_absence_bundle
from consent.consent_record import consent_record
from consent.encoding import from_micros
from consent.notes import VerifierKey
from consent.receipts import ReceiptProof
from consent.subject_receipts import BUNDLE_FORMAT, VerifiedReceipt, verify_receipts
from consent.tlog_proof import HEADER, TlogProof
from consent.verify import Reader
from privacy.errors import BadInput, ComityError, Tampered

__all__ = ["CheckedFile", "check_file"]


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """What a file shows. `holds` is False only where it proves the contrary of what it is for: an absence
    bundle that shows the person in a use. `entries` are the log entries it opens."""

    kind: Literal["receipts", "absence", "use", "proof"]
    holds: bool
    detail: str
    entries: tuple[Mapping[str, Any], ...]


def check_file(
    content: Mapping[str, Any] | str, keys: Sequence[VerifierKey], *, log: Reader | None = None
) -> CheckedFile:
    """Check a bundle (as JSON) or a log proof (as text) offline; `keys[0]` is the log's.

    `log` lets an absence bundle be checked for completeness. Raises Tampered; BadInput for a file that is
    none of these.
    """
    if isinstance(content, str):
        if not content.startswith(HEADER):
            raise BadInput("This is neither a bundle nor a log proof.", code="unknown_format")
        return _proof(content, keys)
    form = content.get("format")
    if form == BUNDLE_FORMAT:
        report = verify_receipts(content, keys)
        entries = tuple(_entry(receipt) for receipt in report.receipts)
        count = len(entries)
        detail = f"{count} {'decision' if count == 1 else 'decisions'} signed and in the log {report.origin}."
        return CheckedFile("receipts", True, detail, entries)
    if form == ABSENCE_FORMAT:
        return _absence(verify_absence_bundle(content, keys, log=log))
    if isinstance(content.get("proof"), Mapping):
        return _use(content["proof"], keys)
    raise BadInput("This file holds none of the bundles this version knows.", code="unknown_format")


def _entry(receipt: VerifiedReceipt) -> dict[str, Any]:
    return {
        "index": receipt.index,
        "type": receipt.opened.type,
        "recorded_at": from_micros(receipt.opened.recorded_at),
        "record": dict(receipt.record),
    }


def _proof(text: str, keys: Sequence[VerifierKey]) -> CheckedFile:
    proof = TlogProof.from_text(text)
    opened, checkpoint = proof.verify_opened(keys)
    try:
        record: Mapping[str, Any] = consent_record(checkpoint.origin, opened.leaf(), opened.body())
    except Tampered:
        record = opened.body()  # the entry is no decision of a person: its payload as it is
    entry = {
        "index": proof.index,
        "type": opened.type,
        "recorded_at": from_micros(opened.recorded_at),
        "record": record,
    }
    detail = f"Entry {proof.index} is in the log {checkpoint.origin} of {checkpoint.size} entries."
    return CheckedFile("proof", True, detail, (entry,))


def _use(content: Mapping[str, Any], keys: Sequence[VerifierKey]) -> CheckedFile:
    try:
        proof = ReceiptProof.from_dict(content)
    except Tampered:
        raise
    except (ComityError, TypeError, ValueError):
        raise Tampered("The receipt of a use is malformed.", code="malformed_proof") from None
    checkpoint = proof.verify(keys[0])
    entry = {"index": proof.entry.index, "type": "use.receipt", "record": proof.receipt.to_dict()}
    detail = f"Receipt of use {proof.receipt.id} is in the log {checkpoint.origin}."
    return CheckedFile("use", True, detail, (entry,))


def _absence(report: AbsenceReport) -> CheckedFile:
    count = {f: report.count(f) for f in ("absent", "present", "asked_before", "granted_again", "other_key")}
    told = [
        f"After the opt-out in entry {report.opt_out.index}, up to {report.size} entries of the log:",
        f"not in {count['absent']} uses (proved)",
        f"in {count['present'] + count['asked_before'] + count['granted_again']} uses (proved)",
    ]
    if count["asked_before"]:
        told.append(f"of which {count['asked_before']} had asked before the opt-out stood")
    if count["granted_again"]:
        told.append(f"of which {count['granted_again']} after agreeing again")
    if count["other_key"]:
        told.append(f"{count['other_key']} uses cannot be told: keyed by another kind of identifier")
    told.append(f"{report.anchors} earlier uses anchor the pseudonym")
    told.append(
        {
            None: "whether uses were left out was not checked (that needs the log)",
            True: "no receipt of use was left out",
            False: "receipts of use were left out",
        }[report.complete]
    )
    uses = tuple(
        {
            "index": use.index,
            "type": "use.receipt",
            "finding": use.finding,
            "purpose": use.receipt.purpose,
            "partner": use.receipt.partner,
        }
        for use in report.uses
    )
    detail = f"{told[0]} {'; '.join(told[1:])}."
    return CheckedFile("absence", report.holds, detail, (_entry(report.opt_out), *uses))
