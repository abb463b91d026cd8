"""Where a run stops: changed files, foreign alignments, full seats, lost answers, silent partners."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from clean_room.agreements import Agreement, Party, Terms
from clean_room.jobs import Job, JobState, Query, Role
from federated import runtime
from federated.errors import (
    BadInput,
    PeerUnreachable,
    Refused,
    TrainingMisuse,
    TrainingRefused,
)
from federated.gate import DataGate
from federated.runs import Run, RunState
from federated.vertical.alignment import require_fit
from privacy.signing import SigningKey

from .conftest import PURPOSE, World, finished, now

Settled = tuple[World, Run]


def rewrite(world: World, node: str) -> None:
    """Put the rows of a node's file into another order, and nothing else."""
    side = world.shop if node == "shop" else world.bank
    path = side.service._catalogue[side.dataset].source.path
    side.frame.drop("person").reverse().write_parquet(path)


@pytest.mark.parametrize("node", ["bank", "shop"])
def test_a_file_reordered_since_the_alignment_is_not_read_by_old_places(world: World, node: str) -> None:
    first = world.train()
    rewrite(world, node)
    run = world.train(alignment=first.alignment)
    assert run.state is not RunState.SUCCEEDED
    assert run.error is not None
    assert run.error.code == "source_changed"
    assert world.shop.service.participant._seats == {}


def test_a_file_reordered_between_rounds_ends_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = DataGate.features
    given: list[int] = []

    def watch(self: DataGate, run: str, round: int, purpose: str, *, nonce: str) -> Any:  # noqa: A002
        ours = self is world.shop.service.participant._gate
        if ours and round == 2:
            rewrite(world, "shop")
        rows = asked(self, run, round, purpose, nonce=nonce)
        if ours:
            given.append(round)
        return rows

    monkeypatch.setattr(DataGate, "features", watch)
    run = world.train()
    assert run.state is RunState.FAILED
    theirs = finished(world.shop.service, run.id)
    assert (theirs.state, theirs.error and theirs.error.code) == (RunState.FAILED, "source_changed")
    assert given == [1]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"purpose": "model.other"}, "alignment_purpose"),
        ({"collaboration": "c2"}, "unknown_alignment"),
        ({"key": "phone"}, "unknown_alignment"),
        ({"kind": "overlap"}, "unknown_alignment"),
    ],
)
def test_an_alignment_made_for_something_else_is_refused_on_both_sides(
    settled: Settled, change: dict[str, str], code: str
) -> None:
    world, run = settled
    offer = dict(world.shop.service.run(run.id).request) | {"run": "d" * 32}
    kept = dict(world.clean_room.jobs)
    try:
        for name, job in kept.items():
            world.clean_room.jobs[name] = replace(job, query=replace(job.query, **change))  # type: ignore[arg-type]
        with pytest.raises(Refused) as caught:
            world.shop.service.participant.offer("bank", offer)
        assert caught.value.code == code
        ours = world.train(alignment=run.alignment)
        assert (ours.state, ours.error and ours.error.code) == (RunState.REJECTED, code)
        assert world.shop.service.participant._seats == {}
    finally:
        world.clean_room.jobs.update(kept)


def test_an_alignment_also_made_for_the_model_will_do() -> None:
    query = Query("align", "c1", "customers", "shoppers", "overlap.align", also_for=(PURPOSE,))
    job = Job("j", Role.ANALYST, query, "shop", "ann", JobState.SUCCEEDED, "", "")
    parties = tuple(Party(n, "https://x.invalid", SigningKey.generate().public.to_text()) for n in "ab")
    agreement = Agreement(
        "c1", parties, Terms(purposes=(PURPOSE,)), {"a": (), "b": ()}, "2026-01-01T00:00+00:00"
    )  # type: ignore[arg-type]
    require_fit(job, agreement, partner="shop", purpose=PURPOSE, key="email")
    closed = replace(agreement, terms=replace(agreement.terms, query_types=("overlap",)))
    with pytest.raises(Refused) as caught:
        require_fit(job, closed, partner="shop", purpose=PURPOSE, key="email")
    assert caught.value.code == "query_type_not_agreed"


def test_a_run_that_cannot_begin_here_leaves_no_trace(world: World) -> None:
    first = world.train()
    seats, store = world.shop.service.participant, world.shop.service._store
    offer = dict(world.shop.service.run(first.id).request) | {"run": "c" * 32}
    with pytest.raises(TrainingMisuse):
        seats.offer("bank", offer | {"features": ["late", "late"]})
    with pytest.raises(TrainingMisuse):
        seats.offer("bank", offer | {"run": first.id})
    path = world.shop.service._catalogue["shoppers"].source.path
    path.write_bytes(path.read_bytes()[:100])
    world.clean_room.jobs = {
        name: replace(job, created_at=now().isoformat()) for name, job in world.clean_room.jobs.items()
    }
    with pytest.raises(BadInput):
        seats.offer("bank", offer)
    assert [run.id for run in store.page()] == [first.id]
    assert seats._seats == {}
    assert seats._gate._grants == {}


def test_a_partner_takes_so_many_seats_and_no_more(settled: Settled) -> None:
    world, run = settled
    seats = world.shop.service.participant
    offer = dict(world.shop.service.run(run.id).request)
    for i in range(4):
        seats.offer("bank", offer | {"run": f"5ea7{i}"})
    with pytest.raises(TrainingRefused) as caught:
        seats.offer("bank", offer | {"run": "5ea74"})
    assert caught.value.rule == "seats"
    for i in range(4):
        seats.finish("bank", f"5ea7{i}", {"state": "cancelled"})
    assert seats._seats == {}


def test_a_partner_whose_acceptance_was_lost_is_told_of_the_end(world: World) -> None:
    def lose(method: str, path: str, body: bytes) -> bytes:
        if path == "/v1/peer/training":
            raise PeerUnreachable("The answer was lost.")
        return body

    world.wire.tamper = lose
    run = world.train()
    assert (run.state, run.error and run.error.code) == (RunState.FAILED, "peer_unreachable")
    assert finished(world.shop.service, run.id).state is RunState.FAILED
    assert world.shop.service.participant._seats == {}


def test_silent_partners_are_seen_off_while_a_run_is_at_work_and_after_an_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.train()
    service = world.bank.service
    service.close()
    monkeypatch.setattr(runtime, "_REAP_SECONDS", 0.01)
    reaped, calls, busy = threading.Event(), list[int](), threading.Event()

    def reap() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("the database is away")
        reaped.set()

    def drive(run: Run, cancel: threading.Event) -> None:
        busy.set()
        assert cancel.wait(20)

    monkeypatch.setattr(service.participant, "reap", reap)
    monkeypatch.setattr(service._coordinator, "drive", drive)
    service._stopping = False
    service.start()
    run = service.submit(world.request(alignment=first.alignment), principal="ann")
    assert busy.wait(10)
    calls.clear()
    reaped.clear()
    assert reaped.wait(10)
    service.cancel(run.id)


def test_a_seat_that_cannot_be_ended_does_not_keep_the_others(
    settled: Settled, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, run = settled
    seats, store = world.shop.service.participant, world.shop.service._store
    offer = dict(world.shop.service.run(run.id).request)
    for name in ("9a", "9b"):
        seats.offer("bank", offer | {"run": name})
        seats._seats[name].touched -= 1000
    get = store.get

    def broken(name: str) -> Run:
        if name == "9a":
            raise OSError("the database is away")
        return get(name)

    monkeypatch.setattr(store, "get", broken)
    seats.reap()
    assert set(seats._seats) == {"9a"}
    monkeypatch.undo()
    seats.reap()
    assert seats._seats == {}
    assert {store.get(n).state for n in ("9a", "9b")} == {RunState.TIMED_OUT}
