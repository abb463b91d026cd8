"""A blinding worker: a process that answers requests on its standard input until that closes.

    request   u8 task, 32 bytes scalar, u8 length of the tag, tag, u64 length, payload
    answer    u8 0, u64 length, points     or     u8 1, u64 length, JSON {error, detail, code}

    task 1  blind: the payload is points
    task 2  hash and blind: u32 n, n + 1 offsets (int32, this machine's order), the identifiers end to end
    task 3  PAIR encrypt: the payload is points of ristretto255
    task 4  PAIR hash and encrypt: the payload as in task 2, the tag the salt
    task 5  hash: as task 2, without the blinding; the scalar is not used

A program of its own rather than a `multiprocessing` child: it imports this package and nothing of what the
node imports, needs no `__main__` guard in scripts, and ends by itself when the parent's end of the pipe
closes, even if the parent was killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import IO

import pyarrow as pa

from clean_room.errors import BadInput, ComityError, EngineUnavailable, Misuse, PeerViolation, StorageError
from clean_room.group.blinding import Blinder
from clean_room.group.engines import choose_blinder
from clean_room.group.hash_to_curve import hash_column
from clean_room.group.points import WHOLE, Buffer

__all__ = [
    "BLIND",
    "HASH",
    "HASH_AND_BLIND",
    "PAIR_ENCRYPT",
    "PAIR_HASH",
    "WorkerLost",
    "decode_answer",
    "encode_request",
    "pack",
    "pair_hash",
]

BLIND, HASH_AND_BLIND, PAIR_ENCRYPT, PAIR_HASH, HASH = 1, 2, 3, 4, 5
_DONE, _FAILED = 0, 1
_ERRORS: dict[str, type[ComityError]] = {
    kind.__name__: kind for kind in (BadInput, EngineUnavailable, Misuse, PeerViolation)
}


class WorkerLost(StorageError):
    """A worker process ended before its work was done: killed, or out of memory. Try again."""

    code = "worker_lost"


def pack(column: pa.BinaryArray) -> list[Buffer]:
    """The payload of `hash and blind`. A slice is copied first, so that only its own bytes travel."""
    own = pa.concat_arrays([column, column.slice(0, 0)])
    _, offsets, data = own.buffers()
    count = len(own)
    if not count:
        return [bytes(4)]
    return [
        count.to_bytes(4, "big"),
        memoryview(offsets)[: 4 * (count + 1)],
        memoryview(data) if data is not None else b"",
    ]


def _unpack(payload: bytes) -> pa.BinaryArray:
    count = int.from_bytes(payload[:4], "big")
    if not count:
        return pa.array([], pa.binary())
    flat, end = pa.py_buffer(payload), 4 + 4 * (count + 1)
    return pa.BinaryArray.from_buffers(pa.binary(), count, [None, flat.slice(4, end - 4), flat.slice(end)])


def encode_request(task: int, scalar: bytes, tag: bytes, payload: list[Buffer]) -> list[Buffer]:
    """The parts of a request."""
    size = sum(memoryview(part).nbytes for part in payload)
    return [bytes([task]) + scalar + bytes([len(tag)]) + tag + size.to_bytes(8, "big"), *payload]


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise WorkerLost("A blinding worker ended before its work was done.")
    return data


def decode_answer(stream: IO[bytes]) -> bytes:
    """The points of an answer, or the error it reports. WorkerLost if the worker is gone."""
    status = _exactly(stream, 1)[0]
    body = _exactly(stream, int.from_bytes(_exactly(stream, 8), "big"))
    if status == _DONE:
        return body
    report = json.loads(body)
    raise _ERRORS.get(report["error"], WorkerLost)(report["detail"], code=report["code"])


def pair_hash(column: pa.BinaryArray, key: bytes, salt: bytes) -> bytes:
    """E(key, P(e)) for every address e of a column of canonical forms under the profile `pair-1`."""
    from clean_room.group.ristretto import encrypt, hash_to_points
    from privacy.identifiers import match_key

    return encrypt(key, hash_to_points([match_key(e, "pair-1") for e in column.to_pylist()], salt))


def _work(blinder: Blinder, task: int, scalar: bytes, tag: bytes, payload: bytes) -> bytes:
    if task == PAIR_HASH:
        return pair_hash(_unpack(payload), scalar, tag)
    if task == PAIR_ENCRYPT:
        from clean_room.group.ristretto import encrypt

        return encrypt(scalar, payload)
    if task == HASH:
        return hash_column(_unpack(payload), tag)
    return blinder.blind(scalar, payload if task == BLIND else hash_column(_unpack(payload), tag))


def serve(requests: IO[bytes], answers: IO[bytes], blinder: Blinder) -> None:
    """Answer until `requests` ends."""
    while head := requests.read(1):
        scalar = _exactly(requests, WHOLE)
        tag = _exactly(requests, _exactly(requests, 1)[0])
        payload = _exactly(requests, int.from_bytes(_exactly(requests, 8), "big"))
        try:
            status, body = _DONE, _work(blinder, head[0], scalar, tag, payload)
        except ComityError as error:
            report = {"error": type(error).__name__, "detail": error.detail, "code": error.code}
            status, body = _FAILED, json.dumps(report).encode()
        answers.write(bytes([status]) + len(body).to_bytes(8, "big"))
        answers.write(body)
        answers.flush()


def main() -> None:
    """Serve on the standard streams with the engine named in the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes the pipe
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not print into the answers
    serve(sys.stdin.buffer, answers, choose_blinder(sys.argv[1]))
