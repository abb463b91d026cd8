"""Nonces of partner requests already accepted, kept in the database so that a restart forgets none."""

from __future__ import annotations

import itertools

import sqlalchemy as sa

from comity.tables import request_nonce

__all__ = ["NonceStore"]


class NonceStore:
    """Implements `comity.identity.Nonces`. The primary key decides a race, on either database."""

    def __init__(self, engine: sa.Engine, *, sweep_every: int = 512) -> None:
        self._engine = engine
        self._sweep_every = sweep_every
        self._calls = itertools.count(1)

    def first_use(self, partner: str, nonce: str, *, now: int, expires_at: int) -> bool:
        """Record the nonce and say whether it was new; every so many calls forget those that expired."""
        if next(self._calls) % self._sweep_every == 0:
            with self._engine.begin() as connection:
                connection.execute(sa.delete(request_nonce).where(request_nonce.c.expires_at < now))
        try:
            with self._engine.begin() as connection:
                connection.execute(
                    sa.insert(request_nonce).values(partner=partner, nonce=nonce, expires_at=expires_at)
                )
        except sa.exc.IntegrityError:
            return False
        return True
