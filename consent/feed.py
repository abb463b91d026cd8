"""Opt-outs from one partner to the other: queued with the withdrawal, delivered, enforced, acknowledged.

Delivery is at least once and in order; applying is idempotent. A partner that cannot be reached is tried
again with growing pauses, and nothing in the queue is ever dropped.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from consent.checkpoint import Checkpoint, open_checkpoint
from consent.encoding import Leaf, from_micros, parse_json, to_micros
from consent.errors import FeedConflict, FeedGap, HeadMoved
from consent.events import RESTRICTING, Event, EventType, Identifier
from consent.ledger import Ledger
from consent.merkle import leaf_hash, verify_consistency, verify_inclusion
from consent.messages import ACK_CONTEXT, MAX_BATCH, Acknowledgement, FeedBatch, FeedItem
from consent.notes import VerifierKey
from consent.peers import PeerConnection
from consent.store import InboxRow, LedgerTransaction, OutboxRow, PartnerRow, RestrictionRow
from consent.subjects import PSEUDONYM, pair_pseudonyms
from privacy.errors import BadInput, ComityError, PeerViolation, Refused, Tampered
from privacy.signing import PublicKey, SigningKey

__all__ = ["FEED_PATH", "Enforcement", "Feed", "FeedStatus", "Pumped"]

FEED_PATH = "/v1/peer/feed"
_BATCH = 250
_FIRST_PAUSE = 250_000  # microseconds
_LONGEST_PAUSE = 60_000_000


@dataclass(frozen=True, slots=True)
class Enforcement:
    """What a partner's batch restricted: told to whoever must stop jobs or drop cached points."""

    partner: str
    purposes: frozenset[str]
    people: int


Enforcer = Callable[[Enforcement], int]
"""Takes effect before it returns; returns how many running jobs it touched."""


@dataclass(frozen=True, slots=True)
class Pumped:
    """`acknowledged` rows were delivered now, `pending` are left; `error` is the code of what went wrong."""

    acknowledged: int
    pending: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from recorded here to enforced there, over all acknowledged opt-outs."""

    p50: float
    p99: float
    longest: float


@dataclass(frozen=True, slots=True)
class FeedStatus:
    """`enforced` by the partner's clock, `acknowledged` by this node's (so an upper bound free of skew)."""

    partner: str
    queued: int
    delivered: int
    failures: int
    last_error: str | None
    next_attempt_at: datetime | None
    enforced: Latency | None
    acknowledged: Latency | None
    heard_size: int
    heard_at: datetime | None


class Feed:
    """Both directions of the feed with every partner of a ledger. Thread-safe."""

    def __init__(
        self, ledger: Ledger, *, signing_key: SigningKey, enforcers: Iterable[Enforcer] = ()
    ) -> None:
        self._ledger = ledger
        self._signing_key = signing_key
        self.enforcers: list[Enforcer] = list(enforcers)
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._work = threading.Event()
        ledger.listeners.append(self._work.set)

    # sending

    def deliver(
        self, connections: Callable[[], Sequence[PeerConnection]], stop: threading.Event, idle: float = 0.5
    ) -> None:
        """Pump until `stop` is set: at once when something was recorded, else every `idle` seconds.

        Other processes' withdrawals and due retries are found by the idle tick.
        """
        while not stop.is_set():
            self._work.wait(idle)
            self._work.clear()
            for connection in connections():
                while not stop.is_set():
                    done = self.pump(connection)
                    if done.error is not None or done.acknowledged == 0 or done.pending == 0:
                        break

    def pump(self, connection: PeerConnection, *, limit: int = _BATCH, force: bool = False) -> Pumped:
        """Send the oldest unacknowledged opt-outs (at most `limit`) and store the signed answer.

        Failures are remembered and paced, not raised: nothing is sent before the pause is over unless
        `force` is set. Raises UnknownPartner.
        """
        name = connection.partner
        with self._lock(name):
            partner = self._ledger.partner(name)
            with self._ledger.store.read() as view:
                rows = view.outbox(name, partner.acked_seq, limit)
                now = self._ledger.now(view)
            pending = partner.sent_seq - partner.acked_seq
            if not rows:
                return Pumped(0, 0)
            if now < partner.next_attempt_at and not force:
                return Pumped(0, pending, partner.last_error)
            try:
                done = self._send(connection, partner, rows, limit)
            except ComityError as error:
                self._failed(name, error)
                return Pumped(0, pending, error.code)
            return Pumped(done, pending - done)

    def _lock(self, partner: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(partner, threading.Lock())

    def _failed(self, name: str, error: ComityError) -> None:
        with self._ledger.store.write() as tx:
            partner = tx.partner(name)
            if partner is None:
                return
            pause = min(_FIRST_PAUSE << min(partner.failures, 20), _LONGEST_PAUSE)
            # Up to a quarter more, so that many nodes do not come back to a partner at one moment.
            pause += pause * self._ledger.random(1)[0] // 1024
            tx.put_partner(
                replace(
                    partner,
                    failures=partner.failures + 1,
                    next_attempt_at=self._ledger.now(tx) + pause,
                    last_error=error.code[:64],
                )
            )

    def _send(
        self, connection: PeerConnection, partner: PartnerRow, rows: Sequence[OutboxRow], limit: int
    ) -> int:
        try:
            return self._exchange(connection, partner, rows, partner.acked_size)
        except PeerViolation as error:
            if error.code != FeedGap.code:
                raise
        # One of the two lost its place (a lost answer, a restore): ask where the partner stands, once.
        seq, size = _position(connection.request("GET", FEED_PATH).body)
        if seq > partner.sent_seq or size > self._ledger.head().size:
            raise PeerViolation(
                "The partner has heard more than this node ever sent.",
                advice="This node was probably restored from an old backup.",
                code="rolled_back",
            )
        with self._ledger.store.read() as view:
            again = view.outbox(partner.name, min(seq, partner.acked_seq), limit)
        done = self._exchange(connection, partner, again, size)
        while again[-1].seq < rows[0].seq - 1:
            # What was acknowledged long ago counts for nothing here: the place is found again in one go.
            with self._ledger.store.read() as view:
                again = view.outbox(partner.name, again[-1].seq, limit)
            size = self._ledger.partner(partner.name).acked_size
            done += self._exchange(connection, partner, again, size)
        return done

    def _exchange(
        self, connection: PeerConnection, partner: PartnerRow, rows: Sequence[OutboxRow], old_size: int
    ) -> int:
        checkpoint = self._ledger.head()
        batch = self._batch(partner, rows, old_size, checkpoint)
        while len(body := batch.to_bytes()) > MAX_BATCH and len(rows) > 1:
            rows = rows[: len(rows) // 2]
            batch = self._batch(partner, rows, old_size, checkpoint)
        answer = connection.request("POST", FEED_PATH, body=body, content_type="application/json")
        ack, signature = Acknowledgement.from_bytes(answer.body)
        key = PublicKey(VerifierKey.from_text(partner.vkey).public)
        try:
            key.verify(ACK_CONTEXT, ack.signed_part(), signature)
        except Tampered as error:
            raise PeerViolation(
                "The partner's acknowledgement is not signed by it.", code="feed_forged"
            ) from error
        expected = (batch.receiver, batch.sender, rows[0].seq, rows[-1].seq, checkpoint.size, checkpoint.root)
        if (ack.sender, ack.receiver, ack.first_seq, ack.seq, ack.size, ack.root) != expected:
            raise PeerViolation("The partner acknowledged something else than was sent.", code="feed_forged")
        return self._acknowledged(partner.name, ack, signature)

    def _batch(
        self, partner: PartnerRow, rows: Sequence[OutboxRow], old_size: int, checkpoint: Checkpoint
    ) -> FeedBatch:
        ledger = self._ledger
        pair_key = ledger.pair_keys and ledger.pair_keys.pair_key(partner.name)
        if not pair_key:
            raise Refused(
                "There is no key shared with this partner, so opt-outs cannot be sent to them.",
                rule="agreement_in_force",
                code="no_pair_key",
            )
        proofs = ledger.log.prove_many([row.idx for row in rows], checkpoint)
        known = ledger.identifiers_of([row.subject for row in rows])
        items = []
        for row, proof in zip(rows, proofs, strict=True):
            pseudonyms = pair_pseudonyms(pair_key, known.get(row.subject, ()))
            items.append(
                FeedItem(
                    row.seq, row.idx, proof.entry, proof.path,
                    EventType(row.type), tuple(json.loads(row.purposes)), row.effective_at,
                    {kind: tuple(found) for kind, found in pseudonyms.items()},
                )
            )  # fmt: skip
        return FeedBatch(
            ledger.origin,
            VerifierKey.from_text(partner.vkey).name,
            old_size,
            tuple(ledger.log.consistency(old_size, checkpoint.size)),
            checkpoint.text,
            tuple(items),
        )

    def _acknowledged(self, name: str, ack: Acknowledgement, signature: bytes) -> int:
        counted = 0

        def keep(tx: LedgerTransaction, _first: int, now: int) -> None:
            nonlocal counted
            counted = tx.acknowledge(
                name,
                ack.first_seq,
                ack.seq,
                received_at=ack.received_at,
                enforced_at=ack.enforced_at,
                acked_at=now,
            )
            partner = tx.partner(name)
            if partner is not None:
                tx.put_partner(
                    replace(
                        partner,
                        acked_seq=max(partner.acked_seq, ack.seq),
                        acked_size=ack.size,
                        failures=0,
                        next_attempt_at=0,
                        last_error=None,
                    )
                )

        body = {"partner": name, "ack": ack.to_dict(), "signature": signature.hex()}
        self._ledger.record_system(EventType.DELIVERY_ACK, body, keep)
        return counted

    # receiving

    def position(self, partner: str) -> bytes:
        """Where this node stands with a partner's feed: `{"seq", "size"}`, for a sender who lost theirs."""
        row = self._ledger.partner(partner)
        return json.dumps({"seq": row.heard_seq, "size": row.heard_size}).encode()

    def apply(self, partner: str, body: bytes) -> bytes:
        """Verify a partner's batch, record and enforce it, and return the signed acknowledgement.

        `partner` has been authenticated. Nothing takes effect unless the whole batch holds. A batch that
        was applied before is acknowledged again and changes nothing. Raises PeerViolation (FeedGap,
        FeedConflict, feed_forged, feed_malformed, split_view), UnknownPartner.
        """
        received = to_micros(self._ledger.clock())
        batch = FeedBatch.from_bytes(body)
        with self._lock("heard " + partner):
            row = self._ledger.partner(partner)
            checkpoint = self._verify(row, batch)
            fresh = self._unheard(row, batch)
            if fresh and checkpoint.size < row.heard_size:
                raise FeedGap("The tree head is an old one.", expected=row.heard_seq + 1, size=row.heard_size)
            if fresh or checkpoint.size > row.heard_size:
                self._record(row, batch, checkpoint, fresh)
            jobs = self._enforce(partner, fresh)
        head = self._ledger.head()
        ack = Acknowledgement(
            self._ledger.origin,
            batch.sender,
            batch.items[0].seq,
            batch.items[-1].seq,
            checkpoint.size,
            checkpoint.root,
            received,
            max(received, to_micros(self._ledger.clock())),
            jobs,
            head.size,
            head.root,
        )
        return ack.to_bytes(self._signing_key.sign(ACK_CONTEXT, ack.signed_part()))

    def _verify(self, row: PartnerRow, batch: FeedBatch) -> Checkpoint:
        key = VerifierKey.from_text(row.vkey)
        if batch.sender != key.name or batch.receiver != self._ledger.origin:
            raise PeerViolation("The feed message is from, or to, somebody else.", code="feed_forged")
        try:
            checkpoint = open_checkpoint(batch.checkpoint, [key])
            for item in batch.items:
                verify_inclusion(
                    item.index, checkpoint.size, leaf_hash(item.entry), item.path, checkpoint.root
                )
                if Leaf.from_bytes(item.entry).type != item.type.value:
                    raise PeerViolation("A feed item is not what its log entry says.", code="feed_forged")
        except Tampered as error:
            raise PeerViolation(
                f"The feed message proves nothing: {error.detail}", code="feed_forged"
            ) from error
        if checkpoint.size == row.heard_size and checkpoint.root != row.heard_root:
            raise PeerViolation("The partner signed two different trees of one size.", code="split_view")
        if checkpoint.size > row.heard_size:
            if batch.old_size != row.heard_size:
                raise FeedGap(
                    "The message does not start from what was heard last.",
                    expected=row.heard_seq + 1,
                    size=row.heard_size,
                )
            if row.heard_root is not None:
                try:
                    verify_consistency(
                        row.heard_size, checkpoint.size, row.heard_root, checkpoint.root, batch.consistency
                    )
                except Tampered as error:
                    raise PeerViolation(
                        "The partner's log does not extend what it showed before.", code="split_view"
                    ) from error
        return checkpoint

    def _unheard(self, row: PartnerRow, batch: FeedBatch) -> list[FeedItem]:
        first, last = batch.items[0].seq, batch.items[-1].seq
        if first > row.heard_seq + 1:
            raise FeedGap("The message skips some.", expected=row.heard_seq + 1, size=row.heard_size)
        with self._ledger.store.read() as view:
            heard = view.inbox(row.name, first, last)
        for item in batch.items:
            if item.seq in heard and heard[item.seq].digest != item.digest():
                raise FeedConflict("Two different messages carry one sequence number.")
        return [item for item in batch.items if item.seq > row.heard_seq]

    def _record(
        self, row: PartnerRow, batch: FeedBatch, checkpoint: Checkpoint, fresh: Sequence[FeedItem]
    ) -> None:
        heard = replace(
            row,
            heard_seq=max(row.heard_seq, batch.items[-1].seq),
            heard_at=to_micros(self._ledger.clock()),
        )
        if checkpoint.size > row.heard_size:
            heard = replace(
                heard,
                heard_size=checkpoint.size,
                heard_root=checkpoint.root,
                heard_checkpoint=checkpoint.text,
            )
        events, owners = [], []
        try:
            for item in fresh:
                for event in _events(row.name, item):
                    events.append(event)
                    owners.append(item)
        except BadInput as error:
            raise PeerViolation(f"A feed item is malformed: {error.detail}", code="feed_malformed") from error

        def keep(tx: LedgerTransaction, first: int, now: int) -> None:
            current = tx.partner(row.name)
            if current is None or (current.heard_seq, current.heard_size) != (row.heard_seq, row.heard_size):
                raise HeadMoved("The same feed was applied by another process.", advice="Send it again.")
            tx.put_partner(
                replace(
                    current,
                    heard_seq=heard.heard_seq,
                    heard_size=heard.heard_size,
                    heard_root=heard.heard_root,
                    heard_checkpoint=heard.heard_checkpoint,
                    heard_at=heard.heard_at,
                )
            )
            places: dict[int, int] = {}
            for i, item in enumerate(owners):
                places.setdefault(item.seq, first + i)
            tx.add_inbox(
                [InboxRow(row.name, item.seq, item.digest(), places[item.seq], now) for item in fresh]
            )
            tx.put_restrictions(_restrictions(tx, row.name, fresh, places, now))

        if fresh:
            self._ledger.append_decisions(events, propagate=False, after=keep)
        else:
            with self._ledger.store.write() as tx:
                keep(tx, 0, 0)

    def _enforce(self, partner: str, fresh: Sequence[FeedItem]) -> int:
        stops = [item for item in fresh if item.type in RESTRICTING]
        if not stops:
            return 0
        told = Enforcement(partner, frozenset(p for item in stops for p in item.purposes), len(stops))
        return sum(enforcer(told) for enforcer in self.enforcers)

    # looking

    def status(self, partner: str) -> FeedStatus:
        """Where delivery to a partner stands. Raises UnknownPartner."""
        row = self._ledger.partner(partner)
        with self._ledger.store.read() as view:
            times = view.outbox_times(partner)
        done = [
            (at, enforced, acked)
            for at, enforced, acked in times
            if enforced is not None and acked is not None
        ]
        return FeedStatus(
            partner=partner,
            queued=row.sent_seq - row.acked_seq,
            delivered=len(done),
            failures=row.failures,
            last_error=row.last_error,
            next_attempt_at=from_micros(row.next_attempt_at) if row.next_attempt_at else None,
            enforced=_latency([enforced - at for at, enforced, _ in done]),
            acknowledged=_latency([acked - at for at, _, acked in done]),
            heard_size=row.heard_size,
            heard_at=None if row.heard_at is None else from_micros(row.heard_at),
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


def _position(body: bytes) -> tuple[int, int]:
    try:
        found = parse_json(body, limit=1024)
    except BadInput:
        found = None
    if not isinstance(found, dict) or not all(
        isinstance(found.get(name), int) and not isinstance(found[name], bool) and found[name] >= 0
        for name in ("seq", "size")
    ):
        raise PeerViolation("The partner's answer about its position is malformed.", code="feed_malformed")
    return found["seq"], found["size"]


def _events(partner: str, item: FeedItem) -> Iterable[Event]:
    """A partner's item as decisions about somebody of whom only pseudonyms are known.

    Each pseudonym is a subject of its own, so that whom the partner tells apart later stays apart here.
    """
    identifiers = [
        Identifier(PSEUDONYM, partner.encode() + b"\x00" + kind.encode() + b"\x00" + pseudonym)
        for kind, found in item.pseudonyms.items()
        for pseudonym in found
    ]
    for purpose in item.purposes:
        for identifier in dict.fromkeys(identifiers):
            yield Event(
                item.type,
                (identifier,),
                purpose,
                partner,
                effective_at=from_micros(item.effective_at),
                actor="partner",
                method="feed",
            )


def _restrictions(
    tx: LedgerTransaction, partner: str, items: Sequence[FeedItem], places: dict[int, int], now: int
) -> list[RestrictionRow]:
    """The rows of every pseudonym named, brought forward by these items (latest of each kind of change)."""
    named = list({p for item in items for found in item.pseudonyms.values() for p in found})
    rows = {(r.kind, r.pseudonym, r.purpose): r for r in tx.restrictions_of(partner, named)}
    changed = {}
    for item in items:
        if item.type not in RESTRICTING and item.type is not EventType.GRANTED:
            continue  # a renewal prolongs an agreement; it takes back no opt-out
        at = min(item.effective_at, now)
        for kind, found in item.pseudonyms.items():
            for pseudonym in found:
                for purpose in item.purposes:
                    key = (kind, pseudonym, purpose)
                    row = rows.get(key) or RestrictionRow(partner, kind, pseudonym, purpose, None, None, 0)
                    if item.type in RESTRICTING:
                        row = row._replace(
                            restricted_at=max(row.restricted_at or at, at), idx=places[item.seq]
                        )
                    else:
                        row = row._replace(lifted_at=max(row.lifted_at or at, at), idx=places[item.seq])
                    rows[key] = changed[key] = row
    return list(changed.values())
