"""Datasets: what is read, how it is quoted, what is refused."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pytest

from clean_room.datasets import Catalogue
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
