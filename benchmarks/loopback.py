"""What every party of a benchmark does alike: meet the other over loopback, wait for the start, time stages.

A pair of parties is two processes; the analyst listens. Messages travel length-prefixed and are counted.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from typing import Any

from clean_room.group import BlindingPool, new_scalar
from clean_room.protocols import Attestation, Message, parse_message
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


def party_arguments() -> argparse.ArgumentParser:
    """What every party is told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", choices=["analyst", "contributor"], required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--epsilon", type=float, default=0.5)
    parser.add_argument("--delta", type=float, default=1e-6)
    return parser


def meet(given: argparse.Namespace) -> tuple[Wire, Attestation]:
    """Connect to the other party and exchange signing keys."""
    if given.role == "analyst":
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
    return wire, Attestation(sign=key.sign, verify=partner.verify)


def own_things(pool: BlindingPool, attestation: Attestation) -> dict[str, Any]:
    """What a protocol's first step takes besides terms and people."""
    return {
        "scalar": new_scalar(os.urandom),
        "random": os.urandom,
        "pool": pool,
        "attestation": attestation,
    }


class Stages:
    """Seconds of each stage since the start signal."""

    def __init__(self) -> None:
        print("READY", flush=True)
        sys.stdin.readline()
        self._marks = [("start", time.perf_counter())]

    def mark(self, stage: str) -> None:
        """A stage is over."""
        self._marks.append((stage, time.perf_counter()))

    def seconds(self) -> dict[str, float]:
        """By stage."""
        return {name: round(at - self._marks[n][1], 3) for n, (name, at) in enumerate(self._marks[1:])}


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
