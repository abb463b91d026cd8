"""What an audit reads and keeps, on SQLite and on PostgreSQL."""

from __future__ import annotations

import pyarrow as pa
import pytest

from consent.audit import AuditReports, verify_against
from consent.audit.reading import first_since, leaves, people, system_events
from consent.events import grant, withdraw
from consent.gate import ConsentGate
from consent.receipts import UseReceipt
from privacy.errors import Misuse


def test_a_whole_report_on_both_databases(node, clock) -> None:
    ledger = node.open()
    for number in range(6):
        clock.move(hours=5)
        who = [("email", f"p{number}@example.org".encode())]
        ledger.record([grant(who, "overlap.reach"), *([withdraw(who)] if number % 3 == 0 else [])])
    column = pa.array([f"p{n}@example.org".encode() for n in range(6)], pa.binary())
    result = ConsentGate(ledger).filter("email", column, purpose="overlap.reach", partner="bank")
    receipt = UseReceipt(
        "a" * 32, "overlap", "overlap.reach", "c", "j", None, "bank", result.evidence, "", "", clock()
    )
    ledger.record_use(receipt, result.members)
    reports = AuditReports(ledger, node.key)
    kept, report = reports.create("ccpa")
    assert report.facts["uses"]["allowed"] == 4 and report.facts["uses"]["violations"] == 0
    assert report.facts["decisions"]["total"] == 8
    assert reports.get(kept.id) == (kept, report)
    assert reports.listing() == [kept]
    assert reports.listing(before=kept.index) == []
    assert verify_against(report.to_json().encode(), ledger).ok
    with pytest.raises(Misuse):
        reports.get("nothing")


def test_reads_stay_within_what_is_asked(node, clock) -> None:
    ledger = node.open()
    for number in range(4):
        clock.move(minutes=1)
        ledger.record([grant([("email", f"p{number}@example.org".encode())], "overlap.reach")])
    size = ledger.head().size
    with ledger.store.read() as view:
        times = [leaf.recorded_at for _, leaf in leaves(view, 0, size)]
        assert [first_since(view, size, at) for at in times] == list(range(size))
        assert first_since(view, size, times[-1] + 1) == size
        assert [event.idx for event in system_events(view, ledger.vault, 0, size)] == [0]
        histories = [history for _, history in people(view, ledger.vault, size - 1)]
        assert sorted(len(history) for history in histories) == [0, 1, 1, 1]
        assert view.aliases_after("phone", b"", 10) == []
        assert len(view.aliases_after("email", b"", 3)) == 3
        assert view.policy_document("0" * 64) is None
