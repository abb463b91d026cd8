"""The roof's own tables: API keys, and the nonces of requests already seen."""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["api_key", "metadata", "request_nonce"]

metadata = sa.MetaData()

# Times are whole seconds since 1970 UTC: the same bytes on every database, no time zones to lose.
api_key = sa.Table(
    "comity_api_key",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("role", sa.String(32), nullable=False),
    sa.Column("scope", sa.String(500), nullable=False),
    sa.Column("secret_hash", sa.LargeBinary(32), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
)

request_nonce = sa.Table(
    "comity_request_nonce",
    metadata,
    sa.Column("partner", sa.String(63), primary_key=True),
    sa.Column("nonce", sa.String(64), primary_key=True),
    sa.Column("expires_at", sa.BigInteger, nullable=False, index=True),
)
