"""The ledger's storage on SQLite and PostgreSQL.

The write transaction opens with an UPDATE of the one head row. On SQLite that takes the database's write
lock, on PostgreSQL the row's: either way a second writer waits there, and reads only after that, so it
sees what the first committed. The compare-and-swap of the head stands behind it in case the lock fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from consent import tables as t
from consent.merkle import EMPTY_ROOT
from consent.sql.audit import AuditChanges, AuditView
from consent.sql.entries import EntriesChanges, EntriesView
from consent.sql.erasure import ErasureChanges, ErasureView
from consent.sql.exchange import ExchangeChanges, ExchangeView
from consent.sql.links import LinksChanges, LinksView
from consent.sql.listing import ListingView
from consent.sql.people import PeopleChanges, PeopleView
from consent.sql.records import RecordsChanges, RecordsView
from consent.sql.standings import StandingsView
from consent.sql.state_roots import StateRootsChanges, StateRootsView
from consent.sql.witness import WitnessChanges, WitnessView
from consent.store import LedgerTransaction, LedgerView
from privacy.errors import StorageError

__all__ = ["SqlStore"]


class _View(
    EntriesView, PeopleView, StandingsView, StateRootsView, ExchangeView, RecordsView,
    AuditView, ErasureView, WitnessView, LinksView, ListingView,
):  # fmt: skip
    """A snapshot: everything read belongs to one committed head."""


class _Transaction(
    EntriesChanges, PeopleChanges, StateRootsChanges, ExchangeChanges, RecordsChanges,
    AuditChanges, ErasureChanges, WitnessChanges,
    EntriesView, PeopleView, StandingsView, StateRootsView, ExchangeView, RecordsView,
    AuditView, ErasureView, WitnessView,
    LinksChanges, LinksView, ListingView,
):  # fmt: skip
    """The one write transaction. It sees its own writes."""


def _sqlite_settings(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    try:
        # secure_delete: a deleted cell is overwritten with zeros, not only unlinked.
        # The cache (32 MB) holds the inner pages of tables whose keys are random; the larger interval
        # between checkpoints spares writing the same pages of theirs twice.
        for setting in (
            "journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "secure_delete=ON",
            "cache_size=-32768", "wal_autocheckpoint=8000",
        ):  # fmt: skip
            cursor.execute(f"PRAGMA {setting}")
    finally:
        cursor.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Turn driver errors into StorageError: their own texts quote statements and values."""
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        origin = getattr(error, "orig", None)
        name = type(error if origin is None else origin).__name__
        raise StorageError(f"The ledger's database refused ({name}).") from None
    except Exception as error:
        # A text that is no longer UTF-8 stops the driver, or SQLite's own message about it.
        if type(error).__module__.startswith(("psycopg", "sqlite3")) or isinstance(error, UnicodeDecodeError):
            raise StorageError(f"The ledger's database refused ({type(error).__name__}).") from None
        raise


class SqlStore:
    """`LedgerStore` on an SQLAlchemy engine (SQLite file or PostgreSQL). The tables are `metadata`'s."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _sqlite_settings)
            if not isinstance(engine.pool, sa.StaticPool):
                engine.dispose()  # connections opened before now have not had the settings

    def prepare(self) -> None:
        with _quiet(), self._engine.begin() as c:
            if c.execute(sa.select(t.head.c.id)).one_or_none() is None:
                from sqlalchemy.dialects import postgresql, sqlite

                insert = sqlite.insert if c.dialect.name == "sqlite" else postgresql.insert
                row = {"id": 1, "size": 0, "root": EMPTY_ROOT, "recorded_at": 0, "epoch": 0}
                c.execute(insert(t.head).values(**row).on_conflict_do_nothing())

    @contextmanager
    def read(self) -> Iterator[LedgerView]:
        with _quiet(), self._engine.connect() as c:
            if c.dialect.name == "sqlite":
                driver: Any = c.connection.driver_connection
                # The sqlite3 module opens no transaction for reads; without one each SELECT is its own.
                if not driver.in_transaction:
                    c.exec_driver_sql("BEGIN")
            else:
                c = c.execution_options(isolation_level="REPEATABLE READ")  # noqa: PLW2901
            yield _View(c)

    @contextmanager
    def write(self) -> Iterator[LedgerTransaction]:
        with _quiet(), self._engine.begin() as c:
            locked = c.execute(sa.update(t.head).where(t.head.c.id == 1).values(epoch=t.head.c.epoch + 1))
            if locked.rowcount != 1:
                raise StorageError(
                    "The ledger's head row is missing.", advice="Open the ledger once to create it."
                )
            yield _Transaction(c)

    def scrub(self, *, compact: bool = False) -> bool:
        with _quiet(), self._engine.connect() as c:
            c = c.execution_options(isolation_level="AUTOCOMMIT")  # noqa: PLW2901
            if c.dialect.name == "sqlite":
                try:
                    if compact:
                        c.exec_driver_sql("VACUUM")
                    # Old versions of a page live on in the write-ahead log until it is cut to nothing.
                    busy = c.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar_one()
                except sa.exc.OperationalError:
                    return False
                return not busy
            for table in (t.subjects, t.aliases, t.side, t.state, t.outbox):
                full = "FULL" if compact and table in (t.subjects, t.aliases) else ""
                c.exec_driver_sql(f"VACUUM {f'({full})' if full else ''} {table.name}")
            return True
