"""Preference links. Only a hash of a link's token is here, and what is sealed opens with the token alone."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from consent import tables as t
from consent.rows import LinkRow
from consent.sql.rows import ReadRows, WriteRows


class LinksView(ReadRows):
    """Reads of links."""

    def link(self, token_hash: bytes) -> LinkRow | None:
        return self._one_link(t.links.c.token_hash == token_hash)

    def link_by_id(self, link: str) -> LinkRow | None:
        return self._one_link(t.links.c.id == link)

    def links(self, after: tuple[int, str] | None, limit: int, person: bytes | None = None) -> list[LinkRow]:
        c = t.links.c
        query = sa.select(*(c[name] for name in LinkRow._fields)).order_by(c.created_at.desc(), c.id.desc())
        if person is not None:
            query = query.where(c.person == person)
        if after is not None:
            query = query.where(
                sa.tuple_(c.created_at, c.id) < sa.tuple_(sa.literal(after[0]), sa.literal(after[1]))
            )
        return [LinkRow(*row) for row in self._c.execute(query.limit(limit))]

    def _one_link(self, where: sa.ColumnElement[bool]) -> LinkRow | None:
        query = sa.select(*(t.links.c[name] for name in LinkRow._fields)).where(where)
        row = self._c.execute(query).one_or_none()
        return None if row is None else LinkRow(*row)


class LinksChanges(WriteRows):
    """Writes of the same."""

    def add_link(self, row: LinkRow) -> None:
        self._insert(t.links, LinkRow._fields, [row])

    def revoke_links(self, at: int, *, link: str | None = None, persons: Sequence[bytes] = ()) -> int:
        c = t.links.c
        chosen = c.id == link if link is not None else c.person.in_(list(persons))
        done = self._c.execute(
            sa.update(t.links).where(chosen, c.revoked_at.is_(None), c.expires_at > at).values(revoked_at=at)
        )
        return int(done.rowcount)

    def delete_links(self, persons: Sequence[bytes] = (), *, ended_before: int | None = None) -> int:
        c = t.links.c
        if ended_before is None:
            chosen: sa.ColumnElement[bool] = c.person.in_(list(persons))
        else:
            chosen = sa.or_(c.expires_at < ended_before, c.revoked_at < ended_before)
        return int(self._c.execute(sa.delete(t.links).where(chosen)).rowcount)
