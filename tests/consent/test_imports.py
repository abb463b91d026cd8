from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consent.imports import ImportRefused, import_table, read_table
from privacy.errors import BadInput

GOOD = (
    "email,mobile,purpose,partner,decision,at\n"
    "Ann@Example.org ,138 0013 8000,overlap.reach,bank,granted,2026-01-05T09:00:00Z\n"
    "bob@example.org,,overlap.reach,bank,refused,2026-01-05T09:00:00Z\n"
)
MIXED = GOOD + (
    "not-an-address,,overlap.reach,bank,grant,\n"
    "cy@example.org,,overlap.sms,bank,grant,\n"
    "di@example.org,,overlap.reach,bank,maybe,\n"
    "ed@example.org,,overlap.reach,bank,grant,someday\n"
    "fy@example.org,,overlap.reach,bank,grant,2099-01-01T00:00:00Z\n"
    "gi@example.org,,*,bank,withdraw,\n"
    "ha@example.org,,*,bank,grant,\n"
    ",,overlap.reach,bank,grant,\n"
)


@pytest.fixture
def ledger(make_node):
    return make_node("shop").open()


@pytest.fixture
def csv(tmp_path):
    def write(text):
        path = tmp_path / "register.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_a_register_is_recorded_under_canonical_identifiers(ledger, csv):
    report = import_table(ledger, csv(GOOD))
    assert (report.rows, report.recorded, report.rejected) == (2, 2, 0)
    assert report.decisions == {"consent.granted": 1, "consent.refused": 1}
    assert ledger.check(b"ann@example.org", "email", "overlap.reach", "bank").allowed
    assert ledger.check(b"+8613800138000", "phone", "overlap.reach", "bank").allowed
    assert not ledger.check(b"bob@example.org", "email", "overlap.reach", "bank").allowed
    assert ledger.history(b"ann@example.org", "email")[0]["effective_at"] == datetime(
        2026, 1, 5, 9, tzinfo=UTC
    )


def test_good_rows_are_kept_and_bad_ones_reported_row_by_row(ledger, csv):
    report = import_table(ledger, csv(MIXED))
    assert (report.rows, report.recorded, report.rejected) == (10, 3, 7)
    assert [(e.row, e.column, e.code) for e in report.errors] == [
        (3, "identifier", "no_identifier"),
        (4, "purpose", "unknown_purpose"),
        (5, "decision", "unknown_decision"),
        (6, "at", "bad_time"),
        (7, "at", "future_event"),
        (9, "purpose", "unknown_purpose"),
        (10, "identifier", "no_identifier"),
    ]
    assert "example.org" not in repr(report)


def test_nothing_is_recorded_when_one_bad_row_is_too_many(ledger, csv):
    size = ledger.head().size
    with pytest.raises(ImportRefused) as caught:
        import_table(ledger, csv(MIXED), on_error="abort")
    assert caught.value.report.rejected == 7 and ledger.head().size == size
    assert "example" not in str(caught.value)


def test_parquet_and_arrow_are_read_like_csv(ledger, tmp_path, clock):
    table = pl.DataFrame(
        {
            "phone": ["13800138000", None, "13800138001"],
            "email": [None, "b@example.org", "c@example.org"],
            "expires_at": [clock() + timedelta(days=d) for d in (1, 2, -1)],
        }
    ).to_arrow()
    path = tmp_path / "t.parquet"
    pq.write_table(table, path)
    seen = []
    report = import_table(
        ledger,
        path,
        purpose="model.credit",
        decision="grant",
        partner="bank",
        progress=lambda *at: seen.append(at),
    )
    assert report.recorded == 3 and seen == [(3, 3)]
    assert ledger.check(b"b@example.org", "email", "model.credit", "bank").allowed
    assert not ledger.check(b"c@example.org", "email", "model.credit", "bank").allowed
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert import_table(ledger, tmp_path / "t.arrow", purpose="overlap", decision="withdraw").rejected == 3
    again = table.drop(["expires_at"])
    assert import_table(ledger, again, purpose="overlap", decision="withdraw").recorded == 3


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe\x00email",
        b"email,purpose,decision\n\xff\xff,overlap,grant\n",
        b"name,purpose,decision\nann,overlap,grant\n",
        b"email,decision\na@b.example,grant\n",
        b"email,purpose\na@b.example,overlap\n",
        b"email,email,purpose,decision\na,b,overlap,grant\n",
        b"email,purpose,decision\na@b.example,overlap\n",
        b'email,purpose,decision\n"secret@b.example,overlap,grant\n',
    ],
)
def test_a_table_that_is_not_one_is_refused_without_quoting_it(ledger, csv, text):
    with pytest.raises(BadInput) as caught:
        if import_table(ledger, csv(text)).recorded == 0:
            raise BadInput("no rows")
    assert "secret" not in str(caught.value) and "b.example" not in str(caught.value)


def test_a_missing_or_broken_file_is_bad_input(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 truncated")
    for name in ("x.parquet", "none.csv", "none.parquet", "."):
        with pytest.raises(BadInput):
            read_table(tmp_path / name)
