"""Signed requests: what holds, and everything that does not."""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa

from comity.errors import NotAuthenticated
from comity.identity import Identity, RequestVerifier, SignedRequest, check_answer
from comity.nonces import NonceStore
from comity.tables import metadata, request_nonce
from privacy.errors import PeerViolation
from privacy.signing import SigningKey

NOW = dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
SHOP, OTHER = SigningKey.generate(), SigningKey.generate()
PATH = "/v1/peer/feed?after=3"
BODY = b'{"hello":1}'


class Pins:
    def public_key(self, partner: str) -> bytes | None:
        return SHOP.public.bytes32 if partner == "shop" else None


class Memory:
    """Nonces in memory: the same promise as the store, without a database."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str]] = set()

    def first_use(self, partner: str, nonce: str, *, now: int, expires_at: int) -> bool:
        assert expires_at > now - 1
        new = (partner, nonce) not in self.seen
        self.seen.add((partner, nonce))
        return new


def verifier(now: dt.datetime = NOW) -> RequestVerifier:
    return RequestVerifier("http://bank.example:8440", Pins(), Memory(), lambda: now)


def signed(
    *,
    name: str = "shop",
    key: SigningKey = SHOP,
    url: str = f"http://bank.example:8440{PATH}",
    body: bytes = BODY,
    now: dt.datetime = NOW,
    random: Callable[[int], bytes] = os.urandom,
) -> SignedRequest:
    return Identity(name, key).sign_request(
        "POST", url, body, content_type="application/json", clock=lambda: now, random=random
    )


def check(
    request: SignedRequest,
    *,
    by: RequestVerifier | None = None,
    method: str = "POST",
    target: str = PATH,
    headers: list[tuple[str, str]] | None = None,
    body: bytes = BODY,
) -> str:
    lines = list(request.headers.items()) if headers is None else headers
    return (by or verifier()).request(method, target, lines, body)


def refusal(request: SignedRequest, **changes: object) -> str:
    with pytest.raises(NotAuthenticated) as caught:
        check(request, **changes)  # type: ignore[arg-type]
    return caught.value.code


def test_a_signed_request_names_its_partner() -> None:
    assert check(signed()) == "shop"
    assert check(signed(body=b""), body=b"") == "shop"


def test_what_is_signed_covers_the_parts_that_matter() -> None:
    fields = signed().headers["signature-input"]
    for part in ("@method", "@authority", "@path", "@query", "content-type", "content-digest"):
        assert f'"{part}"' in fields
    for parameter in ("created=", "nonce=", 'keyid="shop"', 'tag="comity"', 'alg="ed25519"'):
        assert parameter in fields


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "PUT"},
        {"target": "/v1/peer/other?after=3"},
        {"target": "/v1/peer/feed?after=4"},
        {"target": "/v1/peer/feed"},
        {"body": b'{"hello":2}'},
        {"body": b""},
    ],
)
def test_a_changed_request_is_refused(changes: dict[str, object]) -> None:
    assert refusal(signed(), **changes) == "signature_invalid"


@pytest.mark.parametrize("name", ["signature", "signature-input", "content-digest", "content-type"])
def test_a_missing_changed_or_doubled_header_is_refused(name: str) -> None:
    request = signed()
    lines = list(request.headers.items())
    assert refusal(request, headers=[line for line in lines if line[0] != name]) == "signature_missing"
    assert refusal(request, headers=[*lines, (name, request.headers[name])]) == "signature_invalid"
    assert refusal(request, headers=[*lines, (name.upper(), "x")]) == "signature_invalid"
    other = signed(body=b"other", random=lambda n: b"\x01" * n).headers[name]
    swapped = [(k, other if k == name and other != v else "text/plain" if k == name else v) for k, v in lines]
    assert refusal(request, headers=swapped) == "signature_invalid"


@pytest.mark.parametrize(
    "junk", ["", "=", "comity=:AAAA:", "comity=1", "(", "comity=:" + "A" * 100_000 + ":", "\x00"]
)
def test_junk_where_a_signature_should_be_is_refused(junk: str) -> None:
    request = signed()
    for name in ("signature", "signature-input", "content-digest"):
        lines = [(k, junk if k == name else v) for k, v in request.headers.items()]
        assert refusal(request, headers=lines) == "signature_invalid"


def test_a_stranger_and_another_key_are_refused() -> None:
    assert refusal(signed(name="stranger", key=OTHER)) == "unknown_key"
    assert refusal(signed(key=OTHER)) == "signature_invalid"


def test_a_request_to_one_node_is_worth_nothing_at_another() -> None:
    assert refusal(signed(url=f"http://insurer.example:8440{PATH}")) == "signature_invalid"
    assert refusal(signed(url=f"http://bank.example:9999{PATH}")) == "signature_invalid"


@pytest.mark.parametrize("seconds", [-61, 61, -86400, 10**7])
def test_a_request_outside_the_window_is_refused(seconds: int) -> None:
    assert refusal(signed(now=NOW + dt.timedelta(seconds=seconds))) == "clock_skew"


@pytest.mark.parametrize("seconds", [-59, 0, 59])
def test_a_request_inside_the_window_passes(seconds: int) -> None:
    assert check(signed(now=NOW + dt.timedelta(seconds=seconds))) == "shop"


def test_a_replay_is_refused() -> None:
    by, request = verifier(), signed()
    assert check(request, by=by) == "shop"
    assert refusal(request, by=by) == "replayed_request"
    assert check(signed(), by=by) == "shop"


def test_a_forged_request_leaves_no_nonce_behind() -> None:
    by = verifier()
    refusal(signed(key=OTHER), by=by)
    refusal(signed(now=NOW - dt.timedelta(hours=1)), by=by)
    assert isinstance(by.nonces, Memory)
    assert by.nonces.seen == set()


def test_a_signature_that_covers_too_little_is_refused() -> None:
    request = signed()
    lines = dict(request.headers)
    lines["signature-input"] = lines["signature-input"].replace('"@query" ', "")
    assert refusal(request, headers=list(lines.items())) == "signature_invalid"


def test_no_error_quotes_what_was_sent() -> None:
    with pytest.raises(NotAuthenticated) as caught:
        check(signed(name="alice@example.com", key=OTHER))
    assert "alice" not in str(caught.value)


def answered(request: SignedRequest, body: bytes = b"answer", status: int = 200) -> list[tuple[str, str]]:
    added = Identity("bank", OTHER).sign_response(
        request, status, "application/json", body, clock=lambda: NOW
    )
    return [("content-type", "application/json"), *added.items()]


def test_an_answer_is_bound_to_its_question() -> None:
    request, another = signed(), signed()
    lines = answered(request)
    key = OTHER.public.bytes32

    def holds(
        *,
        name: str = "bank",
        by: bytes = key,
        to: SignedRequest = request,
        status: int = 200,
        body: bytes = b"answer",
        headers: list[tuple[str, str]] = lines,
    ) -> bool:
        try:
            check_answer(name, by, to, status=status, headers=headers, body=body)
        except PeerViolation as e:
            assert e.code == "response_signature_invalid"
            return False
        return True

    assert holds()
    assert not holds(to=another)
    assert not holds(to=replace(request, method="GET"))
    assert not holds(status=204)
    assert not holds(body=b"other")
    assert not holds(by=SHOP.public.bytes32)
    assert not holds(name="insurer")
    assert not holds(headers=[])
    assert not holds(headers=[*lines, lines[1]])


def test_the_nonce_store_lets_exactly_one_of_many_through(engine: sa.Engine) -> None:
    metadata.create_all(engine)
    store = NonceStore(engine)
    firsts: list[bool] = []

    def use() -> None:
        firsts.append(store.first_use("shop", "n" * 24, now=0, expires_at=60))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(firsts) == [False] * 7 + [True]
    assert store.first_use("bank", "n" * 24, now=0, expires_at=60)
    assert not NonceStore(engine).first_use("shop", "n" * 24, now=0, expires_at=60)


def test_expired_nonces_are_forgotten_in_time(engine: sa.Engine) -> None:
    metadata.create_all(engine)
    store = NonceStore(engine, sweep_every=16)
    for i in range(40):
        assert store.first_use("shop", f"nonce-{i:020}", now=i, expires_at=i + 1)
    with engine.connect() as connection:
        left = connection.execute(sa.select(sa.func.count()).select_from(request_nonce)).scalar_one()
    assert left <= 10
