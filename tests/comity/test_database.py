"""The database and its migrations, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from comity.database import (
    all_metadata,
    applied_revision,
    check_migrated,
    latest_revision,
    migrate,
    open_engine,
)
from comity.errors import NotMigrated
from comity.migrations.comparison import COMPARISON
from privacy.errors import StorageError


def test_migrations_make_exactly_the_tables_the_packages_declare(empty_database_url: str) -> None:
    engine = open_engine(empty_database_url)
    migrate(engine)
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection, opts=COMPARISON), _union())
    engine.dispose()
    assert differences == []


def _union() -> sa.MetaData:
    union = sa.MetaData()
    for metadata in all_metadata():
        for table in metadata.sorted_tables:
            table.to_metadata(union)
    return union


def test_no_two_packages_declare_the_same_table_and_each_has_its_prefix() -> None:
    names = [table for metadata in all_metadata() for table in metadata.tables]
    assert len(names) == len(set(names))
    assert {name.split("_")[0] for name in names} == {"privacy", "consent", "clean", "federated", "comity"}


def test_migrating_twice_changes_nothing(empty_database_url: str) -> None:
    engine = open_engine(empty_database_url)
    assert applied_revision(engine) is None
    with pytest.raises(NotMigrated):
        check_migrated(engine)
    migrate(engine)
    migrate(engine)
    check_migrated(engine)
    assert applied_revision(engine) == latest_revision() is not None
    engine.dispose()


def test_two_nodes_migrating_at_once_do_not_collide(empty_database_url: str) -> None:
    failures: list[BaseException] = []

    def go() -> None:
        engine = open_engine(empty_database_url)
        try:
            migrate(engine)
        except BaseException as e:
            failures.append(e)
        finally:
            engine.dispose()

    threads = [threading.Thread(target=go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    engine = open_engine(empty_database_url)
    check_migrated(engine)
    engine.dispose()


def test_a_database_of_a_newer_version_is_left_alone(empty_database_url: str) -> None:
    engine = open_engine(empty_database_url)
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(NotMigrated, match="newer"):
        migrate(engine)
    engine.dispose()


def test_a_database_that_is_not_there_is_a_storage_error_without_its_password(tmp_path: Path) -> None:
    for url in (
        f"sqlite:///{tmp_path / 'no' / 'such' / 'folder.db'}",
        "postgresql+psycopg://user:hunter2@127.0.0.1:1/none",
    ):
        engine = open_engine(url)
        with pytest.raises(StorageError) as caught:
            migrate(engine)
        assert "hunter2" not in str(caught.value)
        engine.dispose()


def test_a_file_that_is_no_database_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "junk.db").write_bytes(b"not a database at all" * 100)
    engine = open_engine(f"sqlite:///{tmp_path / 'junk.db'}")
    with pytest.raises(StorageError):
        migrate(engine)
    engine.dispose()


def test_sqlite_survives_a_power_cut_and_keeps_references(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'comity.db'}")
    with engine.connect() as connection:
        settings = [
            connection.execute(sa.text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    engine.dispose()
    assert settings == ["wal", 2, 1, 30000]
