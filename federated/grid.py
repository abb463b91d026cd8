"""Flower's `Grid` inside one process: messages go to node carriers instead of a SuperLink.

A `ServerApp` runs on it unchanged. A node is either this process's own `ClientApp` (`LocalNode`: the message
and the reply are deep copies, so nothing is shared by accident) or a partner's, behind its node
(`RemoteNode`: serialised Flower messages over a signed connection, POST and long poll). Nodes work
concurrently, because the inner loop of two-party training needs both at once.
"""

from __future__ import annotations

import copy
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from consent.peers import PeerConnection
from federated.errors import ComityError, PeerUnreachable, PeerViolation

__all__ = [
    "SERVER_NODE",
    "InProcessGrid",
    "LocalNode",
    "NodeCarrier",
    "RemoteNode",
    "decode_message",
    "encode_message",
    "quiet_flower",
    "task_identity",
]

SERVER_NODE = 1
ERROR_CODE = 1
MESSAGE_MOST = 16 << 20
_DAY = 86_400.0


def quiet_flower(home: str) -> None:
    """Keep Flower offline: no telemetry, no update check, no installs, its files under `home`.

    Called by the wiring, before the first run; it sets environment variables of this process.
    """
    os.environ.update(
        FLWR_TELEMETRY_ENABLED="0",
        FLWR_DISABLE_UPDATE_CHECK="1",
        FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION="1",
        FLWR_HOME=home,
    )


def encode_message(message: Message) -> bytes:
    """A Flower message as protocol-buffer bytes."""
    return bytes(message_to_proto(message).SerializeToString(deterministic=True))


def decode_message(blob: bytes) -> Message:
    """The Flower message in `blob`; raises PeerViolation for anything else or more than 16 MiB."""
    if len(blob) > MESSAGE_MOST:
        raise PeerViolation("A Flower message is longer than this node reads.")
    try:
        message = message_from_proto(ProtoMessage.FromString(blob))
        if message.has_content() == message.has_error():
            raise ValueError
    except Exception as error:
        raise PeerViolation("A Flower message cannot be read.") from error
    return message


class NodeCarrier(Protocol):
    """Takes one message to a node and brings back the reply. Blocks; called from one thread at a time.

    An error of the node comes back as a reply with an error; `ComityError` is raised for failures of the
    carrier itself.
    """

    def deliver(self, message: Message) -> Message: ...


class LocalNode:
    """A `ClientApp` of this process."""

    def __init__(self, app: ClientApp, context: Context) -> None:
        self._app, self._context = app, context

    def deliver(self, message: Message) -> Message:
        return copy.deepcopy(self._app(copy.deepcopy(message), self._context))


class RemoteNode:
    """A partner's `ClientApp`, reached through its node.

    `POST {path}/messages` hands over the message; `GET {path}/messages/{id}` long-polls for the reply: 200
    with it, or 204 when it is not there yet.
    """

    def __init__(
        self,
        connection: PeerConnection,
        *,
        path: str,
        timeout: float = 600.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._connection, self._path, self._timeout, self._sleep = connection, path, timeout, sleep

    def deliver(self, message: Message) -> Message:
        sent = encode_message(message)
        self._connection.request("POST", f"{self._path}/messages", body=sent)
        ends, lost = time.monotonic() + self._timeout, 0
        while time.monotonic() < ends:
            try:
                answer = self._connection.request(
                    "GET", f"{self._path}/messages/{message.metadata.message_id}", timeout=60.0
                )
            except PeerUnreachable:
                lost += 1
                if lost > 3:
                    raise
                self._sleep(0.2 * lost)
                continue
            if answer.body:
                return decode_message(answer.body)
        raise PeerUnreachable(
            "The partner did not finish its part of the round in time.", code="peer_timeout"
        )


class InProcessGrid(Grid):
    """A `Grid` over node carriers, by node id."""

    def __init__(self, run_id: int, nodes: Mapping[int, NodeCarrier]) -> None:
        self._run = Run.create_empty(run_id)
        self._nodes = dict(nodes)
        self._pool = ThreadPoolExecutor(
            max_workers=max(len(self._nodes), 1), thread_name_prefix="flower-node"
        )
        self._replies: dict[str, Future[Message]] = {}
        self.failures: list[ComityError] = []
        """What node carriers raised, in order; the replies carry only Flower's error form."""

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        metadata = Metadata(
            run_id=self._run.run_id,
            message_id="",
            src_node_id=SERVER_NODE,
            dst_node_id=dst_node_id,
            reply_to_message_id="",
            group_id=group_id,
            created_at=time.time(),
            ttl=_DAY if ttl is None else ttl,
            message_type=message_type,
        )
        return make_message(metadata=metadata, content=content)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message_id = secrets.token_hex(16)
            sent = copy.deepcopy(message)
            sent.metadata.__dict__["_message_id"] = message_id
            self._replies[message_id] = self._pool.submit(self._delivered, sent)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        ready = [i for i in message_ids if i in self._replies and self._replies[i].done()]
        return [self._replies.pop(i).result() for i in ready]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        ends = None if timeout is None else time.monotonic() + timeout
        replies = []
        for message_id in self.push_messages(messages):
            future = self._replies.pop(message_id)
            try:
                replies.append(future.result(None if ends is None else max(ends - time.monotonic(), 0.0)))
            except TimeoutError:
                continue
        return replies

    def close(self) -> None:
        """Let go of the threads; a node still at work ends with its own timeout."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _delivered(self, message: Message) -> Message:
        carrier = self._nodes.get(message.metadata.dst_node_id)
        if carrier is None:
            return Message(Error(code=ERROR_CODE, reason="unknown node"), reply_to=message)
        try:
            reply = carrier.deliver(message)
            stated = (reply.metadata.src_node_id, reply.metadata.reply_to_message_id)
            if stated != (message.metadata.dst_node_id, message.metadata.message_id):
                raise PeerViolation("A node replied to another message, or in another node's name.")
            return reply
        except ComityError as error:
            self.failures.append(error)
            return Message(Error(code=ERROR_CODE, reason=error.code), reply_to=message)


_identity = threading.Lock()


@contextmanager
def task_identity(run_id: int) -> Iterator[None]:
    """Give the process Flower's identity of a running ServerApp; one run at a time, others wait."""
    with _identity:
        before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, SERVER_NODE
        try:
            yield
        finally:
            TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before
