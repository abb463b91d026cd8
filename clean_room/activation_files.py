"""What an `activate` job leaves on each side, sealed on disk, and how it is written out.

    analyst      Audience       the contributor's publisher ids of the shared people
    contributor  PublisherMap   which row of its dataset has which publisher id

Either side keeps the ids that are suppressed because somebody has opted out since, and none of them in what
it exports. The contributor keeps its people as its ledger knows them, to ask consent again.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as papq

from clean_room.sealed_files import SealedFiles
from consent.encoding import canonical_json, parse_json
from privacy.errors import Misuse, Tampered
from privacy.keys import KeyRing

__all__ = ["FORMATS", "ActivationFiles", "Audience", "PublisherMap", "written"]

FORMATS = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}
_ID = 32
_LIMIT = 1 << 16
Ids = npt.NDArray[np.uint8]


def _none() -> Ids:
    return np.empty((0, _ID), dtype=np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Audience:
    """`ids` uint8 (n, 32), in random order; `suppressed` those taken out since."""

    job: str
    ids: Ids = field(repr=False)
    suppressed: Ids = field(default_factory=_none, repr=False)

    def without(self, suppressed: Ids) -> Audience:
        """The audience after the partner's list of suppressed ids."""
        gone = np.isin(_words(self.ids), _words(suppressed))
        return Audience(self.job, self.ids[~gone], np.concatenate([self.suppressed, self.ids[gone]]))

    def table(self) -> pa.Table:
        """One column, publisher_id, base64."""
        return pa.table({"publisher_id": _texts(self.ids)})


@dataclass(frozen=True, slots=True, eq=False)
class PublisherMap:
    """`rows` int64 (n,): places in the source of `dataset`; `ids` uint8 (n, 32); `known` the same people in
    the ledger's own profile. They were let in for `purposes` with `partner`."""

    job: str
    dataset: str
    partner: str
    purposes: tuple[str, ...]
    rows: npt.NDArray[np.int64] = field(repr=False)
    ids: Ids = field(repr=False)
    known: pa.BinaryArray = field(repr=False)
    suppressed: Ids = field(default_factory=_none, repr=False)

    def only(self, allowed: npt.NDArray[np.bool_]) -> PublisherMap:
        """The map without the rows that are not `allowed`: their ids are suppressed, the rest is gone."""
        return PublisherMap(
            self.job,
            self.dataset,
            self.partner,
            self.purposes,
            self.rows[allowed],
            self.ids[allowed],
            self.known.filter(pa.array(allowed)),
            np.concatenate([self.suppressed, self.ids[~allowed]]),
        )

    def table(self) -> pa.Table:
        """Columns row (int64, place in the source from 0) and publisher_id (base64), by row."""
        order = np.argsort(self.rows, kind="stable")
        return pa.table({"row": self.rows[order], "publisher_id": _texts(self.ids[order])})


def written(table: pa.Table, form: str) -> bytes:
    """A table as the bytes of a file: `csv` or `parquet`."""
    if form not in FORMATS:
        raise Misuse(
            "that is not a format an activation is exported in.",
            code="unknown_format",
            advice=f"Known: {', '.join(FORMATS)}.",
        )
    sink = pa.BufferOutputStream()
    if form == "csv":
        pacsv.write_csv(table, sink, pacsv.WriteOptions(quoting_style="none"))
    else:
        papq.write_table(table, sink)
    return bytes(sink.getvalue())


class ActivationFiles:
    """Sealed files of both kinds in one folder, named by job."""

    def __init__(self, folder: Path, keyring: KeyRing) -> None:
        self._audiences = SealedFiles(folder, keyring, "audience")
        self._maps = SealedFiles(folder, keyring, "publisher-map")

    def save_audience(self, audience: Audience) -> None:
        """Seal and write."""
        self._audiences.save(audience.job, _packed({}, ids=audience.ids, suppressed=audience.suppressed))

    def audience(self, job: str) -> Audience:
        """Raises `Misuse(unknown_activation)` or `Tampered`."""
        _, arrays = _unpacked(self._audiences.load(job))
        return Audience(job, _ids(arrays["ids"]), _ids(arrays["suppressed"]))

    def save_map(self, found: PublisherMap) -> None:
        """Seal and write."""
        about = {"dataset": found.dataset, "partner": found.partner, "purposes": list(found.purposes)}
        sink = pa.BufferOutputStream()
        people = pa.table({"known": found.known})
        with pa.ipc.new_stream(sink, people.schema) as stream:
            stream.write_table(people)
        known = np.frombuffer(sink.getvalue(), dtype=np.uint8)
        content = _packed(about, rows=found.rows, ids=found.ids, known=known, suppressed=found.suppressed)
        self._maps.save(found.job, content)

    def map(self, job: str) -> PublisherMap:
        """Raises `Misuse(unknown_activation)` or `Tampered`."""
        about, arrays = _unpacked(self._maps.load(job))
        with pa.ipc.open_stream(pa.py_buffer(arrays["known"].tobytes())) as stream:
            known = stream.read_all().column(0).combine_chunks()
        if isinstance(known, pa.ChunkedArray):
            known = pa.concat_arrays(known.chunks) if known.num_chunks else pa.array([], pa.binary())
        return PublisherMap(
            job,
            about["dataset"],
            about["partner"],
            tuple(about["purposes"]),
            arrays["rows"],
            _ids(arrays["ids"]),
            known,
            _ids(arrays["suppressed"]),
        )

    def maps(self) -> list[str]:
        """Jobs that have a map."""
        return self._maps.jobs()

    def audiences(self) -> list[str]:
        """Jobs that have an audience."""
        return self._audiences.jobs()

    def discard(self, job: str) -> None:
        """Remove what is there of a job."""
        self._audiences.discard(job)
        self._maps.discard(job)


def _packed(about: dict[str, Any], **arrays: npt.NDArray[Any]) -> bytes:
    packed = io.BytesIO()
    members = {"about": np.frombuffer(canonical_json(about), dtype=np.uint8), **arrays}
    np.savez(packed, allow_pickle=False, **members)
    return packed.getvalue()


def _unpacked(content: bytes | None) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    if content is None:
        raise Misuse(
            "there is no activation of that job here.",
            code="unknown_activation",
            advice="It was below the minimum cell, or has been removed.",
        )
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as packed:
            arrays = {name: packed[name] for name in packed.files}
        about: dict[str, Any] = parse_json(arrays.pop("about").tobytes(), limit=_LIMIT)
    except (KeyError, ValueError):
        raise Tampered("the activation kept of a job cannot be read.") from None
    return about, arrays


def _ids(array: npt.NDArray[Any]) -> Ids:
    return np.asarray(array, dtype=np.uint8).reshape(-1, _ID)


def _words(ids: Ids) -> npt.NDArray[Any]:
    """Each id as one opaque value, shape (n,)."""
    return np.ascontiguousarray(ids).view(f"V{_ID}").reshape(-1)


def _texts(ids: Ids) -> pa.StringArray:
    return pa.array([base64.b64encode(row.tobytes()).decode() for row in ids], pa.string())
