"""Queries that a person of the contributor lets through, or does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI, Header
from fastapi.testclient import TestClient

from clean_room.api import create_router
from privacy.errors import Misuse, Refused


def spent(node: Any) -> tuple[float, float]:
    statuses = node.service.budgets()
    return sum(s.reserved.epsilon for s in statuses), sum(s.committed.epsilon for s in statuses)


@pytest.fixture(scope="module")
def careful(make_standing: Any) -> Any:
    """A pair whose contributor looks at every query."""
    pair = make_standing(terms={"approval": "person", "epsilon_per_month": 1000.0})
    pair.bank.service.settings = replace(pair.bank.service.settings, approval_poll_seconds=0.0)
    return pair


def ask(pair: Any, kind: str = "align", **more: Any) -> Any:
    """Submit, and wait until both sides wait for a person."""
    job = pair.bank.service.submit(pair.query(kind, **more), principal="ana")
    for node in (pair.bank, pair.shop):
        until(lambda node=node: state(node, job.id) == "awaiting_approval")
    until(lambda: pair.bank.service._idle(job.id))
    return job


def state(node: Any, job: str) -> str:
    try:
        return str(node.service.job(job).state)
    except Misuse:
        return "unknown"


def until(holds: Callable[[], bool]) -> None:
    import time

    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def left(node: Any, job: str) -> list[str]:
    found = (node.directory / "artefacts" / "journal" / job).rglob("*.sealed")
    return sorted(path.name for path in found)


def test_a_query_waits_for_a_person_without_a_thread_and_without_people_on_disk(careful):
    before = spent(careful.shop)
    job = ask(careful, "overlap")
    assert spent(careful.shop) == (before[0] + 1.0, before[1])
    assert left(careful.bank, job.id) == ["run.sealed"]
    assert left(careful.shop, job.id) == ["session.sealed"]
    assert careful.shop.service.job(job.id).input == {}
    careful.bank.service.sweep()
    assert state(careful.bank, job.id) == "awaiting_approval"
    decided = careful.shop.service.approve(job.id, principal="stella", reason="within the campaign")
    assert decided.state == "submitted"
    careful.bank.service.sweep()
    ended = careful.bank.wait(job.id)
    assert (ended.state, ended.result["value"]) == ("succeeded", 200), ended.error
    assert spent(careful.shop) == (before[0], before[1] + 1.0)
    row = careful.shop.service.approval(job.id)
    assert (row.decision, row.principal, row.reason) == ("approved", "stella", "within the campaign")


def test_a_refusal_ends_both_sides_with_the_reason_and_costs_nothing(careful):
    before = spent(careful.shop)
    job = ask(careful, "overlap", epsilon=0.5)
    careful.shop.service.reject(job.id, principal="stella", reason="the campaign is over")
    careful.bank.service.sweep()
    ours, theirs = careful.bank.wait(job.id), careful.shop.wait(job.id)
    for ended in (ours, theirs):
        assert (ended.state, ended.error.code) == ("rejected", "not_approved")
        assert "the campaign is over" in ended.error.detail
    assert spent(careful.shop) == before
    assert left(careful.bank, job.id) == left(careful.shop, job.id) == []
    assert careful.shop.service.approval(job.id).decision == "rejected"


def test_a_decision_is_made_once_and_only_about_what_waits(careful):
    job = ask(careful)
    careful.shop.service.approve(job.id, principal="stella")
    for decide in (
        lambda: careful.shop.service.approve(job.id, principal="omar"),
        lambda: careful.shop.service.reject(job.id, principal="omar", reason="no"),
        lambda: careful.bank.service.approve(job.id, principal="ana"),
    ):
        with pytest.raises(Misuse) as wrong:
            decide()
        assert wrong.value.code == "wrong_state"
    assert careful.shop.service.approval(job.id).principal == "stella"
    careful.bank.service.sweep()
    assert careful.bank.wait(job.id).state == "succeeded"


@pytest.mark.parametrize("reason", ["x" * 501, "a\x00b", "line\nbreak"])
def test_a_reason_is_a_line_of_text(careful, reason):
    job = ask(careful)
    with pytest.raises(Misuse):
        careful.shop.service.reject(job.id, principal="stella", reason=reason)
    careful.bank.service.cancel(job.id)
    assert careful.bank.wait(job.id).state == "cancelled"


def test_the_analyst_may_stop_waiting(careful):
    before = spent(careful.shop)
    job = ask(careful, "overlap", epsilon=0.25)
    careful.bank.service.cancel(job.id)
    assert careful.bank.wait(job.id).state == "cancelled"
    assert careful.shop.wait(job.id).state == "cancelled"
    assert spent(careful.shop) == before


def test_nobody_decides_in_time(careful):
    before = spent(careful.shop)
    job = ask(careful, "overlap", epsilon=0.125)
    for node in (careful.shop, careful.bank):
        node.clock.ahead = timedelta(days=7, minutes=1)
        node.service.sweep()
    for node in (careful.shop, careful.bank):
        ended = node.wait(job.id)
        assert ended.state == "timed_out", ended.error
        node.clock.ahead = timedelta()
    assert spent(careful.shop) == before


def test_a_contributor_waits_for_an_analyst_that_has_not_heard_of_the_approval(careful):
    job = ask(careful)
    careful.shop.service.approve(job.id, principal="stella")
    careful.shop.clock.ahead = timedelta(hours=8)
    careful.shop.service.sweep()
    assert state(careful.shop, job.id) == "submitted"
    careful.shop.clock.ahead = timedelta()
    careful.bank.service.sweep()
    assert careful.bank.wait(job.id).state == "succeeded"


def test_who_opts_out_while_a_query_waits_is_not_in_it(make_pair):
    pair = make_pair(terms={"approval": "person"})
    pair.bank.service.settings = replace(pair.bank.service.settings, approval_poll_seconds=0.0)
    job = ask(pair, "overlap")
    pair.bank.ledger.withdraw(pair.identifiers(100), partner="shop")
    pair.shop.ledger.withdraw(pair.identifiers(101), partner="bank")
    heads = {node.name: node.ledger.head().size for node in (pair.bank, pair.shop)}
    pair.shop.service.approve(job.id, principal="stella")
    pair.bank.service.sweep()
    ended = pair.bank.wait(job.id)
    assert ended.result["value"] == 198, ended.error
    receipt = pair.bank.service.receipt(job.id if ended.receipt_id is None else ended.receipt_id)
    assert receipt["body"]["analyst"]["consent"]["log_size"] >= heads["bank"]
    assert receipt["body"]["contributor"]["consent"]["log_size"] >= heads["shop"]


class ByRole:
    """Guards that believe a header about the role."""

    def role(self, *roles: str) -> Callable[..., str]:
        def principal(x_role: str = Header(default="")) -> str:
            if x_role not in roles:
                raise Refused("not for this role.", code="not_authorised")
            return f"the {x_role}"

        return principal

    def partner(self) -> Callable[..., str]:
        return lambda: "nobody"


def test_only_those_who_answer_for_the_data_decide(careful):
    job = ask(careful)
    app = FastAPI()
    app.include_router(create_router(careful.shop.service, ByRole()))
    client = TestClient(app)
    for decision in ("approve", "reject"):
        with pytest.raises(Refused):
            path = f"/v1/overlap-queries/{job.id}:{decision}"
            client.post(path, json={"reason": "x"}, headers={"x-role": "analyst"})
    path = f"/v1/overlap-queries/{job.id}:reject"
    assert client.post(path, json={"reason": ""}, headers={"x-role": "data_steward"}).status_code == 422
    decided = client.post(path, json={"reason": "no"}, headers={"x-role": "compliance_officer"})
    assert decided.json()["state"] == "rejected"
    shown = client.get(f"/v1/overlap-queries/{job.id}/approval", headers={"x-role": "analyst"}).json()
    assert (shown["decision"], shown["principal"]) == ("rejected", "the compliance_officer")
    careful.bank.service.sweep()
    assert careful.bank.wait(job.id).error.code == "not_approved"
