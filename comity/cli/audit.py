"""`comity audit`: a signed report on the consent ledger, its check, and a scan of the datasets."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comity.cli.opening import opened
from comity.cli.output import Directory, Json, document, show, table

if TYPE_CHECKING:
    from consent.audit.report import AuditReport
    from consent.audit.scan import Finding

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Report on the consent ledger for an auditor, check such a report, scan the datasets.",
)


class LawName(StrEnum):
    """Laws whose articles a report can be arranged by."""

    PIPL = "pipl"
    GDPR = "gdpr"
    CCPA = "ccpa"


class Language(StrEnum):
    """Languages a report can be read in."""

    ENGLISH = "en"
    CHINESE = "zh"


Lang = Annotated[Language, typer.Option("--lang", help="Language of the page.")]


@app.command()
def report(
    *,
    law: Annotated[LawName, typer.Option(help="Whose articles to arrange the evidence by.")] = LawName.PIPL,
    since: Annotated[
        str, typer.Option("--from", metavar="DATE", help="From this day or time (UTC); else from the first.")
    ] = "",
    until: Annotated[
        str, typer.Option("--to", metavar="DATE", help="Up to, and without, this day or time; else to now.")
    ] = "",
    lang: Lang = Language.ENGLISH,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write the signed JSON here; - to print it.")
    ] = None,
    html_out: Annotated[
        Path | None, typer.Option("--html", metavar="OUT", help="Write the page here; print it for a PDF.")
    ] = None,
    directory: Directory = Path(),
) -> None:
    """Make a report, signed by the node's key, from the node's ledger and a scan of its datasets.

    The node keeps the report, and its log says that it was made.

    Examples:

        comity audit report --dir shop --law pipl --lang zh --html report.html --json report.json

        comity audit report --dir shop --from 2026-01-01 --to 2026-07-01 --law gdpr --json -
    """
    from comity.auditing import reports_of
    from comity.cli.progress import counter
    from comity.demo.outcome import write_atomically
    from consent.audit.conclusions import headline
    from consent.audit.report import locale, render, speak

    with opened(directory) as records, counter("entries and people read") as count:
        kept, made = reports_of(records).create(
            law.value,
            since=_moment(since, "--from"),
            until=_moment(until, "--to"),
            progress=lambda _stage, done, total: count(done, total),
        )
    printed = json_out is not None and str(json_out) == "-"
    if printed:
        document(made.to_dict())
    elif json_out is not None:
        write_atomically(json_out, made.to_json())
    if html_out is not None:
        write_atomically(html_out, render(made, lang.value))
    if printed:
        return
    words, said = locale(lang.value), headline(made.facts)
    for line in [
        speak(lang.value, words["headline"][said["key"]], count=said["count"]),
        "",
        *_findings(made, lang.value),
        "",
        f"report  {kept.id}",
        f"digest  {made.digest}",
    ]:
        typer.echo(line)


def _findings(made: AuditReport, lang: str) -> list[str]:
    from consent.audit.conclusions import findings
    from consent.audit.report import locale, speak

    words = locale(lang)["findings"]
    return [
        f"{words['level'][found['level']]:<6}  {speak(lang, words[found['key']], **found['values'])}"
        for found in findings(made.facts)
    ]


def _moment(text: str, option: str) -> dt.datetime | None:
    if not text:
        return None
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            "a day or time is written as 2026-01-31 or 2026-01-31T08:00Z", param_hint=option
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="The report's JSON.", exists=True, dir_okay=False)],
    *,
    key: Annotated[
        str, typer.Option("--key", metavar="VKEY", help="The log's verifier key, or a file with it.")
    ] = "",
    log: Annotated[
        str,
        typer.Option("--log", metavar="PATH_OR_URL", help="Recount the entries of the published log too."),
    ] = "",
    policy: Annotated[
        Path | None,
        typer.Option(help="A trust policy: a quorum of its witnesses must have cosigned.", exists=True),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", "-d", help="The node's directory: derive every figure again from its ledger."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a report: with its key alone, with the published log, or against the node's own ledger.

    Exit codes: 0 holds, 2 usage, 3 unreachable, 4 tampered with or signed by another key, 5 incomplete,
    6 the log is older than the report, 7 not cosigned as the trust policy asks.

    Examples:

        comity audit verify report.json --key shop.example/log+0a1b2c3d+AbC…

        comity audit verify report.json --key shop.vkey --log https://shop.example/log --policy w.policy

        comity audit verify report.json --dir shop
    """
    from comity.cli.log import log_reader, verifier_key
    from comity.cli.progress import counter
    from consent.audit.report import MAX_REPORT
    from consent.audit.verify import verify_against, verify_report
    from consent.trust_policy import TrustPolicy

    with file.open("rb") as opened_file:
        data = opened_file.read(MAX_REPORT + 1)
    trusted = None if policy is None else TrustPolicy.parse(policy.read_bytes())
    if directory is not None:
        with opened(directory) as records:
            own = verifier_key(key) if key else records.ledger.key
            done = verify_report(data, own, policy=trusted)
            if done.ok:
                done = verify_against(data, records.ledger)
    else:
        if not key:
            raise typer.BadParameter("a report is checked against the key of its log", param_hint="--key")
        with counter("entries checked") as count:
            done = verify_report(
                data,
                verifier_key(key),
                policy=trusted,
                log=log_reader(log) if log else None,
                each=lambda n: count(n, None),
            )
    facts = None if done.report is None else done.report.facts
    value = {
        "ok": done.ok,
        "outcome": done.outcome.value,
        "detail": done.detail,
        "checks": list(done.checks),
        "origin": None if facts is None else facts["scope"]["origin"],
        "digest": None if done.report is None else done.report.digest,
    }
    if done.ok:
        show(as_json, value, [done.detail, f"checked: {', '.join(done.checks)}"])
        return
    if as_json:
        document(value)
    typer.echo(f"comity: {done.outcome.value}: {done.detail}", err=True)
    raise typer.Exit(done.outcome.exit_code)


@app.command()
def scan(
    *,
    lang: Lang = Language.ENGLISH,
    directory: Directory = Path(),
    as_json: Json = False,
) -> None:
    """Hold every dataset column in use against the published policy and what people agreed to.

    Exit code 1 when the policy is broken anywhere.

    Example:

        comity audit scan --dir shop
    """
    from comity.auditing import scan_of
    from consent.audit.collect import collect
    from consent.audit.report import locale, speak

    with opened(directory) as records:
        found = scan_of(records, collect(records.ledger))
    words = locale(lang.value)

    def row(finding: Finding) -> tuple[str, ...]:
        told = speak(lang.value, words["scan_rules"][finding.rule], **finding.values)
        level = words["findings"]["level"][finding.level]
        return level, finding.dataset, finding.column, finding.purpose, told

    clean = speak(lang.value, words["scan"]["clean"], columns=found.columns, datasets=found.datasets)
    headings = [words["scan"][name] for name in ("level", "dataset", "column", "purpose", "finding")]
    lines = table(headings, [row(finding) for finding in found.findings]) if found.findings else [clean]
    show(as_json, found.to_dict(), lines)
    if found.bad:
        raise typer.Exit(1)
