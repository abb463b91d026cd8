"""The ledger's storage on SQLite and PostgreSQL: one file a concern, put together in `store`."""

from consent.sql.store import SqlStore
from consent.tables import metadata

__all__ = ["SqlStore", "metadata"]
