"""A preview: cost, error bars, what would travel, and what somebody could learn."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from clean_room.foresight import Engine, Known
from clean_room.noise import DrawnNoise
from clean_room.previewing import _rate
from privacy.errors import Refused


@pytest.fixture(scope="module")
def noisy(make_standing: Any) -> Any:
    return make_standing(noise=DrawnNoise())


def test_a_preview_before_the_first_question_leaves_out_what_it_cannot_know(make_pair: Any) -> None:
    pair = make_pair(noise=DrawnNoise())
    said = pair.bank.service.preview(pair.query(dimensions=("age_band",)))
    assert (said["epsilon"], said["budget_left"], said["allowed"]) == (1.0, 5.0, 280)
    assert said["bytes_received"] is None and said["minutes"] is None
    assert said["bytes_sent"] > 32 * 280
    learn = said["could_learn"]
    assert (learn["answers_left"], learn["targets"]) == (5, 1000)
    assert 0 <= learn["told"] < 20
    assert learn["one_person"]["posterior"] <= learn["one_person"]["bound"]
    assert learn["sentence"].startswith("With the 5 such answers the month has left")
    assert "Not covered" in learn["covers"]
    assert pair.shop.service.budgets() == [], "nothing is charged, and no account is opened"
    assert pair.bank.service.jobs()[0] == []


def test_a_preview_without_the_partner_says_what_this_node_knows(make_pair: Any) -> None:
    pair = make_pair(noise=DrawnNoise())
    pair.wire.down = True
    said = pair.bank.service.preview(pair.query())
    assert said["budget_left"] is None
    assert said["could_learn"]["answers_left"] == 5, "the month agreed on, as if nothing were spent"


def test_after_a_question_it_knows_the_partners_size_and_what_is_left(noisy: Any) -> None:
    job = noisy.bank.run(noisy.query())
    said = noisy.bank.service.preview(noisy.query(segment="adults_40"))
    assert said["budget_left"] == 4.0
    assert said["partner_people"] >= 300
    assert said["bytes_received"] > 32 * 300 + 16 * said["people"]
    assert 0 <= said["minutes"] < 5
    assert said["could_learn"]["answers_left"] == 4
    again = noisy.bank.service.preview(noisy.query())
    assert again["repeats"] == job.id
    measured = noisy.bank.service.preview(noisy.query("measure"))
    assert measured["bytes_sent"] > said["bytes_sent"] + 300_000, "an encrypted sum goes out"


def test_it_foresees_that_a_question_would_be_refused_and_what_it_would_single_out(make_pair: Any) -> None:
    pair = make_pair(noise=DrawnNoise())
    job = pair.bank.run(pair.query())
    path = pair.bank.directory / "customers.parquet"
    pl.read_parquet(path).slice(1).write_parquet(path)
    said = pair.bank.service.preview(pair.query())
    assert said["too_close_to"] == job.id
    group = said["could_learn"]["singled_out"]
    assert (group["people"], group["answers"]) == (1, 2)
    assert group["confidence"] >= group["prior"]
    assert pair.bank.run(pair.query()).error.code == "differencing_risk"


def test_a_preview_records_nothing_and_says_the_same_again(noisy: Any) -> None:
    query = noisy.query(dimensions=("age_band",), partner_dimensions=("spender",))
    first, second = (noisy.bank.service.preview(query) for _ in range(2))
    for said in (first, second):
        said.pop("minutes")
    assert first == second
    assert noisy.bank.service._repeats.history.open_jobs() == []


def test_an_alignment_has_no_simulated_attack_because_it_tells_members_by_itself(noisy: Any) -> None:
    said = noisy.bank.service.preview(noisy.query("align"))
    assert "could_learn" not in said
    assert said["epsilon"] == 0


def test_a_preview_carries_no_identifier_to_the_partner(noisy: Any) -> None:
    noisy.wire.heal()
    noisy.bank.service.preview(noisy.query())
    assert [method for method, _ in noisy.wire.requests] == ["GET"]
    assert b"example.org" not in b"".join(noisy.wire.captured)


def test_what_is_left_is_told_to_the_partner_it_is_left_for(noisy: Any) -> None:
    shop = noisy.shop.service
    assert shop.left_for("bank", noisy.collaboration, "shoppers")["epsilon_left"] >= 0
    for partner, dataset in (("mallory", "shoppers"), ("bank", "customers"), ("bank", "nothing")):
        with pytest.raises(Refused):
            shop.left_for(partner, noisy.collaboration, dataset)


@pytest.mark.parametrize(
    "answer", [b"[]", b"{}", b'{"epsilon_left": "much"}', b'{"epsilon_left": -1}', b"x" * 99]
)
def test_a_partners_odd_answer_about_its_budget_counts_as_none(noisy: Any, answer: bytes) -> None:
    noisy.wire.tamper_reply = lambda method, path, body: answer if "/budgets/" in path else body
    try:
        assert noisy.bank.service.preview(noisy.query())["budget_left"] is None
    finally:
        noisy.wire.heal()


def test_the_engine_is_measured_once(pool: Any) -> None:
    engine = Engine(pool)
    hashing, blinding = engine.seconds_per_point()
    assert 0 < blinding < hashing + blinding < 0.1
    assert engine.seconds_per_point() == (hashing, blinding)
    assert Known().left is None


@pytest.mark.parametrize(
    ("result", "rate"),
    [
        (None, None),
        ({"suppressed": True, "value": None, "people": 10}, None),
        ({"suppressed": False, "capped": True, "value": 85, "people": 100}, None),
        ({"suppressed": False, "value": 50, "people": 100}, 0.5),
        ({"suppressed": False, "value": 12.5, "count": 25, "people": 100}, 0.25),
        ({"suppressed": False, "value": 5, "people": 0}, None),
    ],
)  # fmt: skip
def test_the_last_rate_is_taken_from_results_that_tell_it(result: Any, rate: float | None) -> None:
    assert _rate(result) == rate
