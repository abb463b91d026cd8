"""What the ledger's storage holds, one type a table: rows as `consent.store` gives and takes them.

Times are microseconds since 1970 UTC unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = [
    "AuditReportRow",
    "EntryRow",
    "ErasureRow",
    "EvidenceRow",
    "FeedRow",
    "Head",
    "InboxRow",
    "LinkRow",
    "OutboxRow",
    "PartnerRow",
    "ReceiptRow",
    "RestrictionRow",
    "SideRow",
    "SplitViewRow",
    "StandingKey",
    "StateHead",
    "SubjectRow",
    "SuppressionRow",
    "WitnessedRow",
]


@dataclass(frozen=True, slots=True)
class Head:
    """The tree head as stored: size, 32-byte root, and the newest `recorded_at` (microseconds)."""

    size: int
    root: bytes
    recorded_at: int


class EntryRow(NamedTuple):
    idx: int
    leaf: bytes
    side: int


class SideRow(NamedTuple):
    first_index: int
    subject: bytes | None
    sealed: bytes


class SubjectRow(NamedTuple):
    handle: bytes
    wrapped_key: bytes
    identifiers: bytes
    created_at: int


class StandingKey(NamedTuple):
    purpose: str
    partner: str
    subject: bytes


class OutboxRow(NamedTuple):
    partner: str
    seq: int
    idx: int
    subject: bytes
    type: str
    purposes: str
    effective_at: int
    recorded_at: int
    received_at: int | None = None
    enforced_at: int | None = None
    acked_at: int | None = None
    pseudonyms: bytes | None = None


class FeedRow(NamedTuple):
    """A row of the outbox, and the entry of the log that it is about."""

    seq: int
    idx: int
    subject: bytes
    type: str
    purposes: str
    effective_at: int
    recorded_at: int
    pseudonyms: bytes | None
    leaf: bytes


class InboxRow(NamedTuple):
    """What was heard: the leaf of the partner's feed log, and the pseudonyms that came with it as JSON."""

    partner: str
    seq: int
    idx: int
    recorded_at: int
    leaf: bytes
    pseudonyms: bytes


class EvidenceRow(NamedTuple):
    """Two signed heads of a partner's feed log that contradict each other. `found_at` is microseconds."""

    id: str
    partner: str
    found: str
    heard: str
    shown: str
    message: bytes
    idx: int
    found_at: int


class RestrictionRow(NamedTuple):
    partner: str
    kind: str
    pseudonym: bytes
    purpose: str
    restricted_at: int | None
    lifted_at: int | None
    idx: int


class ReceiptRow(NamedTuple):
    id: str
    idx: int
    kind: str
    purpose: str
    partner: str
    job: str
    document: str


class AuditReportRow(NamedTuple):
    """A signed report kept by this node; `idx` is the log entry that says it was made."""

    id: str
    idx: int
    law: str
    created_at: int
    document: str


class SuppressionRow(NamedTuple):
    """Somebody erased. `lookup` is hashed under version `version` of a key that nothing else uses."""

    lookup: bytes
    version: int
    basis: str
    erased_at: int
    expires_at: int | None
    idx: int


@dataclass(frozen=True, slots=True)
class ErasureRow:
    """A request to be erased. `state` is held or completed; `subjects` the handles, only while held."""

    request: str
    state: str
    basis: str
    requested_at: int
    requested_index: int
    subjects: bytes | None = field(default=None, repr=False)
    hold_basis: str | None = None
    held_until: int | None = None
    completed_at: int | None = None
    completed_index: int | None = None
    entries: int = 0
    scrubbed_at: int | None = None


@dataclass(frozen=True, slots=True)
class PartnerRow:
    """A partner who joined, and both directions of the feed with them."""

    name: str
    vkey: str
    joined_index: int
    removed_at: int | None = None
    sent_seq: int = 0
    acked_seq: int = 0
    acked_frontier: bytes | None = field(default=None, repr=False)
    acked_at: int | None = None
    heard_seq: int = 0
    heard_frontier: bytes | None = field(default=None, repr=False)
    heard_checkpoint: str | None = field(default=None, repr=False)
    heard_at: int | None = None
    enforced_seq: int = 0
    lease: int | None = None
    fresh_at: int | None = None


class WitnessedRow(NamedTuple):
    """The newest checkpoint of another log that this node has cosigned; `seconds` is when (POSIX)."""

    origin: str
    size: int
    root: bytes
    checkpoint: str
    seconds: int


class SplitViewRow(NamedTuple):
    """Two checkpoints signed by one log that do not fit together."""

    digest: bytes
    origin: str
    kind: str
    first: str
    second: str
    seen_at: int
    idx: int | None


class StateHead(NamedTuple):
    """How far the state tree reflects the log, and what was committed last.

    The tree stands for the state after entries 0 … through-1, but for what `changed_subjects` from there
    and `removed_pairs` name. `idx` is the entry that committed to `root` (32 bytes) last, None before the
    first; `pairs` counts the tree's pairs; `version` is the key ring's under which values are salted.
    """

    through: int
    idx: int | None
    pairs: int
    root: bytes
    version: int


class LinkRow(NamedTuple):
    """A preference link. `token_hash` is SHA-256 of the token; `sealed` opens with the token alone."""

    id: str
    token_hash: bytes
    person: bytes
    sealed: bytes
    purposes: str
    partners: str
    created_by: str
    created_at: int
    expires_at: int
    revoked_at: int | None = None
