"""Whole-ledger reads for the audit, page by page, so that memory stays bounded by a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from consent import tables as t
from consent.rows import AuditReportRow, ReceiptRow, SideRow, SubjectRow
from consent.sql.rows import ReadRows, WriteRows


class AuditView(ReadRows):
    """Reads of the ledger from end to end, and of the reports kept."""

    def leaves_at(self, indexes: Sequence[int]) -> dict[int, bytes]:
        return {i: bytes(leaf) for i, leaf in self._in("idx, leaf", t.entries, "idx", indexes)}

    def system_sides(self, start: int, end: int) -> list[SideRow]:
        c = t.side.c
        query = (
            sa.select(c.first_index, c.sealed)
            .where(c.first_index >= start, c.first_index < end, c.subject.is_(None))
            .order_by(c.first_index)
        )
        return [SideRow(i, None, bytes(sealed)) for i, sealed in self._c.execute(query)]

    def subjects_after(self, handle: bytes, limit: int) -> list[SubjectRow]:
        c = t.subjects.c
        query = sa.select(c.handle, c.wrapped_key, c.identifiers, c.created_at)
        rows = self._c.execute(query.where(c.handle > handle).order_by(c.handle).limit(limit))
        return [SubjectRow(bytes(h), bytes(k), bytes(i), at) for h, k, i, at in rows]

    def sides_of_all(self, subjects: Sequence[bytes]) -> list[SideRow]:
        rows = self._in("first_index, subject, sealed", t.side, "subject", subjects)
        return [SideRow(i, bytes(subject), bytes(sealed)) for i, subject, sealed in rows]

    def aliases_after(self, kind: str, lookup: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        c = t.aliases.c
        query = sa.select(c.lookup, c.subject).where(c.lookup > lookup, c.kind == kind)
        return [(bytes(k), bytes(s)) for k, s in self._c.execute(query.order_by(c.lookup).limit(limit))]

    def receipts_between(self, start: int, end: int) -> Iterator[ReceiptRow]:
        c = t.receipts.c
        query = sa.select(c.id, c.idx, c.kind, c.purpose, c.partner, c.job, c.document)
        for row in self._stream(query.where(c.idx >= start, c.idx < end).order_by(c.idx)):
            yield ReceiptRow(*row)

    def policy_document(self, hash_: str) -> str | None:
        query = sa.select(t.policies.c.document).where(t.policies.c.hash == hash_).limit(1)
        found = self._c.execute(query).scalar_one_or_none()
        return None if found is None else str(found)

    def audit_report(self, report_id: str) -> AuditReportRow | None:
        row = self._c.execute(
            sa.select(*t.audit_reports.c).where(t.audit_reports.c.id == report_id)
        ).one_or_none()
        return None if row is None else AuditReportRow(*row)

    def audit_reports(self, before: int | None, limit: int) -> list[tuple[str, int, str, int]]:
        c = t.audit_reports.c
        query = sa.select(c.id, c.idx, c.law, c.created_at)
        if before is not None:
            query = query.where(c.idx < before)
        return [
            (i, idx, law, at)
            for i, idx, law, at in self._c.execute(query.order_by(c.idx.desc()).limit(limit))
        ]


class AuditChanges(WriteRows):
    """Writes of the same."""

    def add_audit_report(self, row: AuditReportRow) -> None:
        self._insert(t.audit_reports, AuditReportRow._fields, [row])
