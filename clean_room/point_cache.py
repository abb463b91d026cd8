"""Own hashed points H(c), kept so that only new people are hashed to the curve.

One set of points a lineage, kind of identifier and profile, in sixteen sealed files:

    SET.0 … SET.f     rows of 2 bytes day last used, 16 bytes tag, 32 bytes point; ascending by tag
    SET.key           the 16 bytes under which tags are made (AES-CMAC of the canonical identifier)

Without the node's key ring nothing can be told from a file but how many points there are. H(c) is the same
for whoever hashes c, so it is never sent: what leaves is blinded with the secret of a run first. Points are
looked up for people whom the consent gate has let through, and for nobody else. Who is erased is `forget`-ed
at once; whoever was not asked about for a month (left the list, or opted out) is dropped.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clean_room.group.hash_to_curve import DST
from clean_room.group.points import WHOLE, Random
from clean_room.sealed_files import SealedFolder
from consent.subjects import IDENTIFIER_PROFILE
from privacy.column_mac import KEY, ColumnMac
from privacy.errors import Tampered
from privacy.identifiers import PROFILES, Kind
from privacy.keys import KeyRing

__all__ = ["PointCache", "PointSet"]

_FILES = 16
_DAYS = 30
_RENEWED = 7
_ROW = np.dtype([("day", "<u2"), ("high", "<u8"), ("low", "<u8"), ("point", f"V{WHOLE}")])
_MOST = 20_000_000
Hash = Callable[[pa.BinaryArray], bytes]
"""H over a column: 32 bytes a row."""
Rows = npt.NDArray[Any]


class PointCache:
    """All sets of one node, in `folder`. Thread-safe; one instance a folder.

    `most` points are kept over all sets; the set that was not used for longest makes room. `today` counts
    days since 1970.
    """

    def __init__(
        self, folder: Path, keyring: KeyRing, *, today: Callable[[], int], random: Random, most: int = _MOST
    ) -> None:
        self._folder = folder
        self._files = SealedFolder(folder, keyring, "points", ".sealed")
        self._today = today
        self._random = random
        self._most = most
        self._lock = threading.Lock()
        self._gone: dict[str, list[int]] = {}

    def set_of(self, lineage: str, kind: str, profile: str) -> PointSet:
        """The points of one lineage under one kind of identifier and profile."""
        # Points of another hash to the curve would meet nobody.
        mark = hashlib.sha256(DST + b"\x00" + lineage.encode()).hexdigest()[:24]
        return PointSet(self, f"{mark}.{Kind(kind).value}.{PROFILES[profile].name}")

    def forget(self, kind: str, canonicals: Sequence[bytes]) -> None:
        """Remove people, by canonical identifiers of the ledger's own profile, from every set at once.

        Under another profile the same person may be spelled otherwise: such sets are removed whole.
        """
        with self._lock:
            for name in self._names():
                _, of, profile = name.split(".")
                if of != kind:
                    continue
                if profile != IDENTIFIER_PROFILE:
                    self._drop(name)
                    continue
                mac = self._mac(name, make=False)
                if mac is None:
                    continue
                for canonical in canonicals:
                    tag = mac.one(canonical)
                    words = np.frombuffer(tag, dtype="<u8")
                    # A run that is under way must not keep them again.
                    self._gone.setdefault(name, []).append(int(words[0]))
                    self._remove(name, words)

    def clear(self) -> None:
        """Remove everything."""
        with self._lock:
            for name in self._names():
                self._drop(name)

    # ── inside, under the lock ──────────────────────────────────────────────────────────────────────────

    def _names(self) -> list[str]:
        return sorted({name.rpartition(".")[0] for name in self._files.names()})

    def _drop(self, name: str) -> None:
        for part in (*map(str, _parts()), "key"):
            self._files.discard(f"{name}.{part}")

    def _mac(self, name: str, *, make: bool) -> ColumnMac | None:
        key = self._files.load(f"{name}.key")
        if key is None:
            if not make:
                return None
            key = self._random(KEY)
            self._files.save(f"{name}.key", key)
        if len(key) != KEY:
            raise Tampered("a key of kept points has a wrong length.")
        return ColumnMac(key)

    def _load(self, name: str, part: str) -> Rows:
        content = self._files.load(f"{name}.{part}") or b""
        if len(content) % _ROW.itemsize:
            raise Tampered("a file of kept points is cut short.")
        return np.frombuffer(content, dtype=_ROW)

    def _remove(self, name: str, tag: npt.NDArray[np.uint64]) -> None:
        part = _parts()[int(tag[0] & np.uint64(_FILES - 1))]
        rows = self._load(name, part)
        kept = rows[(rows["high"] != tag[0]) | (rows["low"] != tag[1])]
        if len(kept) < len(rows):
            self._files.save(f"{name}.{part}", kept.tobytes())

    def _make_room(self, name: str, people: int) -> bool:
        """Remove other sets until `people` fit; False if they never will."""
        if people > self._most:
            return False
        sizes = {other: self._size(other) for other in self._names() if other != name}
        for other in sorted(sizes, key=lambda n: sizes[n][0]):
            unused = self._today() - sizes[other][0] / 86_400
            if (
                unused <= _DAYS + _RENEWED
                and sum(bytes_ for _, bytes_ in sizes.values()) <= (self._most - people) * _ROW.itemsize
            ):
                break
            self._drop(other)
            del sizes[other]
        return True

    def _size(self, name: str) -> tuple[float, int]:
        paths = list(self._folder.glob(f"{name}.*.sealed"))
        stats = [path.stat() for path in paths]
        return max((s.st_mtime for s in stats), default=0.0), sum(s.st_size for s in stats)


@dataclass(frozen=True, slots=True)
class PointSet:
    """The points of one set."""

    _cache: PointCache = field(repr=False)
    _name: str

    def points(self, people: pa.BinaryArray, make: Hash) -> bytes:
        """H(c) of every row, 32 bytes each: kept ones as they are, the others by `make`, kept from now on.

        people: canonical, distinct, without nulls. A file that does not open any more is made anew.
        """
        cache = self._cache
        with cache._lock:
            mac = cache._mac(self._name, make=True)
            room = cache._make_room(self._name, len(people))
        if mac is None or not room:
            return make(people)
        tags = mac.tags(people)
        found, known = self._found(tags)
        missing = np.flatnonzero(~known)
        if len(missing):
            fresh = np.frombuffer(make(people.take(pa.array(missing))), dtype=f"V{WHOLE}")
            found[missing] = fresh
        self._keep(tags, found)
        return found.tobytes()

    def _found(self, tags: npt.NDArray[np.uint64]) -> tuple[Rows, npt.NDArray[np.bool_]]:
        found, known = np.zeros(len(tags), dtype=f"V{WHOLE}"), np.zeros(len(tags), dtype=np.bool_)
        for part, places in _by_file(tags):
            try:
                rows = self._cache._load(self._name, part)
            except Tampered:
                continue
            at, same = _sought(rows, tags[places])
            found[places[same]] = rows["point"][at[same]]
            known[places] = same
        return found, known

    def _keep(self, tags: npt.NDArray[np.uint64], points: Rows) -> None:
        """Merge what is new into the files, and renew the day of what was used."""
        cache, today = self._cache, self._cache._today() % 65_536
        for part, places in _by_file(tags):
            with cache._lock:
                try:
                    rows = cache._load(self._name, part).copy()
                except Tampered:
                    rows = np.empty(0, dtype=_ROW)
                at, same = _sought(rows, tags[places])
                age = (today - rows["day"].astype(np.int64)) % 65_536
                # Days are renewed once a week at most: a file is not written for them alone every time.
                stale = age > _DAYS
                stale[at[same]] = False
                renewed = bool((age[at[same]] >= _RENEWED).any())
                rows["day"][at[same]] = today
                new = places[~same]
                new = new[~np.isin(tags[new, 0], np.array(cache._gone.get(self._name, ()), np.uint64))]
                if not (len(new) or renewed or stale.any()):
                    continue
                added = np.empty(len(new), dtype=_ROW)
                added["day"], added["point"] = today, points[new]
                added["high"], added["low"] = tags[new, 0], tags[new, 1]
                whole = np.concatenate([rows[~stale], added])
                whole = whole[np.lexsort((whole["low"], whole["high"]))]
                cache._files.save(f"{self._name}.{part}", whole.tobytes())


def _parts() -> list[str]:
    return [f"{number:x}" for number in range(_FILES)]


def _by_file(tags: npt.NDArray[np.uint64]) -> list[tuple[str, npt.NDArray[np.int64]]]:
    """Which rows belong to which file: the low four bits of the tag's first word."""
    file = (tags[:, 0] & np.uint64(_FILES - 1)).astype(np.int64)
    order = np.argsort(file, kind="stable")
    bounds = np.searchsorted(file[order], np.arange(_FILES + 1))
    return [(part, order[bounds[i] : bounds[i + 1]]) for i, part in enumerate(_parts())]


def _sought(rows: Rows, tags: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """For every tag a place in `rows`, and whether it is there. First words of different people differ."""
    if not len(rows):
        return np.zeros(len(tags), dtype=np.int64), np.zeros(len(tags), dtype=np.bool_)
    high = np.ascontiguousarray(rows["high"])
    order = np.argsort(tags[:, 0])
    at = np.empty(len(tags), dtype=np.int64)
    at[order] = np.minimum(np.searchsorted(high, tags[order, 0]), len(rows) - 1)
    return at, (high[at] == tags[:, 0]) & (rows["low"][at] == tags[:, 1])
