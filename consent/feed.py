"""Opt-outs between partners: told, verified, enforced, acknowledged; both directions, and how they stand.

A receiver pulls (`GET /v1/feed`): it is told at once what is recorded, at the latest hears twice a second
that there was nothing, and posts a signed acknowledgement once what it heard is in force. Delivery is in
order, at least once, and idempotent. Nothing in the queue toward a partner is ever dropped; whoever was away
goes on from where it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from consent.encoding import from_micros, to_micros
from consent.heard import Enforcement, Enforcer
from consent.incoming import Hearing, Incoming
from consent.ledger import Ledger
from consent.outgoing import Delivery, Outgoing
from privacy.signing import SigningKey

__all__ = [
    "ACKS_PATH",
    "FEED_PATH",
    "HEARD_PATH",
    "HEARTBEAT",
    "Delivery",
    "Enforcement",
    "Enforcer",
    "Evidence",
    "Feed",
    "FeedStatus",
    "Hearing",
    "Latency",
]

FEED_PATH = "/v1/feed"
ACKS_PATH = "/v1/feed/acks"
HEARD_PATH = "/v1/peer/feed/heard"
HEARTBEAT = 0.5
"""Seconds after which a reader hears that there is nothing to tell."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from recorded here to enforced there, over all acknowledged opt-outs."""

    p50: float
    p99: float
    longest: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two heads of a partner's feed log, both signed by it, that cannot both be true.

    `found` is split_view or rolled_back; `index` is the entry of this node's log that says so.
    """

    found: str
    heard: str
    shown: str
    index: int
    found_at: datetime


@dataclass(frozen=True, slots=True)
class FeedStatus:
    """`enforced` by the partner's clock, `acknowledged` by this node's (so an upper bound free of skew).

    Sending: `connected` (in the process asked), `queued`, `oldest_waiting`, `last_error`. Receiving:
    `heard` entries, `heard_at`, what keeps it from being heard (`heard_error`), the newest message's age
    `heard_age_seconds` and the `lease_seconds` agreed; with `lease_expired` nobody may be used with the
    partner.
    """

    partner: str
    connected: bool
    queued: int
    oldest_waiting: datetime | None
    delivered: int
    last_error: str | None
    acknowledged_at: datetime | None
    enforced: Latency | None
    acknowledged: Latency | None
    heard: int
    heard_at: datetime | None
    heard_error: str | None
    heard_age_seconds: float | None
    lease_seconds: float | None
    lease_expired: bool
    removed: bool
    evidence: tuple[Evidence, ...] = ()


class Feed:
    """Both directions of the feed with every partner of a ledger. Thread-safe."""

    def __init__(
        self, ledger: Ledger, *, signing_key: SigningKey, enforcers: Iterable[Enforcer] = ()
    ) -> None:
        self._ledger = ledger
        self.enforcers: list[Enforcer] = list(enforcers)
        self.outgoing = Outgoing(ledger, signing_key)
        self.incoming = Incoming(ledger, signing_key, self.enforcers)

    def status(self, partner: str) -> FeedStatus:
        """Where the feed with a partner stands, both ways. Raises UnknownPartner."""
        ledger = self._ledger
        row = ledger.partner(partner)
        with ledger.store.read() as view:
            everything = view.outbox_times(partner)
            # What stood before the partner joined was told late because it could not be told earlier.
            times = view.outbox_times(partner, row.joined_index)
            kept = view.evidence(partner)
        done = [(at, e, acked) for at, e, acked in times if e is not None and acked is not None]
        now = to_micros(ledger.clock())
        age = ledger.leases.age(row, now)
        return FeedStatus(
            partner=partner,
            connected=self.outgoing.connected(partner),
            queued=row.sent_seq - row.acked_seq,
            oldest_waiting=self.outgoing.oldest_waiting(partner),
            delivered=sum(acked is not None for _, _, acked in everything),
            last_error=self.outgoing.last_error(partner),
            acknowledged_at=None if row.acked_at is None else from_micros(row.acked_at),
            enforced=_latency([enforced - at for at, enforced, _ in done]),
            acknowledged=_latency([acked - at for at, _, acked in done]),
            heard=row.heard_seq,
            heard_at=None if row.heard_at is None else from_micros(row.heard_at),
            heard_error=self.incoming.troubles.get(partner),
            heard_age_seconds=None if age is None else age / 1_000_000,
            lease_seconds=None if row.lease is None else row.lease / 1_000_000,
            lease_expired=ledger.leases.expired(row, now),
            removed=row.removed_at is not None,
            evidence=tuple(Evidence(e.found, e.heard, e.shown, e.idx, from_micros(e.found_at)) for e in kept),
        )

    def statuses(self) -> list[FeedStatus]:
        return [self.status(row.name) for row in self._ledger.partners()]


def _latency(micros: list[int]) -> Latency | None:
    if not micros:
        return None
    micros.sort()

    def at(share: float) -> float:
        # The nearest rank: with 200 values p99 is the 198th, an observed one.
        rank = -(-len(micros) * share // 1)
        return micros[max(int(rank), 1) - 1] / 1000

    return Latency(at(0.50), at(0.99), micros[-1] / 1000)
