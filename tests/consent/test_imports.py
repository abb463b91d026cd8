from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consent.events import refuse, withdraw
from consent.history import open_entry
from consent.imports import ImportRefused, import_table, read_table
from consent.verify import verify_ledger
from privacy.errors import BadInput, Refused, StorageError

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


# what only the ledger can tell


def register(*rows, columns="email,purpose,partner,decision,at"):
    return "\n".join((columns, *rows)) + "\n"


@pytest.fixture
def withdrawn(ledger, clock):
    """A ledger in which everybody of a0 … a9 has withdrawn; and a clock a day later."""
    people = [[("email", f"a{i}@example.org".encode())] for i in range(10)]
    ledger.record([withdraw(person) for person in people])
    clock.move(days=1)
    return ledger


LATE = [f"a{i}@example.org,overlap.reach,bank,grant,2026-02-01" for i in range(10)]
FINE = [f"b{i}@example.org,overlap.reach,bank,grant,2026-02-01" for i in range(20)]


def test_rows_that_only_the_ledger_refuses_do_not_take_the_others_with_them(withdrawn, csv):
    report = import_table(withdrawn, csv(register(*FINE[:10], *LATE, *FINE[10:])))
    assert (report.rows, report.recorded, report.rejected) == (30, 20, 10)
    assert [(e.row, e.column, e.code) for e in report.errors] == [
        (row, "at", "back_dated_grant") for row in range(11, 21)
    ]
    assert withdrawn.check(b"b19@example.org", "email", "overlap.reach", "bank").allowed
    assert not withdrawn.check(b"a0@example.org", "email", "overlap.reach", "bank").allowed
    assert verify_ledger(withdrawn).ok


def test_none_are_kept_where_that_was_asked_and_the_report_names_the_rows(withdrawn, csv):
    size = withdrawn.head().size
    with pytest.raises(ImportRefused) as caught:
        import_table(withdrawn, csv(register(*FINE, *LATE)), on_error="abort")
    assert withdrawn.head().size == size
    assert [e.row for e in caught.value.report.errors] == list(range(21, 31))
    assert caught.value.report.recorded == 0


def test_a_grant_that_conflicts_is_found_among_the_rows(ledger, csv, clock):
    line, other = ("phone", b"+8613800138000"), ("phone", b"+8613800138001")
    ann, bob = ("email", b"ann@example.org"), ("email", b"bob@example.org")
    ledger.record([refuse([ann, line], "overlap"), refuse([bob, other], "overlap")])
    clock.move(days=1)
    rows = [
        "c@example.org,,overlap,grant",
        "bob@example.org,13800138000,overlap,grant",
        "d@example.org,,overlap,grant",
    ]
    text = register(*rows, columns="email,phone,purpose,decision")
    with pytest.raises(ImportRefused) as caught:
        import_table(ledger, csv(text), on_error="abort")
    assert [(e.row, e.code) for e in caught.value.report.errors] == [(2, "grant_conflicts")]
    report = import_table(ledger, csv(text))
    assert (report.recorded, [(e.row, e.code) for e in report.errors]) == (2, [(2, "grant_conflicts")])


def test_a_row_is_found_where_the_ledger_does_not_say_which(ledger, csv, monkeypatch):
    real, refused = ledger.record, []

    def record(events, **options):
        if any(event.identifiers[0].canonical == b"b7@example.org" for event in events):
            refused.append(len(events))
            raise Refused("Not this one.", code="suppressed")
        return real(events, **options)

    monkeypatch.setattr(ledger, "record", record)
    report = import_table(ledger, csv(register(*FINE)))
    assert (report.recorded, [(e.row, e.code) for e in report.errors]) == (19, [(8, "suppressed")])
    assert len(refused) <= 6


def test_a_failure_that_is_no_row_s_fault_is_not_taken_for_one(ledger, csv, monkeypatch):
    def record(events, **options):
        raise StorageError("The disk is full.")

    monkeypatch.setattr(ledger, "record", record)
    for on_error in ("skip", "abort"):
        with pytest.raises(StorageError):
            import_table(ledger, csv(register(*FINE)), on_error=on_error)


def test_an_import_that_is_repeated_says_so_and_changes_nothing(ledger, csv, clock):
    rows = [
        *FINE,
        "b3@example.org,overlap,bank,withdraw,2026-02-03T10:00:00+08:00",
        "b4@example.org,*,*,refuse,2026-02-03",
    ]
    first = import_table(ledger, csv(register(*rows)))
    assert (first.recorded, first.repeated) == (22, 0)
    size = ledger.head().size
    clock.move(days=1)
    again = import_table(ledger, csv(register(*rows)))
    assert (again.recorded, again.repeated, again.rejected) == (0, 22, 0) and ledger.head().size == size
    assert import_table(ledger, csv(register(*rows)), on_error="abort").repeated == 22
    more = import_table(ledger, csv(register(*rows, "c@example.org,overlap,bank,grant,2026-02-03")))
    assert (more.recorded, more.repeated) == (1, 22)


def test_a_cell_that_is_not_utf8_spoils_its_row_only(ledger, csv):
    rows = register(*FINE[:3]).encode() + (
        b"x\xff@example.org,overlap.reach,bank,grant,2026-02-01\n"
        b"y@example.org,overlap.reach,b\xfe,grant,2026-02-01\n"
        b"z@example.org,overlap.reach,bank,grant,2026-02-01\n"
    )
    report = import_table(ledger, csv(rows))
    assert (report.recorded, [(e.row, e.column, e.code) for e in report.errors]) == (
        4,
        [(4, "identifier", "invalid_utf8"), (5, "partner", "invalid_utf8")],
    )


TERMED = (
    "email,purpose,decision,notice,language,jurisdiction,consent_type,recipients,basis,actor,notice_version\n"
    "a@example.org,overlap.reach,grant,general,zh,CN,separate,bank;shop,consent,subject,1\n"
    "b@example.org,overlap.reach,grant,general,zh,CN,,bank,consent,subject,1\n"
    "c@example.org,overlap.reach,grant,general,fr,,,,,,\n"
    "d@example.org,overlap.reach,grant,general,zh,,loud,,,,\n"
    "e@example.org,overlap.reach,grant,general,zh,,,,,somebody,\n"
    "f@example.org,overlap.reach,grant,general,zh,CN,separate,,legitimate_interest,,\n"
    "g@example.org,overlap.reach,grant,general,zh,,,,,,1.5\n"
    "h@example.org,overlap.reach,withdraw,,,CN,,,,,\n"
    "i@example.org,overlap.reach,renew,,,,,,,,\n"
    "j@example.org,overlap.reach,object,,,,,,,agent,\n"
)


def test_a_register_brings_the_terms_of_each_decision(ledger, csv):
    report = import_table(ledger, csv(TERMED))
    assert [(e.row, e.column, e.code) for e in report.errors] == [
        (2, "consent_type", "separate_consent_required"),
        (3, "language", "unknown_language"),
        (4, "row", "bad_terms"),
        (5, "row", "bad_terms"),
        (6, "basis", "unknown_basis"),
        (7, "row", "bad_terms"),
    ]
    assert report.recorded == 4 and set(report.decisions) == {
        "consent.granted", "consent.withdrawn", "consent.renewed", "objection",
    }  # fmt: skip
    with ledger.store.read() as view:
        body = json.loads(open_entry(view, ledger.vault, 1)[1].payload)
    assert body["recipients"] == ["bank", "shop"] and body["consent_type"] == "separate"
    assert body["notice_hash"] == ledger.policy.notices["general"].hash("zh")


def test_what_a_register_leaves_out_can_be_given_for_all_rows(ledger, csv):
    text = "email\na@example.org\nb@example.org\n"
    given = {"notice": "general", "language": "en", "jurisdiction": "CN", "consent_type": "separate"}
    report = import_table(ledger, csv(text), decision="grant", purpose="overlap", defaults=given)
    assert report.recorded == 2
    with pytest.raises(BadInput):
        import_table(ledger, csv(text), decision="grant", purpose="overlap", defaults={"colour": "red"})


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a0@example.org", "b@example.org", "", "not an address", "名@example.org"]),
            st.sampled_from(["overlap.reach", "*", "overlap.sms", ""]),
            st.sampled_from(["grant", "withdraw", "renew", "", "GRANT", "x"]),
            st.sampled_from(
                ["", "2026-02-01", "2099-01-01", "0001-01-01", "9999-12-31T23:59:59-12:00", "soon"]
            ),
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_is_recorded_repeated_or_reported(withdrawn, rows):
    names = ("email", "purpose", "decision", "at")
    table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
    report = import_table(withdrawn, table)
    assert report.recorded + report.repeated + report.rejected == report.rows == len(rows)
    assert len(report.errors) == report.rejected and "example.org" not in repr(report)


@given(st.binary(max_size=200) | st.text("emailpurosdcn,;\"\n\\'@.gt\x00é", max_size=200).map(str.encode))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_table_or_bad_input(tmp_path, data):
    for name in ("x.csv", "x.parquet", "x.arrow"):
        path = tmp_path / name
        path.write_bytes(data)
        with suppress(BadInput):
            read_table(path)
