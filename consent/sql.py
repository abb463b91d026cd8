"""The ledger's storage on SQLite and PostgreSQL.

The write transaction opens with an UPDATE of the one head row. On SQLite that takes the database's write
lock, on PostgreSQL the row's: either way a second writer waits there, and reads only after that, so it
sees what the first committed. The compare-and-swap of the head stands behind it in case the lock fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from consent import tables as t
from consent.errors import HeadMoved
from consent.merkle import EMPTY_ROOT
from consent.state import Standing, StateKey
from consent.store import (
    EntryRow,
    Head,
    InboxRow,
    LedgerTransaction,
    LedgerView,
    OutboxRow,
    PartnerRow,
    ReceiptRow,
    RestrictionRow,
    SideRow,
    StandingKey,
    SubjectRow,
)
from consent.tables import metadata
from privacy.errors import StorageError

__all__ = ["SqlStore", "metadata"]

_IN_LIST = 5_000  # values in one IN (…): well under SQLite's 32,766 variables
_COPY_FROM = 200  # rows from which PostgreSQL's COPY pays
_SCAN = 20_000

_STANDING = (
    "granted_at", "granted_version", "expires_at", "granted_index",
    "restricted_at", "restriction", "restricted_index",
)  # fmt: skip


def _chunks(values: Sequence[Any], size: int = _IN_LIST) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


class _View:
    """Reads on one open connection."""

    def __init__(self, connection: sa.Connection) -> None:
        self._c = connection
        self._sqlite = connection.dialect.name == "sqlite"

    def _in(
        self, columns: str, table: sa.Table, column: str, values: Sequence[Any], **equal: str
    ) -> Iterator[Any]:
        """Rows whose `column` is among `values`, without one bound parameter object a value."""
        mark = "?" if self._sqlite else "%s"
        # The names come from the table objects above, never from a caller's data.
        where = "".join(f"{name} = {mark} AND " for name in equal)
        for chunk in _chunks(list(values)):
            among = f"IN ({','.join('?' * len(chunk))})" if self._sqlite else "= ANY(%s)"
            query = f"SELECT {columns} FROM {table.name} WHERE {where}{column} {among}"  # noqa: S608
            yield from self._c.exec_driver_sql(
                query, (*equal.values(), *(chunk if self._sqlite else (list(chunk),)))
            )

    # the log

    def head(self) -> Head:
        row = self._c.execute(sa.select(t.head.c.size, t.head.c.root, t.head.c.recorded_at)).one_or_none()
        if row is None:
            raise StorageError(
                "The ledger's head row is missing.", advice="Open the ledger once to create it."
            )
        return Head(row.size, bytes(row.root), row.recorded_at)

    def tile(self, level: int, index: int) -> bytes:
        found = self._c.execute(
            sa.select(t.tiles.c.hashes).where(t.tiles.c.level == level, t.tiles.c.idx == index)
        ).scalar_one_or_none()
        return b"" if found is None else bytes(found)

    def entries(self, start: int, end: int) -> list[EntryRow]:
        rows = self._c.execute(
            sa.select(t.entries.c.idx, t.entries.c.leaf, t.entries.c.side)
            .where(t.entries.c.idx >= start, t.entries.c.idx < end)
            .order_by(t.entries.c.idx)
        )
        return [EntryRow(idx, bytes(leaf), side) for idx, leaf, side in rows]

    def side(self, first_index: int) -> SideRow | None:
        return next(iter(self._sides(t.side.c.first_index == first_index)), None)

    def sides(self, start: int, end: int) -> list[SideRow]:
        return self._sides(t.side.c.first_index >= start, t.side.c.first_index < end)

    def sides_of(self, subject: bytes) -> list[SideRow]:
        return self._sides(t.side.c.subject == subject)

    def _sides(self, *where: sa.ColumnElement[bool]) -> list[SideRow]:
        query = sa.select(t.side.c.first_index, t.side.c.subject, t.side.c.sealed).where(*where)
        rows = self._c.execute(query.order_by(t.side.c.first_index))
        return [SideRow(i, None if s is None else bytes(s), bytes(sealed)) for i, s, sealed in rows]

    # subjects

    def find_subjects(self, lookups: Sequence[bytes]) -> dict[bytes, bytes]:
        return {bytes(k): bytes(v) for k, v in self._in("lookup, subject", t.aliases, "lookup", lookups)}

    def subjects(self, handles: Sequence[bytes]) -> dict[bytes, SubjectRow]:
        rows = self._in("handle, wrapped_key, identifiers, created_at", t.subjects, "handle", handles)
        return {bytes(h): SubjectRow(bytes(h), bytes(k), bytes(i), at) for h, k, i, at in rows}

    def all_subjects(self) -> Iterator[SubjectRow]:
        c = t.subjects.c
        for h, k, i, at in self._stream(sa.select(c.handle, c.wrapped_key, c.identifiers, c.created_at)):
            yield SubjectRow(bytes(h), bytes(k), bytes(i), at)

    def aliases_of(self, subject: bytes) -> dict[bytes, str]:
        query = sa.select(t.aliases.c.lookup, t.aliases.c.kind).where(t.aliases.c.subject == subject)
        return {bytes(lookup): kind for lookup, kind in self._c.execute(query)}

    def count_aliases(self) -> int:
        return int(self._c.execute(sa.select(sa.func.count()).select_from(t.aliases)).scalar_one())

    def _stream(self, query: sa.Select[Any]) -> Iterator[Any]:
        yield from self._c.execute(query, execution_options={"yield_per": _SCAN})

    # state

    def standings(self, keys: Sequence[StandingKey]) -> dict[StandingKey, Standing]:
        places: dict[tuple[str, str], list[bytes]] = {}
        for key in keys:
            places.setdefault((key.purpose, key.partner), []).append(key.subject)
        columns = "subject, " + ", ".join(_STANDING)
        found = {}
        for (purpose, partner), subjects in places.items():
            rows = self._in(columns, t.state, "subject", subjects, purpose=purpose, partner=partner)
            for subject, *rest in rows:
                found[StandingKey(purpose, partner, bytes(subject))] = Standing(*rest)
        return found

    def standings_of(self, subjects: Sequence[bytes]) -> dict[bytes, dict[StateKey, Standing]]:
        found: dict[bytes, dict[StateKey, Standing]] = {}
        if subjects:
            keys = [StandingKey(*place, subject) for place in self._places() for subject in subjects]
            for key, standing in self.standings(keys).items():
                found.setdefault(key.subject, {})[key.purpose, key.partner] = standing
        return found

    def _places(self) -> Iterator[StateKey]:
        """The distinct (purpose, partner), each by one seek in the primary key: they are few."""
        c = t.state.c
        query = sa.select(c.purpose, c.partner).order_by(c.purpose, c.partner).limit(1)
        row = self._c.execute(query).one_or_none()
        while row is not None:
            yield row.purpose, row.partner
            after = sa.tuple_(c.purpose, c.partner) > sa.tuple_(
                sa.literal(row.purpose), sa.literal(row.partner)
            )
            row = self._c.execute(query.where(after)).one_or_none()

    def all_standings(self) -> Iterator[tuple[StandingKey, Standing]]:
        c = t.state.c
        query = sa.select(c.purpose, c.partner, c.subject, *(c[name] for name in _STANDING))
        for purpose, partner, subject, *rest in self._stream(query):
            yield StandingKey(purpose, partner, bytes(subject)), Standing(*rest)

    def allowed_lookups(
        self, kind: str, partner: str, at: int, oldest_grant: Mapping[str, int]
    ) -> tuple[list[bytes], int | None]:
        s = t.state.c
        covered = sa.or_(
            *(
                sa.and_(s.purpose == purpose, s.granted_version >= oldest)
                for purpose, oldest in oldest_grant.items()
            )
        )
        counted = sa.and_(covered, s.granted_at <= at)
        live = sa.and_(counted, sa.or_(s.expires_at.is_(None), s.expires_at > at))
        granted = sa.func.max(sa.case((live, s.granted_at)))
        expired = sa.func.max(sa.case((sa.and_(counted, s.expires_at <= at), s.granted_at)))
        restricted = sa.func.max(s.restricted_at)
        never = -(1 << 62)
        inner = (
            sa.select(s.subject, sa.func.min(sa.case((live, s.expires_at))).label("until"))
            .where(s.purpose.in_(list(oldest_grant)), s.partner.in_([partner, "*"]))
            .group_by(s.subject)
            .having(
                granted > sa.func.coalesce(expired, never),
                granted > sa.func.coalesce(restricted, never),
            )
            .subquery()
        )
        query = sa.select(t.aliases.c.lookup, inner.c.until).where(
            t.aliases.c.subject == inner.c.subject, t.aliases.c.kind == kind
        )
        lookups, until = [], None
        for lookup, end in self._stream(query):
            lookups.append(bytes(lookup))
            if end is not None and (until is None or end < until):
                until = end
        return lookups, until

    def restrictions(self, partner: str, kind: str | None, purposes: Sequence[str]) -> list[RestrictionRow]:
        c = t.restrictions.c
        query = sa.select(*t.restrictions.c).where(c.partner == partner, c.purpose.in_(list(purposes)))
        if kind is not None:
            query = query.where(c.kind == kind)
        return [_restriction(row) for row in self._c.execute(query)]

    def restrictions_of(self, partner: str, pseudonyms: Sequence[bytes]) -> list[RestrictionRow]:
        columns = ", ".join(column.name for column in t.restrictions.columns)
        rows = self._in(columns, t.restrictions, "pseudonym", pseudonyms, partner=partner)
        return [_restriction(row) for row in rows]

    def all_restrictions(self) -> Iterator[RestrictionRow]:
        for row in self._stream(sa.select(*t.restrictions.c)):
            yield _restriction(row)

    # policy and partners

    def policies(self) -> list[tuple[int, str, int]]:
        c = t.policies.c
        return [(i, h, v) for i, h, v in self._c.execute(sa.select(c.idx, c.hash, c.version).order_by(c.idx))]

    def partners(self) -> list[PartnerRow]:
        rows = self._c.execute(sa.select(*t.partners.c).order_by(t.partners.c.name))
        return [PartnerRow(**row) for row in rows.mappings()]

    def partner(self, name: str) -> PartnerRow | None:
        row = (
            self._c.execute(sa.select(*t.partners.c).where(t.partners.c.name == name))
            .mappings()
            .one_or_none()
        )
        return None if row is None else PartnerRow(**row)

    # feed

    def outbox(self, partner: str, after: int, limit: int) -> list[OutboxRow]:
        query = (
            sa.select(*t.outbox.c)
            .where(t.outbox.c.partner == partner, t.outbox.c.seq > after)
            .order_by(t.outbox.c.seq)
            .limit(limit)
        )
        return [
            OutboxRow(**row)._replace(subject=bytes(row["subject"]))
            for row in self._c.execute(query).mappings()
        ]

    def outbox_times(self, partner: str) -> list[tuple[int, int | None, int | None]]:
        c = t.outbox.c
        query = sa.select(c.recorded_at, c.enforced_at, c.acked_at).where(c.partner == partner)
        return [(a, b, d) for a, b, d in self._c.execute(query)]

    def told(self, partner: str, subjects: Sequence[bytes]) -> set[bytes]:
        rows = self._in("subject, partner", t.outbox, "subject", subjects)
        return {bytes(subject) for subject, who in rows if who == partner}

    def inbox(self, partner: str, first: int, last: int) -> dict[int, InboxRow]:
        c = t.inbox.c
        query = sa.select(*t.inbox.c).where(c.partner == partner, c.seq >= first, c.seq <= last)
        rows = self._c.execute(query).mappings()
        return {row["seq"]: InboxRow(**row)._replace(digest=bytes(row["digest"])) for row in rows}

    # receipts

    def receipt(self, receipt_id: str) -> ReceiptRow | None:
        c = t.receipts.c
        query = sa.select(c.id, c.idx, c.kind, c.purpose, c.partner, c.job, c.document).where(
            c.id == receipt_id
        )
        row = self._c.execute(query).one_or_none()
        return None if row is None else ReceiptRow(*row)

    def members(self, receipt_id: str) -> bytes | None:
        query = sa.select(t.receipts.c.members).where(t.receipts.c.id == receipt_id)
        found = self._c.execute(query).scalar_one_or_none()
        return None if found is None else bytes(found)

    def receipts(
        self, before: int | None, limit: int, kind: str | None, partner: str | None
    ) -> list[ReceiptRow]:
        c = t.receipts.c
        query = sa.select(c.id, c.idx, c.kind, c.purpose, c.partner, c.job, c.document)
        for column, value in ((c.kind, kind), (c.partner, partner)):
            if value is not None:
                query = query.where(column == value)
        if before is not None:
            query = query.where(c.idx < before)
        return [ReceiptRow(*row) for row in self._c.execute(query.order_by(c.idx.desc()).limit(limit))]


def _restriction(row: Any) -> RestrictionRow:
    return RestrictionRow(row[0], row[1], bytes(row[2]), *row[3:])


class _Transaction(_View):
    """The one write transaction."""

    def _insert(self, table: sa.Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if not rows:
            return
        names = ", ".join(columns)
        if self._sqlite:
            marks = ", ".join("?" * len(columns))
            statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"  # noqa: S608
            self._c.exec_driver_sql(statement, [tuple(row) for row in rows])
        elif len(rows) < _COPY_FROM:
            self._c.execute(sa.insert(table), [dict(zip(columns, row, strict=True)) for row in rows])
        else:
            driver: Any = self._c.connection.driver_connection
            with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)

    def _upsert(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        from sqlalchemy.dialects import postgresql, sqlite

        insert = (sqlite.insert if self._sqlite else postgresql.insert)(table)
        keys = [column.name for column in table.primary_key]
        changed = {name: insert.excluded[name] for name in rows[0] if name not in keys}
        self._c.execute(insert.on_conflict_do_update(index_elements=keys, set_=changed), list(rows))

    def set_head(self, old: Head, new: Head) -> None:
        c = t.head.c
        done = self._c.execute(
            sa.update(t.head)
            .where(c.id == 1, c.size == old.size, c.root == old.root)
            .values(size=new.size, root=new.root, recorded_at=new.recorded_at)
        )
        if done.rowcount != 1:
            raise HeadMoved(
                "Another writer moved the head of the log.", advice="Nothing was written; try again."
            )

    def put_tiles(self, tiles: Sequence[tuple[int, int, bytes]]) -> None:
        self._upsert(t.tiles, [{"level": level, "idx": i, "hashes": hashes} for level, i, hashes in tiles])

    def add_entries(self, rows: Sequence[EntryRow]) -> None:
        self._insert(t.entries, ("idx", "leaf", "side"), rows)

    def add_sides(self, rows: Sequence[SideRow]) -> None:
        self._insert(t.side, SideRow._fields, rows)

    def add_subjects(self, rows: Sequence[SubjectRow]) -> None:
        self._insert(t.subjects, SubjectRow._fields, sorted(rows))

    def put_identifiers(self, handle: bytes, sealed: bytes) -> None:
        self._c.execute(sa.update(t.subjects).where(t.subjects.c.handle == handle).values(identifiers=sealed))

    def add_aliases(self, rows: Sequence[tuple[bytes, str, bytes]]) -> None:
        self._insert(t.aliases, ("lookup", "kind", "subject"), sorted(rows))

    def put_standings(self, rows: Mapping[StandingKey, Standing], existing: set[StandingKey]) -> None:
        new = sorted((*key, *standing) for key, standing in rows.items() if key not in existing)
        self._insert(t.state, (*StandingKey._fields, *_STANDING), new)
        columns = (*StandingKey._fields, *_STANDING)
        changed = [(*key, *standing) for key, standing in rows.items() if key in existing]
        self._upsert(t.state, [dict(zip(columns, row, strict=True)) for row in changed])

    def add_policy(self, index: int, hash_: str, version: int, document: str) -> None:
        self._insert(t.policies, ("idx", "hash", "version", "document"), [(index, hash_, version, document)])

    def put_partner(self, row: PartnerRow) -> None:
        self._upsert(t.partners, [asdict(row)])

    def add_outbox(self, rows: Sequence[OutboxRow]) -> None:
        self._insert(t.outbox, [column.name for column in t.outbox.columns], rows)

    def acknowledge(
        self, partner: str, first: int, last: int, *, received_at: int, enforced_at: int, acked_at: int
    ) -> int:
        c = t.outbox.c
        done = self._c.execute(
            sa.update(t.outbox)
            .where(c.partner == partner, c.seq >= first, c.seq <= last, c.acked_at.is_(None))
            .values(received_at=received_at, enforced_at=enforced_at, acked_at=acked_at)
        )
        return done.rowcount

    def add_inbox(self, rows: Sequence[InboxRow]) -> None:
        self._insert(t.inbox, [column.name for column in t.inbox.columns], rows)

    def put_restrictions(self, rows: Sequence[RestrictionRow]) -> None:
        self._upsert(t.restrictions, [row._asdict() for row in rows])

    def add_receipt(self, row: ReceiptRow, members: bytes) -> None:
        names = ("id", "idx", "kind", "purpose", "partner", "job", "document", "members")
        self._insert(t.receipts, names, [(*row, members)])


def _sqlite_settings(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    try:
        for setting in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000"):
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
        if type(error).__module__.startswith(("psycopg", "sqlite3")):
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
