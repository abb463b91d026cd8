"""SHA-256 and HMAC-SHA256 of many rows at once.

Columns of a million rows are hashed by DuckDB's SHA-256 on every core and without holding up other threads;
short ones, where starting a query costs more than it saves, by `hashlib`. Both give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["Rows", "as_rows", "hmac_rows", "sha256_rows", "sorted_unique"]

Rows = npt.NDArray[np.uint8]
"""n rows of a fixed number of bytes: uint8, shape (n, width)."""

_FEW = 20_000


def as_rows(data: bytes, width: int = 32) -> Rows:
    """Bytes as rows; read-only, no copy."""
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, width)


def sha256_rows(rows: Rows) -> Rows:
    """The SHA-256 of each row: shape (n, 32)."""
    count, width = rows.shape
    flat = np.ascontiguousarray(rows)
    if count < _FEW:
        data = flat.tobytes()
        return as_rows(b"".join([sha256(data[i : i + width]).digest() for i in range(0, len(data), width)]))
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), count, [None, pa.py_buffer(flat)])
    return _query("unhex(sha256(x::BLOB))", column, [])


def hmac_rows(inner: bytes, outer: bytes, messages: pa.BinaryArray) -> Rows:
    """SHA-256(outer ‖ SHA-256(inner ‖ message)) of each message: shape (n, 32); zeros for a null.

    With `inner` and `outer` the padded keys of RFC 2104 (whatever every message begins with after the
    inner one) that is HMAC-SHA256.
    """
    if len(messages) < _FEW:
        start, end = sha256(inner).copy, sha256(outer).copy
        found = []
        for message in messages.to_pylist():
            if message is None:
                found.append(bytes(32))
                continue
            one, two = start(), end()
            one.update(message)
            two.update(one.digest())
            found.append(two.digest())
        return as_rows(b"".join(found))
    expression = "coalesce(unhex(sha256(?::BLOB || unhex(sha256(?::BLOB || x::BLOB)))), ?::BLOB)"
    return _query(expression, messages, [outer, inner, bytes(32)])


def _query(expression: str, column: pa.Array, values: Sequence[bytes]) -> Rows:
    import duckdb

    # In memory, and nothing of it on disk whatever happens: the rows may be identifiers.
    connection: Any = duckdb.connect(":memory:", config={"temp_directory": ""})
    try:
        connection.register("given", pa.table({"x": column}))
        # Without sorting the rows keep their order: DuckDB preserves it for a projection.
        query = f"SELECT {expression} AS h FROM given"  # noqa: S608
        answer = connection.sql(query, params=list(values)).to_arrow_table()
        parts = [_fixed(chunk) for chunk in answer.column("h").chunks]
    finally:
        connection.close()
    return np.concatenate(parts) if parts else np.empty((0, 32), np.uint8)


def _fixed(column: pa.Array) -> Rows:
    """The values of a binary column, all of 32 bytes and none null."""
    wide = column.cast(pa.large_binary())
    offsets = np.frombuffer(wide.buffers()[1], dtype=np.int64)[wide.offset : wide.offset + len(wide) + 1]
    values = np.frombuffer(wide.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]]
    return values.reshape(len(wide), 32).copy()


def keys_of(rows: Rows) -> npt.NDArray[np.uint64]:
    """The first eight bytes of each row as a number: in the order of the rows, ties aside."""
    return np.ascontiguousarray(rows[:, :8]).view(">u8").ravel().astype(np.uint64)


def sorted_unique(rows: Rows) -> Rows:
    """The distinct rows in ascending order."""
    if len(rows) < 2:
        return rows
    order = np.argsort(keys_of(rows), kind="stable")
    ordered = np.ascontiguousarray(rows[order])
    keys = keys_of(ordered)
    if not (keys[1:] == keys[:-1]).any():
        return ordered
    # Rows that begin alike: the same row twice, or (one chance in billions for hashes) another one.
    words = ordered.view(">u8").reshape(len(ordered), -1).astype(np.uint64)
    ordered = ordered[np.lexsort(words.T[::-1])]
    words = np.ascontiguousarray(ordered).view(">u8").reshape(len(ordered), -1)
    return np.ascontiguousarray(ordered[np.append(True, (words[1:] != words[:-1]).any(axis=1))])
