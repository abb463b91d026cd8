"""`comity log restore`: repair a node that was restored from an old backup."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comity.cli.opening import opened
from comity.cli.output import Directory, Json, show, table

if TYPE_CHECKING:
    from consent.restore import RestorePlan

__all__ = ["restore"]


def restore(
    *,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="PATH_OR_URL",
            help="Where the log was published, besides the node's folder; repeatable.",
        ),
    ] = None,
    accept_lost: Annotated[
        int,
        typer.Option(metavar="N", help="Go on although N restrictions are known to nobody any more.", min=0),
    ] = 0,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="PARTNER", help="Go on without this partner's answer; repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is missing; change nothing.")] = False,
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Repair a node that was restored from an old backup; the node must be stopped.

    Brings back the entries of its log from where they were published, and repeats the opt-outs and erasures
    that partners heard of. Refuses while restrictions are lost that nobody knows, unless told how many.

    Examples:

        comity log restore --dry-run --dir bank

        comity log restore --from https://bank.example/log --dir bank

        comity log restore --accept-lost 3 --dir bank
    """
    from comity.bootstrap import PartnerLines
    from comity.cli.log import log_reader
    from consent.rebuild import directory_reader
    from consent.restore import Restoration

    with opened(directory, restoring=True) as records:
        lines = PartnerLines(records.collaborations, records.peers)
        names = [row.name for row in records.ledger.partners() if row.removed_at is None]
        connections = [found for found in map(lines, names) if found is not None]
        readers = [directory_reader(records.config.log_dir), *map(log_reader, source or [])]
        restoration = Restoration(
            records.ledger, journal=records.erasure.journal, readers=readers, connections=connections
        )
        plan = restoration.plan()
        done = None if dry_run else restoration.perform(plan, accept_lost=accept_lost, without=without or [])
        if done is not None:
            records.erasure.scrub()
    told = _missing(plan)
    value = _value(plan) | {"restored": None if done is None else asdict(done)}
    if done is not None:
        told.append(
            f"Restored: {done.entries} entries, {done.opted_out} people opted out again, "
            f"{done.erased} erased again, {done.unmatched} opt-outs kept by pseudonym. "
            f"Entry {done.index} of the log says so."
        )
    show(as_json, value, told)


def _value(plan: RestorePlan) -> dict[str, Any]:
    return {
        "needed": plan.needed,
        "first": plan.start,
        "entries": plan.end - plan.start,
        "lost": dict(plan.lost),
        "restrictions": plan.restrictions,
        "erasures": plan.erasures,
        "heard_by_partners": len(plan.heard),
        "coming": plan.coming,
        "unaccounted": plan.unaccounted,
        "silent": list(plan.silent),
    }


def _missing(plan: RestorePlan) -> list[str]:
    if not plan.needed:
        return ["Nothing is missing."]
    lines = [f"{plan.end - plan.start} entries are missing, from {plan.start} on."]
    lines += table(["type", "lost"], sorted(plan.lost.items()))
    lines.append(
        f"Of {plan.restrictions} lost restrictions and {plan.erasures} erasures, "
        f"{plan.unaccounted} are known to nobody any more."
    )
    if plan.silent:
        lines.append(f"Not answering: {', '.join(plan.silent)}.")
    return lines
