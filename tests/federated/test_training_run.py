"""A whole run between two nodes: the pooled result, consent every round, nothing on the wire."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from consent.receipts import verify_absence
from federated.errors import (
    PeerViolation,
    Refused,
    TrainingMisuse,
)
from federated.gate import DataGate, RoundReceipt
from federated.runs import Run, RunState
from federated.vertical import logistic
from federated.vertical.partition import Partition

from .conftest import BANK_COLUMNS, PEOPLE, PURPOSE, SHOP_COLUMNS, World, email, finished

Settled = tuple[World, Run]


def split_of(world: World, run: str) -> Partition:
    """The run's split, as the feature holder was told it and keeps it."""
    offer = world.shop.service.run(run).request
    return Partition.from_text(offer["held_out"], offer["rows"])


def pooled(world: World, run: str, people: list[int], columns: tuple[Any, ...]) -> float:
    """scikit-learn over the same rows, split as the run splits them."""
    split = split_of(world, run)
    assert split.rows == len(people)
    labels = world.columns(world.bank, ("defaulted",), people)[:, 0]
    features = np.hstack([world.columns(node, names, people) for node, names in columns])
    mean, scale = features[split.train].mean(axis=0), features[split.train].std(axis=0)
    scaled = (features - mean) / scale
    model = LogisticRegression(C=1.0, tol=1e-9, max_iter=10_000).fit(scaled[split.train], labels[split.train])
    return float(roc_auc_score(labels[split.test], model.decision_function(scaled[split.test])))


def test_the_run_ends_with_the_pooled_models_auc_and_better_than_alone(settled: Settled) -> None:
    world, run = settled
    assert run.state is RunState.SUCCEEDED, run.error
    assert run.result is not None
    people = list(range(PEOPLE))
    both = ((world.bank, BANK_COLUMNS), (world.shop, SHOP_COLUMNS))
    assert abs(run.result["auc_joint"] - pooled(world, run.id, people, both)) < 0.002
    assert abs(run.result["auc_alone"] - pooled(world, run.id, people, both[:1])) < 0.002
    assert run.result["auc_joint"] > run.result["auc_alone"] + 0.05
    assert (run.result["people"], run.result["rounds"]) == (PEOPLE, 2)
    split = split_of(world, run.id)
    assert (run.result["train_rows"], run.result["test_rows"]) == (len(split.train), len(split.test))
    # 300 of 1200 are expected, with a standard deviation of 15.
    assert abs(run.result["test_rows"] - 300) < 6 * 15
    assert "held_out" not in world.shop.client.get(
        f"/v1/training-runs/{run.id}", headers={"x-role": "analyst"}
    ).text  # fmt: skip
    assert run.result["seconds"] < 40
    theirs = finished(world.shop.service, run.id)
    assert (theirs.state, theirs.role.value, theirs.progress) == (RunState.SUCCEEDED, "passive", 1.0)


def test_both_ledgers_hold_a_receipt_of_every_round_and_the_run_names_them(settled: Settled) -> None:
    world, run = settled
    assert run.result is not None
    named = {(r["party"], r["round"]): r["use_receipt"] for r in run.result["receipts"]}
    assert set(named) == {(p, r) for p in ("bank", "shop") for r in (1, 2, 3)}
    for node in (world.bank, world.shop):
        kept = [receipt for _, receipt in (node.ledger.receipt(named[node.name, r]) for r in (1, 2, 3))]
        assert [(r.kind, r.round, r.job, r.purpose) for r in kept] == [
            ("training", n, run.id, PURPOSE) for n in (1, 2, 3)
        ]
    for held in world.bank.service.receipts(run.id):
        receipt = RoundReceipt(**held["receipt"])
        key = (world.bank if held["party"] == "bank" else world.shop).key.public
        import base64

        key.verify("training-receipt", receipt.signed_bytes(), base64.b64decode(receipt.signature))
    assert [h["round"] for h in run.result["heads"]] == [1, 2, 3]


def test_people_who_withdraw_between_rounds_contribute_nothing_to_later_gradients(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = list(range(0, 200, 2))
    gradients: list[tuple[int, np.ndarray]] = []
    rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    asked = DataGate.features

    def watch(self: DataGate, run: str, round: int, purpose: str, *, nonce: str) -> Any:  # noqa: A002
        if round == 2 and self is world.shop.service.participant._gate:
            world.shop.withdraw(gone)
        return asked(self, run, round, purpose, nonce=nonce)

    begun = logistic.start_passive

    def keep(terms: Any, data: Any, **rest: Any) -> Any:
        rows[terms.round] = (data.columns, terms.fixed_point.features(data.columns))
        return begun(terms, data, **rest)

    exact = logistic.PassiveAwaitingSums.gradient

    def note(self: Any, message: Any) -> Any:
        found = exact(self, message)
        gradients.append((self.terms.round, found))
        return found

    residuals: list[tuple[int, np.ndarray]] = []
    encrypted = logistic._next_epoch

    def sent(terms: Any, data: Any, keys: Any, basis: Any, epoch: int) -> Any:
        state, message = encrypted(terms, data, keys, basis, epoch)
        residuals.append((terms.round, terms.fixed_point.residuals(state._basis.residuals(data))))
        return state, message

    monkeypatch.setattr(DataGate, "features", watch)
    monkeypatch.setattr(logistic, "start_passive", keep)
    monkeypatch.setattr(logistic, "_next_epoch", sent)
    monkeypatch.setattr(logistic.PassiveAwaitingSums, "gradient", note)
    run = world.train()
    assert run.state is RunState.SUCCEEDED, run.error
    train = split_of(world, run.id).train
    withdrawn = np.isin(train, gone)
    assert rows[1][0][withdrawn].any()
    assert not rows[2][0][withdrawn].any()
    assert rows[2][0][~withdrawn].any(axis=1).all()
    checked = 0
    for (number, gradient), (_, d) in zip(gradients, residuals, strict=True):
        if number == 2:
            without = rows[2][1][~withdrawn].T @ d[~withdrawn]
            assert gradient.tolist() == without.tolist()
            checked += 1
    assert checked
    receipts = {h["round"]: h["receipt"] for h in world.shop.service.receipts(run.id)}
    assert receipts[2]["log_size"] > receipts[1]["log_size"]
    assert receipts[2]["rows"] == receipts[1]["rows"] == PEOPLE
    person = email(gone[0]).encode()
    for number in (2, 3):
        proof, receipt = world.shop.ledger.absence_proof(receipts[number]["use_receipt"], "email", person)
        leaf = world.shop.ledger.member_leaf(receipt.id, "email", person)
        verify_absence(proof, receipt.set_root, leaf)
    present = world.shop.ledger.members(receipts[1]["use_receipt"])
    assert present.root != receipt.set_root


def test_no_raw_value_identifier_or_hash_crosses_the_wire(settled: Settled) -> None:
    world, run = settled
    assert run.state is RunState.SUCCEEDED, run.error
    traffic = b"\n".join(world.wire.bodies)
    forbidden: list[bytes] = []
    for i in range(0, PEOPLE, 23):
        digest = hashlib.sha256(email(i).encode())
        forbidden += [email(i).encode(), digest.digest(), digest.hexdigest().encode()]
    for node, names in ((world.bank, ("limit", "age")), (world.shop, ("late", "spent"))):
        for value in world.columns(node, names, list(range(0, PEOPLE, 23))).ravel():
            forbidden += [struct.pack("<d", value), struct.pack(">d", value), repr(float(value)).encode()]
            if float(value).is_integer():
                forbidden += [struct.pack("<q", int(value)), str(int(value)).encode()]
    labels = world.columns(world.bank, ("defaulted",), list(range(PEOPLE)))[:, 0]
    train = split_of(world, run.id).train
    for kind in (np.uint8, np.int32, np.int64, np.float32, np.float64):
        forbidden += [labels[:64].astype(kind).tobytes(), labels[train][:64].astype(kind).tobytes()]
    forbidden.append(np.packbits(labels[train].astype(bool))[:16].tobytes())
    found = [i for i, secret in enumerate(forbidden) if secret in traffic]
    assert not found
    assert b"defaulted" not in traffic
    assert len(traffic) > 1 << 20


def test_each_side_keeps_its_half_sealed_and_the_halves_make_the_model(settled: Settled) -> None:
    world, run = settled
    halves = [node.service.model(run.id) for node in (world.bank, world.shop)]
    assert [h.columns for h in halves] == [BANK_COLUMNS, SHOP_COLUMNS]
    people = list(range(PEOPLE))
    scores = sum(
        half.score(world.columns(node, half.columns, people))
        for node, half in zip((world.bank, world.shop), halves, strict=True)
    )
    labels = world.columns(world.bank, ("defaulted",), people)[:, 0]
    test = split_of(world, run.id).test
    assert run.result is not None
    assert roc_auc_score(labels[test], scores[test]) == pytest.approx(run.result["auc_joint"], abs=1e-9)  # type: ignore[index]
    sealed = world.bank.service._store.sealed_model(run.id)
    assert b"weights" not in sealed
    with pytest.raises(TrainingMisuse):
        world.bank.service.model("nope")


def test_cards_name_purpose_heads_and_limits_on_both_sides(settled: Settled) -> None:
    world, run = settled
    card, theirs = world.bank.service.card(run.id), world.shop.service.card(run.id)
    assert card["purpose"] == theirs["purpose"] == PURPOSE
    assert [h["round"] for h in card["heads"]] == [h["round"] for h in theirs["heads"]] == [1, 2, 3]
    assert card["metrics"]["auc_joint"] > card["metrics"]["auc_alone"]
    assert card["data"]["partner_columns"] == list(SHOP_COLUMNS)
    assert theirs["metrics"] == {"held_by": "bank"}
    assert card["limits"]


def test_a_finished_alignment_can_be_trained_on_again_without_those_who_left(world: World) -> None:
    first = world.train()
    again = world.train(alignment=first.alignment)
    assert again.alignment == first.alignment
    world.shop.withdraw(list(range(150)))
    world.bank.withdraw(list(range(150)))
    world.clean_room.denied = set(range(150))
    fewer = world.train()
    assert fewer.result is not None
    assert again.result is not None
    assert (again.result["people"], fewer.result["people"]) == (PEOPLE, PEOPLE - 150)
    people = list(range(150, PEOPLE))
    both = ((world.bank, BANK_COLUMNS), (world.shop, SHOP_COLUMNS))
    assert abs(fewer.result["auc_joint"] - pooled(world, fewer.id, people, both)) < 0.002
    before, after = split_of(world, first.id), split_of(world, fewer.id)
    assert split_of(world, again.id).test.tolist() == before.test.tolist()
    assert (after.test + 150).tolist() == before.test[before.test >= 150].tolist(), "the same people test"


def test_rows_withdrawn_at_the_label_holder_are_left_out_of_training_and_evaluation(world: World) -> None:
    first = world.train()
    gone = list(range(300))
    world.bank.withdraw(gone)
    run = world.train(alignment=first.alignment)
    assert run.result is not None
    split = split_of(world, run.id)
    assert run.result["people"] == PEOPLE
    assert run.result["test_rows"] == int((split.test >= 300).sum())
    assert run.result["train_rows"] == int((split.train >= 300).sum())


def test_a_partner_that_is_down_fails_the_run_and_leaves_nothing(world: World) -> None:
    world.wire.down = True
    run = world.train()
    assert (run.state, run.error and run.error.code) == (RunState.FAILED, "peer_unreachable")
    assert run.error is not None
    assert run.error.retryable
    with pytest.raises(TrainingMisuse):
        world.bank.service.card(run.id)


@pytest.mark.parametrize("place", ["channel", "messages"])
def test_a_reply_damaged_on_the_way_ends_the_run_on_both_sides(world: World, place: str) -> None:
    def tamper(method: str, path: str, body: bytes) -> bytes:
        if method != "GET" or f"/{place}/" not in path:
            return body
        return body.replace(b'"set_root":"', b'"set_root":"x') if place == "messages" else body[:-9]

    world.wire.tamper = tamper
    run = world.train()
    assert run.state is RunState.FAILED
    assert run.error is not None
    assert run.error.code in {"peer_violation", "receipt_invalid", "channel_violation"}
    world.wire.tamper = None
    theirs = finished(world.shop.service, run.id)
    assert theirs.state is RunState.FAILED
    with pytest.raises(TrainingMisuse):
        world.shop.service.model(run.id)


def test_a_rejected_alignment_rejects_the_run(world: World) -> None:
    world.clean_room.fail = "yes"
    run = world.train()
    assert run.state is RunState.REJECTED


def test_a_refusal_by_the_partner_keeps_its_code(world: World) -> None:
    for changes, code in (
        ({"partner_features": ("email",)}, "training_refused"),
        ({"rounds": 20, "epochs": 50}, "training_refused"),
    ):
        run = world.train(**changes)
        assert (run.state, run.error and run.error.code) == (RunState.REJECTED, code)


def test_a_run_can_be_cancelled_and_both_sides_say_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    service = world.bank.service
    asked = DataGate.features

    def watch(self: DataGate, run: str, round: int, purpose: str, *, nonce: str) -> Any:  # noqa: A002
        service.cancel(run)
        return asked(self, run, round, purpose, nonce=nonce)

    monkeypatch.setattr(DataGate, "features", watch)
    run = world.train()
    assert run.state is RunState.CANCELLED
    assert finished(world.shop.service, run.id).state in {RunState.CANCELLED, RunState.FAILED}
    assert service.cancel(run.id).state is RunState.CANCELLED
    with pytest.raises(Refused):
        world.shop.service.cancel(run.id)


def test_what_a_crash_left_is_failed_at_the_next_start(settled: Settled) -> None:
    world, run = settled
    store = world.bank.service._store
    stuck = replace(run, id="f" * 32, state=RunState.STARTED, result=None, card=None)
    store.add(stuck)
    assert world.bank.service.recover() == ["f" * 32]
    ended = store.get("f" * 32)
    assert (ended.state, ended.error and ended.error.code) == (RunState.FAILED, "interrupted")


def test_requests_that_cannot_be_are_refused_before_a_run_exists(world: World) -> None:
    service = world.bank.service
    for changes, kind, code in (
        ({"collaboration": "zz"}, Exception, "unknown_collaboration"),
        ({"dataset": "zz"}, Exception, "unknown_dataset"),
        ({"partner_dataset": "zz"}, Refused, "dataset_not_agreed"),
        ({"purpose": "ads.everything"}, Refused, "purpose_not_agreed"),
        ({"label": "secret"}, TrainingMisuse, "column_not_allowed"),
        ({"features": ("email",)}, TrainingMisuse, "column_not_allowed"),
    ):
        with pytest.raises(kind) as caught:
            service.submit(world.request(**changes), principal="ann")
        assert caught.value.code == code  # type: ignore[attr-defined]
    for changes in (
        {"rounds": 0},
        {"epochs": 51},
        {"test_fraction": 0.9},
        {"l2": 0.0},
        {"features": ("defaulted",)},
    ):
        with pytest.raises(TrainingMisuse):
            world.request(**changes)
    assert service.runs() == []


def test_offers_that_do_not_fit_are_refused_and_leave_no_seat(settled: Settled) -> None:
    world, run = settled
    seats = world.shop.service.participant
    good = dict(world.shop.service.run(run.id).request) | {"run": "a" * 32}
    for changes, who in (
        ({}, "stranger"),
        ({"collaboration": "zz"}, "bank"),
        ({"purpose": "ads.all"}, "bank"),
        ({"dataset": "customers"}, "bank"),
        ({"features": ["email"]}, "bank"),
        ({"rows": 50}, "bank"),
        ({"rows": PEOPLE - 1}, "bank"),
        ({"alignment": "beef"}, "bank"),
        ({"rounds": 0}, "bank"),
        ({"epochs": 10**9}, "bank"),
        ({"run": "../x"}, "bank"),
        ({"extra": 1}, "bank"),
        ({"l2": "1"}, "bank"),
        ({"run": run.id}, "bank"),
        ({"held_out": None}, "bank"),
    ):
        with pytest.raises((Refused, PeerViolation, TrainingMisuse, Exception)) as caught:
            seats.offer(who, good | changes)
        assert hasattr(caught.value, "code")
    held_out = good["held_out"]
    nobody = "A" * len(held_out)
    for mask in ("", "x", held_out[:-4], held_out + "AAAA", "!" + held_out[1:], nobody):
        with pytest.raises(PeerViolation) as caught:
            seats.offer("bank", good | {"held_out": mask})
        assert caught.value.code == "malformed_split"
    with pytest.raises(PeerViolation):
        seats.offer("bank", {name: value for name, value in good.items() if name != "held_out"})
    for junk in (None, [], "x", 7):
        with pytest.raises(PeerViolation):
            seats.offer("bank", junk)
    assert seats._seats == {}
    for call in (
        lambda: seats.deliver("bank", run.id, b""),
        lambda: seats.reply("bank", run.id, "x", wait=0),
        lambda: seats.frame("bank", run.id, b""),
        lambda: seats.fetch("bank", run.id, 0, wait=0),
        lambda: seats.finish("stranger", run.id, {"state": "succeeded"}),
        lambda: seats.finish("bank", run.id, {"state": "failed"}),
    ):
        with pytest.raises(Refused):
            call()
    assert seats.finish("bank", run.id, {"state": "succeeded"}) == {"state": "succeeded"}
    with pytest.raises(PeerViolation):
        seats.finish("bank", run.id, {"state": "perhaps"})


def test_a_success_claimed_too_early_is_a_violation_and_a_silent_partner_times_out(settled: Settled) -> None:
    world, run = settled
    seats = world.shop.service.participant
    offer = dict(world.shop.service.run(run.id).request) | {"run": "b" * 32}
    seats.offer("bank", offer)
    with pytest.raises(PeerViolation):
        seats.finish("bank", "b" * 32, {"state": "succeeded"})
    with pytest.raises(Refused):
        seats.frame("stranger", "b" * 32, b"")
    with pytest.raises(PeerViolation):
        seats.deliver("bank", "b" * 32, b"junk")
    seats._seats["b" * 32].touched -= 1000
    seats.reap()
    ended = world.shop.service.run("b" * 32)
    assert (ended.state, ended.error and ended.error.code) == (RunState.TIMED_OUT, "peer_timeout")


def test_the_http_api_takes_follows_and_lists_runs(world: World) -> None:
    client = world.bank.client
    body = world.request().document() | {"partner_features": ["late", "visits"]}
    headers = {"x-role": "analyst", "idempotency-key": "k1"}
    taken = client.post("/v1/training-runs", json=body, headers=headers)
    assert taken.status_code == 202
    place = taken.headers["location"]
    assert client.post("/v1/training-runs", json=body, headers=headers).json()["id"] == taken.json()["id"]
    other = client.post("/v1/training-runs", json=body | {"rounds": 1}, headers=headers)
    assert other.json()["code"] == "idempotency_conflict"
    finished(world.bank.service, taken.json()["id"])
    shown = client.get(place, headers=headers).json()
    assert (shown["state"], shown["progress"]) == ("succeeded", 1.0)
    assert client.get(f"{place}/card", headers=headers).json()["data"]["partner_columns"] == [
        "late",
        "visits",
    ]
    assert len(client.get(f"{place}/receipts", headers=headers).json()) == 6
    page = client.get("/v1/training-runs?limit=1", headers=headers).json()
    assert [i["id"] for i in page["items"]] == [taken.json()["id"]]
    assert page["next"] is None
    assert client.post(f"{place}:cancel", headers=headers).json()["state"] == "succeeded"
    assert client.get("/v1/training-runs/none", headers=headers).json()["code"] == "unknown_run"
    assert client.get(place).json()["code"] == "not_authorised"
    assert client.post("/v1/training-runs", json=body, headers={"x-role": "data_steward"}).status_code == 400
    assert client.post("/v1/training-runs", json={"x": 1}, headers=headers).status_code == 422
    assert client.post("/v1/peer/training", json={}).json()["code"] == "not_authenticated"
    assert (
        client.post("/v1/peer/training", json={}, headers={"x-partner": "shop"}).json()["code"]
        == "malformed_offer"
    )
