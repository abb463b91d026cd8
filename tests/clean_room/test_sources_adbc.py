"""Datasets in a real PostgreSQL, read through its ADBC driver; and drivers that are not there."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from clean_room.datasets import Catalogue, Dataset
from clean_room.sources.adbc import DRIVERS
from privacy.errors import BadInput, ComityError, Misuse, StorageError

SECRET = "ada.lovelace@example.org"
PEOPLE = 3_000


@pytest.fixture(scope="module")
def server(postgres_url: str) -> Iterator[sa.URL]:
    """A database with a table of people, and a user of its own with a password."""
    maintenance = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    name = f"crm_{uuid.uuid4().hex}"
    with maintenance.connect() as c:
        c.execute(sa.text(f'CREATE DATABASE "{name}"'))
    url = maintenance.url.set(database=name)
    engine = sa.create_engine(url)
    with engine.begin() as c:
        c.execute(sa.text("CREATE SEQUENCE numbers"))
        c.execute(sa.text(
            "CREATE TABLE people (id bigint PRIMARY KEY, email text, mobile varchar(20), age smallint,"
            ' spent numeric(10, 2), born date, updated_at timestamptz, handle uuid, "Odd ""name" boolean)'
        ))  # fmt: skip
        c.execute(sa.text(
            "INSERT INTO people SELECT i, 'p' || i || '@example.org', '+86139' || lpad(i::text, 8, '0'),"
            " i % 60, i * 1.25, date '1980-01-01' + i, timestamptz '2026-01-01 00:00Z' - i * interval '1d',"
            f" gen_random_uuid(), i % 2 = 0 FROM generate_series({PEOPLE - 1}, 0, -1) i"
        ))  # fmt: skip
        c.execute(sa.text(f"UPDATE people SET email = '{SECRET}' WHERE id = 7"))
    engine.dispose()
    try:
        yield url
    finally:
        with maintenance.connect() as c:
            c.execute(sa.text(f'DROP DATABASE "{name}" WITH (FORCE)'))
        maintenance.dispose()


def crm(
    server: sa.URL, more: str = "", *, query: str = "SELECT * FROM people", uri: str = "env:CRM"
) -> Dataset:
    text = f"""
[datasets.crm]
keys = {{ email = "email", phone = "mobile" }}
columns = {{ spent = {{ lower = 0, upper = 10000 }} }}
features = ["age", "spent"]
segments = {{ young = "age < 30", odd = '"Odd ""name"' }}
{more}
[datasets.crm.source]
kind = "adbc"
driver = "postgresql"
query = '''{query}'''
order_by = ["id"]
options = {{ uri = "{uri}" }}
[datasets.crm.dimensions.decade]
sql = "CASE WHEN born < DATE '1984-01-01' THEN 'early' ELSE 'late' END"
values = ["early", "late"]
"""
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    return Catalogue.parse(text, base=Path("/nowhere"), clock=lambda: now)["crm"]


@pytest.fixture(autouse=True)
def address(server: sa.URL, monkeypatch: pytest.MonkeyPatch) -> str:
    uri = server.set(drivername="postgresql").render_as_string(hide_password=False)
    monkeypatch.setenv("CRM", uri)
    return uri


def test_rows_of_a_server_read_as_those_of_a_file(server):
    read = crm(server).extract(
        "email", dimensions=["decade"], segment="young", column="spent", fallbacks=["phone"]
    )
    expected = [i for i in range(PEOPLE) if i % 60 < 30]
    assert read.row_index.tolist() == expected
    assert read.keys.to_pylist() == [SECRET if i == 7 else f"p{i}@example.org" for i in expected]
    assert read.fallbacks["phone"].to_pylist() == [f"+86139{i:08}" for i in expected]
    assert read.values.tolist() == [i * 1.25 for i in expected]
    assert read.dimensions["decade"].to_pylist() == ["early" if i < 1461 else "late" for i in expected]


def test_batches_are_no_larger_than_asked_and_may_be_left_unread(server):
    found = crm(server)
    sizes = [len(part.keys) for part in found.batches("email", rows=2_048)]
    assert sum(sizes) == PEOPLE
    assert max(sizes) <= 2_048
    unread = found.batches("email", rows=2_048)
    assert len(next(unread).keys)
    unread.close()


def test_everything_said_of_a_dataset_is_tried_without_reading_it(server):
    crm(server).check()
    assert crm(server).count("odd") == PEOPLE // 2
    assert crm(server).sample(3).num_rows == 3


def test_a_comment_or_a_semicolon_at_the_end_of_a_query_is_only_that(server):
    assert crm(server, query="SELECT * FROM people WHERE id < 5 -- few").count() == 5
    assert crm(server, query="SELECT * FROM people WHERE id < 5;\n").count() == 5


def test_retention_is_kept_on_a_server_too(server):
    found = crm(server, 'retention = { column = "updated_at", days = 100 }')
    read = found.extract("email")
    assert (len(read.keys), read.expired) == (101, PEOPLE - 101)
    assert found.count() == 101


def test_columns_that_are_not_allowed_are_not_asked_for(server):
    allowed = 'allowed = ["email", "mobile", "spent", "age", "born", \'Odd "name\']'
    assert len(crm(server, allowed).extract("email", segment="young").keys)
    hidden = allowed.replace('"born", ', "")
    with pytest.raises(Misuse) as refused:
        crm(server, hidden).extract("email", dimensions=["decade"])
    assert refused.value.code == "column_not_allowed"
    assert crm(server, allowed).sample(2).column_names == [
        "email",
        "mobile",
        "age",
        "spent",
        "born",
        'Odd "name',
    ]


@pytest.mark.parametrize(
    "query",
    [
        "WITH gone AS (DELETE FROM people RETURNING *) SELECT * FROM gone",
        "SELECT * FROM people) AS asked; DELETE FROM people; SELECT * FROM (SELECT * FROM people",
        "SELECT id, email || nextval('numbers') AS email FROM people",
        "DELETE FROM people RETURNING *",
    ],
)
def test_nothing_is_written(server, query):
    with pytest.raises(ComityError):
        crm(server, query=query).extract("email")
    assert crm(server).count() == PEOPLE


@pytest.mark.parametrize(
    ("query", "family", "code"),
    [
        ("SELECT * FROM persons", Misuse, "bad_query"),
        ("SELECT id, emale AS email FROM people", Misuse, "bad_query"),
        ("SELEC * FROM people", Misuse, "bad_query"),
        ("SELECT email FROM people", BadInput, "missing_column"),
        ("SELECT id, mobile FROM people", BadInput, "missing_column"),
        ("SELECT id, email, CAST(email AS int) AS mobile FROM people", BadInput, "source_failed"),
        ("SELECT * FROM people WHERE id < 0", BadInput, "empty_input"),
    ],
)
def test_what_the_database_says_is_not_passed_on(server, query, family, code):
    with pytest.raises(family) as refused:
        crm(server, query=query).extract("email", fallbacks=["phone"])
    assert refused.value.code == code
    assert "@example.org" not in f"{refused.value}{refused.value.__cause__}"


def test_a_server_that_is_not_there_can_be_tried_again(server):
    with pytest.raises(StorageError) as refused:
        crm(server, uri="postgresql://node:hunter2@127.0.0.1:1/crm").extract("email")
    assert refused.value.code == "source_unreachable"
    assert refused.value.retryable
    assert "hunter2" not in str(refused.value)


def test_a_user_without_the_right_gets_nothing(server, address):
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    name = f"reader_{uuid.uuid4().hex[:8]}"
    with engine.connect() as c:
        c.execute(sa.text(f"CREATE USER {name}"))
    try:
        with pytest.raises(Misuse) as refused:
            crm(server, uri=address.replace("comity@", f"{name}@")).extract("email")
        assert refused.value.code == "bad_query"
        with engine.connect() as c:
            c.execute(sa.text(f"GRANT SELECT (id, email) ON people TO {name}"))
        few = crm(server, query="SELECT id, email FROM people", uri=address.replace("comity@", f"{name}@"))
        assert few.count() == PEOPLE
    finally:
        with engine.connect() as c:
            c.execute(sa.text(f"DROP OWNED BY {name}"))
            c.execute(sa.text(f"DROP USER {name}"))
        engine.dispose()


def test_secrets_are_looked_up_late_and_shown_never(server, address, monkeypatch, tmp_path):
    found = crm(server, uri="postgresql://node:hunter2@127.0.0.1:1/crm")
    assert "hunter2" not in repr(found)
    (tmp_path / "uri").write_text(f"{address}\n")
    assert crm(server, uri=f"file:{tmp_path / 'uri'}").count() == PEOPLE
    by_name = crm(server)
    monkeypatch.delenv("CRM")
    for missing in (by_name, crm(server, uri="file:not/there")):
        with pytest.raises(Misuse) as refused:
            missing.extract("email")
        assert refused.value.code == "secret_missing"


def test_an_option_the_driver_does_not_know_is_named_as_such(server, monkeypatch):
    found = crm(server)
    odd = type(found.source)(
        "crm", "postgresql", "SELECT 1 AS id", ("id",), {"uri": "env:CRM", "passwrd": "hunter2"}
    )
    with pytest.raises(Misuse) as refused, odd.opened([]):
        pass
    assert refused.value.code == "bad_option"
    assert "hunter2" not in str(refused.value)


def test_nothing_vouches_for_places_in_a_database_others_write_to(server):
    found = crm(server)
    places = found.extract("email").row_index
    for asked in (found.state, lambda: found.take(["age"], places)):
        with pytest.raises(BadInput) as refused:
            asked()
        assert refused.value.code == "source_not_fixed"


@pytest.mark.parametrize("driver", sorted(set(DRIVERS) - {"postgresql"}))
def test_a_driver_that_is_not_installed_is_named_with_its_package(driver, tmp_path):
    text = f"""[datasets.far]
    source = {{ kind = "adbc", driver = "{driver}", query = "SELECT 1", order_by = ["id"], options = {{}} }}
    keys = {{ email = "email" }}
    """
    with pytest.raises(Misuse) as refused:
        Catalogue.parse(text, base=tmp_path)["far"].extract("email")
    assert refused.value.code == "driver_missing"
    assert f"adbc-driver-{driver}" in refused.value.advice
