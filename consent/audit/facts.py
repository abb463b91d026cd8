"""What an audit found: numbers, times and hashes, in no language and about nobody in particular.

Every value is derived from the ledger as it stood at one tree head, so that anybody who holds the ledger
derives the same ones again. Times are `render_time`'s text, durations milliseconds, hashes hex or base64
as the ledger writes them. Nothing here is an identifier, a pseudonym toward a partner, or a handle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

__all__ = [
    "AuditFacts",
    "Bucket",
    "Consents",
    "Decisions",
    "Delivery",
    "Entries",
    "ErasureFact",
    "Keys",
    "Latency",
    "Lines",
    "NoticeUse",
    "PartnerKey",
    "PolicyFact",
    "Removed",
    "Route",
    "Scope",
    "SeparateConsent",
    "UseFact",
    "Uses",
    "Violation",
    "Waiting",
]

Counts = Mapping[str, int]
Table = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Scope:
    """Which part of which log: entries first ≤ index < end were recorded in since ≤ time < until.

    `made_at` is the moment the ledger was read, `size` and `root` (base64) the tree head it was read at.
    `policy` is the hash of the purpose policy in force at the end of the period.
    """

    origin: str
    law: str
    since: str
    until: str
    made_at: str
    first: int
    end: int
    size: int
    root: str
    policy: str


@dataclass(frozen=True, slots=True)
class PartnerKey:
    name: str
    vkey: str
    joined_index: int
    joined_at: str


@dataclass(frozen=True, slots=True)
class PolicyFact:
    """A published purpose policy: its entry, version and hash."""

    index: int
    version: int
    hash: str
    published_at: str


@dataclass(frozen=True, slots=True)
class Keys:
    """`vkey` is the log's C2SP verifier key; the report itself is signed by the same key."""

    vkey: str
    partners: tuple[PartnerKey, ...]
    policies: tuple[PolicyFact, ...]


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of the period by type; `opened` have a payload here, `erased` have none any more."""

    total: int
    by_type: Counts
    opened: int
    erased: int


@dataclass(frozen=True, slots=True)
class Decisions:
    """Decisions of people recorded in the period, counted by one field of the payload at a time.

    `by_purpose` maps purposes to types of event. `by_law` counts by the law of the payload's jurisdiction,
    `unstated` where it names none. `heard` were told by partners about people known by pseudonym only.
    """

    total: int
    heard: int
    by_purpose: Table
    by_basis: Counts
    by_actor: Counts
    by_method: Counts
    by_law: Counts
    by_consent_type: Counts


@dataclass(frozen=True, slots=True)
class Lines:
    """How many (person, purpose, partner) stand how at the end of the period.

    standing: a grant counts. withdrawn: granted once, restricted since. expired: past its date. stale: given
    before the purpose, or a material change of the notice, existed. refused: restricted, never granted.
    """

    standing: int = 0
    withdrawn: int = 0
    expired: int = 0
    stale: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Bucket:
    """Of one stretch of time from `start`: grants, restrictions, and lines standing at its end."""

    start: str
    grants: int
    restrictions: int
    standing: int


@dataclass(frozen=True, slots=True)
class Consents:
    """`people` have at least one decision on record; `timeline` has stretches of `step` seconds."""

    people: int
    by_purpose: Mapping[str, Lines]
    opening: int
    step: int
    timeline: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class NoticeUse:
    """Grants of the period given under one notice text. Empty strings where the record names none."""

    name: str
    version: str
    language: str
    hash: str
    purpose: str
    grants: int
    current: bool


@dataclass(frozen=True, slots=True)
class SeparateConsent:
    """Of lines standing for one purpose that needs separate consent, those that have it."""

    purpose: str
    articles: tuple[str, ...]
    standing: int
    separate: int


@dataclass(frozen=True, slots=True)
class Route:
    """Grants of the period that allow sending data abroad, by destination and legal route."""

    purpose: str
    country: str
    route: str
    grants: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds, nearest rank, over `count` opt-outs."""

    count: int
    p50: float
    p99: float
    longest: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """One opt-out that a partner has not acknowledged: its place in the feed and log, and its age."""

    seq: int
    index: int
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one partner had to be told in the period, and how far it got by the time of the report.

    Three spans from when this node recorded it: to when the partner says it received it, to when it says it
    enforced it, and to when its signed acknowledgement was recorded here (an upper bound free of clock
    skew). `histogram` counts enforcement times below each bound in milliseconds, the last without bound.
    `ages` counts what is unacknowledged by how long it has waited.
    """

    partner: str
    told: int
    acknowledged: int
    unacknowledged: int
    received: Latency | None
    enforced: Latency | None
    signed: Latency | None
    histogram: tuple[tuple[float | None, int], ...]
    ages: Counts
    oldest: tuple[Waiting, ...]


@dataclass(frozen=True, slots=True)
class UseFact:
    """Receipts of use of one kind, purpose and partner; `people` adds up the sets' sizes."""

    kind: str
    purpose: str
    partner: str
    receipts: int
    people: int


@dataclass(frozen=True, slots=True)
class Violation:
    """One person in one use without standing consent at that moment, with what proves it.

    `reason` is `consent.state.Reason`'s; `decision` the index of the entry the refusal rests on, if any.
    `proof` holds the receipt with its inclusion proof, the leaf's presence proof in the receipt's set, and
    the inclusion proof of the deciding entry; empty where there were too many to show each.
    """

    receipt: str
    index: int
    kind: str
    purpose: str
    partner: str
    at: str
    reason: str
    decision: int | None
    proof: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Uses:
    """Every receipt of the period held against the consents that stood when it was written.

    members: places in all sets; allowed: had standing consent. unattributable: nobody on record has this
    place, because the person was erased since or never was on record; `unexplained` of them are more than
    all erasures up to now can account for, and count as violations. overtaken: allowed when the gate was
    asked, restricted before the use ended. `unchecked` receipts are with a partner whose restrictions cannot
    be recognised any more, the pair key being gone. `stale_gates` receipts rest on a tree head older than
    it should have been; their people are judged by the newer one.
    """

    receipts: int
    by_use: tuple[UseFact, ...]
    members: int
    allowed: int
    violations: int
    unattributable: int
    unexplained: int
    overtaken: int
    unchecked: int
    stale_gates: int
    cases: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class ErasureFact:
    """One event about erasure or restoring: `count` is how many entries or people it names."""

    index: int
    type: str
    at: str
    basis: str
    count: int


@dataclass(frozen=True, slots=True)
class Removed:
    """Erasures and restores from the period's start up to the report.

    `entries` of the period are named by them; `unexplained` have lost their payload and are not named.
    """

    events: int
    entries: int
    unexplained: int


@dataclass(frozen=True, slots=True)
class AuditFacts:
    """Everything a report says, before any word of it.

    `scan` is what the compliance scan of the datasets found when the report was made; alone among the facts
    it does not come from the ledger.
    """

    scope: Scope
    keys: Keys
    checkpoint: Mapping[str, object]
    entries: Entries
    decisions: Decisions
    consents: Consents
    notices: tuple[NoticeUse, ...]
    missing_notice: Counts
    separate: tuple[SeparateConsent, ...]
    exports: tuple[Route, ...]
    deliveries: tuple[Delivery, ...]
    uses: Uses
    erasures: tuple[ErasureFact, ...]
    removed: Removed
    signals: Counts
    articles: tuple[Mapping[str, object], ...]
    scan: Mapping[str, object] | None = None

    def to_dict(self) -> dict[str, object]:
        """JSON values, in the order of the fields."""
        return asdict(self)
