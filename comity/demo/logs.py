"""The two transparency logs, verified offline from their published files and public keys alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from comity.demo.outcome import LogFinding
from comity.demo.sites import Site
from consent.checkpoint import Checkpoint, open_checkpoint
from consent.notes import VerifierKey
from consent.verify import directory_reader, verify_log

__all__ = ["SeenLog", "check_logs", "see_log"]


@dataclass(frozen=True, slots=True)
class SeenLog:
    """A log as it stood at some moment: whose key signs it, and the tree head then."""

    vkey: str
    checkpoint: Checkpoint


def see_log(site: Site, vkey: str) -> SeenLog:
    """Remember the published tree head of a node's log; raises Tampered when `vkey` did not sign it."""
    text = (site.directory / "log" / "checkpoint").read_bytes()
    return SeenLog(vkey, open_checkpoint(text, [VerifierKey.from_text(vkey)]))


def check_logs(sites: Mapping[str, Site], seen: Mapping[str, SeenLog]) -> list[LogFinding]:
    """Re-derive each log from its entries; it must also extend the head that was seen earlier."""
    findings = []
    for name, site in sites.items():
        folder, before = site.directory / "log", seen[name]
        key = VerifierKey.from_text(before.vkey)
        found = verify_log(directory_reader(folder), key, known=before.checkpoint)
        findings.append(LogFinding(name, str(folder), before.vkey, found.size, found.ok))
    return findings
