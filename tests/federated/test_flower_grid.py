"""Flower on the in-process grid: real apps, real messages, errors as Flower tells them."""

from __future__ import annotations

import os
import time

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.task_identity import TaskIdentity

from consent.peers import PeerResponse
from federated.errors import PeerUnreachable, PeerViolation, Refused
from federated.grid import (
    InProcessGrid,
    LocalNode,
    RemoteNode,
    decode_message,
    encode_message,
    quiet_flower,
    task_identity,
)


def context(node: int = 1) -> Context:
    return Context(9, node, {}, RecordDict(), {})


def counting_app(seen: list[Message]) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, ctx: Context) -> Message:
        seen.append(message)
        before = ctx.state["n"]["n"] if "n" in ctx.state else 0
        ctx.state["n"] = MetricRecord({"n": before + 1})
        return Message(RecordDict({"n": ctx.state["n"]}), reply_to=message)

    return app


def test_a_server_app_runs_rounds_over_two_clients_and_state_stays_with_each() -> None:
    seen: list[Message] = []
    grid = InProcessGrid(9, {i: LocalNode(counting_app(seen), context(i)) for i in (2, 3)})
    app, totals = ServerApp(), []

    @app.main()
    def main(grid: Grid, ctx: Context) -> None:
        for number in range(3):
            messages = [
                Message(RecordDict({"c": ConfigRecord({"r": number})}), dst_node_id=i, message_type="train")
                for i in grid.get_node_ids()
            ]
            totals.append([r.content["n"]["n"] for r in grid.send_and_receive(messages)])

    began = time.monotonic()
    with task_identity(9):
        app(grid, context())
    assert totals == [[1, 1], [2, 2], [3, 3]]
    assert {m.metadata.run_id for m in seen} == {9}
    assert all(m.metadata.message_id for m in seen)
    assert time.monotonic() - began < 5
    grid.close()


def test_the_task_identity_is_given_back() -> None:
    with task_identity(5):
        assert (TaskIdentity.run_id, TaskIdentity.node_id) == (5, 1)
    with pytest.raises(RuntimeError):
        _ = TaskIdentity.run_id


def test_a_client_cannot_reach_into_the_servers_objects() -> None:
    record = ConfigRecord({"r": 1})
    app = ClientApp()

    @app.train()
    def train(message: Message, ctx: Context) -> Message:
        message.content["c"]["r"] = 99
        return Message(message.content, reply_to=message)

    grid = InProcessGrid(9, {2: LocalNode(app, context())})
    sent = grid.create_message(RecordDict({"c": record}), "train", 2, "1")
    (reply,) = grid.send_and_receive([sent])
    assert (record["r"], reply.content["c"]["r"]) == (1, 99)
    assert sent.metadata.message_id == ""


def test_messages_can_be_pushed_and_pulled() -> None:
    grid = InProcessGrid(9, {2: LocalNode(counting_app([]), context())})
    grid.set_run(grid.run)
    (name,) = grid.push_messages([grid.create_message(RecordDict(), "train", 2, "")])
    ends = time.monotonic() + 5
    while not (found := list(grid.pull_messages([name, "other"]))) and time.monotonic() < ends:
        time.sleep(0.01)
    assert found[0].metadata.reply_to_message_id == name
    assert not list(grid.pull_messages([name]))


class Failing:
    def deliver(self, message: Message) -> Message:
        raise Refused("no", code="not_today")


class Slow:
    def deliver(self, message: Message) -> Message:
        time.sleep(0.3)
        return Message(RecordDict(), reply_to=message)


def test_failures_of_a_node_are_error_replies_and_silence_is_no_reply() -> None:
    grid = InProcessGrid(9, {2: Failing(), 3: Slow()})
    sent = [grid.create_message(RecordDict(), "train", i, "") for i in (2, 4)]
    assert [r.error.reason for r in grid.send_and_receive(sent)] == ["not_today", "unknown node"]
    assert grid.failures[0].code == "not_today"
    late = grid.create_message(RecordDict(), "train", 3, "")
    assert list(grid.send_and_receive([late], timeout=0.05)) == []


def test_messages_survive_their_bytes_and_garbage_is_a_violation() -> None:
    grid = InProcessGrid(9, {})
    content = RecordDict({"a": ArrayRecord(), "c": ConfigRecord({"b": b"\0\xff"})})
    message = grid.create_message(content, "train", 2, "7")
    blob = encode_message(message)
    again = decode_message(blob)
    assert again.content["c"]["b"] == b"\0\xff"
    assert (again.metadata.run_id, again.metadata.group_id) == (9, "7")
    error = decode_message(encode_message(Message(Error(code=1, reason="x"), reply_to=message)))
    assert error.error.reason == "x"
    for wrong in (b"", blob[:-3], os.urandom(200), b"\xff" * 50, bytes((16 << 20) + 1)):
        with pytest.raises(PeerViolation):
            decode_message(wrong)


class Partner:
    """A connection to a node that needs two polls; replies to what it was sent, or to something else."""

    partner = "shop"

    def __init__(self, *, other: str = "", lost: int = 0) -> None:
        self.polls, self.other, self.lost = 0, other, lost
        self.sent = b""

    def request(
        self, method: str, path: str, *, body: bytes = b"", content_type: str = "", timeout: float = 30.0
    ) -> PeerResponse:
        if method == "POST":
            self.sent = body
            return PeerResponse(202, {}, b"")
        if self.lost:
            self.lost -= 1
            raise PeerUnreachable("lost")
        self.polls += 1
        if self.polls < 2:
            return PeerResponse(204, {}, b"")
        message = decode_message(self.sent)
        assert path.endswith(message.metadata.message_id)
        if self.other == "message":
            message.metadata.__dict__["_message_id"] = "other"
        if self.other == "name":
            message.metadata.__dict__["_dst_node_id"] = 2
        return PeerResponse(200, {}, encode_message(Message(RecordDict(), reply_to=message)))


def test_a_remote_node_is_polled_until_it_replies() -> None:
    grid = InProcessGrid(9, {3: RemoteNode(Partner(lost=2), path="/p", sleep=lambda s: None)})
    (reply,) = grid.send_and_receive([grid.create_message(RecordDict(), "train", 3, "")])
    assert reply.has_content()


def test_a_remote_node_that_answers_something_else_or_nothing_fails() -> None:
    for carrier, code in (
        (RemoteNode(Partner(other="message"), path="/p"), "peer_violation"),
        (RemoteNode(Partner(other="name"), path="/p"), "peer_violation"),
        (RemoteNode(Partner(lost=9), path="/p", sleep=lambda s: None), "peer_unreachable"),
        (RemoteNode(Partner(), path="/p", timeout=0.0), "peer_timeout"),
    ):
        grid = InProcessGrid(9, {3: carrier})
        (reply,) = grid.send_and_receive([grid.create_message(RecordDict(), "train", 3, "")])
        assert reply.error.reason == code


def test_flower_is_kept_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "FLWR_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "0")
    quiet_flower("/tmp/x")
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert os.environ["FLWR_HOME"] == "/tmp/x"
    for name in ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "FLWR_HOME"):
        monkeypatch.delenv(name)
