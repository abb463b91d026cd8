"""After a restore from a backup: the log brought back, opt-outs and erasures repeated, nothing kept quiet.

The entries of the log can be had from wherever it was published; what they commit to cannot. So the entries
are put back as they were, `restore.performed` says which of them no longer open, and what they did is
repeated as far as somebody still knows it: partners know whom they were told of, by pseudonym, and the
erasure journal knows who was erased. Restrictions that nobody knows any more are counted, and the restore is
refused until that number is accepted. Grants that are lost stay lost: the person is asked again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from consent.checkpoint import Checkpoint
from consent.encoding import Leaf, parse_json
from consent.errors import RolledBack
from consent.events import RESTRICTING, EventType
from consent.feed import FEED_PATH, HEARD_PATH
from consent.feed_log import FeedLeaf, Frontier
from consent.heads import PartnerHeads, ask_heads, feed_frontier
from consent.journal import ErasureJournal, JournalEntry
from consent.ledger import Ledger
from consent.merkle import leaf_hash
from consent.messages import FeedMessage
from consent.peers import PeerConnection
from consent.proofs import from_base64
from consent.reapplying import RestoreWork
from consent.rebuild import Reader
from consent.tiles import TILE_WIDTH, bundle_path, decode_bundle
from consent.verify import Outcome, verify_log
from privacy.errors import ComityError, PeerUnreachable, PeerViolation, Refused

__all__ = ["Heard", "Restoration", "RestorePlan", "Restored"]

_RESTRICTING = {t.value for t in RESTRICTING}
_PAGE = 200
_HEARD_LIMIT = 64 << 20  # bytes of one page


@dataclass(frozen=True, slots=True)
class Heard:
    """One thing a partner was told, and by which pseudonyms (kind → 32 bytes each)."""

    partner: str
    leaf: FeedLeaf
    pseudonyms: Mapping[str, tuple[bytes, ...]] = field(repr=False)


@dataclass(frozen=True)
class RestorePlan:
    """What is missing and what can be repeated.

    `start` … `end`-1 are the entries to be put back, `lost` counts them by type. Of the `restrictions` and
    `erasures` among them some are `unaccounted` for: nobody knows any more whose they were. `coming` is how
    many of the restrictions partners will tell again.
    """

    start: int
    end: int
    root: bytes = field(repr=False)
    leaves: Sequence[bytes] = field(repr=False)
    lost: Mapping[str, int]
    restrictions: int
    erasures: int
    coming: int
    unaccounted: int
    heard: Sequence[Heard] = field(repr=False)
    journal: Sequence[JournalEntry] = field(repr=False)
    erased_entries: frozenset[int] = field(repr=False)
    feeds: Mapping[str, Frontier] = field(default_factory=dict, repr=False)
    silent: tuple[str, ...] = ()

    @property
    def needed(self) -> bool:
        """Whether anything is missing at all."""
        return self.end > self.start or bool(self.heard)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did: `index` is its `restore.performed`."""

    index: int
    entries: int
    opted_out: int
    erased: int
    unmatched: int
    accepted: int


class Restoration:
    """Brings back what a restored ledger lost. The ledger must have been opened without `start`.

    `readers` are copies of the published log, best first; `connections` lead to the partners.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        journal: ErasureJournal | None,
        readers: Sequence[Reader],
        connections: Sequence[PeerConnection],
    ) -> None:
        self._ledger = ledger
        self._journal = journal
        self._readers = readers
        self._connections = connections

    def plan(self) -> RestorePlan:
        """Look at every copy and ask every partner; nothing is changed.

        Raises RolledBack where no copy holds what somebody has seen, PeerViolation, StorageError.
        """
        ledger = self._ledger
        silent: list[str] = []
        heads: dict[str, PartnerHeads] = {}
        for connection in self._connections:
            try:
                heads[connection.partner] = ask_heads(ledger, connection)
            except PeerUnreachable:
                silent.append(connection.partner)
        with ledger.store.read() as view:
            stored = view.head()
        start = stored.size
        target, leaves = self._copy(
            Checkpoint(ledger.origin, start, stored.root, ""), [h.log for h in heads.values() if h.log]
        )
        heard: list[Heard] = []
        feeds: dict[str, Frontier] = {}
        coming = 0
        for connection in self._connections:
            if connection.partner in heads:
                found, frontier = self._heard(connection, heads[connection.partner], start, leaves)
                heard.extend(found)
                feeds[connection.partner] = frontier
                coming += self._coming(connection)
        plan = self._judge(start, target, leaves, heard, coming)
        return replace(plan, feeds=feeds, silent=tuple(silent))

    def _judge(
        self, start: int, target: Checkpoint, leaves: Sequence[bytes], heard: Sequence[Heard], coming: int
    ) -> RestorePlan:
        types = [Leaf.from_bytes(leaf) for leaf in leaves]
        kept = self._journal.entries() if self._journal is not None else []
        journal = [entry for entry in kept if start <= entry.index < target.size]
        journalled = {entry.index for entry in journal}
        told = {item.leaf.entry for item in heard if item.leaf.type in RESTRICTING}
        restrictions = {i for i, leaf in enumerate(types, start) if leaf.type in _RESTRICTING}
        known, erased_entries, unknown_erasures, erasures = set(told), set[int](), 0, 0
        for index, leaf in enumerate(types, start):
            if leaf.type == EventType.ERASURE_COMPLETED.value:
                erasures += 1
                group = _beside(types, start, index)
                erased_entries |= group
                if index in journalled:
                    known |= group
                elif not group & told:
                    unknown_erasures += 1
        unaccounted = max(0, len(restrictions - known) - coming) + unknown_erasures
        return RestorePlan(
            start=start,
            end=target.size,
            root=target.root,
            leaves=leaves,
            lost=dict(Counter(leaf.type for leaf in types)),
            restrictions=len(restrictions),
            erasures=erasures,
            coming=coming,
            unaccounted=unaccounted,
            heard=heard,
            journal=journal,
            erased_entries=frozenset(erased_entries),
        )

    def perform(
        self, plan: RestorePlan, *, accept_lost: int = 0, without: Sequence[str] = ()
    ) -> Restored | None:
        """Carry a plan out, in one transaction; None where nothing was missing.

        Raises Refused (`restrictions_lost`, `partner_silent`) unless everything is accounted for or
        accepted: `accept_lost` restrictions, and the partners named in `without` who did not answer.
        """
        if not plan.needed:
            return None
        missing = sorted(set(plan.silent) - set(without))
        if missing:
            raise Refused(
                f"These partners do not answer: {', '.join(missing)}. They may know of lost opt-outs.",
                rule="every_partner_is_asked",
                advice="Try again when they do, or name them with --without.",
                code="partner_silent",
            )
        if plan.unaccounted > accept_lost:
            raise Refused(
                f"{plan.unaccounted} lost restrictions or erasures are known to nobody any more.",
                rule="lost_restrictions",
                advice=f"Restore a newer backup, or accept it: --accept-lost {plan.unaccounted}.",
                code="restrictions_lost",
            )
        ledger = self._ledger
        work = RestoreWork(
            plan,
            ledger.vault,
            ledger.policy,
            ledger.random,
            ledger.pair_keys,
            self._journal,
            plan.unaccounted,
        )
        done = ledger.log.restore(plan.start, plan.leaves, plan.root, work)
        return Restored(
            done.first, plan.end - plan.start, work.opted_out, work.erased, work.unmatched, plan.unaccounted
        )

    # the published log

    def _copy(self, stored: Checkpoint, seen: Sequence[Checkpoint]) -> tuple[Checkpoint, list[bytes]]:
        """The newest sound copy that extends what is stored and what partners saw; its missing entries."""
        ledger = self._ledger
        newest = max([stored, *seen], key=lambda c: c.size)
        best: tuple[Checkpoint, Reader] | None = None
        for reader in self._readers:
            report = verify_log(reader, ledger.key, known=newest)
            if report.outcome is Outcome.TAMPERED:
                raise RolledBack(f"A copy of the log does not hold: {report.detail}")
            if report.ok and report.checkpoint is not None and (best is None or best[0].size < report.size):
                best = report.checkpoint, reader
        if best is None:
            if newest.size > stored.size:
                raise RolledBack(
                    f"Partners have seen {newest.size} entries of the log; no copy at hand has them all.",
                    advice="Name one with --from: the folder or address where the log was published.",
                )
            return stored, []
        checkpoint, reader = best
        for other in (stored, *seen):
            report = verify_log(reader, ledger.key, known=other)
            if not report.ok:
                raise RolledBack("The published log is not a continuation of what is stored here.")
        return checkpoint, list(_entries(reader, stored.size, checkpoint.size))

    # what partners heard

    def _heard(
        self, connection: PeerConnection, heads: PartnerHeads, start: int, leaves: Sequence[bytes]
    ) -> tuple[list[Heard], Frontier]:
        """What a partner was told that is not known here, held to the head that this node signed for it."""
        name = connection.partner
        row = self._ledger.partner(name)
        with self._ledger.store.read() as view:
            frontier = feed_frontier(view, name, row.sent_seq)
        out: list[Heard] = []
        size = 0 if heads.feed is None else heads.feed.size
        while frontier.size < size:
            path = f"{HEARD_PATH}?after={frontier.size}&limit={_PAGE}"
            items = _items(name, connection.request("GET", path).body)[: size - frontier.size]
            if not items:
                raise PeerViolation("The partner holds back what it heard.", code="heard_malformed")
            frontier = frontier.extended(leaf_hash(item.leaf.to_bytes()) for item in items)
            out.extend(items)
        if heads.feed is not None and frontier.size == size and frontier.root != heads.feed.root:
            raise PeerViolation(
                "What the partner says it heard is not what it was told.", code="heard_forged"
            )
        for item in out:
            entry = item.leaf.entry - start
            if 0 <= entry < len(leaves) and leaf_hash(leaves[entry]) != item.leaf.entry_hash:
                raise RolledBack("A partner was told of another history than was published.")
            if entry >= len(leaves):
                raise RolledBack(
                    "A partner was told of entries that no copy of the log at hand has.",
                    advice="Name a newer copy with --from.",
                )
        return out, frontier

    def _coming(self, connection: PeerConnection) -> int:
        """How many restrictions a partner will tell of that this ledger has not heard (or no longer has)."""
        after, count = self._ledger.partner(connection.partner).heard_seq, 0
        while True:
            nonce = self._ledger.random(18).hex()
            try:
                answer = connection.request("GET", f"{FEED_PATH}?after={after}&nonce={nonce}&wait=0")
                message, _ = FeedMessage.from_bytes(answer.body)
                leaves = [(FeedLeaf.from_bytes(item.leaf), item.pseudonyms) for item in message.items]
            except ComityError:
                return count
            count += sum(
                len(leaf.purposes) * sum(map(len, pseudonyms.values()))
                for leaf, pseudonyms in leaves
                if leaf.type in RESTRICTING
            )
            after += len(leaves)
            if not leaves or not message.more:
                return count


def _beside(types: Sequence[Leaf], start: int, index: int) -> set[int]:
    """The withdrawals that stand directly before an `erasure.completed`, recorded in the same moment."""
    at, found = types[index - start].recorded_at, set[int]()
    for i in range(index - 1, start - 1, -1):
        leaf = types[i - start]
        if leaf.recorded_at != at or leaf.type not in _RESTRICTING:
            break
        found.add(i)
    return found


def _entries(read: Reader, start: int, end: int) -> list[bytes]:
    """Entries start … end-1 of a copy that has been verified."""
    out: list[bytes] = []
    for number in range(start // TILE_WIDTH, -(-end // TILE_WIDTH)):
        width = min(TILE_WIDTH, end - number * TILE_WIDTH)
        data = read(bundle_path(number, width))
        if data is not None:
            entries = decode_bundle(data, width)
        else:
            data = read(bundle_path(number))
            if data is None:
                raise RolledBack("A copy of the log changed while it was read.")
            entries = decode_bundle(data, TILE_WIDTH)[:width]
        out.extend(entries[max(0, start - number * TILE_WIDTH) :])
    return out


def _items(partner: str, data: bytes) -> list[Heard]:
    wrong = PeerViolation("The partner's account of what it heard is malformed.", code="heard_malformed")
    try:
        body = parse_json(data, limit=_HEARD_LIMIT)
        items = body["items"] if isinstance(body, dict) else None
        if not isinstance(items, list) or len(items) > _PAGE:
            raise wrong
        return [
            Heard(
                partner,
                FeedLeaf.from_bytes(from_base64(item["leaf"])),
                {
                    str(kind): tuple(from_base64(p, size=32) for p in found)
                    for kind, found in item["pseudonyms"].items()
                },
            )
            for item in items
        ]
    except (ComityError, KeyError, TypeError, AttributeError):
        raise wrong from None
