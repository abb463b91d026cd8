"""API keys: made once, checked in constant time, limited, expiring, revocable."""

from __future__ import annotations

import datetime as dt
import os

import pytest
import sqlalchemy as sa

from comity.access import ROLES, AccessKeys, authorise
from comity.errors import NotAuthenticated, NotAuthorised
from comity.tables import api_key, metadata
from privacy.errors import Misuse


class Clock:
    now = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(engine: sa.Engine, clock: Clock) -> AccessKeys:
    metadata.create_all(engine)
    return AccessKeys(engine, clock=clock, random=os.urandom)


def test_a_key_lets_its_bearer_in(access: AccessKeys) -> None:
    new = access.create("reports", "analyst")
    assert access.authenticate(new.token) == new.key == access.list()[0]


def test_only_a_hash_is_stored_and_the_token_is_not_in_the_repr(
    access: AccessKeys, engine: sa.Engine
) -> None:
    new = access.create("reports", "analyst")
    secret = new.token.rpartition(f"{new.key.id}-")[2]
    with engine.connect() as connection:
        row = connection.execute(sa.select(api_key)).one()
    assert len(secret) == 43
    assert secret not in repr(row)
    assert secret not in repr(new)


def test_a_wrong_unknown_or_mangled_key_is_refused_alike(access: AccessKeys) -> None:
    token = access.create("reports", "analyst").token
    flipped = token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
    unknown = "comity-" + "0" * 12 + token[19:]
    said = set()
    for wrong in (
        flipped,
        unknown,
        "",
        "x",
        token + "x",
        token[:-1],
        token.upper(),
        " " + token,
        "comity-" * 10**5,
    ):
        with pytest.raises(NotAuthenticated) as caught:
            access.authenticate(wrong)
        said.add(str(caught.value))
    assert len(said) == 1


def test_a_revoked_key_is_refused_at_once_and_for_good(access: AccessKeys) -> None:
    new = access.create("reports", "analyst")
    assert access.revoke(new.key.id).revoked_at is not None
    with pytest.raises(NotAuthenticated):
        access.authenticate(new.token)
    assert access.revoke(new.key.id).revoked_at == access.list()[0].revoked_at
    with pytest.raises(Misuse, match="No API key"):
        access.revoke("nothere")


def test_a_key_expires(access: AccessKeys, clock: Clock) -> None:
    new = access.create("reports", "analyst", expires_at=clock.now + dt.timedelta(hours=1))
    access.authenticate(new.token)
    clock.now += dt.timedelta(hours=1)
    with pytest.raises(NotAuthenticated) as caught:
        access.authenticate(new.token)
    assert caught.value.code == "key_expired"


def test_an_impossible_key_is_not_made(access: AccessKeys, clock: Clock) -> None:
    with pytest.raises(Misuse, match="no role"):
        access.create("x", "root")
    with pytest.raises(Misuse, match="name"):
        access.create("\n", "analyst")
    with pytest.raises(Misuse, match="past"):
        access.create("x", "analyst", expires_at=clock.now)
    for scope in ("v1", "/a,b", "/" + "x" * 600, "/a b"):
        with pytest.raises(Misuse):
            access.create("x", "analyst", scope=[scope])
    assert access.list() == []


def test_roles_and_scopes_decide(access: AccessKeys) -> None:
    analyst = access.create("a", "analyst", scope=["/v1/overlap-queries", "/v1/budgets/"]).key
    assert authorise(analyst, ["analyst"], "/v1/overlap-queries") == "a"
    assert authorise(analyst, ["analyst"], "/v1/overlap-queries/7") == "a"
    assert authorise(analyst, ["analyst"], "/v1/budgets/x") == "a"
    assert authorise(analyst, ["analyst"], "/v1/overlap-queries:preview") == "a"
    for path in ("/v1/overlap-queries-evil", "/v1", "/"):
        with pytest.raises(NotAuthorised, match="scope"):
            authorise(analyst, ["analyst"], path)
    with pytest.raises(NotAuthorised, match="role"):
        authorise(analyst, ["data_steward"], "/v1/overlap-queries")
    with pytest.raises(NotAuthorised):
        authorise(analyst, [], "/v1/overlap-queries")


@pytest.mark.parametrize("role", ROLES)
def test_admin_may_do_what_any_role_may(access: AccessKeys, role: str) -> None:
    assert authorise(access.create("root", "admin").key, [role], "/x") == "root"
