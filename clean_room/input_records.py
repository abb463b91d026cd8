"""A prepared input as bytes, for the journal: a resumed job is about the same people as before.

    4 bytes length ‖ JSON of everything but the columns ‖ the columns, one after the other

Columns of identifiers are Arrow IPC streams, columns of numbers NumPy arrays.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pyarrow as pa

from clean_room.inputs import InputCounts, QueryInput
from clean_room.protocols.sampling import SampleFacts
from consent.encoding import canonical_json, parse_json
from consent.receipts import GateEvidence, PseudonymSet
from privacy.errors import Tampered

__all__ = ["read_input", "write_input"]

_HEADER_LIMIT = 1 << 26


def write_input(given: QueryInput) -> bytes:
    """`given` as bytes."""
    blobs: list[bytes] = []
    shape = {field.name: _packed(getattr(given, field.name), blobs) for field in fields(QueryInput)}
    header = canonical_json({"fields": shape, "sizes": [len(blob) for blob in blobs]})
    return b"".join([len(header).to_bytes(4, "big"), header, *blobs])


def read_input(content: bytes) -> QueryInput:
    """What `write_input` wrote. Raises `Tampered` for anything else."""
    end = 4 + int.from_bytes(content[:4], "big")
    try:
        header = parse_json(content[4:end], limit=_HEADER_LIMIT)
        blobs, view = [], memoryview(content)
        for size in header["sizes"]:
            blobs.append(view[end : end + size])
            end += size
        return QueryInput(**{name: _unpacked(shape, blobs) for name, shape in header["fields"].items()})
    except (KeyError, TypeError, ValueError, IndexError, pa.ArrowInvalid):
        raise Tampered("the input kept of a job cannot be read.") from None


def _packed(value: Any, blobs: list[bytes]) -> Any:
    """`value` as JSON; what is no JSON goes to `blobs` and is named by its place there."""
    if value is None or isinstance(value, str | int | float | bool):
        return {"plain": value}
    if isinstance(value, tuple):
        return {"tuple": [_packed(item, blobs) for item in value]}
    if isinstance(value, GateEvidence):
        return {"evidence": value.to_dict()}
    if isinstance(value, InputCounts):
        return {"counts": {**asdict(value), "rejected": dict(value.rejected)}}
    if isinstance(value, SampleFacts):
        return {"sample": asdict(value)}
    if isinstance(value, Mapping):
        return {"mapping": {name: _packed(item, blobs) for name, item in value.items()}}
    if isinstance(value, PseudonymSet):
        kind, blob = "members", value.to_bytes()
    elif isinstance(value, np.ndarray):
        kind, blob = "numbers", _npy(value)
    elif isinstance(value, pa.Array | pa.ChunkedArray):
        kind, blob = "column", _ipc(value)
    else:
        raise TypeError(f"an input holds a {type(value).__name__}, which cannot be kept")
    blobs.append(blob)
    return {kind: len(blobs) - 1}


def _unpacked(shape: Mapping[str, Any], blobs: list[memoryview]) -> Any:
    ((kind, value),) = shape.items()
    if kind == "plain":
        return value
    if kind == "tuple":
        return tuple(_unpacked(item, blobs) for item in value)
    if kind == "mapping":
        return {name: _unpacked(item, blobs) for name, item in value.items()}
    if kind == "evidence":
        return GateEvidence.from_dict(value)
    if kind == "counts":
        return InputCounts(**value)
    if kind == "sample":
        return SampleFacts(**value)
    if kind == "members":
        return PseudonymSet.from_bytes(bytes(blobs[value]))
    if kind == "numbers":
        return np.load(io.BytesIO(blobs[value]), allow_pickle=False)
    if kind == "column":
        with pa.ipc.open_stream(pa.py_buffer(blobs[value])) as stream:
            column = stream.read_all().column(0)
        return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    raise ValueError(kind)


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _ipc(column: pa.Array | pa.ChunkedArray) -> bytes:
    table = pa.table({"column": column})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())
