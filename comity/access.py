"""API keys and roles: who of this organisation may call the node.

A key is `comity-<id>-<secret>`: a public 12-hex-digit id and 256 random bits. Only the SHA-256 of the secret
is stored; the whole key is shown once, when made. A key has one role, may be limited to paths, may expire
and may be revoked. Partners are another kind of caller: they sign (see `comity.identity`).
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from comity.errors import NotAuthenticated, NotAuthorised
from comity.tables import api_key
from privacy.errors import Misuse

__all__ = ["ROLES", "AccessKeys", "ApiKey", "NewKey"]

ROLES = ("analyst", "data_steward", "compliance_officer", "admin")
_TOKEN = re.compile(r"comity-([0-9a-f]{12})-([A-Za-z0-9_\-]{43})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@\-]{0,99}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key. `scope` lists the path prefixes it may call; empty means all."""

    id: str
    name: str
    role: str
    scope: tuple[str, ...]
    created_at: dt.datetime
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made; `token` is the only copy there will ever be."""

    key: ApiKey
    token: str = field(repr=False)


class AccessKeys:
    """Makes, lists, revokes and checks API keys."""

    def __init__(
        self, engine: sa.Engine, *, clock: Callable[[], dt.datetime], random: Callable[[int], bytes]
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._random = random

    def create(
        self, name: str, role: str, *, scope: Sequence[str] = (), expires_at: dt.datetime | None = None
    ) -> NewKey:
        """A new key. Raises `Misuse` for an unknown role, an unusable name or scope, or a past expiry."""
        if role not in ROLES:
            raise Misuse(
                f"There is no role of that name; the roles are {', '.join(ROLES)}.", code="unknown_role"
            )
        if not _NAME.fullmatch(name):
            raise Misuse("A key's name is 1 to 100 letters, digits, spaces, dots, hyphens, underscores or @.")
        if any(not re.fullmatch(r"/[\x21-\x2b\x2d-\x7e]*", prefix) for prefix in scope):
            raise Misuse("A scope is a path that starts with a slash, as in /v1/overlap-queries.")
        if len(",".join(scope)) > 500:
            raise Misuse("The scopes of one key may have 500 characters in all.")
        now = self._clock()
        if expires_at is not None and expires_at <= now:
            raise Misuse("The expiry lies in the past.")
        secret = base64.urlsafe_b64encode(self._random(32)).rstrip(b"=").decode()
        key_id = self._random(6).hex()
        with self._engine.begin() as connection:
            connection.execute(
                sa.insert(api_key).values(
                    id=key_id,
                    name=name,
                    role=role,
                    scope=",".join(scope),
                    secret_hash=hashlib.sha256(secret.encode()).digest(),
                    created_at=int(now.timestamp()),
                    expires_at=None if expires_at is None else int(expires_at.timestamp()),
                )
            )
        key = ApiKey(key_id, name, role, tuple(scope), _second(now), expires_at and _second(expires_at), None)
        return NewKey(key, f"comity-{key_id}-{secret}")

    def list(self) -> Sequence[ApiKey]:
        """Every key, oldest first, revoked and expired ones included."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(api_key).order_by(api_key.c.created_at, api_key.c.id)).all()
        return [_key(row) for row in rows]

    def revoke(self, key_id: str) -> ApiKey:
        """Revoke at once and for good; revoking twice changes nothing. Raises `Misuse` for an unknown id."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(api_key)
                .where(api_key.c.id == key_id, api_key.c.revoked_at.is_(None))
                .values(revoked_at=int(self._clock().timestamp()))
            )
            row = connection.execute(sa.select(api_key).where(api_key.c.id == key_id)).one_or_none()
        if row is None:
            raise Misuse("No API key has that id.", advice="See: comity access list", code="unknown_key_id")
        return _key(row)

    def authenticate(self, token: str) -> ApiKey:
        """The key that `token` is. Raises `NotAuthenticated`, the same whatever is wrong but expiry."""
        match = _TOKEN.fullmatch(token)
        row = None
        if match:
            with self._engine.connect() as connection:
                row = connection.execute(sa.select(api_key).where(api_key.c.id == match[1])).one_or_none()
        # Compared also for an unknown id, so that the time taken does not tell ids apart.
        stored = bytes(32) if row is None else bytes(row.secret_hash)
        given = hashlib.sha256((match[2] if match else "").encode()).digest()
        if not hmac.compare_digest(stored, given) or row is None or row.revoked_at is not None:
            raise NotAuthenticated(
                "The API key is unknown or revoked.", advice="Send a valid one as: Authorization: Bearer …"
            )
        if row.expires_at is not None and row.expires_at <= self._clock().timestamp():
            raise NotAuthenticated(
                "The API key has expired.",
                advice="Make another with: comity access create",
                code="key_expired",
            )
        return _key(row)


def authorise(key: ApiKey, roles: Sequence[str], path: str) -> str:
    """The key's name if it may call `path` in one of `roles` (admin may in any); else `NotAuthorised`."""
    if key.role != "admin" and key.role not in roles:
        raise NotAuthorised(
            f"The role {key.role} may not do this.",
            advice=f"It takes one of: {', '.join([*roles, 'admin'])}.",
        )
    if key.scope and not any(
        path == p or path.startswith((p.rstrip("/") + "/", p.rstrip("/") + ":")) for p in key.scope
    ):
        raise NotAuthorised("The API key's scope does not cover this path.")
    return key.name


def _key(row: sa.Row[tuple[object, ...]]) -> ApiKey:
    def moment(value: int | None) -> dt.datetime | None:
        return None if value is None else dt.datetime.fromtimestamp(value, dt.UTC)

    created = moment(row.created_at)
    if created is None:
        raise AssertionError("created_at is not null")
    scope = tuple(part for part in row.scope.split(",") if part)
    return ApiKey(row.id, row.name, row.role, scope, created, moment(row.expires_at), moment(row.revoked_at))


def _second(moment: dt.datetime) -> dt.datetime:
    return moment.replace(microsecond=0)
