"""The state table: for each subject, purpose and partner the latest grant and restriction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import sqlalchemy as sa

from consent import tables as t
from consent.rows import StandingKey
from consent.sql.rows import ReadRows, WriteRows
from consent.state import Standing, StateKey
from consent.state_tree import state_key

_STANDING = (
    "granted_at", "granted_version", "expires_at", "granted_index",
    "restricted_at", "restriction", "restricted_index",
)  # fmt: skip

_FEW = 50  # places asked about in one expression: well under SQLite's depth of 1,000


class StandingsView(ReadRows):
    """Reads of the state."""

    def standings(self, keys: Sequence[StandingKey]) -> dict[StandingKey, Standing]:
        if 0 < len(keys) <= _FEW and len({key.subject for key in keys}) == 1:
            return self._standings_of_one(keys)
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

    def _standings_of_one(self, keys: Sequence[StandingKey]) -> dict[StandingKey, Standing]:
        """One question for all places of one subject, as a point check asks."""
        columns = ", ".join(("purpose", "partner", "subject", *_STANDING))
        either = " OR ".join(["(purpose = ? AND partner = ? AND subject = ?)"] * len(keys))
        query = f"SELECT {columns} FROM consent_state WHERE {either}"  # noqa: S608
        rows = self._rows(query, [value for key in keys for value in key])
        return {StandingKey(*row[:3]): Standing(*row[3:]) for row in rows}

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


class StandingsChanges(StandingsView, WriteRows):
    """Writes of the state."""

    def put_standings(self, rows: Mapping[StandingKey, Standing], existing: set[StandingKey]) -> None:
        columns = (*StandingKey._fields, *_STANDING)
        new = [(*key, *standing) for key, standing in rows.items() if key not in existing]
        self._insert(t.state, columns, sorted(new))
        self._put(t.state, columns, [(*key, *standing) for key, standing in rows.items() if key in existing])

    def remove_standings(self, subjects: Sequence[bytes]) -> int:
        gone = [(*place, who) for who, state in self.standings_of(subjects).items() for place in state]
        keys = {state_key(who, purpose, partner) for purpose, partner, who in gone}
        self._put(t.state_removed, ("key",), [(key,) for key in sorted(keys)])
        self._remove(t.state, StandingKey._fields, gone)
        return len(gone)
