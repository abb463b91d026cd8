"""A reach among three nodes: the bank asks, the shop and the airline contribute and never speak."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from clean_room.agreements import Terms
from clean_room.api import create_router
from clean_room.estimates import truncated_laplace
from clean_room.group.pool import BlindingPool
from clean_room.jobs import JobState, Query, Source
from clean_room.protocols.messages import MESSAGES
from clean_room.receipts import check_receipt
from clean_room.service import CleanRoom
from consent.events import withdraw
from consent.gate import ConsentGate
from consent.receipts import verify_absence
from privacy.budget import BudgetLedger, Cost
from privacy.errors import Misuse, Refused
from privacy.keys import KeyRing
from privacy.noise import half_width_for
from tests.clean_room.conftest import (
    HeaderGuards,
    Node,
    UnsafeNoNoise,
    Wire,
    WirePeer,
    consent_all,
    identifiers,
    make_node,
    person,
)

PURPOSE = "overlap.reach"
PEOPLE = {
    "bank": [*range(60)],
    "shop": [*range(24, 80)],
    "air": [*range(6, 18), *range(44, 72), *range(80, 100)],
}
"""Somebody in every region: 12, 20, 12, 16, 12, 8 and 20 people."""
DATASETS = """
[datasets.{name}-list]
source = "people.parquet"
keys = {{ email = "mail" }}
lineage = "{name}-people"
[datasets.{name}-list.segments]
half = "number % 2 = 0"
"""
TERMS: dict[str, Any] = {
    "purposes": (PURPOSE, "overlap.measure"),
    "query_types": ("overlap", "reach"),
    "minimum_input": 20,
    "minimum_cell": 3,
    "epsilon_per_query": 1.0,
    "epsilon_per_month": 1000.0,
}


class Door:
    """The application of a node as it is now: after a restart it is another."""

    def __init__(self, nodes: dict[str, Node], name: str) -> None:
        self._nodes, self._name = nodes, name

    def request(self, *given: Any, **more: Any) -> Any:
        return TestClient(self._nodes[self._name].app).request(*given, **more)


@dataclass
class Trio:
    """Three nodes, a wire between the bank and each of the others."""

    nodes: dict[str, Node]
    wires: dict[str, Wire]
    collaborations: dict[str, str] = field(default_factory=dict)

    def wait_for(self, name: str, job: str, state: JobState) -> Any:
        """A node's job, once it is in this state."""
        node, deadline = self.nodes[name], time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(Misuse):
                found = node.service.job(job)
                if found.state is state:
                    return found
            time.sleep(0.01)
        raise AssertionError(f"{name} never came to {state}")

    @property
    def bank(self) -> Node:
        return self.nodes["bank"]

    def agree(self, partner: str, **terms: Any) -> None:
        """Make (another) agreement of the bank with a partner."""
        if partner in self.collaborations:
            self.bank.service.leave(self.collaborations[partner])
        document = self.bank.collaborations.invite(
            partner=partner,
            url=f"https://{partner}.test",
            key=self.nodes[partner].identity.public.to_text(),
            terms=Terms(**(TERMS | terms)),
        )
        self.collaborations[partner] = self.nodes[partner].collaborations.accept(document).id

    def query(self, **more: Any) -> Query:
        fields: dict[str, Any] = {
            "kind": "reach",
            "collaboration": self.collaborations["shop"],
            "dataset": "bank-list",
            "partner_dataset": "shop-list",
            "purpose": PURPOSE,
            "others": (Source(self.collaborations["air"], "air-list"),),
        }
        return Query(**(fields | more))

    def spent(self, partner: str) -> tuple[float, float]:
        """(committed, reserved) ε of a partner's people, for the bank."""
        found = self.nodes[partner].service.budgets(f"{partner}-people")
        return sum(s.committed.epsilon for s in found), sum(s.reserved.epsilon for s in found)

    def uses(self, name: str, job: str) -> list[Any]:
        return [use for _, use in self.nodes[name].ledger.receipts(limit=1000) if use.job == job]

    def reopen(self, name: str, pool: BlindingPool) -> None:
        """Stop a node's clean room as if its process had ended, and start it again from what is on disk."""
        node = self.nodes[name]
        node.service._stopping.set()
        node.service.close()
        node.service = CleanRoom(
            node.engine,
            collaborations=node.collaborations,
            catalogue=node.catalogue,
            gate=ConsentGate(node.ledger),
            uses=node.ledger,
            budget=BudgetLedger(node.engine, limit=Cost(1000.0, 0.01)),
            identity=node.identity,
            keyring=KeyRing.load(node.directory / "ring"),
            pool=pool,
            artefacts=node.directory / "artefacts",
            clock=node.clock,
            random=os.urandom,
            settings=node.service.settings,
            noise=UnsafeNoNoise(),
        )
        app = FastAPI(exception_handlers=dict(node.app.exception_handlers))
        app.state.partners = node.app.state.partners
        app.include_router(create_router(node.service, HeaderGuards()))
        node.app = app
        node.service.recover()

    def withdraw(self, name: str, number: int, partner: str) -> None:
        self.nodes[name].ledger.record([withdraw(identifiers(number), PURPOSE, partner=partner)])


Make = Callable[..., Trio]


@pytest.fixture(scope="module")
def make_trio(tmp_path_factory: pytest.TempPathFactory, pool: BlindingPool) -> Iterator[Make]:
    made: list[Trio] = []

    def make(noise: Any = None, **terms: Any) -> Trio:
        nodes: dict[str, Node] = {}
        wires = {"shop": Wire(), "air": Wire()}

        def connect(me: str) -> Callable[[Any], WirePeer]:
            def to(pin: Any) -> WirePeer:
                wire = wires[pin.name if me == "bank" else me]
                door: Any = Door(nodes, pin.name)
                return WirePeer(pin.name, me, door, wire)

            return to

        for name, people in PEOPLE.items():
            home = tmp_path_factory.mktemp(name)
            mails = [person(i)["email"] for i in people]
            pl.DataFrame({"mail": mails, "number": list(people)}).write_parquet(home / "people.parquet")
            text = DATASETS.format(name=name)
            drawn = UnsafeNoNoise() if noise is None else noise
            nodes[name] = make_node(name, home, text, connect(name), pool, noise=drawn)
        trio = Trio(nodes, wires)
        made.append(trio)
        for name in ("shop", "air"):
            consent_all(nodes["bank"], PEOPLE["bank"], name)
            consent_all(nodes[name], PEOPLE[name], "bank")
            trio.agree(name, **terms)
        return trio

    yield make
    for trio in made:
        for wire in trio.wires.values():
            wire.heal()
            wire.down = True
        for node in trio.nodes.values():
            node.service.close()
            node.engine.dispose()


@pytest.fixture(scope="module")
def standing(make_trio: Make) -> Trio:
    return make_trio()


@pytest.fixture(scope="module")
def spare(make_trio: Make) -> Trio:
    """Three nodes for tests that agree anew, with both partners, as they like it."""
    return make_trio()


def renewed(spare: Trio, **terms: Any) -> Trio:
    for name in ("shop", "air"):
        spare.agree(name, **terms)
    return spare


@pytest.fixture
def trio(standing: Trio) -> Iterator[Trio]:
    """Three nodes shared by tests that leave agreements, consents and files as they are."""
    yield standing
    for wire in standing.wires.values():
        wire.heal()


def clear(lists: dict[str, set[int]]) -> dict[frozenset[str], int]:
    """How many people are in exactly which lists."""
    counts: dict[frozenset[str], int] = {}
    for number in set().union(*lists.values()):
        key = frozenset(name for name, people in lists.items() if number in people)
        counts[key] = counts.get(key, 0) + 1
    return counts


def check_result(result: dict[str, Any], lists: dict[str, set[int]]) -> None:
    truth = clear(lists)
    assert result["value"] == len(set().union(*lists.values()))
    for region in result["regions"]:
        assert region["value"] == truth.get(frozenset(region["parties"]), 0)
    for alone in result["exclusive"]:
        assert alone["value"] == truth.get(frozenset({alone["party"]}), 0)
    for k in (1, 2, 3):
        exactly = sum(n for key, n in truth.items() if len(key) == k)
        at_least = sum(n for key, n in truth.items() if len(key) >= k)
        assert [e["value"] for e in result["exactly"] if e["lists"] == k] == [exactly]
        assert [e["value"] for e in result["at_least"] if e["lists"] == k] == [at_least]


# ── the whole way ───────────────────────────────────────────────────────────────────────────────────────


def test_reach_and_regions_are_those_of_the_lists_and_everybody_signs(trio: Trio) -> None:
    job = trio.bank.run(trio.query())
    assert job.state is JobState.SUCCEEDED, job.error
    result = job.result
    check_result(result, {name: set(people) for name, people in PEOPLE.items()})
    assert result["suppressed"] is False and result["reason"] is None
    assert len(result["regions"]) == 4 and len(result["exclusive"]) == 3
    assert sorted(result["parties"]) == ["air", "bank", "shop"] and result["parties"][0] == "bank"
    assert result["epsilon_of_size"] + result["epsilon_of_regions"] == result["epsilon_spent"] == 1.0
    assert [p["name"] for p in result["partners"]] == result["parties"][1:]
    assert all(p["epsilon_spent"] == 1.0 for p in result["partners"])
    assert result["receipts"] == [p["receipt_id"] for p in result["partners"]]
    panels = set()
    for partner in result["partners"]:
        receipt = trio.bank.service.receipt(partner["receipt_id"])
        assert receipt == trio.nodes[partner["name"]].service.receipt(partner["receipt_id"])
        assert trio.bank.service.verify_receipt(receipt)
        body = receipt["body"]
        assert body["contributor"]["partner"] == partner["name"]
        assert (body["kind"], body["noise"]["lists"], body["noise"]["epsilon"]) == ("reach", 3, 1.0)
        panels.add(body["noise"]["panel"])
        node = trio.nodes[partner["name"]]
        keys = {"bank": trio.bank.identity.public, partner["name"]: node.identity.public}
        checked = check_receipt(receipt, keys=keys, agreements=[body["agreement_hash"]], result=result)
        assert checked.holds and checked.result
    assert len(panels) == 1


def test_each_partner_is_charged_records_the_use_and_learns_nothing(trio: Trio) -> None:
    before = {name: trio.spent(name) for name in ("shop", "air")}
    job = trio.bank.run(trio.query())
    assert job.state is JobState.SUCCEEDED, job.error
    for name in ("shop", "air"):
        committed, reserved = trio.spent(name)
        assert (committed - before[name][0], reserved) == (1.0, 0)
        row = trio.nodes[name].service.job(job.id)
        assert (row.state, row.role, row.result, row.query.kind) == (
            JobState.SUCCEEDED,
            "contributor",
            None,
            "reach",
        )
        (use,) = trio.uses(name, job.id)
        assert (use.kind, use.partner, use.evidence.count) == ("reach", "bank", len(PEOPLE[name]))
        assert use.id == row.receipt_id
    own = trio.uses("bank", job.id)
    assert {use.partner: use.id for use in own} == {
        p["name"]: p["receipt_id"] for p in job.result["partners"]
    }
    stranger = identifiers(900)[0]
    for use in own:
        proof, shown = trio.bank.ledger.absence_proof(use.id, *stranger)
        verify_absence(proof, shown.set_root, trio.bank.ledger.member_leaf(use.id, *stranger))
    for node in trio.nodes.values():
        assert not list((node.directory / "artefacts").glob("*.use"))


def test_what_travels_names_nobody_and_no_partner_hears_of_another(trio: Trio) -> None:
    job = trio.bank.run(trio.query())
    assert job.state is JobState.SUCCEEDED, job.error
    for name, other in (("shop", "air"), ("air", "shop")):
        wire = b"\\n".join(trio.wires[name].captured)
        for number in (*PEOPLE["bank"][::9], *PEOPLE["shop"][::9], *PEOPLE["air"][::9]):
            assert person(number)["email"].encode() not in wire
        assert f"{other}.test".encode() not in wire
        assert trio.collaborations[other].encode() in wire  # by which each can say what it was told
    assert {13, 14, 15} <= set(MESSAGES)


def test_segments_hold_for_every_list_by_itself(trio: Trio) -> None:
    air = Source(trio.collaborations["air"], "air-list", "half")
    job = trio.bank.run(trio.query(segment="half", others=(air,)))
    assert job.state is JobState.SUCCEEDED, job.error
    half = {number for number in range(100) if number % 2 == 0}
    lists = {name: set(people) & half for name, people in PEOPLE.items()}
    check_result(job.result, lists | {"shop": set(PEOPLE["shop"])})


def test_it_does_not_matter_which_partner_is_named_first(trio: Trio) -> None:
    shop = Source(trio.collaborations["shop"], "shop-list")
    turned = trio.query(collaboration=trio.collaborations["air"], partner_dataset="air-list", others=(shop,))
    job = trio.bank.run(turned)
    assert job.state is JobState.SUCCEEDED, job.error
    check_result(job.result, {name: set(people) for name, people in PEOPLE.items()})


class SameLaw(UnsafeNoNoise):
    """The law of the noise that is drawn in life, from a generator that needs no loading."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(17)

    def half_width(self, epsilon: float, delta: float) -> int:
        return half_width_for(epsilon, delta)

    def matching(self, epsilon: float, half_width: int, shape: tuple[int, int]) -> np.ndarray:
        law = truncated_laplace(epsilon, half_width)
        return self._random.choice(len(law), shape, p=law)


def test_with_noise_the_answer_is_within_its_error_bars(make_trio: Make) -> None:
    trio = make_trio(SameLaw())
    job = trio.bank.run(trio.query())
    assert job.state is JobState.SUCCEEDED, job.error
    truth = clear({name: set(people) for name, people in PEOPLE.items()})
    low, high = job.result["ci95"]
    half = (high - low) / 2
    assert 3 < half < 40
    assert abs(job.result["value"] - len(set().union(*PEOPLE.values()))) <= 3 * half
    for region in job.result["regions"]:
        if region["value"] is not None:
            low, high = region["ci95"]
            assert abs(region["value"] - truth.get(frozenset(region["parties"]), 0)) <= 3 * (high - low)
    assert trio.spent("shop") == trio.spent("air") == (1.0, 0)
    body = trio.bank.service.receipt(job.receipt_id)["body"]
    assert body["noise"]["dummies_per_set"] > 10 and body["noise"]["size_slack"] > 10


# ── consent ─────────────────────────────────────────────────────────────────────────────────────────────


def test_who_opted_out_anywhere_is_not_in_it(make_trio: Make) -> None:
    trio = make_trio()
    trio.withdraw("shop", 30, "bank")
    trio.withdraw("bank", 10, "air")  # towards one partner is enough: it is one computation
    lists = {name: set(people) for name, people in PEOPLE.items()}
    lists["shop"].discard(30)
    lists["bank"].discard(10)
    job = trio.bank.run(trio.query())
    assert job.state is JobState.SUCCEEDED, job.error
    check_result(job.result, lists)
    assert job.result["people"] == len(PEOPLE["bank"]) - 1
    assert {use.evidence.count for use in trio.uses("bank", job.id)} == {len(PEOPLE["bank"]) - 1}


@pytest.mark.parametrize("names", [("air", "shop"), ("bank",)])
def test_who_opts_out_while_it_runs_is_left_out_before_any_list_leaves(
    make_trio: Make, names: tuple[str, ...]
) -> None:
    trio = make_trio()
    done: list[str] = []

    def opt_out(method: str, path: str) -> None:
        if path.endswith("/messages/1/finish") and not done:
            done.append(path)
            for number, name in enumerate(names, 50):
                trio.withdraw(name, number, "bank" if name != "bank" else "air")

    trio.wires["air"].on_request = opt_out
    job = trio.bank.run(trio.query())
    assert done
    assert job.state is JobState.SUCCEEDED, job.error
    lists = {party: set(people) for party, people in PEOPLE.items()}
    for number, name in enumerate(names, 50):
        lists[name].discard(number)
    check_result(job.result, lists)
    assert trio.spent("shop") == trio.spent("air") == (1.0, 0)
    if "bank" not in names:  # the same again, less one person, would tell of that person
        trio.withdraw("shop", 60, "bank")
        again = trio.bank.run(trio.query())
        assert again.state is JobState.REJECTED
        assert again.error is not None and again.error.code == "differencing_risk"
        assert trio.spent("shop") == trio.spent("air") == (1.0, 0)


# ── restarts ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("bank", "/messages/1/chunks/0"),
        ("bank", "/replies/1/"),
        ("bank", "/replies/3/"),
        ("bank", "/receipt"),
        ("shop", "/messages/2/finish"),
        ("air", "/receipt"),
    ],
)
def test_a_node_that_stops_goes_on_where_it_was_and_nobody_pays_twice(
    trio: Trio, pool: BlindingPool, name: str, where: str
) -> None:
    before = trio.spent("shop"), trio.spent("air")
    stopped, go_on = threading.Event(), threading.Event()

    def stop(method: str, path: str) -> None:
        if where in path and not stopped.is_set():
            stopped.set()
            if name == "bank":
                trio.bank.service._stopping.set()
            else:
                assert go_on.wait(30)

    trio.wires["shop" if name == "bank" else name].on_request = stop
    job = trio.bank.service.submit(trio.query(), principal="ana")
    assert stopped.wait(30)
    trio.reopen(name, pool)
    go_on.set()
    found = trio.bank.wait(job.id)
    assert found.state is JobState.SUCCEEDED, found.error
    check_result(found.result, {party: set(people) for party, people in PEOPLE.items()})
    after = trio.spent("shop"), trio.spent("air")
    assert [(a[0] - b[0], a[1]) for a, b in zip(after, before, strict=True)] == [(1.0, 0), (1.0, 0)]
    for party in PEOPLE:
        assert len(trio.uses(party, job.id)) == (2 if party == "bank" else 1)


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────


def test_every_agreement_must_allow_it_before_anybody_is_asked(spare: Trio) -> None:
    trio = renewed(spare)
    trio.agree("air", query_types=("overlap",))
    for wire in trio.wires.values():
        wire.requests.clear()
    with pytest.raises(Refused) as caught:
        trio.bank.service.submit(trio.query(), principal="ana")
    assert caught.value.code == "query_type_not_agreed" and "air" in caught.value.detail
    assert not any(wire.requests for wire in trio.wires.values())
    trio.agree("air", delta_per_query=1e-7)
    with pytest.raises(Refused) as caught:
        trio.bank.service.submit(trio.query(), principal="ana")
    assert caught.value.code == "rule_mismatch"
    trio.agree("air", thinning=0.9)
    with pytest.raises(Refused) as caught:
        trio.bank.service.submit(trio.query(), principal="ana")
    assert caught.value.code == "thinning_agreed"
    trio.agree("air", epsilon_per_query=0.5)
    job = trio.bank.run(trio.query())  # without an ε of its own it asks with what all allow
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.result["epsilon_spent"] == 0.5
    with pytest.raises(Refused) as caught:
        trio.bank.service.submit(trio.query(epsilon=0.8), principal="ana")
    assert caught.value.code == "epsilon_above_agreed"


def test_a_partner_that_refuses_ends_it_for_all_and_nobody_is_charged(spare: Trio) -> None:
    trio = renewed(spare)
    trio.agree("air", epsilon_per_month=trio.spent("air")[0] + 1.5)
    assert trio.bank.run(trio.query()).state is JobState.SUCCEEDED
    before = trio.spent("shop")
    job = trio.bank.run(trio.query(segment="half"))
    assert job.state is JobState.REJECTED
    assert job.error is not None and job.error.code == "budget_exhausted"
    with contextlib.suppress(Misuse):  # who comes first in the ring is a matter of chance
        assert trio.nodes["shop"].wait(job.id).state is JobState.FAILED
    assert trio.spent("shop") == before


@pytest.mark.parametrize(
    ("partner", "where", "at"),
    [
        ("air", "/messages/2/chunks/0", 60),
        ("shop", "/messages/3/chunks/0", 200),
        ("air", "/messages/1/chunks/0", 50),
    ],
)
def test_a_message_changed_on_the_way_ends_it_on_all_sides(
    trio: Trio, partner: str, where: str, at: int
) -> None:
    def change(method: str, path: str, body: bytes) -> bytes:
        return (
            body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :] if where in path and len(body) > at else body
        )

    trio.wires[partner].tamper = change
    job = trio.bank.run(trio.query())
    assert job.state is JobState.FAILED
    for name in ("shop", "air"):
        assert trio.nodes[name].wait(job.id).state is JobState.FAILED
        assert trio.spent(name)[1] == 0


def test_terms_are_derived_by_each_partner_and_never_believed(trio: Trio) -> None:
    # An analyst that tells one partner of other partners than its terms name is found out.
    def change(method: str, path: str, body: bytes) -> bytes:
        if path != "/v1/peer/jobs" or method != "POST":
            return body
        document = json.loads(body)
        document["query"]["others"] = [{"collaboration": "f" * 32, "dataset": "another", "segment": None}]
        return json.dumps(document).encode()

    trio.wires["shop"].tamper = change
    job = trio.bank.run(trio.query())
    assert job.state is JobState.FAILED
    assert job.error is not None and job.error.code == "peer_violation"


def test_small_regions_are_hidden_and_do_not_follow_from_the_rest(spare: Trio) -> None:
    trio = renewed(spare, minimum_cell=14)
    job = trio.bank.run(trio.query())
    assert job.state is JobState.SUCCEEDED, job.error
    result = job.result
    shown = [r["value"] for r in (*result["regions"], *result["exclusive"]) if not r["suppressed"]]
    assert result["reason"] in ("cells_below_minimum", "below_minimum_cell")
    assert all(value >= 14 for value in shown)
    assert all(r["value"] is None and r["ci95"] is None for r in result["regions"] if r["suppressed"])


def test_a_preview_says_how_sure_it_would_be_and_asks_nobody(trio: Trio) -> None:
    for wire in trio.wires.values():
        wire.requests.clear()
    found = trio.bank.service.preview(trio.query())
    assert (found["cells"], found["error_bar"], found["epsilon"]) == (7, 0, 1.0)
    assert found["people"] == len(PEOPLE["bank"])
    asked = [path for wire in trio.wires.values() for _, path in wire.requests]
    assert not any(path.startswith("/v1/peer/jobs") for path in asked)


def test_a_reach_names_partners_of_its_own(trio: Trio) -> None:
    shop = trio.collaborations["shop"]
    for bad in ((), (Source(shop, "shop-list"),), (Source("a" * 32, "x"),) * 2):
        with pytest.raises(Misuse):
            trio.query(others=bad)
    with pytest.raises(Misuse):
        trio.bank.service.submit(trio.query(others=(Source("a" * 32, "x"),)), principal="ana")


def test_a_person_of_one_partner_may_have_to_let_it_through(spare: Trio) -> None:
    trio = renewed(spare)
    trio.agree("air", approval="person")
    service = trio.bank.service
    job = service.submit(trio.query(), principal="ana")
    air = trio.nodes["air"]
    assert trio.wait_for("air", job.id, JobState.AWAITING_APPROVAL).query.kind == "reach"
    trio.wait_for("bank", job.id, JobState.AWAITING_APPROVAL)
    with pytest.raises(Misuse):
        trio.nodes["shop"].service.job(job.id)  # nobody else is kept waiting
    air.service.contributor.approve(job.id, principal="carol")
    trio.bank.clock.ahead = timedelta(seconds=11)
    service.sweep()
    found = trio.bank.wait(job.id)
    assert found.state is JobState.SUCCEEDED, found.error
    check_result(found.result, {name: set(people) for name, people in PEOPLE.items()})


def test_noise_off_regions_are_whole_numbers_of_people() -> None:
    assert np.array_equal(UnsafeNoNoise().matching(1.0, 0, (1, 3)), np.zeros((1, 3)))
