"""Partners, and both directions of the opt-out feed with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from consent import tables as t
from consent.rows import EvidenceRow, FeedRow, InboxRow, OutboxRow, PartnerRow, RestrictionRow
from consent.sql.rows import ReadRows, WriteRows


class ExchangeView(ReadRows):
    """Reads of partners, outbox, inbox and received restrictions."""

    def restrictions(self, partner: str, kind: str | None, purposes: Sequence[str]) -> list[RestrictionRow]:
        c = t.restrictions.c
        columns = ", ".join(column.name for column in c)
        where = f"partner = ? AND purpose IN ({', '.join('?' * len(purposes))})"
        query = f"SELECT {columns} FROM consent_restrictions WHERE {where}"  # noqa: S608
        rows = self._rows(query, (partner, *purposes))
        return [_restriction(row) for row in rows if kind is None or row[1] == kind]

    def restrictions_of(self, partner: str, pseudonyms: Sequence[bytes]) -> list[RestrictionRow]:
        columns = ", ".join(column.name for column in t.restrictions.columns)
        rows = self._in(columns, t.restrictions, "pseudonym", pseudonyms, partner=partner)
        return [_restriction(row) for row in rows]

    def all_restrictions(self) -> Iterator[RestrictionRow]:
        for row in self._stream(sa.select(*t.restrictions.c)):
            yield _restriction(row)

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
        return [_outbox(row) for row in self._c.execute(query).mappings()]

    def feed_rows(self, partner: str, after: int, limit: int) -> list[FeedRow]:
        c, e = t.outbox.c, t.entries.c
        query = (
            sa.select(
                c.seq,
                c.idx,
                c.subject,
                c.type,
                c.purposes,
                c.effective_at,
                c.recorded_at,
                c.pseudonyms,
                e.leaf,
            )
            .join_from(t.outbox, t.entries, c.idx == e.idx)
            .where(c.partner == partner, c.seq > after)
            .order_by(c.seq)
            .limit(limit)
        )
        return [
            FeedRow(*row)._replace(subject=bytes(row.subject), leaf=bytes(row.leaf))
            for row in self._c.execute(query)
        ]

    def oldest_waiting(self, partner: str) -> int | None:
        c = t.outbox.c
        acked = sa.select(t.partners.c.acked_seq).where(t.partners.c.name == partner).scalar_subquery()
        query = sa.select(sa.func.min(c.recorded_at)).where(c.partner == partner, c.seq > acked)
        found: int | None = self._c.execute(query).scalar_one()
        return found

    def undelivered(self, subject: bytes) -> list[OutboxRow]:
        c = t.outbox.c
        query = sa.select(*c).where(c.subject == subject, c.acked_at.is_(None)).order_by(c.partner, c.seq)
        return [_outbox(row) for row in self._c.execute(query).mappings()]

    def outbox_times(self, partner: str, since: int = 0) -> list[tuple[int, int | None, int | None]]:
        c = t.outbox.c
        query = sa.select(c.recorded_at, c.enforced_at, c.acked_at)
        query = query.where(c.partner == partner, c.idx >= since)
        return [(a, b, d) for a, b, d in self._c.execute(query)]

    def told(self, partner: str, subjects: Sequence[bytes]) -> set[bytes]:
        rows = self._in("subject, partner", t.outbox, "subject", subjects)
        return {bytes(subject) for subject, who in rows if who == partner}

    def inbox(self, partner: str, after: int, limit: int) -> list[InboxRow]:
        c = t.inbox.c
        query = sa.select(*c).where(c.partner == partner, c.seq > after).order_by(c.seq).limit(limit)
        return [
            InboxRow(**row)._replace(leaf=bytes(row["leaf"]), pseudonyms=bytes(row["pseudonyms"]))
            for row in self._c.execute(query).mappings()
        ]

    def evidence(self, partner: str | None = None) -> list[EvidenceRow]:
        c = t.feed_evidence.c
        query = sa.select(*c).order_by(c.found_at)
        if partner is not None:
            query = query.where(c.partner == partner)
        return [
            EvidenceRow(**row)._replace(message=bytes(row["message"]))
            for row in self._c.execute(query).mappings()
        ]


class ExchangeChanges(WriteRows):
    """Writes of the same."""

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
            .values(received_at=received_at, enforced_at=enforced_at, acked_at=acked_at, pseudonyms=None)
        )
        return done.rowcount

    def freeze(self, partner: str, seqs: Sequence[int], sealed: bytes) -> None:
        c = t.outbox.c
        self._c.execute(
            sa.update(t.outbox).where(c.partner == partner, c.seq.in_(list(seqs))).values(pseudonyms=sealed)
        )

    def add_inbox(self, rows: Sequence[InboxRow]) -> None:
        self._insert(t.inbox, [column.name for column in t.inbox.columns], rows)

    def add_evidence(self, row: EvidenceRow) -> None:
        c = t.feed_evidence.c
        if self._c.execute(sa.select(c.id).where(c.id == row.id)).one_or_none() is None:
            self._insert(t.feed_evidence, EvidenceRow._fields, [row])

    def put_restrictions(self, rows: Sequence[RestrictionRow]) -> None:
        self._upsert(t.restrictions, [row._asdict() for row in rows])


def _outbox(row: Any) -> OutboxRow:
    sealed = row["pseudonyms"]
    return OutboxRow(**row)._replace(
        subject=bytes(row["subject"]), pseudonyms=None if sealed is None else bytes(sealed)
    )


def _restriction(row: Any) -> RestrictionRow:
    return RestrictionRow(row[0], row[1], bytes(row[2]), *row[3:])
