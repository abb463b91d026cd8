"""The same question again, one that is nearly the same, and who pays: between two whole nodes."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from typing import Any

import polars as pl
import pytest

from clean_room.history import DifferencingRisk
from clean_room.noise import DrawnNoise
from privacy.errors import PeerViolation, Refused


@pytest.fixture
def noisy(make_pair: Any) -> Any:
    """Two nodes whose answers are noisy, so that equal ones were not drawn twice."""
    return make_pair(noise=DrawnNoise())


def spent(pair: Any) -> float:
    return sum(status.committed.epsilon + status.reserved.epsilon for status in pair.shop.service.budgets())


def messages(pair: Any) -> list[str]:
    """What of the protocol travelled since the wire was healed."""
    return [path for _, path in pair.wire.requests if "/messages/" in path or "/replies/" in path]


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("overlap", {"dimensions": ("age_band",)}),
        ("measure", {"statistic": "sum"}),
        ("overlap", {"key": "phone"}),
    ],
)
def test_the_same_question_gets_the_same_answer_free_of_charge(noisy: Any, kind: str, more: Any) -> None:
    first = noisy.bank.run(noisy.query(kind, **more))
    assert first.state == "succeeded", first.error
    before = spent(noisy)
    noisy.wire.heal()
    again = noisy.bank.run(noisy.query(kind, **more))
    assert again.state == "succeeded", again.error
    assert messages(noisy) == [], "nothing is computed"
    assert spent(noisy) == before, "nothing is charged"
    same = {"value", "ci95", "cells", "suppressed", "receipt_id", "people"}
    assert {k: v for k, v in again.result.items() if k in same} == {
        k: v for k, v in first.result.items() if k in same
    }
    assert (again.result["repeated_from"], again.result["epsilon_spent"]) == (first.id, 0.0)
    assert again.receipt_id == first.receipt_id
    theirs = noisy.shop.wait(again.id)
    assert theirs.state == "succeeded"
    assert theirs.result == {"repeated_from": first.id, "epsilon_spent": 0.0}
    third = noisy.bank.run(noisy.query(kind, **more))
    assert third.result["repeated_from"] == first.id, "a repeat of a repeat names the first"


def test_a_repeat_is_free_when_the_months_budget_is_spent(make_pair: Any) -> None:
    pair = make_pair(noise=DrawnNoise(), terms={"epsilon_per_month": 1.0})
    first = pair.bank.run(pair.query())
    again = pair.bank.run(pair.query())
    assert again.result["repeated_from"] == first.id
    other = pair.bank.run(pair.query(segment="adults_40"))
    assert (other.state, other.error.code) == ("rejected", "budget_exhausted")


def test_another_question_about_the_same_people_is_charged(noisy: Any) -> None:
    noisy.bank.run(noisy.query())
    other = noisy.bank.run(noisy.query(epsilon=0.5))
    assert "repeated_from" not in other.result
    assert spent(noisy) == 1.5


def test_nothing_is_repeated_under_another_agreement(noisy: Any) -> None:
    noisy.bank.run(noisy.query())
    noisy.agree_anew(minimum_cell=11)
    again = noisy.bank.run(noisy.query())
    assert again.state == "succeeded", again.error
    assert "repeated_from" not in again.result


def test_the_next_month_the_same_question_is_a_new_one(noisy: Any) -> None:
    noisy.bank.run(noisy.query())
    for node in (noisy.bank, noisy.shop):
        node.clock.ahead = timedelta(days=32)
    again = noisy.bank.run(noisy.query())
    assert again.state == "succeeded", again.error
    assert "repeated_from" not in again.result


def test_a_partner_that_lies_about_a_repeat_learns_nothing_and_is_charged(noisy: Any) -> None:
    """It names a job that is not this question: it goes on as any other."""
    first = noisy.bank.run(noisy.query())

    def lie(method: str, path: str, body: bytes) -> bytes:
        if (method, path) != ("POST", "/v1/peer/jobs"):
            return body
        return json.dumps(json.loads(body) | {"repeats": first.id}).encode()

    noisy.wire.tamper = lie
    other = noisy.bank.run(noisy.query(segment="adults_40"))
    assert other.state == "succeeded", other.error
    assert spent(noisy) == 2.0


def test_a_contributor_that_names_another_answer_is_not_believed(noisy: Any) -> None:
    noisy.bank.run(noisy.query())
    noisy.wire.tamper_reply = lambda method, path, body: (
        body.replace(b'"repeats":"', b'"repeats":"f') if method == "GET" and b'"repeats"' in body else body
    )
    again = noisy.bank.run(noisy.query())
    assert again.state == "failed"
    assert again.error.code == PeerViolation.code


@pytest.mark.parametrize("said", ["x", 7, "A" * 32, ["0" * 32], "0" * 33])
def test_a_malformed_pointer_is_a_breach(noisy: Any, said: Any) -> None:
    from clean_room.sessions import read_offer

    query = noisy.query().document()
    with pytest.raises(PeerViolation):
        read_offer({"job": "0" * 32, "query": query, "offer": "", "repeats": said})


def without(pair: Any, node: str, *people: int) -> None:
    """Take people out of a node's file."""
    home, file, column = {
        "bank": (pair.bank.directory, "customers.parquet", "email"),
        "shop": (pair.shop.directory, "shoppers.parquet", "mail"),
    }[node]
    table = pl.read_parquet(home / file)
    gone = [f"person.{n}@example.org" for n in people]
    kept = table.filter(~pl.col(column).str.strip_chars().str.to_lowercase().is_in(gone))
    assert table.height - kept.height == len(people)
    kept.write_parquet(home / file)


def test_a_question_about_all_but_one_is_refused_by_the_own_node(noisy: Any) -> None:
    first = noisy.bank.run(noisy.query())
    without(noisy, "bank", 150)
    noisy.wire.heal()
    again = noisy.bank.run(noisy.query())
    assert (again.state, again.error.code) == ("rejected", DifferencingRisk.code)
    assert first.id in again.error.advice
    assert not noisy.wire.requests, "the partner is not even told"
    assert spent(noisy) == 1.0


def test_a_question_after_the_partner_lost_one_is_refused_by_the_partner_before_it_is_charged(
    noisy: Any,
) -> None:
    first = noisy.bank.run(noisy.query())
    without(noisy, "shop", 150)
    again = noisy.bank.run(noisy.query())
    assert (again.state, again.error.code) == ("rejected", DifferencingRisk.code)
    assert first.id in again.error.advice
    said = (again.error.detail + again.error.advice).replace(first.id, "")
    assert not any(digit in said for digit in "0123456789")
    assert spent(noisy) == 1.0
    assert not [path for path in messages(noisy)[-50:] if "/replies/1" in path and again.id in path]


def test_who_opted_out_between_two_equal_questions_cannot_be_told(noisy: Any) -> None:
    """Neither by a new answer to compare with, nor by an answer that claims to be of those who remain."""
    first = noisy.bank.run(noisy.query())
    noisy.shop.ledger.withdraw(noisy.identifiers(150), partner="bank")
    again = noisy.bank.run(noisy.query())
    assert (again.state, again.error.code) == ("rejected", DifferencingRisk.code)
    assert noisy.bank.service.job(first.id).state == "succeeded"
    other = noisy.bank.run(noisy.query(epsilon=0.5))
    assert (other.state, other.error.code) == ("rejected", DifferencingRisk.code)


def test_when_enough_people_changed_it_is_asked_anew(noisy: Any) -> None:
    noisy.bank.run(noisy.query())
    without(noisy, "shop", *range(150, 162))
    again = noisy.bank.run(noisy.query())
    assert again.state == "succeeded", again.error
    assert "repeated_from" not in again.result
    assert spent(noisy) == 2.0


def test_another_name_for_the_own_list_does_not_get_around_the_partners_look(
    make_pair: Any, tables: Any
) -> None:
    alias = tables.bank_datasets.replace("datasets.customers", "datasets.clients")
    pair = make_pair(noise=DrawnNoise(), bank_datasets=tables.bank_datasets + alias)
    pair.bank.run(pair.query())
    without(pair, "shop", 150)
    again = pair.bank.run(pair.query(dataset="clients"))
    assert (again.state, again.error.code) == ("rejected", DifferencingRisk.code)


def test_a_question_that_came_to_nothing_stands_in_nobodys_way(noisy: Any) -> None:
    noisy.wire.tamper = lambda method, path, body: b"{}" if path == "/v1/peer/jobs" else body
    failed = noisy.bank.run(noisy.query())
    assert failed.state != "succeeded"
    noisy.wire.heal()
    without(noisy, "bank", 150)
    assert noisy.bank.run(noisy.query()).state == "succeeded"


def test_equal_questions_at_once_have_one_answer_and_one_charge(noisy: Any) -> None:
    jobs: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda: jobs.append(noisy.bank.service.submit(noisy.query(), principal="ana"))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = [noisy.bank.wait(job.id) for job in jobs]
    assert [job.state for job in ended] == ["succeeded"] * 3, [job.error for job in ended]
    assert len({json.dumps(job.result["value"]) for job in ended}) == 1
    assert sum("repeated_from" in job.result for job in ended) == 2
    assert spent(noisy) == 1.0


def test_nearly_equal_questions_at_once_do_not_both_get_an_answer(make_pair: Any, tables: Any) -> None:
    segments = "\n".join(f"most_{n} = \"email NOT LIKE '%PERSON.{n}@%'\"" for n in (150, 151))
    pair = make_pair(noise=DrawnNoise(), bank_datasets=tables.bank_datasets + segments)
    jobs = [
        pair.bank.service.submit(pair.query(segment=segment), principal="ana")
        for segment in ("most_150", "most_151")
    ]
    ended = sorted(pair.bank.wait(job.id).state for job in jobs)
    assert ended == ["rejected", "succeeded"]


def test_the_own_node_refuses_before_the_partner_hears_of_a_second_group(noisy: Any) -> None:
    """A measure whose values changed for a few is as near as one whose people did."""
    noisy.bank.run(noisy.query("measure"))
    path = noisy.shop.directory / "shoppers.parquet"
    table = pl.read_parquet(path)
    changed = table.with_columns(
        spend=pl.when(pl.col("mail").str.contains("150")).then(1.0).otherwise("spend")
    )
    changed.write_parquet(path)
    again = noisy.bank.run(noisy.query("measure"))
    assert (again.state, again.error.code) == ("rejected", DifferencingRisk.code)


def test_an_alignment_is_no_number_and_is_never_repeated_or_refused(noisy: Any) -> None:
    first = noisy.bank.run(noisy.query("align"))
    second = noisy.bank.run(noisy.query("align"))
    assert first.state == second.state == "succeeded"
    assert "repeated_from" not in second.result


def test_a_node_that_starts_again_forgets_what_came_to_nothing(noisy: Any) -> None:
    noisy.bank.run(noisy.query())
    history = noisy.bank.service._repeats.history
    assert history.open_jobs() == []
    noisy.bank.service.recover()
    again = noisy.bank.run(noisy.query())
    assert "repeated_from" in again.result


def test_who_is_refused_is_told_what_to_do(noisy: Any) -> None:
    noisy.bank.run(noisy.query())
    without(noisy, "bank", 150)
    error = noisy.bank.run(noisy.query()).error
    assert error.advice.startswith("The answer of job")
    assert not error.retryable
    assert issubclass(DifferencingRisk, Refused)


def test_the_receipt_of_a_repeat_is_that_of_its_answer_and_holds(noisy: Any) -> None:
    from clean_room.receipts import check_receipt

    noisy.bank.run(noisy.query())
    again = noisy.bank.run(noisy.query())
    document = noisy.bank.service.receipt(again.receipt_id)
    book = noisy.bank.service.collaborations
    agreed = {agreement.hash for agreement in book.versions(noisy.collaboration)}
    found = check_receipt(
        document, keys=book.keys(noisy.collaboration), agreements=agreed, result=again.result
    )
    assert found.result is True and found.analyst and found.contributor
    forged = check_receipt(
        document,
        keys=book.keys(noisy.collaboration),
        agreements=agreed,
        result=again.result | {"value": again.result["value"] + 1},
    )
    assert forged.result is False
