"""The receiving half of the feed: verify what a partner tells, record it, enforce it, acknowledge it.

Nothing of a message takes effect unless the whole of it holds. What holds is recorded in one durable
transaction, from which moment the gate denies whom it names; then running work is told; and only when all of
that is done is it acknowledged. A partner whose signed heads contradict each other is not believed any
further, and both heads are kept.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

from consent.checkpoint import Checkpoint, open_checkpoint
from consent.encoding import to_micros
from consent.errors import FeedGap, HeadMoved
from consent.events import EventType
from consent.feed_log import FeedLeaf, Frontier, feed_key
from consent.heard import (
    Enforcer,
    HeardItem,
    decisions_of,
    enforcement_of,
    restriction_rows,
)
from consent.ledger import Ledger
from consent.merkle import leaf_hash
from consent.messages import (
    ACK_CONTEXT,
    MESSAGE_CONTEXT,
    Acknowledgement,
    FeedMessage,
    pack_pseudonyms,
)
from consent.notes import VerifierKey
from consent.rows import EvidenceRow, InboxRow, PartnerRow
from consent.store import LedgerTransaction
from privacy.errors import BadInput, PeerViolation, Tampered
from privacy.signing import PublicKey, SigningKey

__all__ = ["Hearing", "Incoming"]

_MOST_AHEAD = 1 << 20  # pseudonyms of one person
_SECOND = 1_000_000
_MESSAGE_KEPT = 256 * 1024  # bytes of a message that is kept as evidence
_ENFORCED_AT_ONCE = 5_000  # items


@dataclass(eq=False)
class Hearing:
    """One connection to a partner's feed, opened with `nonce` after `after` entries. For one thread."""

    partner: str
    nonce: str
    after: int
    began: float
    counter: int = 0
    ahead: dict[str, tuple[bytes, ...]] = field(default_factory=dict, repr=False)


@dataclass(eq=False, slots=True)
class _Progress:
    """How far one partner's feed is enforced, and how far that partner has been told so.

    `told` is None until the partner has said, since this process began, up to where it was told. `done` and
    `root` are the feed log's newest state that is enforced whole. Times are of what was not told yet.
    """

    enforced: int
    told: int | None = None
    done: int = 0
    root: bytes = b""
    received_at: int = 0
    enforced_at: int = 0
    jobs: int = 0


class Incoming:
    """The receiving half, from every partner. Thread-safe."""

    def __init__(self, ledger: Ledger, signing_key: SigningKey, enforcers: list[Enforcer]) -> None:
        self._ledger = ledger
        self._signing_key = signing_key
        self._enforcers = enforcers
        self._progress: dict[str, _Progress] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self.troubles: dict[str, str] = {}
        """Why a partner is not heard: the code of what went wrong when it was last tried, for the status."""

    def open(self, partner: str) -> Hearing:
        """What to ask a partner's feed with. Raises UnknownPartner."""
        ledger = self._ledger
        row = ledger.partner(partner)
        after = Frontier.from_bytes(row.heard_frontier).size
        return Hearing(partner, ledger.random(18).hex(), after, ledger.leases.steady())

    def apply(self, hearing: Hearing, body: bytes) -> bool:
        """Verify, record and enforce the next message of a connection; whether the partner has more to tell.

        After an exception the connection is to be given up. Raises PeerViolation (`feed_forged`,
        `feed_malformed`, `feed_replayed`, `split_view`, `rolled_back`), FeedGap, StorageError, and what an
        enforcer raises.
        """
        ledger = self._ledger
        message, signature = FeedMessage.from_bytes(body)
        name = hearing.partner
        with self._lock(name):
            row = ledger.partner(name)
            key = VerifierKey.from_text(row.vkey)
            self._authentic(hearing, message, signature, key)
            hearing.counter += 1
            received = to_micros(ledger.clock())
            head = self._head(message, key)
            if self._continued(hearing, message, head, row):
                return True
            fresh = self._items(hearing, message, row)
            after = Frontier.from_bytes(row.heard_frontier).extended(leaf_hash(item.raw) for item in fresh)
            self._consistent(row, after, head, message, body)
            if fresh:
                self._record(row, head, after, fresh)
                hearing.ahead = {}
                row = ledger.partner(name)
            self._enforce(row, message, received)
            self._renew(row, hearing, message)
        return message.more

    # verifying

    def _authentic(self, hearing: Hearing, message: FeedMessage, signature: bytes, key: VerifierKey) -> None:
        try:
            PublicKey(key.public).verify(MESSAGE_CONTEXT, message.signed_part(), signature)
        except Tampered as error:
            raise PeerViolation(
                "The feed message is not signed by the partner.", code="feed_forged"
            ) from error
        if message.sender != key.name or message.receiver != self._ledger.origin:
            raise PeerViolation("The feed message is from, or to, somebody else.", code="feed_forged")
        if message.nonce != hearing.nonce:
            raise PeerViolation("The feed message answers another request.", code="feed_replayed")
        if message.counter != hearing.counter:
            raise PeerViolation("A feed message was replayed, reordered or left out.", code="feed_replayed")

    def _head(self, message: FeedMessage, key: VerifierKey) -> Checkpoint:
        try:
            return open_checkpoint(message.checkpoint, [feed_key(key, self._ledger.origin)])
        except Tampered as error:
            raise PeerViolation(
                f"The feed message proves nothing: {error.detail}", code="feed_forged"
            ) from error

    def _continued(self, hearing: Hearing, message: FeedMessage, head: Checkpoint, row: PartnerRow) -> bool:
        """Whether the message carries only a part of somebody's pseudonyms, to be kept for the next."""
        if not message.ahead:
            return False
        if message.items or not message.more or head.size != row.heard_seq:
            raise PeerViolation("A feed message has parts that do not go together.", code="feed_malformed")
        for kind, found in message.ahead.items():
            hearing.ahead[kind] = (*hearing.ahead.get(kind, ()), *found)
        if sum(map(len, hearing.ahead.values())) > _MOST_AHEAD:
            raise PeerViolation("A feed message names too many pseudonyms.", code="feed_malformed")
        return True

    def _items(self, hearing: Hearing, message: FeedMessage, row: PartnerRow) -> list[HeardItem]:
        out: list[HeardItem] = []
        seq = Frontier.from_bytes(row.heard_frontier).size
        try:
            for item in message.items:
                leaf = FeedLeaf.from_bytes(item.leaf)
                seq += 1
                if leaf.seq != seq:
                    raise FeedGap(
                        "The message does not go on from what was heard last.", expected=seq, size=seq - 1
                    )
                pseudonyms = item.pseudonyms
                if hearing.ahead and not out:
                    kinds = dict.fromkeys([*hearing.ahead, *pseudonyms])
                    pseudonyms = {k: (*hearing.ahead.get(k, ()), *pseudonyms.get(k, ())) for k in kinds}
                out.append(HeardItem(leaf, item.leaf, pseudonyms))
        except BadInput as error:
            raise PeerViolation(f"A feed item is malformed: {error.detail}", code="feed_malformed") from error
        return out

    def _consistent(
        self,
        row: PartnerRow,
        after: Frontier,
        head: Checkpoint,
        message: FeedMessage,
        body: bytes,
    ) -> None:
        """The signed head must be that of what was heard before and the leaves that came now."""
        if head.size == after.size and head.root == after.root:
            return
        if head.size > after.size:
            raise PeerViolation("The feed's head covers leaves that did not come.", code="feed_malformed")
        if head.size < after.size and message.items:
            raise PeerViolation("The feed's head leaves out leaves that came.", code="feed_malformed")
        found = "rolled_back" if head.size < Frontier.from_bytes(row.heard_frontier).size else "split_view"
        self._keep_evidence(row, found, head, message, body)
        if found == "rolled_back":
            raise PeerViolation("The partner's feed is shorter than what it signed before.", code=found)
        raise PeerViolation("The partner's feed does not extend what it signed before.", code=found)

    def _keep_evidence(
        self, row: PartnerRow, found: str, head: Checkpoint, message: FeedMessage, body: bytes
    ) -> None:
        heard = row.heard_checkpoint or ""
        identity = sha256(f"{row.name}\n{heard}\n{head.text}".encode()).hexdigest()
        with self._ledger.store.read() as view:
            if any(kept.id == identity for kept in view.evidence(row.name)):
                return
        kept_message = body if len(body) <= _MESSAGE_KEPT else replace(message, items=()).signed_part()

        def keep(tx: LedgerTransaction, first: int, now: int) -> None:
            tx.add_evidence(
                EvidenceRow(identity, row.name, found, heard, head.text, kept_message, first, now)
            )

        details = {"partner": row.name, "heard": heard, "shown": head.text}
        self._ledger.record_system(EventType.AUDIT, {"kind": f"feed.{found}", "details": details}, keep)

    # recording

    def _record(
        self, row: PartnerRow, head: Checkpoint, frontier: Frontier, fresh: Sequence[HeardItem]
    ) -> None:
        events, owners = [], []
        try:
            for item in fresh:
                for event in decisions_of(row.name, item):
                    events.append(event)
                    owners.append(item)
        except BadInput as error:
            raise PeerViolation(f"A feed item is malformed: {error.detail}", code="feed_malformed") from error

        def keep(tx: LedgerTransaction, first: int, now: int) -> None:
            current = tx.partner(row.name)
            if current is None or current.heard_frontier != row.heard_frontier:
                raise HeadMoved("The same feed was applied by another process.", advice="Ask again.")
            tx.put_partner(
                replace(
                    current,
                    heard_seq=frontier.size,
                    heard_frontier=frontier.to_bytes(),
                    heard_checkpoint=head.text,
                    heard_at=now,
                    enforced_seq=self._enforced(current),
                )
            )
            places: dict[int, int] = {}
            for i, item in enumerate(owners):
                places.setdefault(item.leaf.seq, first + i)
            # Of somebody whom nobody can name there is no entry here; the place is the next one's.
            tx.add_inbox(
                [
                    InboxRow(
                        row.name, item.leaf.seq, places.get(item.leaf.seq, first), now, item.raw,
                        pack_pseudonyms(item.pseudonyms),
                    )
                    for item in fresh
                ]
            )  # fmt: skip
            tx.put_restrictions(restriction_rows(tx, row.name, fresh, places, now))

        if events:
            self._ledger.append_decisions(events, propagate=False, after=keep)
        else:
            with self._ledger.store.write() as tx:
                keep(tx, tx.head().size, self._ledger.now(tx))

    # enforcing

    def _enforce(self, row: PartnerRow, message: FeedMessage, received: int) -> None:
        """Tell running work of everything that was heard and is not enforced yet."""
        progress = self._progress.get(row.name)
        if progress is None:
            # What was enforced shortly before this process began may be enforced again.
            progress = self._progress[row.name] = _Progress(min(row.enforced_seq, row.heard_seq))
        with self._guard:
            if progress.told is None:
                progress.told = min(message.acked, row.heard_seq)
                progress.received_at = self._received_at(row, progress.told, received)
            elif not progress.received_at:
                progress.received_at = received
        if progress.done == row.heard_seq:
            progress.received_at = 0 if progress.told == progress.done else progress.received_at
            return
        jobs = 0
        while progress.enforced < row.heard_seq:
            with self._ledger.store.read() as view:
                rows = view.inbox(row.name, progress.enforced, _ENFORCED_AT_ONCE)
            if not rows:
                raise Tampered("What was heard of a partner is gone.", code="inbox_gap")
            told = enforcement_of(row.name, rows)
            if told.people:
                jobs += sum(enforcer(told) for enforcer in self._enforcers)
            progress.enforced = rows[-1].seq
        frontier = Frontier.from_bytes(row.heard_frontier)
        with self._guard:
            progress.done, progress.root = frontier.size, frontier.root
            progress.enforced_at = max(progress.received_at, to_micros(self._ledger.clock()))
            progress.jobs += jobs

    def _received_at(self, row: PartnerRow, told: int, received: int) -> int:
        with self._ledger.store.read() as view:
            first = view.inbox(row.name, told, 1)
        return min(first[0].recorded_at, received) if first else received

    def _enforced(self, row: PartnerRow) -> int:
        progress = self._progress.get(row.name)
        return max(row.enforced_seq, 0 if progress is None else progress.enforced)

    def _renew(self, row: PartnerRow, hearing: Hearing, message: FeedMessage) -> None:
        ledger = self._ledger
        if not message.more:
            # Elapsed time is the partner's, but counted from a request that was sent no later than `began`.
            ledger.leases.heard(row.name, hearing.began + message.elapsed / _SECOND)
        due = ledger.leases.due(row, to_micros(ledger.clock()))
        if due is not None:
            with ledger.store.write() as tx:
                current = tx.partner(row.name)
                if current is not None:
                    tx.put_partner(replace(current, fresh_at=due, enforced_seq=self._enforced(current)))

    # acknowledging

    def acknowledgement(self, partner: str) -> tuple[int, bytes] | None:
        """Up to where, and the signed acknowledgement to post; None when the partner knows all of it."""
        row = self._ledger.partner(partner)
        with self._guard:
            progress = self._progress.get(partner)
            if progress is None or progress.told is None or progress.done <= progress.told:
                return None
            head = self._ledger.head()
            ack = Acknowledgement(
                self._ledger.origin,
                VerifierKey.from_text(row.vkey).name,
                progress.told + 1,
                progress.done,
                progress.done,
                progress.root,
                progress.received_at,
                progress.enforced_at,
                progress.jobs,
                head.size,
                head.root,
            )
        return ack.seq, ack.to_bytes(self._signing_key.sign(ACK_CONTEXT, ack.signed_part()))

    def acknowledged(self, partner: str, seq: int) -> None:
        """The partner has taken the acknowledgement up to `seq`."""
        with self._guard:
            progress = self._progress.get(partner)
            if progress is not None and progress.told is not None and seq > progress.told:
                progress.told, progress.jobs, progress.received_at = seq, 0, 0

    def unacknowledged(self, partner: str) -> None:
        """The partner would not take it: its next message says again up to where it was told."""
        with self._guard:
            progress = self._progress.get(partner)
            if progress is not None:
                progress.told = None

    # looking

    def heard(self, partner: str, after: int, limit: int) -> tuple[PartnerRow, list[InboxRow]]:
        """What was heard of a partner after its `after`-th entry: how a sender who lost it gets it back."""
        row = self._ledger.partner(partner)
        with self._ledger.store.read() as view:
            return row, view.inbox(partner, after, limit)

    def _lock(self, partner: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(partner, threading.Lock())
