"""The sending half of the feed: what each partner is told, and what they say they have done about it.

A partner asks (`open`), and is answered with message after message for as long as it reads. Nothing is held
for it in between, so a slow one, or a hundred, cost nothing but what waits for them in the database. What a
message says is read in one snapshot of the ledger, other processes' withdrawals included.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from consent.checkpoint import sign_checkpoint
from consent.encoding import from_micros
from consent.errors import FeedGap
from consent.events import EventType
from consent.feed_log import Frontier, feed_key, leaf_of
from consent.frozen import open_pseudonyms
from consent.ledger import Ledger
from consent.merkle import leaf_hash
from consent.messages import (
    ACK_CONTEXT,
    MAX_PSEUDONYMS,
    MESSAGE_CONTEXT,
    Acknowledgement,
    FeedItem,
    FeedMessage,
)
from consent.notes import NoteSigner, VerifierKey
from consent.rows import FeedRow, PartnerRow
from consent.store import LedgerTransaction, LedgerView
from consent.subjects import pair_pseudonyms
from privacy.errors import PeerViolation, Refused, Tampered
from privacy.signing import PublicKey, SigningKey

__all__ = ["Delivery", "Outgoing"]

_ROWS = 250  # leaves in one message
_REBUILT = 5_000  # leaves read at a time when a frontier is derived again
_STREAMS = 4  # streams of one partner; a reader that came back may have left some behind
_SECOND = 1_000_000


@dataclass(eq=False)
class Delivery:
    """One partner's connection: what it has been told on it. Used by one thread at a time."""

    partner: str
    nonce: str
    frontier: Frontier
    began: float
    receiver: str
    key: VerifierKey
    counter: int = 0
    ahead: int = 0
    closed: threading.Event = field(default_factory=threading.Event, repr=False)


class Outgoing:
    """The sending half, toward every partner. Thread-safe."""

    def __init__(self, ledger: Ledger, signing_key: SigningKey) -> None:
        self._ledger = ledger
        self._signing_key = signing_key
        self._open: dict[str, list[Delivery]] = {}
        self._asked_at: dict[str, float] = {}
        self._errors: dict[str, str] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._wakers: set[Callable[[], None]] = set()
        self.stopping = threading.Event()
        ledger.listeners.append(self.wake)

    # who waits for news

    def subscribe(self, waker: Callable[[], None]) -> Callable[[], None]:
        """`waker` is called, from any thread, when something was recorded; returns how to end that."""
        with self._guard:
            self._wakers.add(waker)

        def end() -> None:
            with self._guard:
                self._wakers.discard(waker)

        return end

    def wake(self) -> None:
        """Let everybody who waits look again."""
        with self._guard:
            wakers = list(self._wakers)
        for waker in wakers:
            waker()

    def stop(self) -> None:
        """End every stream. Safe in a signal handler as far as it goes: no lock is taken."""
        self.stopping.set()
        for waker in list(self._wakers):
            waker()

    # telling

    def open(self, partner: str, after: int, nonce: str) -> Delivery:
        """Begin to tell a partner who has heard `after` entries, under a nonce of their making.

        Raises UnknownPartner, Refused (`not_agreed`, `no_pair_key`), and PeerViolation (`rolled_back`) for
        a partner who has heard more than this node ever had to tell.
        """
        ledger = self._ledger
        began = ledger.leases.steady()
        row = ledger.partner(partner)
        self._agreed(row)
        self._pair_key(partner)
        if after > row.sent_seq:
            self._errors[partner] = "rolled_back"
            raise PeerViolation(
                "The partner has heard more than this node ever sent.",
                advice="This node was probably restored from an old backup: see comity log restore.",
                code="rolled_back",
            )
        key = VerifierKey.from_text(row.vkey)
        with ledger.store.read() as view:
            frontier = self._frontier(view, row, after)
        delivery = Delivery(partner, nonce, frontier, began, key.name, feed_key(ledger.key, key.name))
        with self._guard:
            held = self._open.setdefault(partner, [])
            held.append(delivery)
            for old in held[:-_STREAMS]:
                old.closed.set()
        return delivery

    def close(self, delivery: Delivery) -> None:
        """The connection has ended."""
        delivery.closed.set()
        with self._guard:
            held = self._open.get(delivery.partner, [])
            if delivery in held:
                held.remove(delivery)
            self._asked_at[delivery.partner] = self._ledger.leases.steady()

    def waiting(self, delivery: Delivery) -> bool:
        """Whether there is something to tell that was not told on this connection."""
        with self._ledger.store.read() as view:
            row = view.partner(delivery.partner)
        return row is not None and row.sent_seq > delivery.frontier.size

    def message(self, delivery: Delivery) -> tuple[bytes, bool]:
        """The next message on a connection, and whether more waits already.

        Raises Refused when the agreement has ended or the shared key is gone.
        """
        ledger = self._ledger
        elapsed = int((ledger.leases.steady() - delivery.began) * _SECOND)
        with ledger.store.read() as view:
            row = view.partner(delivery.partner)
            if row is None:
                raise Refused("The partner has left the ledger.", code="not_agreed")
            self._agreed(row)
            now = ledger.now(view)
            rows = view.feed_rows(delivery.partner, delivery.frontier.size, _ROWS)
        found = list(self._pseudonyms(delivery.partner, rows))
        items, ahead = _fitting(rows, found, delivery.ahead)
        frontier = delivery.frontier.extended(leaf_hash(item.leaf) for item in items)
        more = frontier.size < row.sent_seq
        head = sign_checkpoint(
            frontier.size, frontier.root, NoteSigner(delivery.key, self._signing_key.sign_raw)
        )
        message = FeedMessage(
            ledger.origin, delivery.receiver, delivery.nonce, delivery.counter, now, elapsed,
            row.acked_seq, more, head.text, tuple(items), ahead,
        )  # fmt: skip
        body = message.signed(lambda part: self._signing_key.sign(MESSAGE_CONTEXT, part))
        delivery.counter += 1
        delivery.frontier = frontier
        delivery.ahead = 0 if items else delivery.ahead + sum(map(len, ahead.values()))
        self._errors.pop(delivery.partner, None)
        return body, more

    def _agreed(self, row: PartnerRow) -> None:
        if row.removed_at is not None:
            self._errors[row.name] = "not_agreed"
            raise Refused("No agreement with this partner is in force.", code="not_agreed")

    def _pair_key(self, partner: str) -> bytes:
        keys = self._ledger.pair_keys
        found = keys.pair_key(partner) if keys else None
        if not found:
            self._errors[partner] = "no_pair_key"
            raise Refused(
                "There is no key shared with this partner, so opt-outs cannot be told to them.",
                rule="agreement_in_force",
                code="no_pair_key",
            )
        return found

    def _pseudonyms(self, partner: str, rows: Sequence[FeedRow]) -> Iterator[Mapping[str, Sequence[bytes]]]:
        if not rows:
            return
        ledger, pair_key = self._ledger, self._pair_key(partner)
        known = ledger.identifiers_of([row.subject for row in rows])
        for row in rows:
            if row.pseudonyms is not None:
                yield open_pseudonyms(ledger.vault, row.pseudonyms)
            else:
                yield pair_pseudonyms(pair_key, known.get(row.subject, ()))

    def _frontier(self, view: LedgerView, row: PartnerRow, size: int) -> Frontier:
        """The feed log's frontier at `size`, from what was acknowledged or, before that, from the start."""
        frontier = Frontier.from_bytes(row.acked_frontier)
        if frontier.size > size:
            frontier = Frontier()
        while frontier.size < size:
            rows = view.feed_rows(row.name, frontier.size, min(_REBUILT, size - frontier.size))
            if not rows or rows[0].seq != frontier.size + 1:
                raise Tampered("The queue toward a partner has gaps.", code="feed_gap")
            frontier = frontier.extended(leaf_hash(leaf_of(found).to_bytes()) for found in rows)
        return frontier

    # hearing that it was done

    def acknowledge(self, partner: str, body: bytes) -> int:
        """Keep a partner's signed acknowledgement, in the log as well; returns how many rows it settled.

        One that says nothing new changes nothing. Raises PeerViolation (`feed_forged`, `feed_malformed`),
        FeedGap, UnknownPartner.
        """
        ledger = self._ledger
        ack, signature = Acknowledgement.from_bytes(body)
        with self._lock(partner):
            row = ledger.partner(partner)
            key = VerifierKey.from_text(row.vkey)
            try:
                PublicKey(key.public).verify(ACK_CONTEXT, ack.signed_part(), signature)
            except Tampered as error:
                raise PeerViolation(
                    "The partner's acknowledgement is not signed by it.", code="feed_forged"
                ) from error
            if (ack.sender, ack.receiver) != (key.name, ledger.origin):
                raise PeerViolation("The acknowledgement is from, or to, somebody else.", code="feed_forged")
            if ack.seq > row.sent_seq or ack.size != ack.seq or not 1 <= ack.first_seq <= ack.seq:
                raise PeerViolation("The acknowledgement is of something never sent.", code="feed_forged")
            if ack.seq <= row.acked_seq:
                return 0
            if ack.first_seq > row.acked_seq + 1:
                raise FeedGap(
                    "The acknowledgement skips some.", expected=row.acked_seq + 1, size=row.acked_seq
                )
            with ledger.store.read() as view:
                frontier = self._frontier(view, row, ack.seq)
            if frontier.root != ack.root:
                raise PeerViolation("The partner acknowledges another feed log.", code="feed_forged")
            return self._settle(row, ack, signature, frontier)

    def _settle(self, row: PartnerRow, ack: Acknowledgement, signature: bytes, frontier: Frontier) -> int:
        counted = 0

        def keep(tx: LedgerTransaction, _first: int, now: int) -> None:
            nonlocal counted
            counted = tx.acknowledge(
                row.name,
                row.acked_seq + 1,
                ack.seq,
                received_at=ack.received_at,
                enforced_at=ack.enforced_at,
                acked_at=now,
            )
            current = tx.partner(row.name)
            if current is not None and current.acked_seq < ack.seq:
                tx.put_partner(
                    replace(current, acked_seq=ack.seq, acked_frontier=frontier.to_bytes(), acked_at=now)
                )

        body = {"partner": row.name, "ack": ack.to_dict(), "signature": signature.hex()}
        self._ledger.record_system(EventType.DELIVERY_ACK, body, keep)
        return counted

    def _lock(self, partner: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(partner, threading.Lock())

    # looking

    def connected(self, partner: str) -> bool:
        """Whether the partner reads its feed now, in this process."""
        with self._guard:
            if any(not delivery.closed.is_set() for delivery in self._open.get(partner, ())):
                return True
            asked = self._asked_at.get(partner)
        return asked is not None and self._ledger.leases.steady() - asked < 1.0

    def last_error(self, partner: str) -> str | None:
        """Why the partner could not be told when it asked last."""
        return self._errors.get(partner)

    def oldest_waiting(self, partner: str) -> datetime | None:
        """When the oldest thing the partner has not acknowledged was recorded."""
        with self._ledger.store.read() as view:
            found = view.oldest_waiting(partner)
        return None if found is None else from_micros(found)


def _fitting(
    rows: Sequence[FeedRow], found: Sequence[Mapping[str, Sequence[bytes]]], ahead: int
) -> tuple[list[FeedItem], dict[str, tuple[bytes, ...]]]:
    """As many rows as one message holds; or, of one person who fills more than one, the next pseudonyms.

    `ahead` is how many of the first row's pseudonyms went out before it.
    """
    room = MAX_PSEUDONYMS // 2
    items: list[FeedItem] = []
    for row, pseudonyms in zip(rows, found, strict=True):
        named = [(kind, p) for kind, each in pseudonyms.items() for p in each]
        named = named[ahead:]
        if len(named) > room:
            if not items:
                return [], _by_kind(named[:room])
            break
        room -= len(named)
        items.append(FeedItem(leaf_of(row).to_bytes(), _by_kind(named)))
        ahead = 0
    return items, {}


def _by_kind(named: Sequence[tuple[str, bytes]]) -> dict[str, tuple[bytes, ...]]:
    out: dict[str, list[bytes]] = {}
    for kind, pseudonym in named:
        out.setdefault(kind, []).append(pseudonym)
    return {kind: tuple(each) for kind, each in out.items()}
