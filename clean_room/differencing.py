"""Are two questions so nearly the same that the difference of their answers is about a few people?

Pure comparison: what one side put into a question is a `Fingerprint`, people as keyed 64-bit hashes, and
two fingerprints are too close when any part of the one (all of it, or a cell of at least the minimum)
differs from any part of the other by somebody, but by fewer people than the minimum cell. Parts that are
the same are not: their answers differ by noise only. For a measured column a person whose value has
changed counts as well.

This is the differencing, or tracker, attack of Denning, Denning and Schwartz ("The tracker: a threat to
statistical database security", ACM TODS 4(1), 1979) with two questions; sums and differences of three and
more are looked for by `clean_room.attacks.tracker`.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clean_room.errors import Tampered
from privacy.errors import BadInput

__all__ = ["HASH_KEY_BYTES", "Fingerprint", "hashed_people", "keyed_hashes", "may_be_close", "too_close"]

Hashes = npt.NDArray[np.uint64]
_WORDS = 256  # 1,024 bytes: three times the longest e-mail address
HASH_KEY_BYTES = 16 * (_WORDS + 2)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_KEPT = np.array([0, 0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFFFFF], np.uint64)  # of a word, by bytes left in the row
_BLOCK = 1 << 14


def keyed_hashes(key: bytes, column: pa.BinaryArray) -> Hashes:
    """64 bits a row, under a key of `HASH_KEY_BYTES`; no row may be null.

    Multilinear hashing over 32-bit words, twice with independent keys (Lemire and Kaser, "Strongly
    universal string hashing is fast", The Computer Journal 57(11), 2014, section 2): two texts chosen without
    knowing the key collide with probability 2⁻⁶⁴. Not a one-way function: hashes are only kept sealed.
    A fraction of a microsecond a row.
    Raises `BadInput` for an identifier over 1,024 bytes.
    """
    keys = np.frombuffer(key, "<u8", 2 * (_WORDS + 2)).reshape(2, -1)
    wide = column.cast(pa.large_binary())
    offsets = np.frombuffer(wide.buffers()[1] or b"", np.int64)[wide.offset :][: len(wide) + 1]
    values = wide.buffers()[2]
    if len(wide) and int(np.diff(offsets).max()) > 4 * _WORDS:
        raise BadInput("an identifier is longer than 1,024 bytes.", code="identifier_too_long")
    found = np.empty(len(wide), np.uint64)
    for begin in range(0, len(wide), _BLOCK):  # blocks stay in the processor's cache
        ends = offsets[begin : begin + _BLOCK + 1]
        text = b"" if values is None else memoryview(values)[int(ends[0]) : int(ends[-1])]
        found[begin : begin + _BLOCK] = _hashed(keys, bytes(text) + bytes(4), ends - ends[0])
    return found


def _hashed(keys: Hashes, text: bytes, ends: npt.NDArray[np.int64]) -> Hashes:
    """Rows of one block: `text` with four zeros behind it, row i from `ends[i]` to `ends[i + 1]`."""
    words = np.ndarray((len(text) - 3,), "<u4", text, strides=(1,))
    starts, lengths = ends[:-1], np.diff(ends)
    one = keys[0, 0] + keys[0, 1] * lengths.astype(np.uint64)
    two = keys[1, 0] + keys[1, 1] * lengths.astype(np.uint64)
    for w in range(-(-int(lengths.max()) // 4)):
        word = words.take(starts + 4 * w, mode="clip").astype(np.uint64)
        word &= _KEPT.take(lengths - 4 * w, mode="clip")
        one += keys[0, w + 2] * word
        two += keys[1, w + 2] * word
    mixed: Hashes = (one & ~_LOW) | (two >> _HALF)
    return mixed


def hashed_people(key: bytes, people: pa.Array) -> Hashes:
    """`keyed_hashes`, also of a struct column: people with several keys, each of which counts."""
    if not pa.types.is_struct(people.type):
        return keyed_hashes(key, people)
    found = np.zeros(len(people), np.uint64)
    for number, child in enumerate(people.flatten()):
        filled = keyed_hashes(key, child.cast(pa.binary()).fill_null(b""))
        found = found * np.uint64(0x9E3779B97F4A7C15) + filled + np.uint64(number)
    return found


def _bound(people: Hashes, values: npt.NDArray[np.float64]) -> Hashes:
    """Each person together with their value, mixed as in SplitMix64 (Steele, Lea and Flood, 2014)."""
    z = people ^ (values + 0.0).view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = z ^ (z >> np.uint64(31))
    return mixed


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Who went into a question, cell by cell, without naming anybody to those who lack the key.

    `kind` says under which hash people stand: questions by e-mail address and by telephone number hash the
    same person differently, and are compared by `rows` (places in the file) if `source` (which file) is the
    same. `people` uint64 (n,) ascending; `cells` uint16 (n,); `rows` int64 (n,); `values` uint64 (n,) for a
    measured column, of which `column` is the name, else None.
    """

    kind: str
    source: str
    groups: int
    people: Hashes = field(repr=False)
    cells: npt.NDArray[np.uint16] = field(repr=False)
    rows: npt.NDArray[np.int64] = field(repr=False)
    column: str = ""
    values: Hashes | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        hashed: list[Hashes],
        rows: list[npt.NDArray[np.int64]],
        values: list[npt.NDArray[np.float64]] | None = None,
        *,
        kind: str,
        source: str = "",
        column: str = "",
    ) -> Fingerprint:
        """From one array a cell, of one order within the cell."""
        people = np.concatenate(hashed) if hashed else np.empty(0, np.uint64)
        cells = np.repeat(np.arange(len(hashed), dtype=np.uint16), [len(cell) for cell in hashed])
        order = np.argsort(people)
        bound = None
        if values is not None:
            bound = _bound(people, np.concatenate(values).astype(np.float64))[order]
        return cls(
            kind=kind,
            source=source,
            groups=len(hashed),
            people=people[order],
            cells=cells[order],
            rows=np.concatenate(rows).astype(np.int64)[order] if rows else np.empty(0, np.int64),
            column=column if values is not None else "",
            values=bound,
        )

    @property
    def sizes(self) -> list[int]:
        """How many people each cell has."""
        return [int(n) for n in np.bincount(self.cells, minlength=self.groups)]

    def digest(self, key: bytes) -> str:
        """Keyed digest (hex) of people, their cells and their values: equal for equal inputs only."""
        hashed = hashlib.blake2b(key=key[:64], digest_size=32)
        hashed.update(f"{self.kind}\x00{self.groups}\x00{self.column}\x00{len(self.people)}\x00".encode())
        for part in (self.people, self.cells, self.values):
            if part is not None:
                hashed.update(np.ascontiguousarray(part).data)
        return hashed.hexdigest()

    def to_bytes(self) -> bytes:
        """Between 14 and 26 bytes a person."""
        packed = io.BytesIO()
        arrays = {"people": self.people, "cells": self.cells, "rows": self.rows}
        if self.values is not None:
            arrays["values"] = self.values
        names = np.array([self.kind, self.source, self.column])
        np.savez(packed, names=names, groups=np.array(self.groups), **arrays)  # type: ignore[arg-type]
        return packed.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Fingerprint:
        """What `to_bytes` wrote. Raises `Tampered` for anything else."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as packed:
                kind, source, column = (str(name) for name in packed["names"])
                return cls(
                    kind=kind,
                    source=source,
                    groups=int(packed["groups"]),
                    people=packed["people"],
                    cells=packed["cells"],
                    rows=packed["rows"],
                    column=column,
                    values=packed.get("values"),
                )
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise Tampered("a kept question cannot be read.") from error


def _parts(sizes: Sequence[int], minimum: int) -> npt.NDArray[np.int64]:
    """Sizes of the parts that an answer may show, the whole last; 0 stands for a part it may not."""
    cells = np.array(sizes, dtype=np.int64)
    return np.append(np.where(cells >= minimum, cells, 0), cells.sum())


def may_be_close(ours: Sequence[int], earlier: Sequence[int], minimum: int) -> bool:
    """Whether the sizes of cells leave it possible that two questions are too close."""
    mine, theirs = _parts(ours, minimum), _parts(earlier, minimum)
    near = np.abs(mine[:, None] - theirs[None, :]) < minimum
    return bool((near & (mine[:, None] > 0) & (theirs[None, :] > 0)).any())


def too_close(ours: Fingerprint, earlier: Fingerprint, minimum: int) -> bool:
    """Whether a part of `ours` and a part of `earlier` differ by 1 to `minimum` − 1 people.

    One merge of two sorted arrays: about 0.1 s for two million people on either side. False for questions
    that cannot be compared (another kind of identifier, over another file).
    """
    if ours.kind == earlier.kind:
        mine, theirs = ours.people, earlier.people
        order = None
    elif ours.source and ours.source == earlier.source:
        order = np.argsort(earlier.rows)
        mine, theirs = ours.rows.astype(np.uint64), earlier.rows[order].astype(np.uint64)
    else:
        return False
    if not len(mine) or not len(theirs):
        return False
    places = np.minimum(np.searchsorted(theirs, mine), len(theirs) - 1)
    shared = np.flatnonzero(theirs[places] == mine)
    found = places[shared] if order is None else order[places[shared]]
    shape = ours.groups, earlier.groups
    pairs = ours.cells[shared].astype(np.int64) * earlier.groups + earlier.cells[found]
    common = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
    changed = np.zeros(shape, np.int64)
    if order is None and ours.column == earlier.column and None not in (_of(ours), _of(earlier)):
        moved = ours.values[shared] != earlier.values[found]  # type: ignore[index]
        changed = np.bincount(pairs[moved], minlength=shape[0] * shape[1]).reshape(shape)
    sizes, before = _parts(ours.sizes, minimum), _parts(earlier.sizes, minimum)
    differing = sizes[:, None] + before[None, :] - 2 * _with_whole(common) + _with_whole(changed)
    shown = (sizes[:, None] > 0) & (before[None, :] > 0)
    return bool((shown & (differing > 0) & (differing < minimum)).any())


def _of(fingerprint: Fingerprint) -> str | None:
    return None if fingerprint.values is None else fingerprint.column


def _with_whole(cells: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """A matrix over cells with one more row and column: the sums."""
    wider = np.concatenate([cells, cells.sum(axis=0, keepdims=True)])
    return np.concatenate([wider, wider.sum(axis=1, keepdims=True)], axis=1).astype(np.int64)
