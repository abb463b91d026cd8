"""Commitments to the current state, and proofs against them.

`StateRoots.commit` brings the state tree up to the log and writes its root as an entry of the log
(`state.committed`); `StateKeeper` does so by itself, at most once a second, while decisions come in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic

from consent.checkpoint import Checkpoint
from consent.encoding import SALT_SIZE, commitment
from consent.events import EventType, system_payload
from consent.history import open_entry
from consent.ledger import Ledger
from consent.log import Staged
from consent.rows import SideRow, StateHead
from consent.state import StateKey
from consent.state_buckets import all_pairs, prove_key, root_node, update
from consent.state_proofs import PlaceProof, StateCommitment, StateProof, checked_places, places_of
from consent.state_tree import EMPTY, standing_value, state_key
from consent.store import LedgerTransaction, LedgerView
from consent.subjects import KeyedHash, Opening, SubjectVault, pack_openings
from privacy.errors import Misuse, StorageError, Tampered

__all__ = ["StateCommitted", "StateKeeper", "StateRoots", "check_state_tree"]

_CHUNK = 4096  # records of payloads brought into the tree in one transaction
_TRIES = 5


@dataclass(frozen=True, slots=True)
class StateCommitted:
    """Entry `index` commits to the `root` (32 bytes) of the state after `size` entries: `pairs` pairs."""

    index: int
    size: int
    pairs: int
    root: bytes
    checkpoint: Checkpoint


def _values(view: LedgerView, salts: KeyedHash, subjects: list[bytes]) -> dict[bytes, bytes | None]:
    """The tree's pairs for everything these subjects have decided."""
    found: dict[bytes, bytes | None] = {}
    for who, state in view.standings_of(subjects).items():
        for (purpose, partner), standing in state.items():
            key = state_key(who, purpose, partner)
            found[key] = standing_value(salts(key), standing)
    return found


def _advance(tx: LedgerTransaction, salts: KeyedHash, version: int, end: int, limit: int) -> StateHead:
    """Bring at most `limit` records of payloads before entry `end` into the tree; returns where it stands."""
    head = tx.state_head() or StateHead(0, None, 0, EMPTY, version)
    if head.version != version:
        head = head._replace(through=0, version=version)  # other salts: every pair is written anew
    removed = tx.removed_pairs()
    subjects, reached = tx.changed_subjects(head.through, end, limit)
    changes: dict[bytes, bytes | None] = dict.fromkeys(removed)
    changes.update(_values(tx, salts, subjects))
    if changes:
        _, grown, rows = update(tx.tree_rows, changes)
        tx.put_tree_rows(rows)
        head = head._replace(pairs=head.pairs + grown)
    if removed:
        tx.clear_removed_pairs()
    head = head._replace(through=reached)
    tx.put_state_head(head)
    return head


@dataclass(frozen=True)
class _Commit:
    """The work of one `state.committed` entry."""

    vault: SubjectVault
    policy_hash: str
    random: Callable[[int], bytes]

    def stage(self, tx: LedgerTransaction, first: int, now: int) -> list[Staged]:
        salts, version = self.vault.state_salts()
        head = _advance(tx, salts, version, first, 1 << 62)
        root = root_node(tx.tree_rows).hash
        tx.put_state_head(head._replace(through=first + 1, idx=first, root=root))
        fields = {"size": first, "pairs": head.pairs, "root": root.hex()}
        payload = system_payload(now, fields)
        salt = self.random(SALT_SIZE)
        sealed = self.vault.seal_system(pack_openings([Opening(first, salt, payload)]))
        tx.add_sides([SideRow(first, None, sealed)])
        return [Staged(EventType.STATE_COMMITTED.value, commitment(salt, payload), self.policy_hash, first)]


class StateRoots:
    """The state tree of one ledger. Thread-safe."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.RLock()

    def pending(self) -> bool:
        """Whether anything was decided since the last commitment."""
        with self._ledger.store.read() as view:
            return self._pending(view)

    def _pending(self, view: LedgerView) -> bool:
        head, size = view.state_head() or StateHead(0, None, 0, EMPTY, 0), view.head().size
        at = head.through
        while at < size:
            subjects, at = view.changed_subjects(at, size, _CHUNK)
            if subjects:
                return True
        return bool(view.removed_pairs())

    def commit(self) -> StateCommitted:
        """The state as it is now, committed to: by the log's last entry, which is written if need be."""
        with self._lock:
            ledger = self._ledger
            with ledger.store.read() as view:
                head, size, removed = view.state_head(), view.head().size, view.removed_pairs()
            if head is not None and head.idx is not None and head.idx + 1 == size and not removed:
                return self._committed(head, ledger.head())
            self._catch_up(size)
            work = _Commit(ledger.vault, ledger.policy.hash, ledger.random)
            done = ledger.log.append(work)
            with ledger.store.read() as view:
                _, opening = open_entry(view, ledger.vault, done.first)
            root, size, pairs = _body(opening)
            return StateCommitted(done.first, size, pairs, root, done.checkpoint)

    def _committed(self, head: StateHead, checkpoint: Checkpoint) -> StateCommitted:
        index = head.idx or 0
        return StateCommitted(index, index, head.pairs, head.root, checkpoint)

    def _catch_up(self, size: int) -> None:
        """Work through a long backlog in short transactions, so that no writer waits for all of it."""
        salts, version = self._ledger.vault.state_salts()
        while True:
            with self._ledger.store.read() as view:
                head = view.state_head()
                start = head.through if head is not None and head.version == version else 0
                _, reached = view.changed_subjects(start, size, _CHUNK)
            if reached >= size:
                return
            with self._ledger.store.write() as tx:
                _advance(tx, salts, version, size, _CHUNK)

    def prove(self, identifier: bytes, kind: str, purpose: str, partner: str) -> StateProof:
        """Proof of everything that the answer to (purpose, partner) depends on, for a person known here.

        `identifier` is canonical. Raises UnknownPurpose, Misuse (code `unknown_subject`).
        """
        ledger = self._ledger
        ledger.policy.require(purpose)
        lookup = ledger.vault.lookup(kind)(identifier)
        with ledger.store.read() as view:
            handle = view.find_subjects([lookup]).get(lookup)
        if handle is None:
            raise Misuse(
                "Nothing is recorded about this person, so there is nobody to prove it of.",
                code="unknown_subject",
            )
        return self.prove_subject(handle, places_of(purpose, partner))

    def prove_subject(self, handle: bytes, places: list[StateKey]) -> StateProof:
        """Proof of what stands at each (purpose, partner) of the subject with this handle.

        For a handle that is not, or no longer, known here the proofs are of absence. The commitment is
        the log's last entry at that moment, or a later one.
        """
        wanted = checked_places(places)
        if len(handle) != 16:
            raise Misuse("The handle of a subject is 16 bytes.")
        ledger = self._ledger
        salts, _ = ledger.vault.state_salts()
        with self._lock:
            for _ in range(_TRIES):
                committed = self.commit()
                with ledger.store.read() as view:
                    root = root_node(view.tree_rows).hash
                    if root != committed.root:
                        continue  # another process is bringing the tree forward
                    state = view.standings_of([handle]).get(handle, {})
                    _, opening = open_entry(view, ledger.vault, committed.index)
                    found = []
                    for purpose, partner in wanted:
                        key = state_key(handle, purpose, partner)
                        path = prove_key(view.tree_rows, key)
                        standing = state.get((purpose, partner))
                        salt = None if standing is None else salts(key)
                        place = PlaceProof(purpose, partner, standing, salt, path)
                        found.append(place)
                        present = path.end is not None and path.end.key == key
                        value = path.end.value if present and path.end else None
                        if value != (standing and salt and standing_value(salt, standing)):
                            break  # decided anew since the commitment
                    else:
                        (entry,) = ledger.log.prove_many([committed.index], committed.checkpoint)
                        commitment_ = StateCommitment(opening.salt, opening.payload, entry)
                        return StateProof(handle, tuple(found), commitment_)
        raise StorageError("The state changes faster than it can be proved; try again.")


def _body(opening: Opening) -> tuple[bytes, int, int]:
    from consent.encoding import parse_json

    body: Mapping[str, object] = parse_json(opening.payload, limit=1 << 16)
    return bytes.fromhex(str(body["root"])), int(str(body["size"])), int(str(body["pairs"]))


def check_state_tree(vault: SubjectVault, view: LedgerView) -> None:
    """Compare the stored tree with the state table, row by row. Raises Tampered.

    Every pair must be that of a standing, and every standing have its pair, but for subjects who decided
    something after the last time the tree was brought up to date; and where there are none, the root must
    be the one committed to last.
    """
    head = view.state_head()
    if head is None:
        if root_node(view.tree_rows).pairs:
            raise Tampered("There is a state tree that was never committed to.", code="state_differs")
        return
    salts, version = vault.state_salts()
    if version != head.version:
        return  # the tree is rewritten under the new key at the next commitment
    behind, at, size = set(), head.through, view.head().size
    while at < size:
        subjects, at = view.changed_subjects(at, size, _CHUNK)
        behind.update(subjects)
    pairs = all_pairs(view.tree_rows)
    if len(pairs) != head.pairs:
        raise Tampered("The state tree holds another number of pairs than noted.", code="state_differs")
    removed = set(view.removed_pairs())
    for place, standing in view.all_standings():
        key = state_key(place.subject, place.purpose, place.partner)
        value = pairs.pop(key, None)
        if value != standing_value(salts(key), standing) and place.subject not in behind:
            raise Tampered("The state tree is not that of the state table.", code="state_differs")
    if any(key not in removed for key in pairs):
        raise Tampered("The state tree holds what the state table does not.", code="state_differs")
    if head.idx is not None:
        _check_commitment(vault, view, head, settled=not behind and not removed)


def _check_commitment(vault: SubjectVault, view: LedgerView, head: StateHead, *, settled: bool) -> None:
    leaf, opening = open_entry(view, vault, head.idx or 0)
    if leaf.type != EventType.STATE_COMMITTED.value or _body(opening)[0] != head.root:
        raise Tampered("The entry that commits to the state says something else.", code="state_differs")
    if settled and root_node(view.tree_rows).hash != head.root:
        raise Tampered("The state is not the one that was committed to last.", code="state_differs")


class StateKeeper:
    """Commits while decisions come in: at most every `seconds`, and for at most a tenth of the time.

    A large import thus costs a few larger commitments. `failed(error)` is told when one fails; the next
    one is tried all the same. Start and stop it once.
    """

    def __init__(
        self, roots: StateRoots, *, seconds: float = 1.0, failed: Callable[[Exception], None] = lambda _: None
    ) -> None:
        self._roots = roots
        self._seconds = seconds
        self._failed = failed
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="state-roots", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; a commitment under way is waited for."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        pause = self._seconds
        while not self._stopping.wait(pause):
            began = monotonic()
            try:
                if self._roots.pending():
                    self._roots.commit()
            except Exception as error:  # the thread outlives whatever one round met
                self._failed(error)
            pause = min(max(self._seconds, 9 * (monotonic() - began)), 60.0)
