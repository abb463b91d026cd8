"""The partners' audit reports, made from their ledgers after both nodes have stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from comity.auditing import reports_of
from comity.cli.opening import opened
from comity.demo.outcome import write_atomically
from comity.demo.sites import Site
from consent.audit.report import LANGUAGES, render

__all__ = ["write_audits"]


def write_audits(sites: Mapping[str, Site], folder: Path) -> dict[str, int]:
    """Write each partner's report as signed JSON and as a page in every language; returns violations found.

    `folder` gets `<partner>.json` and `<partner>.<language>.html`. Nothing is added to the logs.
    """
    found = {}
    for name, site in sites.items():
        with opened(site.directory) as records:
            report = reports_of(records).make("pipl")
        write_atomically(folder / f"{name}.json", report.to_json())
        for language in LANGUAGES:
            write_atomically(folder / f"{name}.{language}.html", render(report, language))
        found[name] = int(report.facts["uses"]["violations"])
    return found
