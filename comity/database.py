"""The node's one database: its engine, the union of everyone's tables, and migrations.

SQLite runs with a write-ahead log and `synchronous=FULL`: what was committed survives a power cut.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from comity.errors import NotMigrated
from privacy.errors import StorageError

__all__ = [
    "alembic_config",
    "all_metadata",
    "applied_revision",
    "check_migrated",
    "latest_revision",
    "migrate",
    "open_engine",
]

MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x636F6D697479  # "comity", an advisory lock of PostgreSQL
_one_at_a_time = threading.Lock()  # Alembic's context is one a process


def open_engine(url: str, *, busy_seconds: float = 30.0) -> sa.Engine:
    """An engine for the node's database; connects lazily, so a database that is down shows later."""
    made = sa.make_url(url)
    if made.get_backend_name() == "sqlite":
        engine = sa.create_engine(url, connect_args={"timeout": busy_seconds})
        sa.event.listen(engine, "connect", _sqlite_settings)
        return engine
    return sa.create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=20)


def _sqlite_settings(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    try:
        for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {setting}")
    finally:
        cursor.close()


def all_metadata() -> list[sa.MetaData]:
    """The metadata of every package that owns tables, lowest room first."""
    import clean_room.storage
    import comity.tables
    import consent.tables
    import federated.storage
    import privacy.budget

    return [
        privacy.budget.metadata,
        consent.tables.metadata,
        clean_room.storage.metadata,
        federated.storage.metadata,
        comity.tables.metadata,
    ]


def alembic_config(connection: sa.Connection | None = None, *, compare: bool = False) -> Config:
    """Alembic's configuration for this node's one environment; `compare` to write a revision."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes.update(connection=connection, compare=compare)
    return config


def latest_revision() -> str | None:
    """The revision this version's tables are at."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def applied_revision(engine: sa.Engine) -> str | None:
    """The revision the database is at; None for an empty one. Raises `StorageError` if it is unreachable."""
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except sa.exc.SQLAlchemyError as e:
        raise _unreachable(e) from None


def check_migrated(engine: sa.Engine) -> None:
    """Raise `NotMigrated` unless the database is at this version's revision."""
    applied, latest = applied_revision(engine), latest_revision()
    if applied != latest:
        raise NotMigrated(
            f"The database is at revision {applied or 'none'}, this version needs {latest}.",
            advice="comity serve and comity init bring it up to date.",
        )


def migrate(engine: sa.Engine) -> None:
    """Bring the database to this version's revision; does nothing where it is there already.

    All in one transaction, one process at a time: an advisory lock of PostgreSQL, SQLite's write lock.
    Raises `StorageError` if the database is unreachable, `NotMigrated` if it is of a newer version.
    """
    applied = applied_revision(engine)
    known = {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}
    if applied is not None and applied not in known:
        raise NotMigrated(
            f"The database is at revision {applied}, which this version does not know.",
            advice="It was written by a newer Comity: use that.",
        )
    try:
        with _one_at_a_time, engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            command.upgrade(alembic_config(connection), "head")
            connection.commit()
    except sa.exc.SQLAlchemyError as e:
        raise _unreachable(e) from None


def _unreachable(error: sa.exc.SQLAlchemyError) -> StorageError:
    # The driver's own message can quote the URL with its password, so only its kind is passed on.
    return StorageError(
        f"The database did not answer as it should ({type(error).__name__}).",
        advice="Check [database] url in node.toml and that the database runs.",
    )
