"""What a gate keeps between questions: the lookups of columns it has seen, and who is allowed.

Both are kept in the order of the lookups, so that a question about a million rows is one merge of two
sorted arrays.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from consent.bulk_hashing import Rows, as_rows, keys_of, sorted_unique
from consent.subjects import KeyedHash

__all__ = ["ColumnCache", "HashedColumn", "LookupSet"]

Mask = npt.NDArray[np.bool_]


def _content(column: pa.LargeBinaryArray) -> bytes:
    """A digest of what the column holds, whichever buffers it holds it in."""
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset :][: len(column) + 1]
    digest = blake2b(len(column).to_bytes(8, "big"), digest_size=32)
    digest.update(np.diff(offsets).tobytes())
    if column.null_count:
        digest.update(np.packbits(column.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    values = column.buffers()[2]
    if values is not None:
        digest.update(memoryview(values)[int(offsets[0]) : int(offsets[-1])])
    return digest.digest()


def _words(rows: Rows) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(rows).view(np.uint64)


@dataclass(frozen=True, slots=True)
class HashedColumn:
    """The keyed hashes of a column's rows, sorted; nulls left out. `order[i]` is the row of `rows[i]`."""

    length: int
    order: npt.NDArray[np.int64]
    keys: npt.NDArray[np.uint64]
    rows: Rows = field(repr=False)

    @classmethod
    def of(cls, column: pa.LargeBinaryArray, hashed: KeyedHash) -> HashedColumn:
        rows = hashed.rows(column)
        present = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        keys = keys_of(rows[present])
        order = np.argsort(keys, kind="stable")
        places = present[order]
        return cls(len(column), places, keys[order], np.ascontiguousarray(rows[places]))

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return self.order.nbytes + self.keys.nbytes + self.rows.nbytes

    def places(self, lookup: bytes) -> Iterable[int]:
        """Where in `rows` this lookup stands."""
        key = np.uint64(int.from_bytes(lookup[:8], "big"))
        first, end = np.searchsorted(self.keys, key, "left"), np.searchsorted(self.keys, key, "right")
        return [at for at in range(int(first), int(end)) if self.rows[at].tobytes() == lookup]

    def unsorted(self, found: Mask) -> Mask:
        """A mask over `rows` as one over the column."""
        mask = np.zeros(self.length, np.bool_)
        mask[self.order[found]] = True
        return mask


class LookupSet:
    """A set of lookups (32 bytes each) that a whole column is asked about at once."""

    __slots__ = ("_keys", "_rows")

    def __init__(self, lookups: Iterable[bytes]) -> None:
        self._rows = sorted_unique(as_rows(b"".join(lookups)))
        self._keys = keys_of(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def among(self, column: HashedColumn) -> Mask:
        """Which of `column.rows` are in the set."""
        if not len(self) or not len(column.rows):
            return np.zeros(len(column.rows), np.bool_)
        places = np.minimum(np.searchsorted(self._keys, column.keys), len(self) - 1)
        begun = self._keys[places] == column.keys
        found: Mask = begun & (_words(self._rows)[places] == _words(column.rows)).all(axis=1)
        for at in np.flatnonzero(begun & ~found).tolist():
            # Another row begins with the same eight bytes: look further.
            place, row = int(places[at]), column.rows[at].tobytes()
            while place < len(self) and self._keys[place] == column.keys[at]:
                if self._rows[place].tobytes() == row:
                    found[at] = True
                    break
                place += 1
        return found


class ColumnCache:
    """Keyed hashes of the columns asked about last, found by what the columns hold. Thread-safe."""

    def __init__(self, limit: int = 256 << 20) -> None:
        self._limit = limit  # bytes
        self._kept: OrderedDict[tuple[bytes, bytes], HashedColumn] = OrderedDict()
        self._lock = threading.Lock()

    def hashed(self, column: pa.Array | pa.ChunkedArray, hashed: KeyedHash) -> HashedColumn:
        """The hashes of a binary column."""
        wide = column.cast(pa.large_binary())
        if isinstance(wide, pa.ChunkedArray):
            wide = wide.combine_chunks()
        if not len(wide):
            nothing = np.empty(0, np.int64)
            return HashedColumn(0, nothing, nothing.astype(np.uint64), np.empty((0, 32), np.uint8))
        # Under another key, or for another kind, the hash of nothing is another.
        name = (_content(wide), hashed(b""))
        with self._lock:
            found = self._kept.get(name)
            if found is not None:
                self._kept.move_to_end(name)
                return found
        found = HashedColumn.of(wide, hashed)
        with self._lock:
            self._kept[name] = found
            size = sum(kept.size for kept in self._kept.values())
            while size > self._limit and len(self._kept) > 1:
                size -= self._kept.popitem(last=False)[1].size
        return found


@dataclass(frozen=True, slots=True)
class AllowedPeople:
    """Everybody allowed at one size of the log: a set, and what changed since it was read."""

    size: int
    policy_hash: str
    until: int | None
    base: LookupSet = field(repr=False)
    added: Set[bytes] = field(repr=False)
    removed: Set[bytes] = field(repr=False)

    def among(self, column: HashedColumn) -> Mask:
        """Which of `column.rows` are allowed."""
        found = self.base.among(column)
        for lookups, value in ((self.removed, False), (self.added, True)):
            for lookup in lookups:
                for at in column.places(lookup):
                    found[at] = value
        return found
