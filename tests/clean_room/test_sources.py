"""Sources: what a query may reach, in which order rows come, and when a source counts as changed."""

from __future__ import annotations

import doctest
import os
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest

from clean_room import sources
from clean_room.datasets import Catalogue, Dataset
from clean_room.sources import DuckDBSource, FileSource
from privacy.errors import BadInput, ComityError, Misuse

SECRET = "ada.lovelace@example.org"


def dataset(text: str, folder: Path, name: str = "people") -> Dataset:
    return Catalogue.parse(f'[datasets.{name}]\nkeys = {{ email = "email" }}\n{text}', base=folder)[name]


def people(*numbers: int) -> pl.DataFrame:
    return pl.DataFrame({"id": numbers, "email": [f"p{n}@example.org" for n in numbers]})


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a DuckDB database of orders and a Parquet file of people."""
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as made:
        made.execute("CREATE TABLE orders AS SELECT i % 4 AS person, i AS amount FROM range(12) r(i)")
    people(3, 1, 2, 0).write_parquet(tmp_path / "people.parquet")
    return tmp_path


QUERY = """
source = { kind = "duckdb", database = "shop.duckdb", files = { people = "people.parquet" }, query = '''
SELECT id, email, sum(amount) AS spent FROM people JOIN orders ON person = id GROUP BY ALL -- by person
''', order_by = ["id"] }
columns = { spent = { lower = 0, upper = 100 } }
features = ["spent"]
segments = { large = "spent > 13" }
"""


def test_the_example_of_the_package_runs():
    failed, attempted = doctest.testmod(sources)
    assert attempted > 2
    assert failed == 0


class TestManyFiles:
    @pytest.mark.parametrize("source", ["parts", "parts/*.parquet", "parts/**/*.parquet", "part?"])
    def test_a_folder_or_a_pattern_is_read_as_one_in_the_order_of_paths(self, tmp_path, source):
        (tmp_path / "parts").mkdir()
        people(3, 4).write_parquet(tmp_path / "parts" / "b.parquet")
        people(1, 2).write_parquet(tmp_path / "parts" / "a.parquet")
        (tmp_path / "parts" / "_SUCCESS").touch()
        if source == "part?":
            with pytest.raises(BadInput, match="not there"):
                dataset(f'source = "{source}"', tmp_path).extract("email")
            return
        read = dataset(f'source = "{source}"', tmp_path).extract("email")
        assert read.keys.to_pylist() == [f"p{n}@example.org" for n in (1, 2, 3, 4)]
        assert read.row_index.tolist() == [0, 1, 2, 3]

    def test_files_of_other_columns_are_not_read_as_one(self, tmp_path):
        people(1).write_parquet(tmp_path / "a.parquet")
        people(2).rename({"email": "mail"}).write_parquet(tmp_path / "b.parquet")
        with pytest.raises(BadInput) as refused:
            dataset('source = "*.parquet"', tmp_path).extract("email")
        assert refused.value.code == "unreadable_file"

    def test_a_file_added_changed_or_taken_away_is_another_state(self, tmp_path):
        source = FileSource("people", tmp_path / "parts")
        (tmp_path / "parts" / "2026").mkdir(parents=True)
        people(1).write_parquet(tmp_path / "parts" / "a.parquet")
        seen = [source.state()]
        assert source.state() == seen[0]
        people(2).write_parquet(tmp_path / "parts" / "2026" / "b.parquet")
        seen.append(source.state())
        os.utime(tmp_path / "parts" / "a.parquet", ns=(1, 1))
        seen.append(source.state())
        (tmp_path / "parts" / "2026" / "b.parquet").unlink()
        seen.append(source.state())
        assert len({state.fingerprint for state in seen}) == 4
        assert seen[-1].changed_ns >= (tmp_path / "parts" / "2026").stat().st_ctime_ns

    def test_a_name_that_reads_as_a_pattern_is_refused_and_not_expanded(self, tmp_path):
        people(1).write_parquet(tmp_path / "[ab].parquet")
        people(2).write_parquet(tmp_path / "a.parquet")
        with pytest.raises(BadInput) as refused:
            dataset('source = "[ab].parquet"', tmp_path).extract("email")
        assert refused.value.code == "unreadable_file"


class TestQueries:
    def test_a_query_joins_a_database_with_files(self, shop):
        found = dataset(QUERY, shop)
        found.check()
        read = found.extract("email", segment="large", column="spent")
        assert dict(zip(read.keys.to_pylist(), read.values.tolist(), strict=True)) == {
            "p1@example.org": 15.0, "p2@example.org": 18.0, "p3@example.org": 21.0,
        }  # fmt: skip
        assert read.row_index.tolist() == [1, 2, 3]
        assert found.count() == 4
        assert found.count("large") == 3

    def test_rows_keep_the_order_asked_for(self, shop):
        found = dataset(QUERY, shop)
        assert found.take(["spent"], np.array([3, 0])).to_pylist() == [{"spent": 21}, {"spent": 12}]
        assert found.identifiers("email", np.array([2, 1])).to_pylist() == [
            f"p{n}@example.org" for n in (2, 1)
        ]

    def test_an_order_that_leaves_rows_undecided_gives_nobody_a_place(self, shop):
        found = dataset(QUERY.replace('order_by = ["id"]', 'order_by = ["spent"]'), shop)
        assert len(found.take(["spent"], np.array([0]))) == 1
        with duckdb.connect(str(shop / "shop.duckdb")) as changed:
            changed.execute("UPDATE orders SET amount = 1")
        with pytest.raises(BadInput) as refused:
            found.take(["spent"], np.array([0]))
        assert refused.value.code == "order_not_unique"

    @pytest.mark.parametrize(
        "query",
        [
            "SELECT 1; DROP TABLE orders",
            "DELETE FROM orders",
            "INSTALL httpfs",
            "COPY orders TO 'copied.csv'",
            "ATTACH 'other.db'",
            "SELECT",
            "",
            "1) AS x; --",
        ],
    )
    def test_what_is_not_one_select_is_not_a_query(self, shop, query):
        with pytest.raises(Misuse) as refused:
            DuckDBSource("people", query, ("id",), shop / "shop.duckdb")
        assert refused.value.code == "malformed_datasets"

    @pytest.mark.parametrize(
        "query",
        [
            "SELECT content AS email, 1 AS id FROM read_text('{folder}/private.txt')",
            "SELECT email, 1 AS id FROM '{folder}/private.parquet'",
            "SELECT file AS email, 1 AS id FROM glob('{folder}/*')",
            "SELECT email, 1 AS id FROM read_parquet('https://example.org/people.parquet')",
        ],
    )
    def test_a_query_reaches_only_what_is_named_for_it(self, shop, query):
        (shop / "private.txt").write_text(SECRET)
        people(1).write_parquet(shop / "private.parquet")
        source = DuckDBSource("people", query.format(folder=shop), ("id",), shop / "shop.duckdb")
        with pytest.raises(Misuse) as refused, source.opened([]):
            pass
        assert refused.value.code in {"not_permitted", "bad_query"}
        assert SECRET not in str(refused.value)

    @pytest.mark.parametrize(
        "statement",
        [
            "SET threads = 1",
            "SET enable_external_access = true",
            "RESET lock_configuration",
            "ATTACH 'other.db'",
            "COPY (SELECT 1) TO 'copied.csv'",
            "INSTALL httpfs",
            "LOAD httpfs",
            "SELECT * FROM read_text('/etc/hostname')",
            "INSERT INTO given.orders VALUES (1, 1)",
            "DROP TABLE given.orders",
            "SELECT * FROM variable_of_this_test",
        ],
    )
    def test_an_open_source_can_do_nothing_else(self, shop, statement):
        variable_of_this_test = people(1)
        source = DuckDBSource("people", "SELECT * FROM orders", ("amount",), shop / "shop.duckdb")
        with source.opened([]) as opened, pytest.raises(duckdb.Error):
            opened.connection.execute(statement)
        assert len(variable_of_this_test) == 1
        assert sorted(f.name for f in shop.iterdir()) == ["people.parquet", "shop.duckdb"]

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            (("FROM people", "FROM persons"), "bad_query"),
            (("sum(amount)", "sum(amounts)"), "bad_query"),
            (('order_by = ["id"]', 'order_by = ["place"]'), "missing_column"),
            (("shop.duckdb", "gone.duckdb"), "source_missing"),
            (('"people.parquet"', '"gone.parquet"'), "source_missing"),
            (('"shop.duckdb"', '"people.parquet"'), "unreadable_file"),
            (("sum(amount)", "sum(CAST(email AS INTEGER))"), "source_failed"),
        ],
    )
    def test_what_does_not_work_has_a_code_and_quotes_nothing(self, shop, change, code):
        pl.DataFrame({"id": [1, 2], "email": [SECRET, SECRET]}).write_parquet(shop / "people.parquet")
        with pytest.raises(ComityError) as refused:
            dataset(QUERY.replace(*change), shop).extract("email", column="spent")
        assert refused.value.code == code
        assert SECRET not in f"{refused.value}{refused.value.__cause__}"

    @pytest.mark.parametrize("touched", ["shop.duckdb", "people.parquet"])
    def test_any_of_its_files_changed_is_another_state(self, shop, touched):
        found = dataset(QUERY, shop)
        before = found.state()
        assert found.state() == before
        content = (shop / touched).read_bytes()
        (shop / touched).write_bytes(content)
        after = found.state()
        assert after != before
        assert after.changed_ns >= before.changed_ns

    def test_keys_in_a_csv_file_stay_text(self, tmp_path):
        (tmp_path / "p.csv").write_text("id,mobile\n1,+8613900000001\n2,008613900000002\n")
        text = """[datasets.p]
        keys = { phone = "mobile" }
        source = { kind = "duckdb", files = { p = "p.csv" }, query = "FROM p", order_by = ["id"] }
        """
        read = Catalogue.parse(text, base=tmp_path)["p"].extract("phone")
        assert read.keys.to_pylist() == ["+8613900000001", "008613900000002"]

    @pytest.mark.parametrize(
        "source",
        [
            '{ kind = "duckdb", query = "SELECT 1", order_by = ["x"] }',
            '{ kind = "duckdb", query = "SELECT 1", order_by = [], database = "x" }',
            '{ kind = "duckdb", query = "SELECT 1", database = "x" }',
            '{ kind = "duckdb", query = "SELECT 1", order_by = ["x"], files = { a = "a.xlsx" } }',
            '{ kind = "duckdb", query = "SELECT 1", order_by = ["x"], database = "x", password = "hunter2" }',
            '{ kind = "oracle", password = "hunter2" }',
            '{ password = "hunter2" }',
            '{ kind = "adbc", driver = "oracle", query = "SELECT 1", order_by = ["x"] }',
            '{ kind = "adbc", driver = "postgresql", query = "FROM x", order_by = ["x"], options = [] }',
        ],
    )
    def test_a_malformed_source_is_refused_without_quoting_it(self, tmp_path, source):
        with pytest.raises(Misuse) as refused:
            dataset(f"source = {source}", tmp_path)
        assert refused.value.code == "malformed_datasets"
        assert "hunter2" not in str(refused.value)
