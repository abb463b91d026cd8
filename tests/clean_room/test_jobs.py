"""The life of jobs: cancelled, timed out, interrupted, many at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from clean_room.jobs import Job, JobState, Query, Role
from clean_room.storage import Store
from comity.problems import status_of
from privacy.budget import BudgetKey, Cost
from privacy.errors import Misuse, Refused


def spent(node: Any) -> tuple[float, float]:
    statuses = node.service.budgets()
    return sum(s.reserved.epsilon for s in statuses), sum(s.committed.epsilon for s in statuses)


def pause_at(pair: Any, where: str) -> tuple[threading.Event, threading.Event]:
    """Stop the wire at the first request whose path contains `where`; (reached, go on)."""
    reached, go_on = threading.Event(), threading.Event()

    def wait(method: str, path: str) -> None:
        if where in path and not reached.is_set():
            reached.set()
            go_on.wait(20)

    pair.wire.on_request = wait
    return reached, go_on


@pytest.mark.parametrize("where", ["/v1/peer/jobs", "/messages/1/chunks/0", "/replies/1/chunks/0"])
def test_cancelling_ends_both_sides_and_gives_the_budget_back(pair, where):
    before = spent(pair.shop)
    reached, go_on = pause_at(pair, where)
    job = pair.bank.service.submit(pair.query(), principal="ana")
    assert reached.wait(20)
    assert pair.bank.service.cancel(job.id).state == "cancelling"
    go_on.set()
    ended = pair.bank.wait(job.id)
    assert (ended.state, ended.error.code) == ("cancelled", "cancelled")
    assert pair.shop.wait(job.id).state == "cancelled"
    charged = 1.0 if "replies" in where else 0.0
    assert spent(pair.shop) == (before[0], before[1] + charged)
    assert pair.bank.service.cancel(job.id).state == "cancelled"


def test_a_use_that_was_cut_short_after_the_answer_left_is_recorded(pair):
    before = spent(pair.shop)
    reached, go_on = pause_at(pair, "/receipt")
    job = pair.bank.service.submit(pair.query(), principal="ana")
    assert reached.wait(20)
    pair.shop.service.cancel(job.id)
    go_on.set()
    assert pair.shop.wait(job.id).state == "cancelled"
    ended = pair.bank.wait(job.id)
    assert (ended.state, ended.error.code) == ("failed", "peer_cancelled")
    assert spent(pair.shop) == (before[0], before[1] + 1.0)
    for node in (pair.shop, pair.bank):
        ((_, use),) = node.ledger.receipts(limit=1)
        assert use.job == job.id


def test_a_person_at_the_contributor_can_cancel(pair):
    before = spent(pair.shop)
    reached, go_on = pause_at(pair, "/messages/1/chunks/0")
    job = pair.bank.service.submit(pair.query(), principal="ana")
    assert reached.wait(20)
    assert pair.shop.service.cancel(job.id).state == "cancelled"
    go_on.set()
    ended = pair.bank.wait(job.id)
    assert (ended.state, ended.error.code) == ("failed", "peer_cancelled")
    assert spent(pair.shop) == before


def test_a_job_that_takes_too_long_times_out_on_both_sides(pair):
    reached, go_on = pause_at(pair, "/messages/1/chunks/0")
    job = pair.bank.service.submit(pair.query(), principal="ana")
    assert reached.wait(20)
    pair.bank.clock.ahead = timedelta(hours=2)
    go_on.set()
    ended = pair.bank.wait(job.id)
    pair.bank.clock.ahead = timedelta()
    assert (ended.state, ended.error.code) == ("timed_out", "timed_out")
    assert pair.shop.wait(job.id).state == "timed_out"


def test_many_threads_submit_at_once(pair):
    def ask(number: int) -> Any:
        return pair.bank.service.submit(pair.query(), principal="ana", idempotency_key=f"many-{number % 3}")

    with ThreadPoolExecutor(6) as threads:
        jobs = list(threads.map(ask, range(6)))
    assert len({job.id for job in jobs}) == 3
    results = {pair.bank.wait(job.id).result["value"] for job in jobs}
    assert results == {200}


def test_both_sides_may_ask_each_other_at_the_same_time(pair):
    there = pair.bank.service.submit(pair.query(), principal="ana")
    back = pair.query(dataset="shoppers", partner_dataset="customers")
    here = [pair.shop.service.submit(back, principal="ben") for _ in range(2)]
    assert pair.bank.wait(there.id).result["value"] == 200
    assert [pair.shop.wait(job.id).result["value"] for job in here] == [200, 200]


def test_a_key_used_for_another_question_is_refused(pair):
    pair.bank.run(pair.query(), idempotency_key="one")
    with pytest.raises(Misuse) as conflict:
        pair.bank.service.submit(pair.query(key="phone"), principal="ana", idempotency_key="one")
    assert conflict.value.code == "idempotency_conflict"


def test_what_a_crash_left_without_a_journal_is_failed_and_its_budget_released(fresh):
    """Rows as a killed process leaves them whose journal is lost: begun, reserved, an artefact half there."""
    store, service = Store(fresh.shop.engine), fresh.shop.service
    key = BudgetKey("shop-people", "bank", "2026-01")
    for number, role in enumerate((Role.ANALYST, Role.CONTRIBUTOR)):
        at = "2026-01-01T00:00:00+00:00"
        job = Job(f"{number:032x}", role, fresh.query(), "bank", "x", JobState.STARTED, at, at)
        store.jobs.add(job)
    service.budget.reserve(key, Cost(1.0), job=f"{1:032x}")
    service.budget.commit(service.budget.reserve(key, Cost(0.5), job="another"))
    artefacts = fresh.shop.directory / "artefacts"
    artefacts.mkdir(exist_ok=True)
    (artefacts / f"{1:032x}.partial").write_bytes(b"half")
    assert sorted(service.recover()) == [f"{0:032x}", f"{1:032x}"]
    for number in (0, 1):
        ended = service.job(f"{number:032x}")
        assert (ended.state, ended.error.code, ended.error.retryable) == ("failed", "interrupted", True)
    assert spent(fresh.shop) == (0.0, 0.5)
    assert list(artefacts.iterdir()) == []
    assert service.recover() == []


def test_a_node_that_is_closed_leaves_its_jobs_to_be_taken_up_again(make_pair):
    pair = make_pair()
    reached, go_on = pause_at(pair, "/messages/1/chunks/0")
    job = pair.bank.service.submit(pair.query(), principal="ana")
    assert reached.wait(20)
    pair.shop.service.close()
    pair.bank.service._stopping.set()
    go_on.set()
    pair.bank.service.close()
    assert (pair.shop.service.job(job.id).state, spent(pair.shop)[0]) == ("started", 1.0)
    assert pair.bank.service.job(job.id).state == "started"
    with pytest.raises(Misuse):
        pair.bank.service.submit(pair.query(), principal="ana")


def test_the_sweeper_runs_by_itself_after_start(make_pair):
    pair = make_pair(consent=False)
    pair.shop.service.settings = replace(pair.shop.service.settings, sweep_seconds=0.01)
    swept = threading.Event()
    pair.shop.service.contributor.sweep = swept.set
    pair.shop.service.start()
    assert swept.wait(30)


def test_people_who_opt_out_between_two_questions_are_gone_from_the_second(fresh):
    assert fresh.bank.run(fresh.query()).result["value"] == 200
    for person in range(100, 110):  # fewer would not be told apart: see test_repeats.py
        fresh.bank.ledger.withdraw(fresh.identifiers(person), partner="shop")
    assert fresh.bank.run(fresh.query()).result["value"] == 190


def test_jobs_are_listed_with_their_role(pair):
    job = pair.bank.run(pair.query())
    newest = pair.shop.service.jobs(role=Role.CONTRIBUTOR, limit=1)[0][0]
    assert newest.id == job.id
    assert newest.query == job.query


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"kind": "overlap"},
        {"kind": "everything"},
        {"kind": "measure"},
        {"kind": "overlap", "column": "spend"},
        {"kind": "align", "dimensions": ["age_band"]},
        {"kind": "overlap", "epsilon": -1},
        {"kind": "overlap", "epsilon": "1"},
        {"kind": "overlap", "surprise": 1},
        {"kind": "overlap", "dataset": {"a": 1}},
    ],
)
def test_a_malformed_query_is_refused(document):
    base = {"collaboration": "c", "dataset": "d", "partner_dataset": "p", "purpose": "overlap.reach"}
    if document in ({}, {"kind": "overlap"}):
        base = {}
    with pytest.raises(Misuse) as malformed:
        Query.from_document(base | document)
    assert malformed.value.code == "malformed_query"


def test_one_principal_may_have_so_many_queries_under_way_and_no_more(make_pair):
    pair = make_pair()
    service = pair.bank.service
    service.settings = replace(service.settings, most_open=3)
    reached, go_on = pause_at(pair, "/v1/peer/jobs")
    first = service.submit(pair.query("align"), principal="ana", idempotency_key="first")
    assert reached.wait(20)

    def ask(number: int) -> str:
        try:
            service.submit(pair.query("align"), principal="ana")
        except Refused as full:
            assert full.retryable and status_of(full) == 429
            return full.code
        return "taken on"

    with ThreadPoolExecutor(8) as threads:
        said = list(threads.map(ask, range(8)))
    assert sorted(said) == ["taken on"] * 2 + ["too_many_jobs"] * 6 or said.count("taken on") == 2
    # A question that was asked before is no new one, and another principal's are not counted.
    assert service.submit(pair.query("align"), principal="ana", idempotency_key="first").id == first.id
    other = service.submit(pair.query("align"), principal="ben")
    go_on.set()
    for job in (first, other):
        ended = pair.bank.wait(job.id)
        assert ended.state == "succeeded", (ended.error, pair.wire.requests[-5:])


def test_places_for_sessions_are_taken_one_at_a_time(fresh, monkeypatch):
    """Many offers at once: as many as there are places for are let in, whatever their timing."""
    from clean_room import admission

    desk = fresh.shop.service.contributor
    monkeypatch.setattr(admission, "_MOST_SESSIONS_OF_ONE", 2)
    fresh.wire.on_request = lambda m, path: setattr(fresh.wire, "down", "/messages/" in path)
    most = 0
    jobs = [fresh.bank.service.submit(fresh.query("align"), principal="ana") for _ in range(6)]
    for job in jobs:
        while not fresh.bank.service.job(job.id).over:
            most = max(most, sum(not session.over for session in desk._open.all()))
    assert most <= 2
    assert {fresh.bank.service.job(job.id).error.code for job in jobs} <= {
        "too_many_jobs",
        "peer_unreachable",
    }
