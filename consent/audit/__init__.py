"""The audit: what the ledger holds, as a signed report that others can check, in English and Chinese.

>>> import sqlalchemy as sa, tempfile, pathlib
>>> from consent import Ledger, grant, metadata
>>> from consent.audit import AuditReports, render, verify_report
>>> from privacy.keys import KeyRing
>>> from privacy.signing import SigningKey
>>> folder, key = pathlib.Path(tempfile.mkdtemp()), SigningKey.generate()
>>> engine = sa.create_engine(f"sqlite:///{folder}/comity.db")
>>> metadata.create_all(engine)
>>> ledger = Ledger.open(engine, keyring=KeyRing.create(folder / "ring"), signing_key=key,
...                      origin="shop.example/consent", directory=folder / "log")
>>> recorded = ledger.record([grant([("email", b"ann@example.org")], "overlap.reach", partner="bank")])
>>> report = AuditReports(ledger, key).make("gdpr")
>>> report.facts["entries"]["by_type"]
{'consent.granted': 1, 'policy.published': 1}
>>> verify_report(report.to_json().encode(), ledger.key).outcome.value
'ok'
>>> "同意审计报告" in render(report, "zh")
True
>>> engine.dispose()
"""

from __future__ import annotations

from consent.audit.archive import AuditReports, KeptReport
from consent.audit.collect import collect
from consent.audit.facts import AuditFacts
from consent.audit.report import AuditReport, render, sign
from consent.audit.scan import Finding, Inspected, ScannedDataset, ScanReport, scan
from consent.audit.verify import ReportCheck, verify_against, verify_report

__all__ = [
    "AuditFacts",
    "AuditReport",
    "AuditReports",
    "Finding",
    "Inspected",
    "KeptReport",
    "ReportCheck",
    "ScanReport",
    "ScannedDataset",
    "collect",
    "render",
    "scan",
    "sign",
    "verify_against",
    "verify_report",
]
