"""The storage contract of the ledger.

One durable transaction holds everything a batch of events changes: entries, tiles, head, sealed payloads,
state and outbox. Either all of it is there afterwards or none of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from consent.rows import (
    AuditReportRow,
    EntryRow,
    ErasureRow,
    EvidenceRow,
    FeedRow,
    Head,
    InboxRow,
    LinkRow,
    OutboxRow,
    PartnerRow,
    ReceiptRow,
    RestrictionRow,
    SideRow,
    SplitViewRow,
    StandingKey,
    StateHead,
    SubjectRow,
    SuppressionRow,
    WitnessedRow,
)
from consent.state import Standing, StateKey

__all__ = [
    "AuditTransaction",
    "AuditView",
    "ErasureTransaction",
    "ErasureView",
    "LedgerStore",
    "LedgerTransaction",
    "LedgerView",
    "StateRootsTransaction",
    "StateRootsView",
]


class WitnessView(Protocol):
    """What this node has seen of other logs as their witness."""

    def witnessed(self, origin: str) -> WitnessedRow | None: ...

    def all_witnessed(self) -> list[WitnessedRow]:
        """Ordered by origin."""
        ...

    def split_views(self, origin: str | None = None) -> list[SplitViewRow]:
        """Newest first."""
        ...


class WitnessTransaction(Protocol):
    """Changes to the same."""

    def put_witnessed(self, row: WitnessedRow) -> None: ...

    def put_split_view(self, row: SplitViewRow) -> None:
        """Replaces the row of the same digest."""
        ...


class AuditView(Protocol):
    """The ledger from end to end, page by page, and the audit reports kept."""

    def leaves_at(self, indexes: Sequence[int]) -> dict[int, bytes]: ...

    def system_sides(self, start: int, end: int) -> list[SideRow]:
        """Rows with start ≤ first_index < end that are about no single person, in order."""
        ...

    def subjects_after(self, handle: bytes, limit: int) -> list[SubjectRow]:
        """Subjects with a greater handle, in order of handle."""
        ...

    def sides_of_all(self, subjects: Sequence[bytes]) -> list[SideRow]:
        """The rows of several subjects, in no order."""
        ...

    def aliases_after(self, kind: str, lookup: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """(lookup, handle) with a greater lookup, in order of lookup."""
        ...

    def receipts_between(self, start: int, end: int) -> Iterable[ReceiptRow]:
        """Receipts with start ≤ index < end, in order."""
        ...

    def policy_document(self, hash_: str) -> str | None:
        """The published policy of this hash, as canonical JSON."""
        ...

    def audit_report(self, report_id: str) -> AuditReportRow | None: ...

    def audit_reports(self, before: int | None, limit: int) -> list[tuple[str, int, str, int]]:
        """(id, index, law, created_at), newest first, with index < before."""
        ...


class AuditTransaction(Protocol):
    """The writes that go with it."""

    def add_audit_report(self, row: AuditReportRow) -> None:
        """Raises StorageError if the id is taken."""
        ...


class StateRootsView(Protocol):
    """The state tree in rows; see `consent.state_buckets`."""

    def state_head(self) -> StateHead | None: ...

    def tree_rows(self, paths: Sequence[str]) -> dict[str, bytes]:
        """path → row, for those that are there."""
        ...

    def changed_subjects(self, start: int, end: int, limit: int) -> tuple[list[bytes], int]:
        """Subjects with decisions in entries start … end-1, from at most `limit` records of payloads.

        Also returns the index to go on from: `end` when that was all.
        """
        ...

    def removed_pairs(self) -> list[bytes]:
        """Keys of the state tree whose standings were removed since the tree was last brought up to date."""
        ...


class StateRootsTransaction(Protocol):
    """Changes to the same."""

    def put_state_head(self, row: StateHead) -> None: ...

    def put_tree_rows(self, rows: Mapping[str, bytes | None]) -> None:
        """None deletes."""
        ...

    def clear_removed_pairs(self) -> None: ...

    def remove_standings(self, subjects: Sequence[bytes]) -> int:
        """Remove everything decided by these subjects from the state, and note it for the state tree.

        Returns the number of standings removed. The only way to remove standings: the tree would keep
        what is deleted past it.
        """
        ...


class ErasureView(Protocol):
    """Erasures, suppressed people, merged subjects, and the version of the lookup key."""

    def any_suppression(self) -> bool: ...

    def suppressions(self, lookups: Sequence[bytes]) -> dict[bytes, SuppressionRow]: ...

    def all_suppressions(self) -> Iterable[SuppressionRow]: ...

    def erasure(self, request: str) -> ErasureRow | None: ...

    def erasures(self, state: str | None = None) -> list[ErasureRow]:
        """In the order of the requests."""
        ...

    def unscrubbed(self) -> list[ErasureRow]:
        """Those carried out since the storage was scrubbed last."""
        ...

    def outbox_of(self, subject: bytes) -> list[OutboxRow]:
        """Everything that partners were or are to be told about a subject."""
        ...

    def merged_parts(self, subject: bytes) -> list[tuple[bytes, int]]:
        """(handle, when) of the subjects that turned out to be this one, in the order of the merges."""
        ...

    def merged_subjects(self) -> dict[bytes, bytes]:
        """Every merged handle → the handle it belongs to now."""
        ...

    def lookup_version(self) -> int:
        """The ring's version that aliases are hashed under; 0 before the ledger was first opened."""
        ...

    def lookup_versions(self) -> list[tuple[int, int]]:
        """(first entry index, version), oldest first."""
        ...


class ErasureTransaction(Protocol):
    """The writes that go with it."""

    def put_suppressions(self, rows: Sequence[SuppressionRow]) -> None: ...

    def drop_suppressions(self, lookups: Sequence[bytes]) -> None: ...

    def expire_suppressions(self, at: int) -> int:
        """Drop those that end at or before `at`; returns how many."""
        ...

    def put_erasure(self, row: ErasureRow) -> None: ...

    def forget(self, subject: bytes) -> None:
        """Delete the subject and every row of every table whose column `subject` names it.

        Messages to partners stay, without the handle; the state is `remove_standings`' to clear.
        """
        ...

    def move_aliases(self, lookups: Sequence[bytes], subject: bytes) -> None: ...

    def set_merged(self, subject: bytes, into: bytes | None, at: int | None) -> None: ...

    def rewrap(self, subject: bytes, wrapped_key: bytes, aliases: Sequence[tuple[bytes, str]]) -> None:
        """Replace a subject's wrapped key and all its aliases (lookup, kind)."""
        ...

    def reseal(self, first_index: int, sealed: bytes) -> None: ...

    def set_lookup_version(self, version: int, since_index: int) -> None: ...


class LinksView(Protocol):
    """Preference links. `person` is the lookup of an identifier."""

    def link(self, token_hash: bytes) -> LinkRow | None: ...

    def link_by_id(self, link: str) -> LinkRow | None: ...

    def links(self, after: tuple[int, str] | None, limit: int, person: bytes | None = None) -> list[LinkRow]:
        """Newest first, after (created_at, id)."""
        ...


class LinksTransaction(Protocol):
    def add_link(self, row: LinkRow) -> None:
        """Raises StorageError if the id or the token is taken."""
        ...

    def revoke_links(self, at: int, *, link: str | None = None, persons: Sequence[bytes] = ()) -> int:
        """Revoke one link, or all of these lookups'; returns how many were open."""
        ...

    def delete_links(self, persons: Sequence[bytes] = (), *, ended_before: int | None = None) -> int:
        """Delete the links of these lookups (an erasure), or those that ended before a time."""
        ...


class ListingView(Protocol):
    """The state and the receipts of use, page by page."""

    def standings_page(
        self, after: StandingKey | None, limit: int, purpose: str | None, partner: str | None
    ) -> list[tuple[StandingKey, Standing]]:
        """In the order of (purpose, partner, subject)."""
        ...

    def uses_after(self, index: int, limit: int) -> list[ReceiptRow]:
        """Oldest first, with idx > index."""
        ...

    def member_leaves(self, index: int, start: int, count: int) -> bytes:
        """Leaves start … start+count-1 of the set of the receipt in entry `index`, 32 bytes each."""
        ...


class LedgerView(WitnessView, AuditView, StateRootsView, ErasureView, LinksView, ListingView, Protocol):
    """A consistent snapshot: everything read through one view belongs to one committed head."""

    def head(self) -> Head: ...

    def tile(self, level: int, index: int) -> bytes:
        """The hashes stored for a tile, b"" where there is none."""
        ...

    def entries(self, start: int, end: int) -> list[EntryRow]:
        """Rows with start ≤ index < end, in order."""
        ...

    def leaves(self, start: int, end: int) -> list[bytes]:
        """The entries themselves with start ≤ index < end, in order."""
        ...

    def side(self, first_index: int) -> SideRow | None: ...

    def sides(self, start: int, end: int) -> list[SideRow]:
        """Rows with start ≤ first_index < end, in order."""
        ...

    def sides_of(self, subject: bytes) -> list[SideRow]: ...

    def find_subjects(self, lookups: Sequence[bytes]) -> dict[bytes, bytes]:
        """lookup → handle, for those known."""
        ...

    def subjects(self, handles: Sequence[bytes]) -> dict[bytes, SubjectRow]: ...

    def all_subjects(self) -> Iterable[SubjectRow]: ...

    def aliases_of(self, subject: bytes) -> dict[bytes, str]:
        """lookup → kind."""
        ...

    def count_aliases(self) -> int: ...

    def standings(self, keys: Sequence[StandingKey]) -> dict[StandingKey, Standing]: ...

    def standings_of(self, subjects: Sequence[bytes]) -> dict[bytes, dict[StateKey, Standing]]:
        """Everything decided about each of `subjects`; those without a decision have no entry."""
        ...

    def all_standings(self) -> Iterable[tuple[StandingKey, Standing]]: ...

    def allowed_lookups(
        self, kind: str, partner: str, at: int, oldest_grant: Mapping[str, int]
    ) -> tuple[list[bytes], int | None]:
        """The lookups of everybody `consent.state.decide` would allow, and the next expiry among them.

        `oldest_grant` maps each purpose of the ancestry to the oldest tree version whose grant counts;
        purposes that can only restrict map to a version that never comes.
        """
        ...

    def restrictions(
        self, partner: str, kind: str | None, purposes: Sequence[str]
    ) -> list[RestrictionRow]: ...

    def policies(self) -> list[tuple[int, str, int]]:
        """(index, hash, version), oldest first."""
        ...

    def partners(self) -> list[PartnerRow]: ...

    def partner(self, name: str) -> PartnerRow | None: ...

    def outbox(self, partner: str, after: int, limit: int) -> list[OutboxRow]:
        """Rows with seq > after, in order, acknowledged or not."""
        ...

    def feed_rows(self, partner: str, after: int, limit: int) -> list[FeedRow]:
        """The same with the log's entries."""
        ...

    def oldest_waiting(self, partner: str) -> int | None:
        """`recorded_at` of the oldest row that the partner has not acknowledged."""
        ...

    def outbox_times(self, partner: str, since: int = 0) -> list[tuple[int, int | None, int | None]]:
        """(recorded_at, enforced_at, acked_at) of every row about an entry from `since` on."""
        ...

    def undelivered(self, subject: bytes) -> list[OutboxRow]:
        """What has been queued about a subject and not been acknowledged yet, for every partner."""
        ...

    def told(self, partner: str, subjects: Sequence[bytes]) -> set[bytes]:
        """Those of `subjects` about whom anything was ever queued for the partner."""
        ...

    def inbox(self, partner: str, after: int, limit: int) -> list[InboxRow]:
        """What was heard, with seq > after, in order."""
        ...

    def evidence(self, partner: str | None = None) -> list[EvidenceRow]:
        """Oldest first."""
        ...

    def restrictions_of(self, partner: str, pseudonyms: Sequence[bytes]) -> list[RestrictionRow]: ...

    def all_restrictions(self) -> Iterable[RestrictionRow]: ...

    def receipt(self, receipt_id: str) -> ReceiptRow | None: ...

    def members(self, receipt_id: str) -> bytes | None: ...

    def receipts(
        self, before: int | None, limit: int, kind: str | None, partner: str | None
    ) -> list[ReceiptRow]:
        """Newest first, with index < before."""
        ...


class LedgerTransaction(
    LedgerView,
    WitnessTransaction,
    AuditTransaction,
    StateRootsTransaction,
    ErasureTransaction,
    LinksTransaction,
    Protocol,
):
    """The one write transaction. It sees its own writes."""

    def set_head(self, old: Head, new: Head) -> None:
        """Compare and swap. Raises HeadMoved, leaving nothing, unless the stored head equals `old`."""
        ...

    def put_tiles(self, tiles: Sequence[tuple[int, int, bytes]]) -> None:
        """(level, index, hashes), replacing what is there."""
        ...

    def add_entries(self, rows: Sequence[EntryRow]) -> None:
        """Raises StorageError if an index is taken."""
        ...

    def add_sides(self, rows: Sequence[SideRow]) -> None: ...

    def add_subjects(self, rows: Sequence[SubjectRow]) -> None: ...

    def put_identifiers(self, handle: bytes, sealed: bytes) -> None: ...

    def add_aliases(self, rows: Sequence[tuple[bytes, str, bytes]]) -> None:
        """(lookup, kind, handle)."""
        ...

    def put_standings(self, rows: Mapping[StandingKey, Standing], existing: set[StandingKey]) -> None: ...

    def add_policy(self, index: int, hash_: str, version: int, document: str) -> None: ...

    def put_partner(self, row: PartnerRow) -> None: ...

    def add_outbox(self, rows: Sequence[OutboxRow]) -> None: ...

    def acknowledge(
        self, partner: str, first: int, last: int, *, received_at: int, enforced_at: int, acked_at: int
    ) -> int:
        """Mark outbox rows first..last acknowledged unless they are already; returns how many were not."""
        ...

    def freeze(self, partner: str, seqs: Sequence[int], sealed: bytes) -> None:
        """Keep the sealed pseudonyms of somebody whose identifiers are about to be destroyed."""
        ...

    def add_inbox(self, rows: Sequence[InboxRow]) -> None: ...

    def add_evidence(self, row: EvidenceRow) -> None:
        """Keeps the first of an id."""
        ...

    def put_restrictions(self, rows: Sequence[RestrictionRow]) -> None: ...

    def add_receipt(self, row: ReceiptRow, members: bytes) -> None:
        """Raises StorageError if the id is taken."""
        ...


class LedgerStore(Protocol):
    """Durable, transactional storage.

    - `write` gives one transaction at a time across all processes on this storage: a second caller waits.
      When the block ends without an exception everything in it is durable (fsynced) and visible; when it
      ends with one, nothing of it is.
    - `read` never waits for a writer for longer than it takes to open a snapshot.
    - Failures come out as StorageError, whose text holds no value from a row.
    """

    def prepare(self) -> None:
        """Make sure the head row exists (size 0). Idempotent. The tables must exist."""
        ...

    def read(self) -> AbstractContextManager[LedgerView]: ...

    def write(self) -> AbstractContextManager[LedgerTransaction]: ...

    def scrub(self, *, compact: bool = False) -> bool:
        """Overwrite what deleted rows left behind in the storage's own files, as far as it can be done.

        `compact` rewrites the tables of people whole, which takes as long as copying them. Returns False
        when somebody else's open transaction is in the way: call again later.
        """
        ...
