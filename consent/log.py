"""The only writer of the log: it sequences, hashes, stores, signs and publishes.

Callers queue; whoever holds the turn commits everything queued in one durable transaction, so that a
crowd of small requests costs one fsync. Publication is a turn of its own: one batch is committed while the
one before is published, and one publication serves all who wait for it. Nothing is signed but what was read
back after the commit and found to extend what was signed before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple, Protocol, runtime_checkable

from consent.checkpoint import Checkpoint, sign_checkpoint
from consent.cosignatures import add_signatures
from consent.encoding import Leaf, render_leaves, to_micros
from consent.errors import HeadMoved, RolledBack
from consent.merkle import EMPTY_ROOT, HASH_SIZE, consistency_proof, inclusion_proof, tree_root
from consent.notes import NoteSignature, NoteSigner
from consent.proofs import EntryProof
from consent.rows import EntryRow, Head
from consent.static import StaticLog
from consent.store import LedgerStore, LedgerTransaction, LedgerView
from consent.tiles import (
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    encode_bundle,
    root_from_edge,
    subtree_from_levels,
    subtree_from_tiles,
    tile_levels,
    tile_root,
    tiles_between,
)
from consent.trust_policy import TrustPolicy
from privacy.errors import Misuse, Refused, StorageError, Tampered

__all__ = ["LOST", "Appended", "Staged", "TransparencyLog", "Work"]

LOST = -1
"""The side row of an entry whose payload a restore could not bring back: there is none."""

_TILE_BYTES = TILE_WIDTH * HASH_SIZE
_KEPT_TILES = 1024  # of about 40 KB each


class Staged(NamedTuple):
    """One entry to be: its type, its commitment, and the first index of the side row that opens it."""

    type: str
    commit: bytes
    policy_hash: str
    side: int


class Work(Protocol):
    """One caller's part of a batch."""

    def stage(self, tx: LedgerTransaction, first: int, now: int) -> Sequence[Staged]:
        """Write the side tables for entries `first`, `first+1`, … and return those entries.

        Runs inside the write transaction; may run again after a failed commit. `now` (microseconds) is
        later than every `recorded_at` before it, whatever the clock does.
        """
        ...


@runtime_checkable
class JoiningWork(Work, Protocol):
    """Work of one kind that several callers bring: staged together it costs the store one round of questions.

    They share `now`. When one of them is refused none is written, and each is staged alone.
    """

    def joins(self, other: Work) -> bool:
        """Whether this and `other` can be staged together."""
        ...

    def stage_all(
        self, works: Sequence[Work], tx: LedgerTransaction, first: int, now: int
    ) -> Sequence[Sequence[Staged]]:
        """As `stage` for each of `works`, all of which this one joins, one after the other."""
        ...


@dataclass(frozen=True, slots=True)
class Appended:
    first: int
    count: int
    checkpoint: Checkpoint


@dataclass(eq=False, slots=True)
class _Pending:
    work: Work
    done: bool = False
    error: BaseException | None = None
    place: tuple[int, int] = field(default=(0, 0))


class TransparencyLog:
    """An append-only log over a store, signed by one key, published to one directory (or to none)."""

    def __init__(
        self,
        store: LedgerStore,
        signer: NoteSigner,
        *,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
        static: StaticLog | None = None,
    ) -> None:
        self._store = store
        self._signer = signer
        self._clock = clock
        self._random = random
        self.static = static
        self._queue: list[_Pending] = []
        self._queued = threading.Lock()
        self._turn = threading.Lock()
        self._publishing = threading.Lock()
        self._attempts = 0  # publications begun, and the number of the last that succeeded and that failed
        self._published = 0
        self._failed: tuple[int, BaseException] = (0, Misuse("Nothing failed."))
        self._latest: Checkpoint | None = None
        self._cosigned: Checkpoint | None = None
        self._nodes: dict[tuple[int, int], list[list[bytes]]] = {}
        self._halted: tuple[str, str] | None = None

    @property
    def origin(self) -> str:
        return self._signer.key.name

    def append(self, work: Work) -> Appended:
        """Durable and published when this returns; all of `work` or nothing of it.

        StorageError means that the outcome is unknown until the log is read again: the entries may have
        been committed and only their publication have failed, in which case the next publication brings
        them out.
        """
        self.check_halted()
        pending = _Pending(work)
        with self._queued:
            self._queue.append(pending)
        with self._turn:
            if not pending.done:
                with self._queued:
                    batch, self._queue = self._queue, []
                self._run(batch)
        if pending.error is not None:
            raise pending.error
        return Appended(*pending.place, self._brought_out())

    def _brought_out(self) -> Checkpoint:
        """The checkpoint of a publication that began after the caller's commit."""
        begun = self._attempts
        with self._publishing:
            if self._published > begun and self._latest is not None:
                return self._latest
            if self._failed[0] > begun:
                raise _again(self._failed[1])
            self._attempts += 1
            try:
                checkpoint = self._publish()
            except Exception as error:
                self._failed = (self._attempts, error)
                raise
            self._published = self._attempts
            return checkpoint

    def _run(self, batch: list[_Pending]) -> None:
        try:
            try:
                self._commit(batch)
            except (Misuse, Refused):
                # One caller's mistake is not the others': nothing was committed, so each goes alone.
                if len(batch) == 1:
                    raise
                for pending in batch:
                    self._run([pending])
                return
        except BaseException as error:
            for pending in batch:
                # Each thread raises its own exception object, lest they share one traceback.
                pending.error = error if pending is batch[-1] else _again(error)
            if not isinstance(error, Exception):
                raise
        finally:
            for pending in batch:
                pending.done = True

    def restore(self, start: int, leaves: Sequence[bytes], root: bytes, work: Work) -> Appended:
        """Put entries back that were signed and published but are lost here, then append `work`, at once.

        `leaves` are entries `start` … of the tree with this root; nothing of what they commit to comes back
        with them. Raises HeadMoved unless the stored log ends at `start`, RolledBack unless the entries
        lead from there to the root.
        """
        pending = _Pending(work)
        with self._turn:
            with self._store.write() as tx:
                old = tx.head()
                if old.size != start:
                    raise HeadMoved("The log has grown since it was looked at.", advice="Start again.")
                if _extend(tx, start, [sha256(b"\x00" + leaf).digest() for leaf in leaves]) != root:
                    raise RolledBack("These entries do not continue the log that is stored here.")
                tx.add_entries([EntryRow(i, leaf, LOST) for i, leaf in enumerate(leaves, start)])
                newest = Leaf.from_bytes(leaves[-1]).recorded_at if leaves else old.recorded_at
                size = start + len(leaves)
                tx.set_head(old, Head(size, root, max(old.recorded_at, newest)))
                self._append(tx, [pending])
            with self._publishing:
                return Appended(*pending.place, self._publish())

    def halt(self, detail: str, advice: str = "") -> None:
        """Append and answer nothing from now on: this database turned out to be rolled back."""
        self._halted = (detail, advice)

    def check_halted(self) -> None:
        """Raises RolledBack after `halt`."""
        if self._halted is not None:
            raise RolledBack(self._halted[0], advice=self._halted[1])

    def root_at(self, size: int) -> bytes:
        """The root of the stored tree when it had this size. Raises Misuse for one it has not had."""
        with self._store.read() as view:
            if not 0 <= size <= view.head().size:
                raise Misuse("The log has not had this size.")
            return tree_root(size, subtree_from_tiles(_trimmed(view, size)))

    def _commit(self, batch: list[_Pending]) -> None:
        with self._store.write() as tx:
            self._append(tx, batch)

    def _append(self, tx: LedgerTransaction, batch: list[_Pending]) -> None:
        old = tx.head()
        now, size = old.recorded_at, old.size
        rows: list[EntryRow] = []
        hashes: list[bytes] = []
        for group in _groups(batch):
            now = max(to_micros(self._clock()), now + 1)
            works = [pending.work for pending in group]
            parts = (
                works[0].stage_all(works, tx, size, now)
                if len(works) > 1 and isinstance(works[0], JoiningWork)
                else [works[0].stage(tx, size, now)]
            )
            at = size
            for pending, part in zip(group, parts, strict=True):
                pending.place = (at, len(part))
                at += len(part)
            staged = [one for part in parts for one in part]
            leaves = render_leaves(
                now, self._random(10 * len(staged)), [(s.type, s.commit, s.policy_hash) for s in staged]
            )
            rows.extend(
                EntryRow(index, leaf, s.side)
                for index, (leaf, s) in enumerate(zip(leaves, staged, strict=True), size)
            )
            hashes.extend([sha256(b"\x00" + leaf).digest() for leaf in leaves])
            size = at
        tx.add_entries(rows)
        tx.set_head(old, Head(size, _extend(tx, old.size, hashes), now))

    def publish(self) -> Checkpoint:
        """Bring the directory up to the database: after a crash, a restore, or another process's append."""
        with self._publishing:
            return self._publish()

    def _publish(self) -> Checkpoint:
        if self.static is None:
            with self._store.read() as view:
                checkpoint = self._sign(view, self._latest)
        else:
            with self.static.exclusive(), self._store.read() as view:
                before = self.static.published()
                checkpoint = self._sign(view, before)
                if before is None or before.size < checkpoint.size:
                    self.static.publish(
                        _files(view, before.size if before else 0, checkpoint.size), checkpoint
                    )
                else:
                    checkpoint = before  # the same, and perhaps cosigned meanwhile
        self._latest = checkpoint
        return checkpoint

    def _sign(self, view: LedgerView, before: Checkpoint | None) -> Checkpoint:
        """Sign the stored head, having re-derived it from the tiles and checked that it extends `before`."""
        head = view.head()
        subtree = subtree_from_tiles(_cached(_trimmed(view, head.size)))
        if tree_root(head.size, subtree) != head.root:
            raise Tampered("The stored tiles do not have the stored root; nothing was signed.")
        if before is not None:
            if before.size > head.size:
                raise RolledBack(
                    "The database holds less history than was signed before.",
                    advice="It was restored from an older backup. See: comity log restore",
                )
            if tree_root(before.size, subtree) != before.root:
                raise RolledBack("The database holds another history than was signed before.")
        return sign_checkpoint(head.size, head.root, self._signer)

    def checkpoint(self) -> Checkpoint:
        """The newest signed checkpoint, of what other processes appended too."""
        latest = self._latest
        if latest is not None:
            with self._store.read() as view:
                if view.head().size <= latest.size:
                    return latest
        return self.publish()

    def cosigned(self) -> Checkpoint | None:
        """The newest checkpoint that witnesses have cosigned, their signatures in its text."""
        return self._cosigned if self.static is None else self.static.cosigned()

    def add_cosignatures(
        self, checkpoint: Checkpoint, signatures: Sequence[NoteSignature], policy: TrustPolicy
    ) -> None:
        """Publish what witnesses have signed; the caller has verified it. Raises StorageError."""
        if self.static is not None:
            self.static.add_cosignatures(checkpoint, signatures, policy)
        elif self._cosigned is None or self._cosigned.size <= checkpoint.size:
            self._cosigned = replace(checkpoint, text=add_signatures(checkpoint.text, signatures))
        latest = self._latest
        if latest is not None and latest.body == checkpoint.body:
            self._latest = replace(latest, text=add_signatures(latest.text, signatures))

    def prove(self, index: int) -> EntryProof:
        """Entry `index` with its inclusion proof in the newest checkpoint."""
        return self.prove_many([index])[0]

    def prove_many(self, indexes: Sequence[int], checkpoint: Checkpoint | None = None) -> list[EntryProof]:
        """Proofs into one checkpoint. Raises Misuse for an index outside it."""
        at = checkpoint or self.checkpoint()
        if not all(0 <= index < at.size for index in indexes):
            raise Misuse("The log has no entry of this index.", code="not_found")
        with self._store.read() as view:
            subtree = subtree_from_levels(self._levels(_trimmed(view, at.size)))
            out = []
            for index in indexes:
                entry = view.entries(index, index + 1)[0].leaf
                out.append(EntryProof(index, entry, tuple(inclusion_proof(index, at.size, subtree)), at.text))
            return out

    def _levels(self, read: Callable[[int, int], bytes]) -> Callable[[int, int], list[list[bytes]]]:
        """The nodes inside tiles, kept of full ones, which never change, from one proof to the next."""
        partial: dict[tuple[int, int], list[list[bytes]]] = {}

        def levels(level: int, index: int) -> list[list[bytes]]:
            place = level, index
            found = self._nodes.get(place) or partial.get(place)
            if found is None:
                data = read(level, index)
                found = tile_levels(data)
                if len(data) == _TILE_BYTES:
                    while len(self._nodes) >= _KEPT_TILES:
                        self._nodes.pop(next(iter(self._nodes)), None)
                    self._nodes[place] = found
                else:
                    partial[place] = found
            return found

        return levels

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the tree of size `new` extends that of size `old`."""
        with self._store.read() as view:
            if not 0 <= old <= new <= view.head().size:
                raise Misuse("The log has not had these sizes.")
            return consistency_proof(old, new, subtree_from_tiles(_cached(_trimmed(view, new))))


def _groups(batch: Sequence[_Pending]) -> Iterator[list[_Pending]]:
    """The batch in its order, neighbours together that can be staged together."""
    group: list[_Pending] = []
    for pending in batch:
        if group and not (isinstance(group[0].work, JoiningWork) and group[0].work.joins(pending.work)):
            yield group
            group = []
        group.append(pending)
    if group:
        yield group


def _again(error: BaseException) -> BaseException:
    if isinstance(error, StorageError):
        return type(error)(error.detail, advice=error.advice)
    return StorageError("Another request of the same batch failed; nothing was acknowledged.")


def _extend(tx: LedgerTransaction, old: int, hashes: Sequence[bytes]) -> bytes:
    """Append leaf hashes to the stored tiles; only the right edge is read. Returns the new root."""
    size = old + len(hashes)
    changed: list[tuple[int, int, bytes]] = []
    edge: list[bytes] = []
    level = 0
    new = b"".join(hashes)
    while size >> level * TILE_HEIGHT:
        before = old >> level * TILE_HEIGHT
        index, width = divmod(before, TILE_WIDTH)
        stored = tx.tile(level, index)[: width * HASH_SIZE] if width else b""
        if len(stored) != width * HASH_SIZE:
            raise Tampered("A stored tile is shorter than the tree; nothing was appended.", code="short_tile")
        data = stored + new
        full = len(data) // _TILE_BYTES
        carried = []
        for i in range(full):
            tile = data[i * _TILE_BYTES : (i + 1) * _TILE_BYTES]
            changed.append((level, index + i, tile))
            carried.append(tile_root(tile))
        rest = data[full * _TILE_BYTES :]
        if rest and new:
            changed.append((level, index + full, rest))
        edge.append(rest)
        new = b"".join(carried)
        level += 1
    tx.put_tiles(changed)
    return root_from_edge(edge) if edge else EMPTY_ROOT


def _trimmed(view: LedgerView, size: int) -> Callable[[int, int], bytes]:
    """Tiles as they were at `size`: a later append may have widened the partial ones."""

    def read(level: int, index: int) -> bytes:
        width = min((size >> level * TILE_HEIGHT) - index * TILE_WIDTH, TILE_WIDTH)
        return view.tile(level, index)[: max(width, 0) * HASH_SIZE]

    return read


def _cached(read: Callable[[int, int], bytes]) -> Callable[[int, int], bytes]:
    kept: dict[tuple[int, int], bytes] = {}

    def cached(level: int, index: int) -> bytes:
        found = kept.get((level, index))
        if found is None:
            found = kept[level, index] = read(level, index)
        return found

    return cached


def _files(view: LedgerView, old: int, new: int) -> Iterator[tuple[Tile, bytes]]:
    """What changed in the static log between two sizes, each bundle checked against its tile."""
    read = _trimmed(view, new)
    for tile in tiles_between(old, new):
        data = read(tile.level, tile.index)
        if len(data) != tile.width * HASH_SIZE:
            raise Tampered(
                "A stored tile is shorter than the tree; nothing was published.", code="short_tile"
            )
        yield tile, data
        if tile.level == 0:
            start = tile.index * TILE_WIDTH
            leaves = view.leaves(start, start + tile.width)
            if b"".join([sha256(b"\x00" + leaf).digest() for leaf in leaves]) != data:
                raise Tampered("Stored entries do not hash to their tile; nothing was published.")
            yield Tile(-1, tile.index, tile.width), encode_bundle(leaves)
