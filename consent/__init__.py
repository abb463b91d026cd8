"""The consent ledger: who agreed to what, with whom, since when, and proof of it.

>>> import sqlalchemy as sa, tempfile, pathlib, pyarrow as pa
>>> from consent import ConsentGate, Ledger, grant, metadata, verify_log, directory_reader, VerifierKey
>>> from privacy.keys import KeyRing
>>> from privacy.signing import SigningKey
>>> folder = pathlib.Path(tempfile.mkdtemp())
>>> engine = sa.create_engine(f"sqlite:///{folder}/comity.db")
>>> metadata.create_all(engine)
>>> ledger = Ledger.open(engine, keyring=KeyRing.create(folder / "ring"), signing_key=SigningKey.generate(),
...                      origin="shop.example/consent", directory=folder / "log")
>>> ann = [("email", b"ann@example.org")]
>>> recorded = ledger.record([grant(ann, "overlap.reach", partner="bank")])
>>> column = pa.array([b"ann@example.org", b"bob@example.org", None])
>>> ConsentGate(ledger).filter("email", column, purpose="overlap.reach", partner="bank").mask.tolist()
[True, False, False]
>>> recorded = ledger.withdraw(ann)
>>> ledger.check(b"ann@example.org", "email", "overlap.reach", "bank").allowed
False
>>> verify_log(directory_reader(folder / "log"), VerifierKey.from_text(ledger.vkey)).outcome.value
'ok'
>>> engine.dispose()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from consent.absence import AbsenceReport, verify_absence_bundle
    from consent.api import Guards, create_router
    from consent.checkpoint import Checkpoint
    from consent.cosignatures import CosignerKey
    from consent.errors import InvalidConsent
    from consent.events import Event, EventType, Identifier, grant, object_to, refuse, renew, withdraw
    from consent.feed import Enforcement, Feed, FeedStatus
    from consent.gate import ConsentGate, GateResult
    from consent.imports import ImportReport, import_table
    from consent.laws import law_of
    from consent.ledger import EntryAudit, Ledger, Recorded
    from consent.notes import VerifierKey
    from consent.peers import PairKeys, PeerConnection, PeerResponse
    from consent.people import People
    from consent.preference_links import PreferenceLinks
    from consent.proofs import EntryProof
    from consent.purposes import PurposePolicy
    from consent.receipt_files import check_file
    from consent.receipts import (
        AbsenceProof,
        GateEvidence,
        PseudonymSet,
        ReceiptProof,
        UseReceipt,
        verify_absence,
    )
    from consent.signals import Signal, read_signal, record_signal
    from consent.split_views import SplitViews
    from consent.sql import SqlStore, metadata
    from consent.state import Decision, Reason
    from consent.subject_receipts import SubjectReceipts, verify_receipts
    from consent.terms import ConsentTerms, ConsentType
    from consent.tlog_proof import TlogProof
    from consent.trace import Consequence, Consequences, Trace
    from consent.trust_policy import TrustPolicy
    from consent.verify import LogReport, Outcome, directory_reader, url_reader, verify_ledger, verify_log
    from consent.witness import Witness, WitnessStore

__all__ = [
    "AbsenceProof",
    "AbsenceReport",
    "Checkpoint",
    "ConsentGate",
    "ConsentTerms",
    "ConsentType",
    "Consequence",
    "Consequences",
    "CosignerKey",
    "Decision",
    "Enforcement",
    "EntryAudit",
    "EntryProof",
    "Event",
    "EventType",
    "Feed",
    "FeedStatus",
    "GateEvidence",
    "GateResult",
    "Guards",
    "Identifier",
    "ImportReport",
    "InvalidConsent",
    "Ledger",
    "LogReport",
    "Outcome",
    "PairKeys",
    "PeerConnection",
    "PeerResponse",
    "People",
    "PreferenceLinks",
    "PseudonymSet",
    "PurposePolicy",
    "Reason",
    "ReceiptProof",
    "Recorded",
    "Signal",
    "SplitViews",
    "SqlStore",
    "SubjectReceipts",
    "TlogProof",
    "Trace",
    "TrustPolicy",
    "UseReceipt",
    "VerifierKey",
    "Witness",
    "WitnessStore",
    "check_file",
    "create_router",
    "directory_reader",
    "grant",
    "import_table",
    "law_of",
    "metadata",
    "object_to",
    "read_signal",
    "record_signal",
    "refuse",
    "renew",
    "url_reader",
    "verify_absence",
    "verify_absence_bundle",
    "verify_ledger",
    "verify_log",
    "verify_receipts",
    "withdraw",
]

# Names are fetched when first asked for: a command on a node's directory should not load the web framework.
_HOME = {
    "AbsenceProof": "receipts",
    "AbsenceReport": "absence",
    "Checkpoint": "checkpoint",
    "ConsentGate": "gate",
    "ConsentTerms": "terms",
    "ConsentType": "terms",
    "Consequence": "trace",
    "Consequences": "trace",
    "CosignerKey": "cosignatures",
    "Decision": "state",
    "Enforcement": "feed",
    "EntryAudit": "ledger",
    "EntryProof": "proofs",
    "Event": "events",
    "EventType": "events",
    "Feed": "feed",
    "FeedStatus": "feed",
    "GateEvidence": "receipts",
    "GateResult": "gate",
    "Guards": "api",
    "Identifier": "events",
    "ImportReport": "imports",
    "InvalidConsent": "errors",
    "Ledger": "ledger",
    "LogReport": "verify",
    "Outcome": "verify",
    "PairKeys": "peers",
    "PeerConnection": "peers",
    "PeerResponse": "peers",
    "People": "people",
    "PreferenceLinks": "preference_links",
    "PseudonymSet": "receipts",
    "PurposePolicy": "purposes",
    "Reason": "state",
    "ReceiptProof": "receipts",
    "Recorded": "ledger",
    "Signal": "signals",
    "SplitViews": "split_views",
    "SqlStore": "sql",
    "SubjectReceipts": "subject_receipts",
    "TlogProof": "tlog_proof",
    "Trace": "trace",
    "TrustPolicy": "trust_policy",
    "UseReceipt": "receipts",
    "VerifierKey": "notes",
    "Witness": "witness",
    "WitnessStore": "witness",
    "check_file": "receipt_files",
    "create_router": "api",
    "directory_reader": "verify",
    "grant": "events",
    "import_table": "imports",
    "law_of": "laws",
    "metadata": "sql",
    "object_to": "events",
    "read_signal": "signals",
    "record_signal": "signals",
    "refuse": "events",
    "renew": "events",
    "url_reader": "verify",
    "verify_absence": "receipts",
    "verify_absence_bundle": "absence",
    "verify_ledger": "verify",
    "verify_log": "verify",
    "verify_receipts": "subject_receipts",
    "withdraw": "events",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
