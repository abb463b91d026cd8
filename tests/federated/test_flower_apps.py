"""The ServerApp takes no round without a fresh receipt; the ClientApp takes no task that is not one."""

from __future__ import annotations

import base64
import dataclasses
import os
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from federated.apps import NodeSeat, RunSummary, TrainingPlan, client_app, server_app
from federated.errors import ComityError, PartnerFailed, PeerUnreachable, ReceiptInvalid
from federated.gate import RoundReceipt
from federated.grid import InProcessGrid, LocalNode, task_identity
from federated.vertical.parties import ModelPart, Outcome
from federated.vertical.partition import Partition
from federated.vertical.terms import RunTerms
from privacy.signing import SigningKey

SPLIT = Partition(train=np.arange(750), test=np.arange(750, 1000)).to_text()
TERMS = RunTerms("r", "model.credit", rows=1000, features=2, held_out=SPLIT, rounds=2, epochs=2)
KEYS = {2: SigningKey.generate(), 3: SigningKey.generate()}


def receipt(key: SigningKey, number: int, nonce: str, **changes: object) -> RoundReceipt:
    given: dict[str, object] = {
        "run": "r", "round": number, "purpose": "model.credit", "nonce": nonce, "log_origin": "o",
        "log_size": 5, "log_root": "", "policy_hash": "", "set_root": "", "rows": 1000, "checked_at": "",
        "use_receipt": "u",
    }  # fmt: skip
    unsigned = RoundReceipt(**{**given, **changes})  # type: ignore[arg-type]
    signature = base64.b64encode(key.sign("training-receipt", unsigned.signed_bytes())).decode()
    return dataclasses.replace(unsigned, signature=signature)


class HonestParty:
    def __init__(self, key: SigningKey) -> None:
        self.key = key
        self.steps: list[str] = []

    def train(self, number: int, nonce: str) -> Outcome:
        self.steps.append(f"train {number}")
        return Outcome(receipt(self.key, number, nonce), 2, 0.0)

    def evaluate(self, number: int, nonce: str) -> Outcome:
        self.steps.append(f"evaluate {number}")
        return Outcome(receipt(self.key, number, nonce), 0, 0.0, {"auc_joint": 0.7})

    def part(self) -> ModelPart:
        raise NotImplementedError


def context() -> Context:
    return Context(1, 1, {}, RecordDict(), {})


def run(change: Callable[[Message, int], Message] = lambda m, n: m, timeout: float = 10.0) -> RunSummary:
    """A run in which node 3's replies pass through `change(reply, number of the reply)`."""
    summary, count = RunSummary(), [0]
    parties = {node: HonestParty(key) for node, key in KEYS.items()}

    class Bent:
        def __init__(self) -> None:
            self.inner = LocalNode(client_app("r", parties[3]), context())

        def deliver(self, message: Message) -> Message:
            count[0] += 1
            return change(self.inner.deliver(message), count[0])

    grid = InProcessGrid(1, {2: LocalNode(client_app("r", parties[2]), context()), 3: Bent()})
    seats = {2: NodeSeat("bank", KEYS[2].public), 3: NodeSeat("shop", KEYS[3].public)}
    plan = TrainingPlan(TERMS, seats, os.urandom, timeout=timeout)
    try:
        with task_identity(1):
            server_app(plan, summary)(grid, context())
    finally:
        grid.close()
    assert parties[2].steps == ["train 1", "train 2", "evaluate 3"]
    return summary


def test_every_round_and_the_evaluation_carry_both_receipts() -> None:
    summary = run()
    assert [(r.number, r.kind) for r in summary.rounds] == [(1, "train"), (2, "train"), (3, "evaluate")]
    assert all(set(r.receipts) == {"bank", "shop"} for r in summary.rounds)
    assert summary.epochs("bank") == 4
    assert summary.rounds[-1].metrics["bank"]["auc_joint"] == 0.7


def with_receipt(make: Callable[[RoundReceipt], RoundReceipt | bytes]) -> Callable[[Message, int], Message]:
    def change(message: Message, number: int) -> Message:
        record = message.content["receipt"]
        assert isinstance(record, ConfigRecord)
        made = make(RoundReceipt.from_bytes(record["document"]))  # type: ignore[arg-type]
        record["document"] = made if isinstance(made, bytes) else made.to_bytes()
        return message

    return change


def removed(message: Message, number: int) -> Message:
    del message.content["receipt"]
    return message


def as_text(message: Message, number: int) -> Message:
    message.content["receipt"] = ConfigRecord({"document": "text"})
    return message


def replayed() -> Callable[[Message, int], Message]:
    kept: list[bytes] = []

    def change(message: Message, number: int) -> Message:
        record = message.content["receipt"]
        assert isinstance(record, ConfigRecord)
        kept.append(record["document"])  # type: ignore[arg-type]
        record["document"] = kept[0]
        return message

    return change


def older(message: Message, number: int) -> Message:
    record = message.content["receipt"]
    assert isinstance(record, ConfigRecord)
    was = RoundReceipt.from_bytes(record["document"])  # type: ignore[arg-type]
    record["document"] = receipt(KEYS[3], was.round, was.nonce, log_size=9 - number).to_bytes()
    return message


@pytest.mark.parametrize(
    "change",
    [
        removed,
        as_text,
        replayed(),
        older,
        with_receipt(lambda r: b""),
        with_receipt(lambda r: dataclasses.replace(r, log_size=99)),
        with_receipt(lambda r: receipt(KEYS[2], r.round, r.nonce)),
        with_receipt(lambda r: receipt(KEYS[3], r.round, "0" * 32)),
        with_receipt(lambda r: receipt(KEYS[3], r.round + 1, r.nonce)),
        with_receipt(lambda r: receipt(KEYS[3], r.round, r.nonce, purpose="ads.all")),
        with_receipt(lambda r: receipt(KEYS[3], r.round, r.nonce, rows=999)),
    ],
)
def test_a_round_without_its_own_fresh_receipt_is_refused(change: Callable[[Message, int], Message]) -> None:
    with pytest.raises(ReceiptInvalid):
        run(change)


def test_an_error_reply_names_the_partner_and_its_code_and_nothing_it_made_up() -> None:
    for reason, shown in (("overflow_risk", "overflow_risk"), ("<b>hello</b>", "unknown"), ("", "unknown")):

        def change(message: Message, number: int, reason: str = reason) -> Message:
            message.__dict__.update(_content=None, _error=Error(code=1, reason=reason))
            return message

        with pytest.raises(PartnerFailed) as caught:
            run(change)
        assert caught.value.detail == f"shop ended its part of round 1: {shown}."


def test_a_node_that_does_not_answer_is_unreachable() -> None:
    import time

    def change(message: Message, number: int) -> Message:
        time.sleep(0.5)
        return message

    with pytest.raises(PeerUnreachable):
        run(change, timeout=0.1)


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"task": MetricRecord({"round": 1})}),
        RecordDict({"task": ConfigRecord({"run": "s", "round": 1, "nonce": "0" * 32})}),
        RecordDict({"task": ConfigRecord({"run": "r", "round": 0, "nonce": "0" * 32})}),
        RecordDict({"task": ConfigRecord({"run": "r", "round": 1.5, "nonce": "0" * 32})}),
        RecordDict({"task": ConfigRecord({"run": "r", "round": 1, "nonce": "zz"})}),
        RecordDict({"task": ConfigRecord({"run": "r", "round": 1})}),
    ],
)
def test_a_task_that_is_none_becomes_an_error_reply_and_no_step(content: RecordDict) -> None:
    party, errors = HonestParty(KEYS[2]), list[ComityError]()
    grid = InProcessGrid(1, {2: LocalNode(client_app("r", party, failed=errors.append), context())})
    for kind in ("train", "evaluate"):
        (reply,) = grid.send_and_receive([grid.create_message(content, kind, 2, "1")])
        assert reply.error.reason == "peer_violation"
    assert party.steps == []
    assert len(errors) == 2
    grid.close()


def test_an_unexpected_error_is_told_by_code_only() -> None:
    class Broken(HonestParty):
        def train(self, number: int, nonce: str) -> Outcome:
            raise ValueError("alice@example.org")

    errors: list[ComityError] = []
    grid = InProcessGrid(1, {2: LocalNode(client_app("r", Broken(KEYS[2]), failed=errors.append), context())})
    task = RecordDict({"task": ConfigRecord({"run": "r", "round": 1, "nonce": "0" * 32})})
    (reply,) = grid.send_and_receive([grid.create_message(task, "train", 2, "1")])
    assert reply.error.reason == "internal_error"
    assert "alice" not in str(errors[0])
    grid.close()
