"""Epochs between two nodes: a first run that is charged, refreshes that are not, and what ends an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from clean_room.epoch_book import EpochBook, Held, Question
from clean_room.jobs import Query, Role
from clean_room.noise import DrawnNoise
from clean_room.protocols.lifetimes import EpochOver
from consent.events import withdraw
from privacy.errors import Tampered
from privacy.keys import KeyRing
from tests.clean_room.conftest import UnsafeNoNoise, make_engine
from tests.clean_room.test_resume import Switch, kill_at, live


def hold(pair: Any, bank: range, shop: range) -> None:
    """Write both tables anew."""
    for node, name, people, column in (
        (pair.bank, "customers", bank, "email"),
        (pair.shop, "shoppers", shop, "mail"),
    ):
        path = node.directory / f"{name}.parquet"
        whole = pl.read_parquet(path) if not (node.directory / "whole").exists() else None
        if whole is not None:
            whole.write_parquet(node.directory / "whole")
        table = pl.read_parquet(node.directory / "whole")
        numbers = table[column].str.strip_chars().str.to_lowercase().str.extract(r"person\.(\d+)@").cast(int)
        table.filter(numbers.is_in(list(people))).write_parquet(path)


def run(pair: Any, **more: Any) -> Any:
    job = pair.bank.run(pair.query(**more))
    assert job.state == "succeeded", job.error
    return job


def kind_of(pair: Any, job: Any) -> tuple[str, int]:
    """Which epoch a job was of, and which generation, as both nodes' receipts say."""
    ours, theirs = (node.service.receipt(job.receipt_id)["body"]["noise"] for node in (pair.bank, pair.shop))
    assert ours == theirs
    return ours["epoch"], ours["generation"]


def spent_by(pair: Any) -> float:
    return sum(s.committed.epsilon + s.reserved.epsilon for s in pair.shop.service.budgets())


LISTS = [(range(280), range(80, 380)), (range(20, 280), range(100, 380)), (range(40, 280), range(120, 380))]


@pytest.fixture
def epochs(make_pair: Any) -> Any:
    return make_pair(terms={"epoch_days": 30})


def test_refreshes_are_right_and_cost_nothing_and_after_the_last_an_epoch_begins(epochs: Any) -> None:
    jobs = []
    for bank, shop in (*LISTS, (range(60, 280), range(140, 380)), (range(80, 280), range(160, 380))):
        hold(epochs, bank, shop)
        epochs.wire.heal()
        jobs.append(run(epochs))
        assert jobs[-1].result["value"] == len(set(bank) & set(shop))
    assert [kind_of(epochs, job) for job in jobs] == [*((jobs[0].id, g) for g in range(4)), (jobs[4].id, 0)]
    assert [job.result["epsilon_spent"] for job in jobs] == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert spent_by(epochs) == 2.0


def test_only_the_change_travels(epochs: Any) -> None:
    sent = []
    for lists in LISTS[:2]:
        hold(epochs, *lists)
        epochs.wire.heal()
        run(epochs)
        sent.append(max(map(len, epochs.wire.captured)))
    assert sent[1] < sent[0]


def test_who_has_opted_out_is_not_in_the_next_run(epochs: Any) -> None:
    first = run(epochs)
    assert first.result["value"] == 200
    for node, people in ((epochs.bank, range(100, 115)), (epochs.shop, range(200, 220))):
        partner = "shop" if node is epochs.bank else "bank"
        node.ledger.record([withdraw(epochs.identifiers(i), "overlap", partner=partner) for i in people])
    second = run(epochs)
    assert kind_of(epochs, second) == (first.id, 1)
    assert second.result["value"] == 165


def test_who_comes_back_begins_an_epoch(epochs: Any) -> None:
    for bank, shop in (LISTS[0], LISTS[1]):
        hold(epochs, bank, shop)
        run(epochs)
    hold(epochs, LISTS[0][0], range(120, 380))
    third = run(epochs)
    assert kind_of(epochs, third) == (third.id, 0)
    assert third.result["value"] == 160
    hold(epochs, LISTS[0][0], range(90, 380))  # now on the contributor's side
    hold_back = run(epochs)
    assert kind_of(epochs, hold_back)[1] in (0, 1)
    assert hold_back.result["value"] == 190
    assert spent_by(epochs) >= 2.0


@pytest.mark.parametrize("side", ["bank", "shop"])
def test_a_state_that_is_lost_begins_an_epoch(epochs: Any, side: str) -> None:
    run(epochs)
    folder = getattr(epochs, side).directory / "artefacts" / "epochs"
    (found,) = folder.iterdir()
    assert found.stat().st_mode & 0o777 == 0o600
    found.write_bytes(b"spoilt")
    hold(epochs, *LISTS[1])
    second = run(epochs)
    assert kind_of(epochs, second) == (second.id, 0)
    assert second.result["value"] == 180
    assert spent_by(epochs) == 2.0
    hold(epochs, *LISTS[2])
    assert kind_of(epochs, run(epochs)) == (second.id, 1)


def test_an_epoch_ends_with_its_days_an_erasure_and_its_agreement(epochs: Any) -> None:
    run(epochs)
    held = [node.directory / "artefacts" / "epochs" for node in (epochs.bank, epochs.shop)]
    assert all(list(folder.iterdir()) for folder in held)
    epochs.bank.service.forget(epochs.identifiers(3))
    assert not list(held[0].iterdir())
    hold(epochs, *LISTS[1])
    second = run(epochs)
    assert kind_of(epochs, second) == (second.id, 0)
    for node in (epochs.bank, epochs.shop):
        node.clock.ahead += timedelta(days=31)
        node.service.sweep()
    assert not any(list(folder.iterdir()) for folder in held)
    hold(epochs, *LISTS[2])
    run(epochs)
    epochs.bank.service.leave(epochs.collaboration)
    epochs.shop.service.partner_left("bank", epochs.collaboration)
    assert not any(list(folder.iterdir()) for folder in held)


def test_a_run_that_fails_after_the_answer_left_ends_the_epoch(epochs: Any) -> None:
    first = run(epochs)
    hold(epochs, *LISTS[1])
    epochs.wire.tamper_reply = lambda m, path, body: b"x" * len(body) if "/replies/1/" in path else body
    assert epochs.bank.run(epochs.query()).state == "failed"
    epochs.wire.heal()
    hold(epochs, *LISTS[2])
    third = run(epochs)
    assert kind_of(epochs, third) == (third.id, 0)
    assert third.result["value"] == 160
    assert first.id != third.id


def test_queries_of_other_shapes_and_agreements_without_epochs_have_fresh_keys(epochs: Any) -> None:
    for more in ({"dimensions": ("age_band",)}, {"kind": "measure"}):
        job = run(epochs, **more)
        assert "epoch" not in epochs.bank.service.receipt(job.receipt_id)["body"]["noise"]
    epochs.agree_anew()
    job = run(epochs)
    assert "epoch" not in epochs.bank.service.receipt(job.receipt_id)["body"]["noise"]
    assert not (epochs.bank.directory / "artefacts" / "epochs").exists()


def test_an_error_bar_is_that_of_all_noise_that_is_running(make_pair: Any) -> None:
    pair = make_pair(noise=DrawnNoise(), terms={"epoch_days": 7, "minimum_cell": 5})
    widths = []
    for lists in LISTS[:2]:
        hold(pair, *lists)
        low, high = run(pair).result["ci95"]
        widths.append(high - low)
    assert widths[1] > widths[0] > 2


# ── restarts ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def world(make_standing: Any, pool: Any) -> Iterator[Any]:
    """A pair of nodes that die and come back."""
    pair = make_standing(terms={"epoch_days": 30, "epsilon_per_month": 1_000.0})
    made = SimpleNamespace(pair=pair, lives={})

    def again(side: str) -> None:
        made.lives[side] = live(getattr(pair, side), UnsafeNoNoise(), make_engine, pool)

    made.again = again
    for side in ("bank", "shop"):
        node = getattr(pair, side)
        node.service.close()
        node.app = Switch()
        again(side)
    yield made
    pair.wire.heal()


KILLS = [
    ("POST", "/v1/peer/jobs"),
    ("POST", "/messages/1/finish"),
    ("GET", "/replies/1/chunks/0"),
    ("POST", "/receipt"),
]


@pytest.mark.parametrize("side", ["bank", "shop"])
@pytest.mark.parametrize("number", range(len(KILLS)))
def test_a_node_killed_in_a_refresh_takes_it_up_again(world: Any, side: str, number: int) -> None:
    pair, question = world.pair, {"epsilon": (1 + number + 10 * (side == "bank")) / 64}
    hold(pair, *LISTS[0])
    first = run(pair, **question)
    hold(pair, *LISTS[1])
    charged = spent_by(pair)
    life = kill_at(world, side, *KILLS[number], "after")
    job = pair.bank.service.submit(pair.query(**question), principal="ana")
    assert life.died.wait(30)
    pair.wire.heal()
    world.again(side)
    second = pair.bank.wait(job.id, 60)
    assert second.state == "succeeded", second.error
    assert second.result["value"] == 180
    assert kind_of(pair, second) == (first.id, 1)
    hold(pair, *LISTS[2])
    third = run(pair, **question)
    assert (third.result["value"], kind_of(pair, third)) == (160, (first.id, 2))
    assert spent_by(pair) == charged


# ── the book ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def book(tmp_path: Path) -> Any:
    return EpochBook(tmp_path / "epochs", KeyRing.create(tmp_path / "ring"), clock=lambda: NOW)


NOW = datetime(2026, 11, 1, tzinfo=UTC)
QUERY = Query(kind="overlap", collaboration="c", dataset="a", partner_dataset="b", purpose="overlap.reach")
QUESTION = Question(Role.CONTRIBUTOR, "key", QUERY, "agreement", 30)


def begun(book: Any, epoch: str, question: Question = QUESTION) -> None:
    book.begin(question, epoch)
    book.keep(question, epoch, 0, epoch, b"zero")


def test_a_generation_is_taken_by_one_job_and_comes_back_as_the_next(book: Any) -> None:
    begun(book, "e")
    assert book.going_on(QUESTION, "e", 1) == b"zero"
    for epoch, generation in (("e", 2), ("e", 0), ("f", 1)):
        with pytest.raises(EpochOver):
            book.going_on(QUESTION, epoch, generation)
    for _ in range(2):  # after a crash once more
        book.take(QUESTION, "e", 1, "one")
    with pytest.raises(EpochOver):
        book.take(QUESTION, "e", 1, "two")
    assert book.held(QUESTION) is None
    for _ in range(2):
        book.keep(QUESTION, "e", 1, "one", b"one")
    assert book.going_on(QUESTION, "e", 2) == b"one"
    with pytest.raises(EpochOver):
        book.take(QUESTION, "e", 1, "one")


def test_what_another_query_or_an_erasure_ended_is_not_kept(book: Any) -> None:
    begun(book, "e")
    book.take(QUESTION, "e", 1, "one")
    book.forget()
    book.keep(QUESTION, "e", 1, "one", b"one")
    assert book.held(QUESTION) is None
    book.begin(QUESTION, "f")
    book.forget()  # somebody is erased while the first run goes on
    book.keep(QUESTION, "f", 0, "f", b"zero")
    assert book.held(QUESTION) is None
    begun(book, "f")
    book.keep(QUESTION, "e", 1, "one", b"one")
    assert book.held(QUESTION).epoch == "f"
    assert book.held(replace(QUESTION, agreement="other")) is None
    assert book.held(replace(QUESTION, role=Role.ANALYST)) is None


def test_no_more_than_so_many_epochs_are_held(book: Any, tmp_path: Path) -> None:
    for number in range(40):
        begun(book, "e", replace(QUESTION, partner=str(number)))
    assert len(list((tmp_path / "epochs").iterdir())) == 32
    book.sweep(set)
    assert not list((tmp_path / "epochs").iterdir())


@pytest.mark.parametrize("data", [b"", b"\xff" * 9, b"\0\0\0\2{}", b"\0\0\0\2[]state"])
def test_a_state_is_read_strictly(data: bytes) -> None:
    with pytest.raises(Tampered):
        Held.from_bytes(data)
