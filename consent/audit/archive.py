"""Making reports and keeping them: each is named by an entry of the log it is about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from consent.audit.collect import collect
from consent.audit.facts import AuditFacts
from consent.audit.report import AuditReport, sign
from consent.audit.scan import ScanReport
from consent.audit.witnessed import witnessed_by
from consent.encoding import from_micros
from consent.events import EventType
from consent.ledger import Ledger
from consent.rows import AuditReportRow
from consent.store import LedgerTransaction
from consent.trust_policy import TrustPolicy
from privacy.errors import Misuse
from privacy.signing import SigningKey

__all__ = ["AuditReports", "KeptReport", "Progress"]

Progress = Callable[[str, int, int], None]
"""`(stage, done, total)`: entries, people, uses."""


@dataclass(frozen=True, slots=True)
class KeptReport:
    """A report kept by the node; `index` is the entry that names it by its digest."""

    id: str
    index: int
    law: str
    created_at: datetime


class AuditReports:
    """Makes reports about a ledger, signed by its key, and keeps them.

    `policy` is the trust policy of the log's witnesses (None: any partner is enough); `scan` holds the
    node's datasets against the policy.
    """

    def __init__(
        self,
        ledger: Ledger,
        key: SigningKey,
        *,
        policy: Callable[[], TrustPolicy | None] = lambda: None,
        scan: Callable[[AuditFacts], ScanReport] | None = None,
    ) -> None:
        self._ledger = ledger
        self._key = key
        self._policy = policy
        self._scan = scan

    def make(
        self,
        law: str = "pipl",
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        progress: Progress | None = None,
    ) -> AuditReport:
        """A signed report that is not kept. Raises BadInput, Tampered."""
        facts = collect(
            self._ledger,
            law_name=law,
            since=since,
            until=until,
            witnessed=lambda head: witnessed_by(self._ledger, head, self._policy()),
            progress=progress,
        )
        if self._scan is not None:
            facts = replace(facts, scan=self._scan(facts).to_dict())
        return sign(facts, self._key)

    def create(
        self,
        law: str = "pipl",
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        progress: Progress | None = None,
    ) -> tuple[KeptReport, AuditReport]:
        """As `make`; the report is kept, and the log says which was made."""
        report = self.make(law, since=since, until=until, progress=progress)
        name = self._ledger.random(16).hex()
        kept: list[KeptReport] = []

        def keep(tx: LedgerTransaction, first: int, now: int) -> None:
            tx.add_audit_report(AuditReportRow(name, first, law, now, report.to_json()))
            kept[:] = [KeptReport(name, first, law, from_micros(now))]

        details = {"id": name, "digest": report.digest, "law": law, "size": report.facts["scope"]["size"]}
        self._ledger.record_system(EventType.AUDIT, {"kind": "audit.report", "details": details}, keep)
        return kept[0], report

    def listing(self, *, before: int | None = None, limit: int = 50) -> list[KeptReport]:
        """Newest first; `before` is an entry index to page on from."""
        with self._ledger.store.read() as view:
            rows = view.audit_reports(before, limit)
        return [KeptReport(id_, index, law, from_micros(at)) for id_, index, law, at in rows]

    def get(self, report_id: str) -> tuple[KeptReport, AuditReport]:
        """Raises Misuse(not_found)."""
        with self._ledger.store.read() as view:
            row = view.audit_report(report_id)
        if row is None:
            raise Misuse("There is no audit report of this id.", code="not_found")
        kept = KeptReport(row.id, row.idx, row.law, from_micros(row.created_at))
        return kept, AuditReport.from_json(row.document.encode())
