"""One party of Comity's `overlap`, from Parquet to result, over a loopback socket.

The protocol is the real one: canonical form, RFC 9380 hashing, both blindings, dummies drawn for ε and δ,
padding, shuffles, signatures over offer, accept and transcript. Not in it: the node (HTTP, jobs, the
consent gate), which is measured where it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time

import numpy as np
import pyarrow.parquet as pq

from clean_room.group import BlindingPool, new_scalar
from clean_room.protocols import Attestation, Message, OverlapTerms, cardinality, parse_message, receive
from privacy.identifiers import Kind, canonical_column
from privacy.noise import half_width_for, truncated_discrete_laplace
from privacy.signing import PublicKey, SigningKey


class Wire:
    """Length-prefixed messages over one socket, counted."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.sent = connection, 0

    def put(self, *parts: bytes | bytearray | memoryview) -> None:
        """Send one message given in parts."""
        size = sum(memoryview(part).nbytes for part in parts)
        self.sent += size
        self.connection.sendall(size.to_bytes(8, "big"))
        for part in parts:
            self.connection.sendall(part)

    def get(self) -> bytearray:
        """Wait for one message."""
        data = self._exactly(8)
        return self._exactly(int.from_bytes(data, "big"))

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view, at = memoryview(data), 0
        while at < size:
            got = self.connection.recv_into(view[at:])
            if not got:
                raise SystemExit("The other party is gone.")
            at += got
        return data

    def send(self, message: Message) -> None:
        """Send a protocol message without joining its buffers."""
        self.put(*message.to_parts())

    def next(self) -> Message:
        """Read a protocol message."""
        return parse_message(self.get())


def main() -> None:
    """Connect, warm up, wait for the start, run, report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", choices=["analyst", "contributor"], required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--epsilon", type=float, default=0.5)
    parser.add_argument("--delta", type=float, default=1e-6)
    given = parser.parse_args()
    analyst = given.role == "analyst"

    if analyst:
        with socket.create_server(("127.0.0.1", given.port)) as server:
            connection, _ = server.accept()
    else:
        for _ in range(600):
            try:
                connection = socket.create_connection(("127.0.0.1", given.port))
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        else:
            raise SystemExit("The other party did not come up.")
    wire, key = Wire(connection), SigningKey.generate()
    wire.put(key.public.to_text().encode())
    partner = PublicKey.from_text(wire.get().decode())
    attestation = Attestation(sign=key.sign, verify=partner.verify)

    half = half_width_for(given.epsilon, given.delta)
    terms = OverlapTerms(
        job="benchmark", purpose="overlap.reach", analyst="a", contributor="c",
        dummies=2 * half, epsilon=given.epsilon, delta=given.delta,
    )  # fmt: skip
    with BlindingPool(given.workers, engine=given.engine) as pool:
        pool.warm()
        print("READY", flush=True)
        sys.stdin.readline()
        wire.sent = 0
        marks = [("start", time.perf_counter())]

        def mark(stage: str) -> None:
            marks.append((stage, time.perf_counter()))

        people = canonical_column(Kind.EMAIL, pq.read_table(given.input, columns=["email"])["email"]).values
        people = people.drop_null().unique()
        mark("read")
        own = {
            "scalar": new_scalar(os.urandom),
            "random": os.urandom,
            "pool": pool,
            "attestation": attestation,
        }
        if analyst:
            state, message = cardinality.start(terms, [people], **own)
            wire.send(message)
            state, message = receive(state, wire.next())
            mark("own points")
            wire.send(message)
            message = wire.next()
            mark("waiting")
            state, _ = receive(state, message)
            mark("partner's points and join")
            value, noise = int(state.counts[0, 0]), None
            state, message = state.seal()
            wire.send(message)
            receive(state, wire.next())
        else:
            noise = truncated_discrete_laplace(1 / given.epsilon, half, 1)[0]
            state, message = cardinality.answer(
                wire.next(), terms, [people], matching=np.array([[half + noise]]), **own
            )
            wire.send(message)
            state = state.prepared()
            mark("own points")
            message = wire.next()
            mark("waiting")
            state, message = receive(state, message)
            mark("partner's points")
            wire.send(message)
            state, message = receive(state, wire.next())
            value = None
            wire.send(message)
        mark("seal")
        stages = {name: round(at - marks[n][1], 3) for n, (name, at) in enumerate(marks[1:])}
        answer = {"value": value, "noise": noise, "sent": wire.sent, "engine": pool.engine, "stages": stages}
        print(json.dumps(answer), flush=True)
    connection.close()


if __name__ == "__main__":
    main()
