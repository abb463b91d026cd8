"""Runs at rest, on both databases: states that may follow, one winner, nothing half-written."""

from __future__ import annotations

import doctest
import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

import federated
from federated.errors import TrainingMisuse
from federated.runs import TERMINAL, TRANSITIONS, Role, Run, RunError, RunState
from federated.storage import RunStore, metadata


@pytest.fixture
def store(engine: sa.Engine) -> RunStore:
    metadata.create_all(engine)
    return RunStore(engine)


def a_run(name: str = "r1", **changes: object) -> Run:
    run = Run(
        id=name,
        role=Role.ACTIVE,
        partner="shop",
        collaboration="c",
        principal="ann",
        request={"rounds": 3},
        state=RunState.SUBMITTED,
        created_at="2026-01-01T00:00:00+00:00",
        updated_at="2026-01-01T00:00:00+00:00",
    )
    return replace(run, **changes)  # type: ignore[arg-type]


def test_a_run_comes_back_as_it_was_kept(store: RunStore) -> None:
    run = a_run(
        error=RunError("x", "y", "z", True), result={"a": 1.5}, card={"v": 1}, alignment="j", stage="s"
    )
    store.add(run)
    assert store.get("r1") == run
    with pytest.raises(TrainingMisuse):
        store.get("other")
    with pytest.raises(TrainingMisuse):
        store.add(run)


def test_an_idempotency_key_names_one_request_of_one_principal(store: RunStore) -> None:
    store.add(a_run("a"), key="k", digest="d")
    assert store.add(a_run("b"), key="k", digest="d").id == "a"
    with pytest.raises(TrainingMisuse) as caught:
        store.add(a_run("c"), key="k", digest="e")
    assert caught.value.code == "idempotency_conflict"
    assert store.add(a_run("d", principal="bob"), key="k", digest="e").id == "d"
    assert [r.id for r in store.page()] == ["d", "a"]


def test_of_two_writers_one_succeeds_and_the_model_comes_with_the_state(store: RunStore) -> None:
    store.add(a_run())
    started = a_run().at(RunState.STARTED, "t")
    store.replace(started, was=RunState.SUBMITTED)
    won: list[bool] = []

    def end(state: RunState, sealed: bytes | None) -> None:
        won.append(store.replace(started.at(state, "t"), was=RunState.STARTED, sealed=sealed))

    threads = [
        threading.Thread(target=end, args=a) for a in ((RunState.SUCCEEDED, b"m"), (RunState.FAILED, None))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False, True]
    if store.get("r1").state is RunState.SUCCEEDED:
        assert store.sealed_model("r1") == b"m"
    else:
        with pytest.raises(TrainingMisuse):
            store.sealed_model("r1")


def test_progress_is_noted_only_while_a_run_is_started(store: RunStore) -> None:
    store.add(a_run())
    assert not store.progress("r1", stage="x", progress=0.5, now="t")
    store.replace(a_run().at(RunState.STARTED, "t"), was=RunState.SUBMITTED)
    assert store.progress("r1", stage="training", progress=0.5, now="t")
    assert (store.get("r1").stage, store.get("r1").progress) == ("training", 0.5)


def test_receipts_of_a_round_are_written_once(store: RunStore) -> None:
    store.add(a_run())
    store.add_receipts("r1", 1, {"bank": {"n": 1}, "shop": {"n": 2}})
    with pytest.raises(sa.exc.IntegrityError):
        store.add_receipts("r1", 1, {"zoo": {"n": 3}, "bank": {"n": 4}})
    assert store.receipts("r1") == [
        {"round": 1, "party": "bank", "receipt": {"n": 1}},
        {"round": 1, "party": "shop", "receipt": {"n": 2}},
    ]


def test_pages_go_back_in_time_without_gaps(store: RunStore) -> None:
    for i in range(5):
        store.add(a_run(f"r{i}", created_at=f"2026-01-0{1 + i // 2}T00:00:00+00:00"))
    seen: list[str] = []
    while page := store.page(limit=2, after=seen[-1] if seen else None):
        seen += [r.id for r in page]
    assert seen == ["r4", "r3", "r2", "r1", "r0"]
    assert [r.id for r in store.open_runs()] == ["r0", "r1", "r2", "r3", "r4"]


@given(state=st.sampled_from(list(RunState)), following=st.sampled_from(list(RunState)))
def test_a_run_moves_only_as_the_table_says_and_never_after_its_end(
    state: RunState, following: RunState
) -> None:
    run = a_run(state=state)
    if following in TRANSITIONS[state]:
        assert run.at(following, "t").state is following
        assert state not in TERMINAL
    else:
        with pytest.raises(TrainingMisuse):
            run.at(following, "t")


def test_the_packages_example_runs() -> None:
    assert doctest.testmod(federated).attempted > 5
    assert doctest.testmod(federated).failed == 0
    for name in federated.__all__:
        assert getattr(federated, name)
    assert sorted(dir(federated)) == sorted(federated.__all__)
    with pytest.raises(AttributeError):
        _ = federated.nothing
