"""What a run leaves in the consent ledger when it is cut short, and how long an answer of the gate holds."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from clean_room.jobs import JobState
from clean_room.uses import use_of
from consent.feed import Feed
from consent.gate import ConsentGate
from consent.messages import Acknowledgement
from consent.receipts import verify_absence
from privacy.errors import Misuse


def uses_of(node: Any, job: str) -> list[Any]:
    return [use for _, use in node.ledger.receipts(limit=1000) if use.job == job]


def cut(pair: Any, where: str) -> None:
    """The wire goes down for good at the first request whose path contains `where`."""
    pair.wire.on_request = lambda m, path: setattr(pair.wire, "down", pair.wire.down or where in path)


def run_out(pair: Any, job: str, *, silent: timedelta = timedelta(minutes=3)) -> Any:
    """The contributor's job, ended by its sweep."""
    pair.shop.clock.ahead = silent
    pair.shop.service.contributor.sweep()
    pair.shop.clock.ahead = timedelta()
    return pair.shop.service.job(job)


@pytest.mark.parametrize(
    ("kind", "where", "analyst_too"),
    [
        ("measure", "/replies/2/", False),
        ("measure", "/messages/2/finish", True),
        ("align", "/messages/2/chunks/0", True),
        ("align", "/messages/2/finish", True),
        ("align", "/receipt", True),
        ("overlap", "/receipt", True),
    ],
)
def test_a_run_cut_short_after_data_left_is_recorded_once(pair, kind, where, analyst_too):
    cut(pair, where)
    job = pair.bank.run(pair.query(kind))
    assert (job.state, job.error.code, job.error.retryable) == ("timed_out", "peer_unreachable", True)
    assert run_out(pair, job.id).state == "timed_out"
    (use,) = uses_of(pair.shop, job.id)
    assert (use.id, use.kind, use.partner, len(use.transcript_hash)) == (job.id, kind, "bank", 64)
    assert len(uses_of(pair.bank, job.id)) == analyst_too
    ledger = pair.shop.ledger
    kind, stranger = pair.identifiers(10)[0]
    proof, shown = ledger.absence_proof(use.id, kind, stranger)
    verify_absence(proof, shown.set_root, ledger.member_leaf(use.id, kind, stranger))
    ledger.receipt_proof(use.id).verify(ledger.key)
    for node in (pair.bank, pair.shop):
        assert not list((node.directory / "artefacts").glob("*.use"))


@pytest.mark.parametrize("kind", ["overlap", "measure", "align"])
def test_a_run_that_completes_is_recorded_once_under_its_receipt(pair, kind):
    job = pair.bank.run(pair.query(kind))
    for node in (pair.bank, pair.shop):
        (use,) = uses_of(node, job.id)
        assert use.id == job.receipt_id
        assert not list((node.directory / "artefacts").glob("*.use"))


def test_a_use_begun_before_a_crash_is_recorded_at_the_next_start(fresh):
    node, at = fresh.shop, fresh.shop.clock()
    gated = ConsentGate(node.ledger).filter("email", _column(fresh), purpose="overlap.align", partner="bank")
    given = SimpleNamespace(evidence=gated.evidence)
    use = use_of(fresh.query("align"), "a" * 32, given, transcript=bytes(32), at=at)
    node.service._uses.begin(use, gated.members)
    (file,) = (node.directory / "artefacts").glob("*.use")
    assert gated.members.to_bytes()[-32:] not in file.read_bytes()
    assert uses_of(node, "a" * 32) == []
    node.service.recover()
    node.service.recover()
    (recorded,) = uses_of(node, "a" * 32)
    assert recorded == use
    # A crash between the entry and the file's removal does not make it two.
    node.service._uses.begin(use, gated.members)
    node.service.recover()
    assert len(uses_of(node, "a" * 32)) == 1


def _column(pair: Any) -> Any:
    import pyarrow as pa

    return pa.array([pair.identifiers(i)[0][1] for i in range(80, 120)], pa.binary())


def withdraw_at(pair: Any, where: str, person: int) -> None:
    done: list[bool] = []

    def on_request(method: str, path: str) -> None:
        if where in path and not done:
            done.append(True)
            pair.shop.ledger.withdraw(pair.identifiers(person), partner="bank")

    pair.wire.on_request = on_request


@pytest.mark.parametrize("kind", ["overlap", "measure", "align"])
def test_who_withdraws_between_offer_and_points_is_left_out_and_the_job_goes_on(fresh, kind):
    withdraw_at(fresh, "/messages/1/finish", 150)
    job = fresh.bank.run(fresh.query(kind))
    assert job.state == "succeeded", job.error
    people = job.result["count"] if kind == "measure" else job.result["value"]
    assert people == 199
    assert_left_out(fresh.shop, job.id, fresh.identifiers(150)[0])
    assert sum(s.reserved.epsilon for s in fresh.shop.service.budgets()) == 0
    assert sum(s.committed.epsilon for s in fresh.shop.service.budgets()) == (0 if kind == "align" else 1)


def assert_left_out(node: Any, job: str, identifier: tuple[str, bytes]) -> None:
    """The node has one receipt of the job, made of consents after the opt-out, and it proves the absence."""
    (use,) = uses_of(node, job)
    kind, canonical = identifier
    withdrawn = node.ledger.check(canonical, kind, use.purpose, use.partner).index
    assert withdrawn is None or use.evidence.log_size > withdrawn
    proof, shown = node.ledger.absence_proof(use.id, kind, canonical)
    verify_absence(proof, shown.set_root, node.ledger.member_leaf(use.id, kind, canonical))


def test_a_withdrawal_of_somebody_else_does_not_end_the_run(fresh):
    def on_request(method: str, path: str) -> None:
        if "/messages/1/finish" in path:
            fresh.shop.ledger.withdraw(fresh.identifiers(5), partner="bank")

    fresh.wire.on_request = on_request
    assert fresh.bank.run(fresh.query()).result["value"] == 200


def test_a_session_kept_alive_ends_at_its_deadline(pair):
    kept: list[str] = []
    cut(pair, "/messages/1/finish")
    job = pair.bank.run(pair.query())
    desk = pair.shop.service.contributor
    for minutes in range(1, 61):
        pair.shop.clock.ahead = timedelta(minutes=minutes) - timedelta(seconds=30)
        kept.append(desk.state("bank", job.id)["state"])
        desk.sweep()
    assert set(kept) == {"started"}
    pair.shop.clock.ahead = timedelta(minutes=61)
    with pytest.raises(Misuse) as over:
        desk.reply("bank", job.id, 0, 0)
    assert over.value.code == "job_over"
    pair.shop.clock.ahead = timedelta()
    ended = pair.shop.service.job(job.id)
    assert (ended.state, ended.error.code) == (JobState.TIMED_OUT, "timed_out")


def test_one_partner_cannot_take_every_session(pair):
    desk = pair.shop.service.contributor
    cut(pair, "/messages/1/finish")
    opened = []
    for _ in range(8):
        opened.append(pair.bank.run(pair.query()))
        pair.wire.down = False
    assert {job.error.code for job in opened} == {"peer_unreachable"}
    pair.wire.heal()
    refused = pair.bank.run(pair.query())
    assert (refused.state, refused.error.code) == ("rejected", "too_many_jobs")
    for job in opened:
        desk.withdraw(job.id)
    assert pair.bank.run(pair.query()).state == "succeeded"


def test_an_analyst_whose_list_is_too_short_is_refused_before_anything_is_reserved(fresh, monkeypatch):
    fresh.agree_anew(minimum_input=300)
    careless = SimpleNamespace(check=lambda people: None)
    monkeypatch.setattr("clean_room.asking.MinimumInput", lambda minimum: careless)
    job = fresh.bank.run(fresh.query())
    assert (job.state, job.error.code) == ("rejected", "input_below_minimum")
    assert fresh.shop.service.job(job.id).state == "rejected"
    assert fresh.shop.service.budgets() == []


def test_a_contributor_whose_list_is_too_short_is_refused(fresh, monkeypatch):
    fresh.agree_anew(minimum_input=330)
    careless = SimpleNamespace(check=lambda people: None)
    monkeypatch.setattr("clean_room.contributing.MinimumInput", lambda minimum: careless)
    query = fresh.query(dataset="shoppers", partner_dataset="customers")
    job = fresh.shop.run(query)
    assert (job.state, job.error.code) == ("rejected", "input_below_minimum")


def hears(reader: Any, sender: Any, line: dict[str, Any]) -> int:
    """The reader hears the sender's opt-outs and enforces them; how many jobs that touched."""
    for node in (reader, sender):
        if node.name not in line:
            line[node.name] = Feed(node.ledger, signing_key=node.identity, enforcers=[node.service.enforce])
    told, heard = line[sender.name].outgoing, line[reader.name].incoming
    hearing = heard.open(sender.name)
    heard.apply(hearing, told.message(told.open(reader.name, hearing.after, hearing.nonce))[0])
    due = heard.acknowledgement(sender.name)
    return 0 if due is None else Acknowledgement.from_bytes(due[1])[0].jobs_affected


def opts_out_at(pair: Any, where: str, sender: Any, person: int) -> list[int]:
    """Somebody opts out at one node while the other is at `where`; how many jobs were touched there."""
    touched: list[int] = []
    line: dict[str, Any] = {}
    reader = pair.bank if sender is pair.shop else pair.shop
    hears(reader, sender, line)

    def on_request(method: str, path: str) -> None:
        if where in path and not touched:
            touched.append(0)
            sender.ledger.withdraw(pair.identifiers(person))
            touched[0] = hears(reader, sender, line)

    pair.wire.on_request = on_request
    return touched


def test_who_opts_out_at_the_partner_before_anything_left_is_not_in_the_result(fresh):
    touched = opts_out_at(fresh, "/replies/1", fresh.bank, 150)
    job = fresh.bank.run(fresh.query())
    assert (job.state, job.result["value"]) == ("succeeded", 199)
    assert touched == [1]
    for node in (fresh.bank, fresh.shop):
        assert_left_out(node, job.id, fresh.identifiers(150)[0])


def test_who_opts_out_at_the_contributor_is_dropped_before_the_analyst_sends_its_points(fresh):
    touched = opts_out_at(fresh, "/replies/0", fresh.shop, 150)
    job = fresh.bank.run(fresh.query())
    assert (job.state, job.result["value"]) == ("succeeded", 199)
    assert touched == [1]
    for node in (fresh.bank, fresh.shop):
        assert_left_out(node, job.id, fresh.identifiers(150)[0])


def test_consents_that_keep_changing_end_the_job_before_anything_left(fresh):
    people = iter(range(100, 200))

    def on_request(method: str, path: str) -> None:
        if "/messages/1/finish" in path:
            fresh.shop.ledger.withdraw(fresh.identifiers(next(people)), partner="bank")

    fresh.wire.on_request = on_request
    job = fresh.bank.run(fresh.query())
    assert (job.state, job.error.code, job.error.retryable) == ("rejected", "consent_stale", True)
    assert uses_of(fresh.shop, job.id) == []
    assert sum(s.reserved.epsilon + s.committed.epsilon for s in fresh.shop.service.budgets()) == 0


def test_who_opts_out_after_the_answer_has_left_ends_an_alignment(fresh):
    """What is still to leave then is whom both know: it does not, and what has left is recorded."""
    touched = opts_out_at(fresh, "/replies/1/", fresh.shop, 150)
    opt_out = fresh.wire.on_request
    fresh.wire.on_request = None

    def after(method: str, path: str, content: bytes) -> bytes:
        opt_out(method, path)
        return content

    fresh.wire.tamper_reply = after
    job = fresh.bank.run(fresh.query("align"))
    assert touched == [1]
    assert (job.state, job.error.code) == ("rejected", "consent_stale")
    assert len(uses_of(fresh.shop, job.id)) == 1 and uses_of(fresh.bank, job.id) == []


def test_who_is_in_no_set_ends_no_run_but_every_run_asks_again(fresh):
    touched = opts_out_at(fresh, "/replies/1", fresh.bank, 10_000)
    assert fresh.bank.run(fresh.query()).result["value"] == 200
    assert touched == [1]
