"""Datasets: what is read, how it is quoted, what is refused."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pytest

from clean_room.datasets import Catalogue, Retention
from privacy.errors import BadInput, Misuse

TABLE = {
    "e mail": ["ada@example.org", None, "Zoé@example.org"],
    'mo"bile': [13900000001.0, float("nan"), 13900000003.0],
    "n": [1, 2, 3],
    "text": ["x", "y", "z"],
}
GOOD = "[datasets.a]\nsource = 'a.csv'\nkeys = { email = 'e' }\n"
TOML = """
[datasets.people]
source = "people.{suffix}"
keys = {{ email = "e mail", phone = 'mo"bile' }}
features = ["text"]
[datasets.people.columns.n]
lower = 0
upper = 2
[datasets.people.columns.text]
lower = 0
upper = 2
[datasets.people.dimensions.parity]
sql = "CASE WHEN n % 2 = 0 THEN 'even' ELSE 'odd' END"
values = ["even", "odd"]
[datasets.people.dimensions.broken]
sql = "no_such_column + 1"
values = ["x"]
[datasets.people.segments]
big = "n > 1"
"""


def write(folder, suffix):
    frame = pl.DataFrame(TABLE, strict=False)
    file = folder / f"people.{suffix}"
    match suffix:
        case "parquet":
            frame.write_parquet(file)
        case "csv":
            frame.write_csv(file)
        case "feather":
            pyarrow.feather.write_feather(frame.to_arrow(), file)
        case "arrow":
            with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, frame.to_arrow().schema) as out:
                out.write_table(frame.to_arrow())
    return Catalogue.parse(TOML.format(suffix=suffix), base=folder)["people"]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "feather", "arrow"])
def test_every_format_reads_the_same_with_names_that_need_quoting(tmp_path, suffix):
    people = write(tmp_path, suffix)
    extract = people.extract("email", dimensions=["parity"], segment="big", column="n")
    assert extract.keys.to_pylist() == [None, "Zoé@example.org"]
    assert extract.row_index.tolist() == [1, 2]
    assert extract.dimensions["parity"].to_pylist() == ["even", "odd"]
    assert extract.values.tolist() == [2.0, 3.0]


def test_numbers_stored_as_floats_read_as_whole_numbers(tmp_path):
    extract = write(tmp_path, "parquet").extract("phone")
    assert extract.keys.to_pylist() == ["13900000001", None, "13900000003"]


def test_a_plus_and_leading_zeros_survive_csv(tmp_path):
    (tmp_path / "p.csv").write_text("mobile\n+8613900000001\n008613900000002\n")
    toml = '[datasets.p]\nsource = "p.csv"\nkeys = { phone = "mobile" }\n'
    extract = Catalogue.parse(toml, base=tmp_path)["p"].extract("phone")
    assert extract.keys.to_pylist() == ["+8613900000001", "008613900000002"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"key": "device"}, "unknown_key"),
        ({"key": "email", "dimensions": ["n; DROP TABLE source"]}, "unknown_dimension"),
        ({"key": "email", "segment": "1=1"}, "unknown_segment"),
        ({"key": "email", "column": 'n" FROM source; --'}, "unknown_column"),
        ({"key": "email", "dimensions": ["broken"]}, "bad_expression"),
        ({"key": "email", "column": "text"}, "column_not_numeric"),
    ],
)
def test_names_are_looked_up_and_never_become_sql(tmp_path, arguments, code):
    people = write(tmp_path, "parquet")
    with pytest.raises((Misuse, BadInput)) as refused:
        people.extract(arguments.pop("key"), **arguments)
    assert refused.value.code == code


def test_rows_are_taken_in_the_order_asked_for(tmp_path):
    people = write(tmp_path, "parquet")
    assert people.take(["text", "n"], np.array([2, 0])).to_pylist() == [
        {"text": "z", "n": 3},
        {"text": "x", "n": 1},
    ]
    with pytest.raises(BadInput) as shorter:
        people.take(["text"], np.array([3]))
    assert shorter.value.code == "source_changed"


@pytest.mark.parametrize(
    "text",
    [
        "[datasets",
        "[datasets.a]\nsource = 'a.parquet'",
        "[datasets.a]\nsource = 'a.xlsx'\nkeys = { email = 'e' }",
        "[datasets.a]\nsource = 'a.csv'\nkeys = { fax = 'f' }",
        "[datasets.a]\nsource = 'a.csv'\nkeys = { email = 'e' }\nsecret = 1",
        f"{GOOD}[datasets.a.columns.x]\nlower = 2\nupper = 1",
        f"{GOOD}[datasets.a.dimensions.d]\nsql = '1'\nvalues = []",
    ],
)
def test_a_malformed_catalogue_is_refused(tmp_path, text):
    with pytest.raises(Misuse):
        Catalogue.parse(text, base=tmp_path)


def test_a_missing_catalogue_is_an_empty_one(tmp_path):
    assert list(Catalogue.load(tmp_path / "datasets.toml")) == []
    with pytest.raises(Misuse) as unknown:
        Catalogue.load(tmp_path / "datasets.toml")["people"]
    assert unknown.value.code == "unknown_dataset"


NOW = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)
DATED = """
[datasets.people]
source = "people.{suffix}"
keys = {{ email = "e" }}
features = ["n"]
columns = {{ n = {{ lower = 0, upper = 9 }} }}
segments = {{ big = "n > 1" }}
dimensions = {{ size = {{ sql = "CASE WHEN n > 2 THEN 'l' ELSE 's' END", values = ["s", "l"] }} }}
retention = {{ column = "seen", days = 1 }}
{more}
"""
KINDS = {
    "date": [date(2026, 2, 28), date(2026, 3, 1), None, date(2026, 3, 3)],
    "timestamp": [datetime(2026, 2, 28, 23, 59), datetime(2026, 3, 1), None, datetime(2026, 3, 2)],
    "zoned": [
        datetime(2026, 3, 1, 0, 30, tzinfo=timezone(timedelta(hours=1))),
        datetime(2026, 2, 28, 23, 30, tzinfo=timezone(timedelta(hours=-1))),
        None,
        NOW,
    ],
    "text": ["2026-02-28", "2026-03-01 00:00", "soon", "2026-03-02T10:00:00+02:00"],
}


def dated(folder, kind, more="", suffix="parquet"):
    values = KINDS[kind] if isinstance(kind, str) else kind
    frame = pl.DataFrame(
        {"n": [1, 2, 3, 4], "e": [f"p{i}@example.org" for i in range(4)], "seen": values}, strict=False
    )
    if kind == "zoned":
        assert frame.schema["seen"].time_zone is not None
    frame.write_csv(folder / "people.csv") if suffix == "csv" else frame.write_parquet(
        folder / "people.parquet"
    )
    text = DATED.format(suffix=suffix, more=more)
    return Catalogue.parse(text, base=folder, clock=lambda: NOW)["people"]


class TestRetention:
    @pytest.mark.parametrize("suffix", ["parquet", "csv"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_rows_past_their_time_or_without_one_are_in_no_use_and_are_counted(self, tmp_path, kind, suffix):
        people = dated(tmp_path, kind, suffix=suffix)
        extract = people.extract("email", segment="big", column="n", dimensions=["size"])
        assert extract.keys.to_pylist() == ["p1@example.org", "p3@example.org"]
        assert extract.row_index.tolist() == [1, 3]
        assert extract.values.tolist() == [2.0, 4.0]
        assert extract.expired == 2
        assert people.count() == people.sample(10).num_rows == 2
        assert people.take(["n"], np.array([3, 1])).to_pylist() == [{"n": 4}, {"n": 2}]

    def test_all_of_a_day_leaves_out_the_same_rows(self, tmp_path):
        people = dated(tmp_path, "timestamp")
        late = dataclasses.replace(people, clock=lambda: NOW.replace(hour=23, minute=59))
        early = dataclasses.replace(people, clock=lambda: NOW.replace(hour=0, minute=0))
        assert late.extract("email").row_index.tolist() == early.extract("email").row_index.tolist()

    def test_a_row_that_was_aligned_and_has_expired_since_is_not_read(self, tmp_path):
        people = dated(tmp_path, "date")
        for read in (people.take, lambda _, rows: people.identifiers("email", rows)):
            with pytest.raises(BadInput) as refused:
                read(["n"], np.array([1, 0]))
            assert refused.value.code == "row_expired"

    def test_numbers_are_no_dates(self, tmp_path):
        with pytest.raises(BadInput) as refused:
            dated(tmp_path, [1, 2, 3, 4]).extract("email")
        assert refused.value.code == "retention_column_type"

    def test_the_dating_column_must_be_there(self, tmp_path):
        people = dated(tmp_path, "date")
        with pytest.raises(BadInput) as refused:
            dataclasses.replace(people, retention=Retention("seen_at", 1)).check()
        assert refused.value.code == "missing_column"

    @pytest.mark.parametrize("days", [0, -1, 36_501])
    def test_impossible_spans_are_refused(self, tmp_path, days):
        with pytest.raises(Misuse):
            Catalogue.parse(f"{GOOD}retention = {{ column = 'x', days = {days} }}", base=tmp_path)


class TestAllowedColumns:
    def test_what_dates_rows_need_not_be_allowed_and_cannot_be_cut_by(self, tmp_path):
        allowed = 'allowed = ["n", "e"]'
        people = dated(tmp_path, "date", allowed)
        assert len(people.extract("email", segment="big", dimensions=["size"]).keys) == 2
        assert people.sample(4).column_names == ["n", "e"]
        hidden = dataclasses.replace(people, segments={"big": "SEEN IS NOT NULL"})
        with pytest.raises(Misuse) as refused:
            hidden.extract("email", segment="big")
        assert refused.value.code == "column_not_allowed"

    @pytest.mark.parametrize(
        "expression", ["seen IS NULL", '"Seen" IS NULL', "source.seen IS NULL", "n > 1 OR seen > '2'"]
    )
    def test_a_segment_touches_allowed_columns_only(self, tmp_path, expression):
        people = dataclasses.replace(
            dated(tmp_path, "date", 'allowed = ["n", "e"]'), retention=None, segments={"big": expression}
        )
        for use in (
            people.check,
            lambda: people.extract("email", segment="big"),
            lambda: people.count("big"),
        ):
            with pytest.raises(Misuse) as refused:
                use()
            assert refused.value.code in {"column_not_allowed", "bad_expression"}
        assert len(dataclasses.replace(people, allowed=("n", "e", "seen")).extract("email").keys) == 4

    @pytest.mark.parametrize(("allowed", "column"), [('["e"]', "n"), ('["n"]', "e"), ("[]", "e")])
    def test_keys_columns_and_features_are_held_to_it_when_the_file_is_read(self, tmp_path, allowed, column):
        with pytest.raises(Misuse) as refused:
            dated(tmp_path, "date", f"allowed = {allowed}")
        assert refused.value.code == "column_not_allowed"
        assert column in str(refused.value)


@pytest.mark.parametrize(
    "expression",
    [
        "n > 1; DROP TABLE source",
        "n > 1) AS s, (SELECT 1",
        "n > 1) FROM source --",
        "(SELECT max(n) FROM source) > 1",
        "EXISTS (FROM read_text('/etc/hostname'))",
        "n IN (SELECT n FROM shape)",
        "COLUMNS(*) > 1",
        "*",
        "row_number() OVER () > 3",
        "n > ?",
        "",
        "n >",
        "(" * 5_000,
    ],
)
def test_an_expression_sees_its_own_row_and_nothing_else(tmp_path, expression):
    with pytest.raises(Misuse) as refused:
        Catalogue.parse(f"{GOOD}segments = {{ s = '''{expression}''' }}", base=tmp_path)
    assert refused.value.code == "bad_expression"


def test_an_expression_that_ends_in_a_comment_is_one(tmp_path):
    people = dated(tmp_path, "date", "")
    commented = dataclasses.replace(people, segments={"big": "n > 2 -- more than two"})
    assert commented.extract("email", segment="big").row_index.tolist() == [3]


def test_batches_are_the_extract_in_order_and_not_at_once(tmp_path):
    pl.DataFrame({"e": [f"p{i}@example.org" for i in range(10_000)], "n": range(10_000)}).write_parquet(
        tmp_path / "a.parquet", row_group_size=1_000
    )
    text = "[datasets.a]\nsource = 'a.parquet'\nkeys = { email = 'e', phone = 'n' }\n"
    text += "segments = { s = 'n % 3 = 0' }"
    people = Catalogue.parse(text, base=tmp_path)["a"]
    parts = list(people.batches("email", segment="s", fallbacks=["phone"], rows=2_048))
    whole = people.extract("email", segment="s", fallbacks=["phone"])
    assert len(parts) > 3
    assert max(len(part.keys) for part in parts) <= 2_048
    assert pa.concat_arrays([part.keys for part in parts]).equals(whole.keys)
    assert np.concatenate([part.row_index for part in parts]).tolist() == list(range(0, 10_000, 3))
    assert whole.fallbacks["phone"].to_pylist() == [str(i) for i in range(0, 10_000, 3)]


def test_reading_leaves_nothing_behind_when_it_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spill"))
    (tmp_path / "spill").mkdir()
    batches = dated(tmp_path, "date").batches("email")
    next(batches)
    assert list((tmp_path / "spill").iterdir())
    batches.close()
    assert not list((tmp_path / "spill").iterdir())
