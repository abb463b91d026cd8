"""Checking a log offline, from its entries up to the signed checkpoint.

`verify_log` needs nothing but the published files and the log's key: it re-derives every tile from the
entries, compares it with what is published, and compares the root with what was signed. `verify_ledger`
is for the node itself: it goes on to the database, every sealed payload, and the state derived from them.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from consent.checkpoint import Checkpoint, open_checkpoint
from consent.encoding import Leaf, is_leaf, to_micros
from consent.errors import InvalidNote
from consent.history import checked, fact_from, is_decision, missing_named, openings_of
from consent.ledger import Ledger
from consent.merkle import EMPTY_ROOT, HASH_SIZE
from consent.notes import MAX_NOTE, VerifierKey
from consent.state import Standing, fold
from consent.state_roots import check_state_tree
from consent.store import EntryRow, LedgerView, RestrictionRow, StandingKey
from consent.subjects import PSEUDONYM, Opening
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
from privacy.errors import Misuse, PeerUnreachable, Tampered

__all__ = ["LogReport", "Outcome", "Reader", "directory_reader", "url_reader", "verify_ledger", "verify_log"]

Reader = Callable[[str], bytes | None]
"""`path -> bytes` of a file of the log, None where there is none; PeerUnreachable when it cannot tell."""

_MAX_BUNDLE = TILE_WIDTH * (2 + 0xFFFF)


class Outcome(StrEnum):
    """What the check found; the worst first wins."""

    OK = "ok"
    TAMPERED = "tampered"  # something signed, hashed or sealed does not hold
    WRONG_KEY = "wrong_key"  # no signature by the key that was given
    INCOMPLETE = "incomplete"  # a file that the checkpoint promises is not there
    STALE = "stale"  # sound, but older than what was already known or than the age allowed
    UNREACHABLE = "unreachable"  # the log could not be read at all


@dataclass(frozen=True, slots=True)
class LogReport:
    """`detail` is one sentence for people; `newest` is the last entry's time in microseconds."""

    outcome: Outcome
    detail: str
    origin: str
    size: int = 0
    root: bytes = b""
    newest: int | None = None
    checkpoint: Checkpoint | None = None

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK


class _Missing(Exception):
    """A file that should be there is not."""


def directory_reader(directory: Path) -> Reader:
    """Files of a log directory."""
    root = Path(directory)

    def read(path: str) -> bytes | None:
        try:
            with (root / path).open("rb") as file:
                return file.read(_MAX_BUNDLE + 1)
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


def verify_log(
    read: Reader,
    key: VerifierKey,
    *,
    known: Checkpoint | None = None,
    not_older_than: datetime | None = None,
    each: Callable[[int], None] | None = None,
) -> LogReport:
    """Check a whole published log. Never raises for what it finds; says so in the report.

    `known` is a checkpoint seen before: the log must extend it. `not_older_than` asks that the last entry
    be that recent. `each(n)` is called with the number of entries checked so far.
    """
    try:
        return _verify(read, key, known, not_older_than, each)
    except _Missing as missing:
        return LogReport(Outcome.INCOMPLETE, f"{missing} is missing.", key.name)
    except PeerUnreachable as error:
        return LogReport(Outcome.UNREACHABLE, error.detail, key.name)
    except Tampered as error:
        return LogReport(Outcome.TAMPERED, error.detail, key.name)


def _verify(
    read: Reader,
    key: VerifierKey,
    known: Checkpoint | None,
    not_older_than: datetime | None,
    each: Callable[[int], None] | None,
) -> LogReport:
    data = read("checkpoint")
    if data is None:
        raise _Missing("The checkpoint")
    if len(data) > MAX_NOTE:
        raise InvalidNote("The checkpoint is too large.")
    try:
        checkpoint = open_checkpoint(data, [key])
    except InvalidNote as error:
        if "No trusted key" in error.detail:
            return LogReport(Outcome.WRONG_KEY, "The checkpoint is not signed by the key given.", key.name)
        raise
    size = checkpoint.size
    if known is not None and known.size > size:
        return LogReport(
            Outcome.STALE,
            "The log is smaller than a checkpoint seen before.",
            key.name,
            size,
            checkpoint.root,
        )
    root, newest, known_root = _rebuild(read, size, known.size if known else None, each)
    if root != checkpoint.root:
        raise Tampered("The entries do not have the root that was signed.")
    if known is not None and known_root != known.root:
        raise Tampered("The log does not extend the checkpoint seen before: its history was rewritten.")
    if not_older_than is not None and (newest is None or newest < to_micros(not_older_than)):
        detail = "The log's last entry is older than allowed."
        return LogReport(Outcome.STALE, detail, key.name, size, root, newest, checkpoint)
    detail = f"{size} entries lead to the signed root."
    return LogReport(Outcome.OK, detail, key.name, size, root, newest, checkpoint)


def _rebuild(
    read: Reader, size: int, known: int | None, each: Callable[[int], None] | None
) -> tuple[bytes, int | None, bytes | None]:
    """Entries → tiles → root, comparing every published tile; and the root at size `known` on the way."""
    edge: list[bytes] = []
    last = b""
    known_root = EMPTY_ROOT if known == 0 else None
    for start in range(0, size, TILE_WIDTH):
        width = min(TILE_WIDTH, size - start)
        entries = decode_bundle(_file(read, Tile(-1, start // TILE_WIDTH, width)), width)
        if not all(is_leaf(entry) for entry in entries):
            raise Tampered("A log entry is not in the canonical form.", code="malformed_entry")
        hashes = [sha256(b"\x00" + entry).digest() for entry in entries]
        if known is not None and start < known <= start + width:
            known_root = root_from_edge([b"".join(hashes[: known - start]), *edge[1:]])
            if known - start == TILE_WIDTH:
                known_root = _full_root(edge, hashes)
        _push(read, edge, 0, b"".join(hashes), start // TILE_WIDTH)
        last = entries[-1]
        if each is not None:
            each(start + width)
    for level, data in enumerate(edge):
        if data:
            count = size >> level * TILE_HEIGHT
            _compare(read, Tile(level, count // TILE_WIDTH, count % TILE_WIDTH), data)
    root = root_from_edge(edge) if edge else EMPTY_ROOT
    return root, Leaf.from_bytes(last).recorded_at if last else None, known_root


def _full_root(edge: list[bytes], hashes: list[bytes]) -> bytes:
    """The root when these hashes have just filled a tile: carried upward as `_push` will."""
    carried, levels = tile_root(b"".join(hashes)), [b""]
    for data in edge[1:]:
        if carried:
            data = data + carried  # noqa: PLW2901
            carried = b""
        if len(data) == TILE_WIDTH * HASH_SIZE:
            carried, data = tile_root(data), b""  # noqa: PLW2901
        levels.append(data)
    if carried:
        levels.append(carried)
    return root_from_edge(levels)


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
        raise _Missing(path)
    if len(data) > _MAX_BUNDLE:
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


# the node's own check


def verify_ledger(ledger: Ledger) -> LogReport:
    """Check the database against itself and against the published log.

    Entries hash to the stored tiles, the head and every signed checkpoint; every sealed payload opens to
    what its entry commits to; state and restrictions are exactly what the payloads fold to; every alias is
    the keyed hash of an identifier sealed for its subject.
    """
    try:
        with ledger.store.read() as view:
            _check_entries(view)
            facts = _check_payloads(ledger, view)
            _check_state(view, facts)
            _check_aliases(ledger, view)
            check_state_tree(ledger.vault, view)
            size = view.head().size
    except Tampered as error:
        return LogReport(Outcome.TAMPERED, error.detail, ledger.origin)
    static = ledger.log.static
    if static is None:
        return LogReport(Outcome.OK, f"{size} entries and what they open to hold.", ledger.origin, size)
    return verify_log(directory_reader(static.directory), ledger.key)


def _check_entries(view: LedgerView) -> None:
    head = view.head()

    def read(path: str) -> bytes | None:
        from consent.tiles import encode_bundle, parse_path

        tile = parse_path(path)
        if tile.level >= 0:
            return view.tile(tile.level, tile.index)[: tile.width * HASH_SIZE] or None
        start = tile.index * TILE_WIDTH
        rows = view.entries(start, start + tile.width)
        return encode_bundle([row.leaf for row in rows]) if len(rows) == tile.width else None

    try:
        root, _, _ = _rebuild(read, head.size, None, None)
    except _Missing as missing:
        raise Tampered(f"The database lacks {missing}.") from missing
    if root != head.root:
        raise Tampered("The stored entries do not have the stored root.")
    if view.entries(head.size, 1 << 62):
        raise Tampered("The database holds entries beyond the head.")


def _check_payloads(
    ledger: Ledger, view: LedgerView
) -> dict[bytes, list[tuple[Leaf, int, dict[str, object]]]]:
    """Every side row opens, and matches its entries one to one; returns the decisions of each subject.

    Only an erasure or a restore accounts for entries that no longer open: those that it names.
    """
    head = view.head()
    found: dict[bytes, list[tuple[Leaf, int, dict[str, object]]]] = {}
    covered, gone = bytearray(head.size), bytearray(head.size)
    entry = _entry_reader(view)
    for row in view.sides(0, head.size):
        openings: list[Opening] = openings_of(view, ledger.vault, row)
        for opening in openings:
            found_entry = entry(opening.idx)
            if found_entry is None or found_entry.side != row.first_index:
                raise Tampered("A sealed payload belongs to no entry.", code="bad_side_record")
            leaf = Leaf.from_bytes(found_entry.leaf)
            body = checked(leaf, opening)
            if covered[opening.idx]:
                raise Tampered("An entry has two sealed payloads.", code="bad_side_record")
            covered[opening.idx] = 1
            if row.subject is None:
                for first, last in missing_named(leaf.type, opening.idx, body):
                    gone[first : last + 1] = b"\x01" * (last + 1 - first)
            elif is_decision(leaf.type):
                found.setdefault(row.subject, []).append((leaf, opening.idx, body))
    for there, lost in zip(covered, gone, strict=True):
        if not there and not lost:
            raise Tampered("Some entries have no sealed payload.", code="bad_side_record")
        if there and lost:
            raise Tampered("A record that was erased is there again.", code="erasure_undone")
    return found


def _entry_reader(view: LedgerView) -> Callable[[int], EntryRow | None]:
    """Entries by index, read a bundle at a time: payloads come nearly in the order of the log."""

    @lru_cache(256)
    def bundle(number: int) -> dict[int, EntryRow]:
        start = number * TILE_WIDTH
        return {row.idx: row for row in view.entries(start, start + TILE_WIDTH)}

    return lambda index: bundle(index // TILE_WIDTH).get(index)


def _check_state(view: LedgerView, facts: dict[bytes, list[tuple[Leaf, int, dict[str, object]]]]) -> None:
    expected: dict[StandingKey, Standing] = {}
    for subject, entries in facts.items():
        entries.sort(key=lambda entry: entry[1])
        for (purpose, partner), standing in fold(fact_from(*entry) for entry in entries).items():
            expected[StandingKey(purpose, partner, subject)] = standing
    for key, standing in view.all_standings():
        if expected.pop(key, None) != standing:
            raise Tampered("The state table is not what the events fold to.", code="state_differs")
    if expected:
        raise Tampered("The state table lacks rows that the events fold to.", code="state_differs")


def _check_aliases(ledger: Ledger, view: LedgerView) -> None:
    counted = 0
    merged = view.merged_subjects()
    for row in view.all_subjects():
        identifiers = () if row.handle in merged else ledger.vault.open_identifiers(row)
        expected = {ledger.vault.lookup(kind)(canonical): kind for kind, canonical in identifiers}
        if view.aliases_of(row.handle) != expected:
            raise Tampered("A subject's aliases are not those sealed for it.", code="state_differs")
        counted += len(expected)
    if counted != view.count_aliases():
        raise Tampered("There are aliases that belong to nobody.", code="state_differs")
    _check_restrictions(ledger, view)


def _check_restrictions(ledger: Ledger, view: LedgerView) -> None:
    """Each restriction received must rest on a pseudonym's subject with a standing of the same times."""
    hashed = ledger.vault.lookup(PSEUDONYM)
    for batch in _batches(list(view.all_restrictions())):
        lookups = [
            hashed(row.partner.encode() + b"\x00" + row.kind.encode() + b"\x00" + row.pseudonym)
            for row in batch
        ]
        handles = view.find_subjects(lookups)
        keys = [
            StandingKey(row.purpose, row.partner, handles.get(lookup, b""))
            for row, lookup in zip(batch, lookups, strict=True)
        ]
        standings = view.standings(keys)
        for row, key in zip(batch, keys, strict=True):
            standing = standings.get(key, Standing())
            if (standing.restricted_at, standing.granted_at) != (row.restricted_at, row.lifted_at):
                raise Tampered("A restriction differs from the event that made it.", code="state_differs")


def _batches(rows: list[RestrictionRow], size: int = 5000) -> Iterator[list[RestrictionRow]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
