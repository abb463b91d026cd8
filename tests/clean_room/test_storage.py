"""The stores, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from clean_room.jobs import TERMINAL, TRANSITIONS, Job, JobError, JobState, Query, Role, Stage, may_follow
from clean_room.storage import CollaborationRow, ReceiptRow, Store, metadata
from privacy.errors import Misuse, StorageError

QUERY = Query("overlap", "c" * 32, "mine", "theirs", "overlap.reach", dimensions=("age",))


def job(number: int, **more) -> Job:
    at = f"2026-03-01T00:00:{number:02d}+00:00"
    fields = {
        "id": f"{number:032x}",
        "role": Role.ANALYST,
        "query": QUERY,
        "partner": "shop",
        "principal": "ana",
        "state": JobState.SUBMITTED,
        "created_at": at,
        "updated_at": at,
    }
    return Job(**(fields | more))


@pytest.fixture
def store(engine: sa.Engine) -> Store:
    metadata.create_all(engine)
    return Store(engine)


def test_a_job_reads_back_as_it_was_written(store):
    full = job(
        1,
        stage=Stage.INVITED,
        progress=0.25,
        input={"rows": 3},
        result={"value": None, "cells": [{"value": 1}]},
        error=JobError("a", "b", "c", True),
        reservation="r",
        receipt_id="x",
    )
    store.jobs.add(full)
    assert store.jobs.get(full.id) == full
    with pytest.raises(Misuse):
        store.jobs.add(full)
    with pytest.raises(Misuse) as unknown:
        store.jobs.get("0" * 32)
    assert unknown.value.code == "unknown_job"


@pytest.mark.parametrize("state", JobState)
def test_only_moves_of_the_table_happen(store, state):
    for number, to in enumerate(JobState):
        placed = job(number, state=state)
        store.jobs.add(placed)
        moved = store.jobs.move(placed.id, to, at="2026-03-02T00:00:00+00:00", progress=0.5)
        assert moved == (to in TRANSITIONS[state])
        assert store.jobs.get(placed.id).state == (to if moved else state)
        if not moved:
            assert store.jobs.get(placed.id) == placed
        assert may_follow(state, to) or not moved


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_nothing_changes_a_job_that_has_ended(store, state):
    ended = job(1, state=state)
    store.jobs.add(ended)
    assert not store.jobs.update(ended.id, at="later", progress=1.0)
    assert not any(store.jobs.move(ended.id, to, at="later") for to in JobState)
    assert store.jobs.get(ended.id) == ended


def test_of_many_that_move_a_job_one_wins(store):
    store.jobs.add(job(1, state=JobState.STARTED))
    ends = [JobState.SUCCEEDED, JobState.FAILED, JobState.TIMED_OUT, JobState.CANCELLED] * 4
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda to: store.jobs.move(job(1).id, to, at="later"), ends))
    assert won.count(True) == 1


def test_one_key_makes_one_job_however_many_ask_at_once(store):
    def ask(number: int) -> str:
        return store.jobs.add(job(number), idempotency_key="k", digest="d").id

    with ThreadPoolExecutor(8) as threads:
        made = set(threads.map(ask, range(16)))
    assert len(made) == 1
    assert [j.id for j in store.jobs.page()[0]] == list(made)


def test_a_key_is_one_principals_and_one_questions(store):
    first = store.jobs.add(job(1), idempotency_key="k", digest="d")
    assert store.jobs.add(job(2), idempotency_key="k", digest="d") == first
    assert store.jobs.add(job(3, principal="ben"), idempotency_key="k", digest="d").id != first.id
    with pytest.raises(Misuse) as conflict:
        store.jobs.add(job(4), idempotency_key="k", digest="other")
    assert conflict.value.code == "idempotency_conflict"
    assert len(store.jobs.page()[0]) == 2


def test_pages_cover_everything_once_newest_first(store):
    for number in range(7):
        store.jobs.add(job(number))
    # Two of one moment are told apart by id.
    store.jobs.add(replace(job(8), created_at=job(3).created_at))
    seen, cursor = [], None
    while True:
        page, cursor = store.jobs.page(limit=3, cursor=cursor)
        assert len(page) <= 3
        seen += page
        if cursor is None:
            break
    assert len(seen) == len({j.id for j in seen}) == 8
    assert seen == sorted(seen, key=lambda j: (j.created_at, j.id), reverse=True)
    assert store.jobs.page(role=Role.CONTRIBUTOR) == ([], None)
    for garbage in ("x", "####", "bm8", "\u00e9"):
        with pytest.raises(Misuse):
            store.jobs.page(cursor=garbage)


def test_unfinished_jobs_are_found(store):
    for number, state in enumerate(JobState):
        store.jobs.add(job(number, state=state))
    assert {j.state for j in store.jobs.unfinished()} == set(JobState) - TERMINAL


def row(**more) -> CollaborationRow:
    fields = {
        "id": "a" * 32,
        "role": "inviter",
        "state": "invited",
        "partner": "shop",
        "partner_key": "k",
        "partner_url": "https://shop.test",
        "documents": {"invitation": {"offers": [{"name": "客户"}]}},
        "created_at": "2026",
        "updated_at": "2026",
        "sealed_exchange": b"\x00\xff",
    }
    return CollaborationRow(**(fields | more))


def test_a_collaboration_is_replaced_only_from_the_state_it_was_seen_in(store):
    store.collaborations.add(row())
    with pytest.raises(Misuse):
        store.collaborations.add(row())
    assert store.collaborations.get("a" * 32) == row()
    agreed = row(state="agreed", sealed_exchange=None, sealed_pair_key=b"key", agreement_hash="h")
    assert store.collaborations.replace(agreed, was="invited")
    assert not store.collaborations.replace(row(state="left"), was="invited")
    assert store.collaborations.all() == [agreed]
    assert store.collaborations.get("b" * 32) is None


def test_a_job_has_one_receipt(store):
    receipt = ReceiptRow("r", "j", "overlap", "c", {"body": {"at": "x"}}, "2026")
    store.receipts.add(receipt)
    store.receipts.add(receipt)
    with pytest.raises(StorageError):
        store.receipts.add(replace(receipt, id="other"))
    assert store.receipts.get("r") == receipt
    assert store.receipts.get("other") is None
