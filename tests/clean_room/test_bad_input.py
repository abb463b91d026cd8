"""Bad input of every kind: a clear error with its code, the right state on both sides, nothing left."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from clean_room.datasets import Catalogue
from clean_room.protocols.messages import Offer
from privacy.errors import BadInput, Misuse, PeerViolation, Refused


def budgets(node: Any) -> float:
    """ε reserved or spent of a node's datasets."""
    return sum(s.reserved.epsilon + s.committed.epsilon for s in node.service.budgets())


def leftovers(node: Any, job: Any) -> list[Path]:
    return list((node.directory / "artefacts").rglob(f"*{job.id}*"))


def check_failed(pair: Any, job: Any, code: str, state: str = "failed", theirs: str | None = None) -> None:
    """The analyst's job ended with `code`; the contributor's, if it has one, in state `theirs`."""
    assert (job.state, job.error.code) == (state, code), job.error
    assert job.result is None
    assert job.receipt_id is None
    if theirs is None:
        with pytest.raises(Misuse):
            pair.shop.service.job(job.id)
    else:
        assert pair.shop.wait(job.id).state == theirs
    assert leftovers(pair.bank, job) == leftovers(pair.shop, job) == []


CSV = "email,mobile,age\n"
UNUSABLE = {
    "no-bytes": (".csv", b"", "empty_input"),
    "only-a-header": (".csv", CSV.encode(), "empty_input"),
    "column": (".csv", b"name,age\nada,36\n", "missing_column"),
    "latin-1": (
        ".csv",
        CSV.encode() + "\u00e9l\u00e8ve@example.org,13900000001,30\n".encode("latin-1") * 50,
        "not_utf8",
    ),
    "nulls": (".csv", CSV.encode() + b",,30\n" * 500, "no_usable_identifiers"),
    "no-addresses": (".csv", CSV.encode() + b"not an address,12,30\n" * 500, "no_usable_identifiers"),
    "parquet": (".parquet", b"PAR1" + bytes(200), "unreadable_file"),
    "arrow": (".arrow", b"ARROW1\0\0" + bytes(64), "unreadable_file"),
    "missing": (".csv", None, "source_missing"),
}
SECRET = "ada.lovelace@example.org"


@pytest.fixture(scope="module")
def unusable(make_standing: Any) -> Any:
    """A pair in which the bank has a dataset for every kind of unusable file, and one with a secret."""
    made = make_standing(agree=False, consent=False)
    entries = []
    cases = {name: (suffix, content) for name, (suffix, content, _) in UNUSABLE.items()}
    cases["secret"] = (".csv", f'{CSV}"{SECRET},13900000001,30\n'.encode() * 30 + b"\xff\xfe")
    for name, (suffix, content) in cases.items():
        entries.append(f'[datasets.{name}]\nsource = "{name}{suffix}"\nkeys = {{ email = "email" }}\n')
        if content is not None:
            (made.bank.directory / f"{name}{suffix}").write_bytes(content)
    more = Catalogue.parse("\n".join(entries), base=made.bank.directory)
    made.bank.catalogue._datasets.update({d.name: d for d in more})
    made.agree()
    return made


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_own_file_fails_before_anything_is_sent(unusable, name):
    unusable.wire.requests.clear()
    job = unusable.bank.run(unusable.query(dataset=name))
    check_failed(unusable, job, UNUSABLE[name][2])
    assert unusable.wire.requests == []
    assert budgets(unusable.shop) == 0


def test_errors_never_hold_a_value(unusable):
    job = unusable.bank.run(unusable.query(dataset="secret"))
    assert job.state == "failed"
    assert SECRET not in repr(job)
    with pytest.raises((BadInput, Misuse)) as failure:
        unusable.bank.catalogue["secret"].extract("email")
    assert SECRET not in str(failure.value)


def test_a_truncated_parquet_file_is_named_as_such(fresh):
    file = fresh.bank.directory / "customers.parquet"
    file.write_bytes(file.read_bytes()[:-200])
    check_failed(fresh, fresh.bank.run(fresh.query()), "unreadable_file")


def test_the_partner_learns_only_that_the_file_over_there_is_unusable(fresh):
    fresh.shop.directory.joinpath("shoppers.parquet").write_bytes(b"")
    job = fresh.bank.run(fresh.query())
    check_failed(fresh, job, "peer_failed", theirs="failed")
    assert fresh.shop.wait(job.id).error.code == "empty_input"
    assert "shoppers" not in job.error.detail
    assert budgets(fresh.shop) == 0


def test_too_few_people_are_refused_on_either_side(pair):
    before = budgets(pair.shop)
    check_failed(pair, pair.bank.run(pair.query(segment="old")), "input_below_minimum", "rejected")
    job = pair.bank.run(pair.query(partner_segment="spenders"))
    check_failed(pair, job, "input_below_minimum", "rejected", theirs="rejected")
    assert budgets(pair.shop) == before
    assert pair.shop.wait(job.id).input["people"] > 0
    assert str(pair.shop.wait(job.id).input["people"]) not in job.error.detail


def test_people_without_consent_do_not_count_towards_the_minimum(make_pair):
    pair = make_pair(consent=False)
    check_failed(pair, pair.bank.run(pair.query()), "input_below_minimum", "rejected")


def test_duplicate_people_go_in_once(make_pair, tables):
    pair = make_pair(shop=pl.concat([tables.shop, tables.shop]))
    job = pair.bank.run(pair.query("measure", statistic="sum"))
    people = pl.DataFrame(tables.people)[80:280]
    assert job.result["value"] == pytest.approx(people["spend"].clip(0, 500).sum())
    assert pair.shop.wait(job.id).input["duplicates"] == 300


def test_a_partner_that_stays_down_times_the_job_out_as_unreachable(pair):
    pair.wire.down = True
    job = pair.bank.run(pair.query())
    check_failed(pair, job, "peer_unreachable", "timed_out")
    assert job.error.retryable


def test_a_partner_that_goes_down_midway_times_out_on_its_side(pair):
    def cut(method: str, path: str) -> None:
        pair.wire.down = pair.wire.down or "/messages/1/finish" in path

    before, uses = budgets(pair.shop), len(pair.shop.ledger.receipts())
    pair.wire.on_request = cut
    job = pair.bank.run(pair.query())
    assert (job.state, job.error.code) == ("timed_out", "peer_unreachable")
    assert pair.shop.service.job(job.id).state == "started"
    assert budgets(pair.shop) == before + 1.0
    pair.shop.clock.ahead = _minutes(2)
    pair.shop.service.contributor.sweep()
    pair.shop.clock.ahead = _minutes(0)
    theirs = pair.shop.service.job(job.id)
    assert (theirs.state, theirs.error.code) == ("timed_out", "timed_out")
    assert budgets(pair.shop) == before
    assert len(pair.shop.ledger.receipts()) == uses


@pytest.mark.parametrize("upper", [1e10, 1e300])
def test_bounds_beyond_the_noise_are_refused_before_anything_is_sent(make_pair, tables, upper):
    wide = tables.shop_datasets.replace("upper = 500", f"upper = {upper!r}")
    pair = make_pair(shop_datasets=wide)
    pair.wire.requests.clear()
    check_failed(pair, pair.bank.run(pair.query("measure")), "bounds_exceeded", "rejected")
    assert pair.wire.requests == []
    assert pair.shop.service.budgets() == []


def test_an_epsilon_that_gives_nothing_but_noise_is_refused(pair):
    pair.wire.requests.clear()
    for epsilon in (1e-300, 0.0099):
        with pytest.raises(Refused) as refused:
            pair.bank.service.submit(pair.query(epsilon=epsilon), principal="ana")
        assert refused.value.code == "epsilon_too_small"
    assert pair.wire.requests == []


def test_a_short_break_is_bridged(pair):
    broken = iter([True])

    def hiccup(method: str, path: str) -> None:
        pair.wire.down = method == "PUT" and next(broken, False)

    pair.wire.on_request = hiccup
    assert pair.bank.run(pair.query()).result["value"] == 200


def test_an_answer_lost_after_it_took_effect_is_asked_for_again_without_harm(pair):
    from privacy.errors import PeerUnreachable

    lost: set[str] = set()

    def lose(method: str, path: str, content: bytes) -> bytes:
        step = method + path.rsplit("/jobs", maxsplit=1)[-1]
        if "/peer/jobs" in path and step not in lost and method != "GET":
            lost.add(step)
            raise PeerUnreachable("the answer was lost.")
        return content

    before, uses = budgets(pair.shop), len(pair.shop.ledger.receipts(limit=1000))
    pair.wire.tamper_reply = lose
    job = pair.bank.run(pair.query())
    assert job.state == "succeeded", job.error
    assert len(lost) == 4
    assert budgets(pair.shop) == before + 1.0
    assert len(pair.shop.ledger.receipts(limit=1000)) == uses + 1


def test_a_partner_with_an_unknown_key_is_refused(fresh):
    fresh.shop.service.collaborations.left("bank", fresh.collaboration)
    job = fresh.bank.run(fresh.query())
    check_failed(fresh, job, "unknown_partner", "rejected")


def _spoiled(pair: Any, where: str, spoil: Any) -> Any:
    def tamper(method: str, path: str, body: bytes) -> bytes:
        return spoil(body) if path.endswith(where) and method != "GET" else body

    pair.wire.tamper = tamper
    job = pair.bank.run(pair.query())
    pair.wire.tamper = None
    return job


@pytest.mark.parametrize(
    ("where", "spoil"),
    [
        ("/messages/1/chunks/0", lambda b: b[:-32]),
        ("/messages/1/chunks/0", lambda b: b + bytes(32)),
        ("/messages/1/chunks/0", lambda b: b""),
        ("/messages/1/chunks/0", lambda b: bytes([b[0] ^ 1]) + b[1:]),
        ("/messages/1/chunks/0", lambda b: b + bytes(1 << 21)),
        ("/messages/1/finish", lambda b: json.dumps(json.loads(b) | {"chunks": 2}).encode()),
        ("/messages/1/finish", lambda b: json.dumps(json.loads(b) | {"digest": "0" * 64}).encode()),
        ("/messages/1/finish", lambda b: b"[]"),
        ("/messages/1/finish", lambda b: b"{not json"),
    ],
    ids=["truncated", "extended", "empty", "flipped", "huge", "chunks", "digest", "list", "no-json"],
)
def test_a_spoiled_stream_fails_on_both_sides(pair, where, spoil):
    before = budgets(pair.shop)
    job = _spoiled(pair, where, spoil)
    assert job.state == "failed", job.error
    assert pair.shop.wait(job.id).state == "failed"
    assert budgets(pair.shop) == before


def test_points_of_low_order_and_wrong_counts_are_the_partners_violation(pair):
    import hashlib

    low_order = bytes(32)

    def spoiled(change: Any) -> Any:
        sent: dict[str, bytes] = {}

        def tamper(method: str, path: str, body: bytes) -> bytes:
            if "/messages/1/chunks/0" in path:
                sent["body"] = change(body)
                return sent["body"]
            if "/messages/1/finish" in path:
                whole = sent["body"]
                digest = hashlib.sha256(whole).hexdigest()
                return json.dumps({"size": len(whole), "chunks": 1, "digest": digest}).encode()
            return body

        pair.wire.tamper = tamper
        job = pair.bank.run(pair.query())
        pair.wire.tamper = None
        return job

    before = budgets(pair.shop)
    for change in (lambda b: b[:-32] + low_order, lambda b: b[:-32], lambda b: b[:-64] + b[-32:] * 2):
        job = spoiled(change)
        assert (job.state, job.error.code) == ("failed", "peer_violation")
        theirs = pair.shop.wait(job.id)
        assert (theirs.state, theirs.error.code) == ("failed", "peer_violation")
        assert budgets(pair.shop) == before


def test_a_spoiled_reply_fails_on_both_sides(pair):
    for where, spoil in (
        ("/replies/1/", lambda b: b[:-16]),
        ("/replies/1/", lambda b: b[:-1] + bytes([b[-1] ^ 1])),
        ("/replies/0/", lambda b: b + b"\0"),
    ):

        def tamper(method: str, path: str, content: bytes, where=where, spoil=spoil) -> bytes:
            return spoil(content) if where in path else content

        pair.wire.tamper_reply = tamper
        job = pair.bank.run(pair.query())
        pair.wire.tamper_reply = None
        assert (job.state, job.error.code) == ("failed", "peer_violation")
        theirs = pair.shop.wait(job.id)
        assert (theirs.state, theirs.error.code) == ("failed", "peer_failed")


def test_an_offer_of_low_order_or_of_another_purpose_is_refused(pair):
    def low_order(body: bytes) -> bytes:
        document = json.loads(body)
        offer = Offer.from_bytes(base64.b64decode(document["offer"]))
        forged = Offer(offer.terms, offer.commitment, bytes(32), offer.signature, offer.previous)
        return json.dumps(document | {"offer": base64.b64encode(forged.to_bytes()).decode()}).encode()

    def purpose(body: bytes) -> bytes:
        document = json.loads(body)
        return json.dumps(document | {"query": document["query"] | {"purpose": "overlap.align"}}).encode()

    before = budgets(pair.shop)
    for spoil in (low_order, purpose, lambda b: b'{"job": "x"}', lambda b: b"\xff"):
        job = _spoiled(pair, "/v1/peer/jobs", spoil)
        assert job.state in {"failed", "rejected"}, job.error
    assert budgets(pair.shop) == before


def test_an_offer_replayed_under_another_job_is_refused(pair):
    kept: list[bytes] = []
    pair.wire.tamper = lambda m, p, b: (kept.append(b), b)[1] if p == "/v1/peer/jobs" else b
    job = pair.bank.run(pair.query())
    before = budgets(pair.shop)
    document = json.loads(kept[0])
    with pytest.raises(PeerViolation):
        pair.shop.service.contributor.offer("bank", document | {"job": "f" * 32})
    with pytest.raises(Refused):
        pair.shop.service.contributor.offer("mallory", document | {"job": "e" * 32})
    # The very same request again is the same job, which is over.
    assert pair.shop.service.contributor.offer("bank", document)["state"] == "succeeded"
    assert pair.shop.service.job(job.id).state == "succeeded"
    assert budgets(pair.shop) == before


def test_messages_out_of_turn_end_the_job(pair):
    desk = pair.shop.service.contributor
    kept: list[dict[str, Any]] = []

    def stop(method: str, path: str, body: bytes) -> bytes:
        if path == "/v1/peer/jobs":
            kept.append(json.loads(body))
        return body

    pair.wire.tamper = stop
    pair.wire.on_request = lambda m, p: setattr(pair.wire, "down", pair.wire.down or "/messages/" in p)
    job = pair.bank.run(pair.query())
    assert job.error.code == "peer_unreachable"
    with pytest.raises(PeerViolation):
        desk.reply("bank", job.id, 5, 0)
    with pytest.raises(Misuse):
        desk.chunk("mallory", job.id, 1, 0, b"")
    with pytest.raises(PeerViolation):
        desk.chunk("bank", job.id, 2, 0, bytes(64))
    assert pair.shop.service.job(job.id).state == "failed"
    with pytest.raises(Misuse) as over:
        desk.chunk("bank", job.id, 1, 0, bytes(64))
    assert over.value.code == "job_over"


def test_an_exhausted_budget_is_refused_with_what_is_left(make_pair):
    fresh = make_pair(terms={"epsilon_per_month": 2.0})
    for key in ("email", "phone"):
        assert fresh.bank.run(fresh.query(key=key)).state == "succeeded"
    job = fresh.bank.run(fresh.query(epsilon=0.5))
    check = fresh.shop.service.job(job.id)
    assert (job.state, job.error.code) == ("rejected", "budget_exhausted")
    assert (check.state, check.error.code) == ("rejected", "budget_exhausted")
    assert budgets(fresh.shop) == 2.0
    # An alignment reveals members under its own rule and costs no ε.
    assert fresh.bank.run(fresh.query("align")).state == "succeeded"


def _minutes(number: int) -> timedelta:
    return timedelta(minutes=number)
