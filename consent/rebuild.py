"""Deriving a log again from its entries: every tile, the root, and the roots it had on the way."""

from __future__ import annotations

import itertools
import multiprocessing
import urllib.parse
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from consent.encoding import are_leaves, parse_time, times_of
from consent.merkle import EMPTY_ROOT, HASH_SIZE
from consent.tiles import (
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    bundle_path,
    decode_bundle,
    root_from_edge,
    tile_path,
    tile_root,
)
from privacy.errors import BadInput, Misuse, PeerUnreachable, Tampered

__all__ = ["Missing", "Reader", "Rebuilt", "directory_reader", "rebuild", "url_reader"]

Reader = Callable[[str], bytes | None]
"""`path -> bytes` of a file of the log, None where there is none; PeerUnreachable when it cannot tell."""

MAX_FILE = TILE_WIDTH * (2 + 0xFFFF)
_OLDER = "An entry claims to be older than one before it."
_WORTH_WORKERS = 100_000  # entries; below that a process takes longer to start than it saves
_BATCH = 16  # bundles handed to a worker at once: a megabyte


class Missing(Exception):
    """A file that should be there is not. Its text is the path."""


def directory_reader(directory: Path) -> Reader:
    """Files of a log directory."""
    root = Path(directory)

    def read(path: str) -> bytes | None:
        try:
            with (root / path).open("rb") as file:
                return file.read(MAX_FILE + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise PeerUnreachable(f"The log directory cannot be read (errno {error.errno}).") from error

    return read


def url_reader(prefix: str, get: Callable[[str], tuple[int, bytes]]) -> Reader:
    """Files below a URL; `get(url)` returns (status, body) or raises PeerUnreachable."""
    if urllib.parse.urlsplit(prefix).scheme not in ("http", "https"):
        raise Misuse("The URL of a log starts with http:// or https://.")

    def read(path: str) -> bytes | None:
        status, body = get(f"{prefix.rstrip('/')}/{path}")
        if status in (404, 410):
            return None
        if status != 200:
            raise PeerUnreachable(f"The log's server answered {status}.")
        return body

    return read


@dataclass(frozen=True, slots=True)
class Tip:
    """The tree at one size: its root, and when its last entry was recorded (microseconds)."""

    root: bytes = EMPTY_ROOT
    newest: int | None = None


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The whole tree, and the tips asked for."""

    tip: Tip
    tips: Mapping[int, Tip]


class _Bundle(NamedTuple):
    """What the entries of one bundle come to: leaf hashes, the root of a full tile, first and last time."""

    hashes: bytes
    root: bytes
    first: bytes
    last: bytes


def _derive(data: bytes, width: int) -> _Bundle:
    """Check and hash one entry bundle. Raises Tampered."""
    entries = decode_bundle(data, width)
    if not are_leaves(entries):
        raise Tampered("A log entry is not in the canonical form.", code="malformed_entry")
    times = times_of(entries)
    if times != sorted(times):
        raise Tampered(_OLDER, code="malformed_entry")
    hashes = b"".join([sha256(b"\x00" + entry).digest() for entry in entries])
    return _Bundle(hashes, tile_root(hashes) if width == TILE_WIDTH else b"", times[0], times[-1])


def _derive_all(bundles: list[tuple[bytes, int]]) -> list[_Bundle] | Tampered:
    """In a worker: the error is an answer, so that it comes back whole."""
    try:
        return [_derive(*bundle) for bundle in bundles]
    except Tampered as error:
        return error


def _derived(read: Reader, size: int, workers: int) -> Iterator[_Bundle]:
    """The bundles in order; hashed in `workers` other processes, or here with 0."""
    bundles = (
        (_file(read, Tile(-1, start // TILE_WIDTH, width)), width)
        for start in range(0, size, TILE_WIDTH)
        for width in (min(TILE_WIDTH, size - start),)
    )
    if not workers or size < _WORTH_WORKERS:
        yield from (_derive(*bundle) for bundle in bundles)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting: deque[Future[list[_Bundle] | Tampered]] = deque()
        try:
            while batch := list(itertools.islice(bundles, _BATCH)):
                waiting.append(pool.submit(_derive_all, batch))
                if len(waiting) > 2 * workers:
                    yield from _result(waiting.popleft())
            while waiting:
                yield from _result(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()


def _result(future: Future[list[_Bundle] | Tampered]) -> list[_Bundle]:
    found = future.result()
    if isinstance(found, Tampered):
        raise found
    return found


def rebuild(
    read: Reader,
    size: int,
    tips: Collection[int] = (),
    each: Callable[[int], None] | None = None,
    workers: int = 0,
) -> Rebuilt:
    """Entries → tiles → root, comparing every published tile on the way.

    `tips` are smaller sizes whose roots are wanted too. Long logs are hashed in `workers` processes beside
    this one. Raises Missing, Tampered, and what `read` raises.
    """
    edge: list[bytes] = []
    found = {0: Tip()} if 0 in tips else {}
    latest = b""
    start = 0
    for bundle in _derived(read, size, workers):
        index, width = start // TILE_WIDTH, len(bundle.hashes) // HASH_SIZE
        if bundle.first < latest:
            raise Tampered(_OLDER, code="malformed_entry")
        latest = bundle.last
        for tip in tips:
            if start < tip < start + width:
                entries = decode_bundle(_file(read, Tile(-1, index, width)), width)
                root = root_from_edge([bundle.hashes[: (tip - start) * HASH_SIZE], *edge[1:]])
                found[tip] = Tip(root, _micros(times_of(entries)[tip - start - 1]))
        if not edge:
            edge.append(b"")
        if bundle.root:
            _compare(read, Tile(0, index), bundle.hashes)
            _push(read, edge, 1, bundle.root, index // TILE_WIDTH)
        else:
            edge[0] = bundle.hashes
        start += width
        if start in tips:
            found[start] = Tip(root_from_edge(edge), _micros(latest))
        if each is not None:
            each(start)
    for level, data in enumerate(edge):
        if data:
            count = size >> level * TILE_HEIGHT
            _compare(read, Tile(level, count // TILE_WIDTH, count % TILE_WIDTH), data)
    return Rebuilt(Tip(root_from_edge(edge), _micros(latest)) if latest else Tip(), found)


def _micros(time: bytes) -> int:
    try:
        return parse_time(time.decode())
    except BadInput as error:
        raise Tampered("A log entry carries an impossible time.", code="malformed_entry") from error


def _push(read: Reader, edge: list[bytes], level: int, hashes: bytes, index: int) -> None:
    """Add hashes at a level; a tile that fills is compared with the published one and carried up."""
    if len(edge) <= level:
        edge.append(b"")
    edge[level] += hashes
    if len(edge[level]) == TILE_WIDTH * HASH_SIZE:
        full, edge[level] = edge[level], b""
        _compare(read, Tile(level, index), full)
        _push(read, edge, level + 1, tile_root(full), index // TILE_WIDTH)


def _file(read: Reader, tile: Tile) -> bytes:
    """A tile or bundle; where a partial one is gone, the full one of the same place, cut to width."""
    path = bundle_path(tile.index, tile.width) if tile.level < 0 else tile_path(tile)
    data = read(path)
    if data is None and not tile.full:
        whole = read(bundle_path(tile.index) if tile.level < 0 else tile_path(Tile(tile.level, tile.index)))
        if whole is not None:
            data = _cut(whole, tile)
    if data is None:
        raise Missing(path)
    if len(data) > MAX_FILE:
        raise Tampered("A published file is larger than it can be.")
    return data


def _cut(whole: bytes, tile: Tile) -> bytes:
    if tile.level >= 0:
        return whole[: tile.width * HASH_SIZE]
    end = 0
    for _ in range(tile.width):
        end += 2 + int.from_bytes(whole[end : end + 2], "big")
    return whole[:end]


def _compare(read: Reader, tile: Tile, expected: bytes) -> None:
    if _file(read, tile) != expected:
        raise Tampered(f"{tile_path(tile)} is not what the entries hash to.")
