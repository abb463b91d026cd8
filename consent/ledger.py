"""The consent ledger: what the rest of the house calls."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from consent import partnership
from consent.checkpoint import Checkpoint
from consent.encoding import canonical_json, from_micros, parse_json, to_micros
from consent.errors import KeysRotated, UnknownPartner, UnknownReceipt
from consent.events import Event, EventType, Identifier, withdraw
from consent.history import facts_of, facts_then, open_entry, whole_record
from consent.lease import Leases
from consent.log import TransparencyLog
from consent.notes import NoteSigner, VerifierKey
from consent.peers import PairKeys
from consent.proofs import EntryProof
from consent.purposes import PurposePolicy, ancestry
from consent.receipts import (
    AbsenceProof,
    PseudonymSet,
    ReceiptProof,
    UseReceipt,
)
from consent.recording import IDENTIFIERS, DecisionWork, SystemWork
from consent.rows import PartnerRow, ReceiptRow, RestrictionRow, StandingKey
from consent.sql import SqlStore
from consent.state import Decision, Reason, Standing, StateKey, decide, fold
from consent.static import StaticLog
from consent.store import LedgerStore, LedgerTransaction, LedgerView
from consent.subjects import KeyedHash, SubjectVault, unpack_identifiers
from consent.succession import may_follow, published_policy
from consent.suppression import suppressed
from consent.validation import checked
from privacy.errors import Misuse
from privacy.keys import KeyRing
from privacy.signing import SigningKey

__all__ = ["EntryAudit", "Ledger", "Recorded"]

SKEW = timedelta(minutes=5)
"""How far in the future an event may claim to take effect before it is refused."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What `record` wrote: entries first_index … first_index+count-1, under this signed tree head."""

    first_index: int
    count: int
    size: int
    checkpoint_text: str


def restricted_purposes(rows: Sequence[RestrictionRow], purpose: str) -> bool:
    """Whether a partner's restrictions on one pseudonym reach `purpose`.

    A restriction of any purpose above counts until the partner lifts that one, or lifts `purpose` itself
    later; a restriction and a lift of the same moment restrict.
    """
    lifted = max(
        (r.lifted_at for r in rows if r.purpose == purpose and r.lifted_at is not None), default=None
    )
    above = ancestry(purpose)
    return any(
        r.restricted_at is not None
        and r.purpose in above
        and (r.lifted_at is None or r.lifted_at <= r.restricted_at)
        and (lifted is None or lifted <= r.restricted_at)
        for r in rows
    )


class EntryAudit:
    """An `AuditSink` that writes what other rooms did into the log."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def record(self, kind: str, payload: Mapping[str, object]) -> None:
        """`payload` is JSON and must hold no personal data. Durable on return."""
        self._ledger.record_system(EventType.AUDIT, {"kind": kind, "details": dict(payload)})


class Ledger:
    """Records decisions, answers questions about them, proves both. Thread-safe.

    Build one with `Ledger.open`. `policy` is the purpose policy in force; `pair_keys` (settable later)
    makes restrictions received from partners count in `check` and in the gate.
    """

    def __init__(
        self,
        store: LedgerStore,
        *,
        keyring: KeyRing,
        signing_key: SigningKey,
        origin: str,
        policy: PurposePolicy,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
        static: StaticLog | None,
        pair_keys: PairKeys | None = None,
    ) -> None:
        self.store = store
        self.policy = policy
        self.pair_keys = pair_keys
        self.key = VerifierKey(origin, signing_key.public.bytes32)
        self.vault = SubjectVault(keyring, random)
        self.clock = clock
        self.random = random
        self.log = TransparencyLog(
            store, NoteSigner(self.key, signing_key.sign_raw), clock=clock, random=random, static=static
        )
        self.leases = Leases()
        self._members: dict[str, PseudonymSet] = {}
        self.listeners: list[Callable[[], None]] = []
        """Called after decisions were recorded, in the recording thread; must be quick."""

    @classmethod
    def open(
        cls,
        engine: sa.Engine,
        *,
        keyring: KeyRing,
        signing_key: SigningKey,
        origin: str,
        directory: Path | None,
        policy: PurposePolicy | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[int], bytes] = os.urandom,
        pair_keys: PairKeys | None = None,
        start: bool = True,
    ) -> Ledger:
        """A ledger on an engine whose tables exist (`consent.sql.metadata`).

        `origin` names the log (a schemeless URL prefix); `directory` is where the static log is published,
        None for nowhere. Finishes a publication that a crash interrupted, refuses a database that holds
        less or other history than was published (RolledBack), and records the policy if it is a new one.
        Without `start` none of that is done: only a restore wants it so.
        """
        key = VerifierKey(origin, signing_key.public.bytes32)
        ledger = cls(
            SqlStore(engine),
            keyring=keyring,
            signing_key=signing_key,
            origin=origin,
            policy=policy or PurposePolicy.default(),
            clock=clock,
            random=random,
            static=None if directory is None else StaticLog(directory, key),
            pair_keys=pair_keys,
        )
        if start:
            ledger.start()
        else:
            ledger.store.prepare()
            ledger._settle_keys()
        return ledger

    def start(self) -> None:
        """What `open` does after construction; idempotent."""
        self.store.prepare()
        self._settle_keys()
        self.log.publish()
        with self.store.read() as view:
            known = view.policies()
            changed = not known or known[-1][1] != self.policy.hash
            before = published_policy(view, self.vault, known[-1][0]) if known and changed else None
        if known and known[-1][2] > self.policy.version:
            raise Misuse("A newer version of the purpose policy has been published already.")
        if before is not None:
            may_follow(before, self.policy)
        if changed:
            self._publish_policy()

    def _settle_keys(self) -> None:
        """Hash lookups under the version that the database's are hashed under, whatever the ring gained."""
        with self.store.read() as view:
            version = view.lookup_version()
        if not version:
            with self.store.write() as tx:
                version = tx.lookup_version() or self.vault.versions[-1]
                tx.set_lookup_version(version, 0)
        self.vault.use(version)

    @property
    def origin(self) -> str:
        return self.key.name

    @property
    def vkey(self) -> str:
        """The log's C2SP verifier key, for those who check it."""
        return self.key.to_text()

    # recording

    def record(self, events: Sequence[Event], *, imported: bool = False) -> Recorded:
        """Write decisions: all of them, durable and published when this returns, or none.

        What the policy knows about a notice is filled in (`consent.validation`). `imported` says that they
        come from a list, which cannot bring back anybody erased. Raises UnknownPurpose, BadInput (an
        effective time in the future), InvalidConsent, Suppressed, StorageError.
        """
        return self.append_decisions(self.validate(events), imported=imported, ordered=True)

    def validate(self, events: Sequence[Event]) -> list[Event]:
        """What `record` checks before it writes anything; the events as it would record them."""
        return checked(self.policy, events, self.clock() + SKEW)

    def append_decisions(
        self,
        events: Sequence[Event],
        *,
        propagate: bool = True,
        after: Callable[[LedgerTransaction, int, int], None] | None = None,
        imported: bool = False,
        ordered: bool = False,
    ) -> Recorded:
        """As `record` for events already validated; `after` writes more in the same transaction.

        `ordered` refuses what does not fit the history of its person (`consent.sequence`).
        """
        done = self.log.append(
            DecisionWork(events, self.vault, self.policy, self.random, propagate, after, imported, ordered)
        )
        self.announce()
        return Recorded(done.first, done.count, done.checkpoint.size, done.checkpoint.text)

    def announce(self) -> None:
        """Let the listeners know that partners may have to be told something."""
        for listener in self.listeners:
            listener()

    def record_system(
        self,
        type_: EventType,
        fields: Mapping[str, object],
        after: Callable[[LedgerTransaction, int, int], None] | None = None,
    ) -> Recorded:
        """Write one event that is about no single person. `fields` is JSON."""
        work = SystemWork(type_, fields, self.vault, self.policy.hash, self.random, after)
        done = self.log.append(work)
        return Recorded(done.first, done.count, done.checkpoint.size, done.checkpoint.text)

    def withdraw(
        self, identifiers: Sequence[tuple[str, bytes]], purpose: str = "*", partner: str = "*"
    ) -> Recorded:
        """Opt one person out, by any canonical identifiers of theirs."""
        return self.record([withdraw(identifiers, purpose, partner=partner)])

    def _publish_policy(self) -> None:
        policy, document = self.policy, canonical_json(self.policy.document).decode()

        def keep(tx: LedgerTransaction, first: int, _now: int) -> None:
            tx.add_policy(first, policy.hash, policy.version, document)

        fields = {
            "policy": policy.name,
            "version": policy.version,
            "hash": policy.hash,
            "document": policy.document,
        }
        self.record_system(EventType.POLICY_PUBLISHED, fields, keep)

    def join_partner(self, name: str, vkey: str, lease: timedelta | None = None) -> None:
        """Pin a partner's log key and start the feed with them; to be called for each new agreement.

        What was withdrawn before is queued for them first. A partner who comes back is told again: a new
        agreement brings a new pair key, under which nothing they were told before can be recognised.
        `lease` is how old the newest message heard from them may be for anybody to be used with them (None:
        any age). Raises Misuse for a malformed vkey, or when the partner joined with another key.
        """
        partnership.join(self, name, vkey, lease)

    def remove_partner(self, name: str, fields: Mapping[str, object]) -> None:
        """Record that the agreement with a partner has ended; nothing is queued for them from then on."""
        partnership.remove(self, name, fields)

    def amended_agreement(self, name: str, lease: timedelta | None, fields: Mapping[str, object]) -> None:
        """Record that another version of the agreement with a partner holds, and the lease it brings."""
        partnership.amend(self, name, lease, fields)

    def rotated_key(self, name: str, fields: Mapping[str, object]) -> None:
        """Record that another key is shared with a partner; what stands is told again under it."""
        partnership.rotate(self, name, fields)

    def partners(self) -> list[PartnerRow]:
        with self.store.read() as view:
            return view.partners()

    def partner(self, name: str) -> PartnerRow:
        """Raises UnknownPartner."""
        with self.store.read() as view:
            found = view.partner(name)
        if found is None:
            raise UnknownPartner("No partner of this name has joined the ledger.")
        return found

    # asking

    def now(self, view: LedgerView) -> int:
        """The time in microseconds, never earlier than the newest entry even if the clock went back.

        Raises KeysRotated when lookups are hashed otherwise by now: nobody would be found; RolledBack when
        a partner has shown that this database is an old one.
        """
        self.log.check_halted()
        if view.lookup_version() != self.vault.version:
            raise KeysRotated
        return max(to_micros(self.clock()), view.head().recorded_at)

    def head(self) -> Checkpoint:
        """The newest signed tree head."""
        return self.log.checkpoint()

    def check(
        self, identifier: bytes, kind: str, purpose: str, partner: str, at: datetime | None = None
    ) -> Decision:
        """May this person's data be used for `purpose` with `partner`?

        `identifier` is canonical. With `at` in the past the answer is the one that this node would have
        given then: what was recorded by then, replayed. Raises UnknownPurpose.
        """
        self.policy.require(purpose)
        lookup = self.vault.lookup(kind)(identifier)
        with self.store.read() as view:
            now = self.now(view)
            moment = now if at is None else to_micros(at)
            handle = view.find_subjects([lookup]).get(lookup)
            state: dict[StateKey, Standing] = {}
            if handle is not None and moment < now:
                named = Identifier(kind, identifier)
                state = fold(r.fact for r in facts_then(view, self.vault, handle, named, moment))
            elif handle is not None:
                keys = [StandingKey(p, who, handle) for p in ancestry(purpose) for who in (partner, "*")]
                state = {(k.purpose, k.partner): s for k, s in view.standings(keys).items()}
            decision = decide(state, purpose, partner, moment, self.policy)
            if handle is None:
                gone = suppressed(view, self.vault, [Identifier(kind, identifier)], now)
                decision = next(
                    (Decision(False, Reason.ERASED, r.erased_at, r.idx) for r in gone.values()), decision
                )
            rows = view.restrictions(partner, kind, ancestry(purpose)) if decision.allowed else []
            if decision.allowed and moment >= now and self.leases.expired(view.partner(partner), now):
                return Decision(False, Reason.LEASE_EXPIRED)
        rows = [row for row in rows if (row.restricted_at or 0) <= moment]
        if rows:
            shared = self.pair_keys.pair_keys(partner) if self.pair_keys else ()
            pseudonyms = {KeyedHash(each, kind)(identifier) for each in shared}
            # No pair key any more means no way to tell who opted out over there: nobody passes.
            mine = [row for row in rows if not pseudonyms or row.pseudonym in pseudonyms]
            if restricted_purposes(mine, purpose):
                return Decision(False, Reason.RESTRICTED_BY_PARTNER, mine[0].restricted_at, mine[0].idx)
        return decision

    def standings(self, identifier: bytes, kind: str) -> dict[StateKey, Standing]:
        """The whole current state of one person; empty for a stranger."""
        lookup = self.vault.lookup(kind)(identifier)
        with self.store.read() as view:
            handle = view.find_subjects([lookup]).get(lookup)
            return {} if handle is None else fold(r.fact for r in facts_of(view, self.vault, handle))

    def state_at(self, identifier: bytes, kind: str, at: datetime) -> dict[StateKey, Standing]:
        """A person's whole state as this node had it at a time: what was recorded by then, replayed."""
        lookup, named = self.vault.lookup(kind)(identifier), Identifier(kind, identifier)
        with self.store.read() as view:
            handle = view.find_subjects([lookup]).get(lookup)
            if handle is None:
                return {}
            return fold(r.fact for r in facts_then(view, self.vault, handle, named, to_micros(at)))

    def history(self, identifier: bytes, kind: str) -> list[dict[str, object]]:
        """Every recorded decision about one person, oldest first: index, type, times, payload fields.

        Those recorded about them as somebody else, before the two were merged, are among them.
        """
        lookup = self.vault.lookup(kind)(identifier)
        with self.store.read() as view:
            handle = view.find_subjects([lookup]).get(lookup)
            recorded = [] if handle is None else whole_record(view, self.vault, handle)
        return [
            {
                "index": fact.idx,
                "type": fact.type.value,
                "purpose": fact.purpose,
                "purpose_version": fact.version,
                "partner": fact.partner,
                "effective_at": from_micros(fact.effective_at),
                "expires_at": None if fact.expires_at is None else from_micros(fact.expires_at),
                "recorded_at": from_micros(at),
            }
            for fact, at in recorded
        ]

    def prove(self, index: int) -> EntryProof:
        """Entry `index` with its inclusion proof in the newest checkpoint."""
        return self.log.prove(index)

    # receipts of use

    def record_use(self, receipt: UseReceipt, members: PseudonymSet) -> int:
        """Write a receipt and keep its set for later proofs; returns the entry's index.

        Raises Misuse when the set is not the one in the receipt's evidence, StorageError when the id is
        taken.
        """
        if members.root != receipt.set_root or len(members) != receipt.evidence.count:
            raise Misuse("The set is not the one that the receipt's evidence is about.")
        document = receipt.to_dict()

        def keep(tx: LedgerTransaction, first: int, _now: int) -> None:
            row = ReceiptRow(
                receipt.id, first, receipt.kind, receipt.purpose, receipt.partner, receipt.job,
                canonical_json(document).decode(),
            )  # fmt: skip
            tx.add_receipt(row, members.to_bytes())

        return self.record_system(EventType.USE_RECEIPT, {"receipt": document}, keep).first_index

    def receipts(
        self,
        *,
        before: int | None = None,
        limit: int = 100,
        kind: str | None = None,
        partner: str | None = None,
    ) -> list[tuple[int, UseReceipt]]:
        """(index, receipt), newest first; `before` pages on."""
        with self.store.read() as view:
            rows = view.receipts(before, limit, kind, partner)
        return [(row.idx, _receipt(row)) for row in rows]

    def receipt(self, receipt_id: str) -> tuple[int, UseReceipt]:
        """Raises UnknownReceipt."""
        with self.store.read() as view:
            row = view.receipt(receipt_id)
        if row is None:
            raise UnknownReceipt("No receipt of this id is recorded here.")
        return row.idx, _receipt(row)

    def receipt_proof(self, receipt_id: str) -> ReceiptProof:
        """The receipt with everything needed to check it offline against the log's key."""
        index, receipt = self.receipt(receipt_id)
        with self.store.read() as view:
            _, opening = open_entry(view, self.vault, index)
        return ReceiptProof(receipt, opening.salt, opening.payload, self.log.prove(index))

    def members(self, receipt_id: str) -> PseudonymSet:
        """The set of a receipt. Raises UnknownReceipt."""
        found = self._members.get(receipt_id)
        if found is None:
            with self.store.read() as view:
                data = view.members(receipt_id)
            if data is None:
                raise UnknownReceipt("No receipt of this id is recorded here.")
            found = PseudonymSet.from_bytes(data)
            while len(self._members) >= 4:
                self._members.pop(next(iter(self._members)), None)
            self._members[receipt_id] = found
        return found

    def member_leaf(self, receipt_id: str, kind: str, canonical: bytes) -> bytes:
        """The leaf that this person would have in the set of a receipt."""
        _, receipt = self.receipt(receipt_id)
        return self.members(receipt_id).leaf(self.lookup_for(receipt, kind)(canonical))

    def lookup_for(self, receipt: UseReceipt, kind: str) -> KeyedHash:
        """The keyed hash that was in force when the set of a receipt was made."""
        with self.store.read() as view:
            versions = view.lookup_versions()
        then = [version for since, version in versions if since < max(receipt.evidence.log_size, 1)]
        return self.vault.lookup(kind, then[-1] if then else None)

    def absence_proof(self, receipt_id: str, kind: str, canonical: bytes) -> tuple[AbsenceProof, UseReceipt]:
        """Proof that a person was not in a use. Raises MemberPresent if they were, UnknownReceipt.

        `kind` must be what the use was keyed by (`Misuse(wrong_key_kind)`): an e-mail address is never in a
        set of telephone numbers, whoever it belongs to. To be checked with
        `verify_absence(proof, receipt.set_root, member_leaf(…))`.
        """
        _, receipt = self.receipt(receipt_id)
        if kind != receipt.evidence.key_kind:
            raise Misuse(
                f"This use was keyed by {receipt.evidence.key_kind}.",
                code="wrong_key_kind",
                advice="Name the person by that kind of identifier.",
            )
        return self.members(receipt_id).prove_absent(self.member_leaf(receipt_id, kind, canonical)), receipt

    def new_receipt_id(self) -> str:
        return secrets.token_hex(16)

    def identifiers_of(self, subjects: Sequence[bytes]) -> dict[bytes, tuple[Identifier, ...]]:
        """The canonical identifiers known of subjects, by handle; erased ones are missing."""
        with self.store.read() as view:
            rows = view.subjects(list(dict.fromkeys(subjects)))
        found = {}
        for handle, row in rows.items():
            key = self.vault.unwrap(handle, row.wrapped_key)
            found[handle] = unpack_identifiers(self.vault.open(key, handle, IDENTIFIERS, row.identifiers))
        return found


def _receipt(row: ReceiptRow) -> UseReceipt:
    return UseReceipt.from_dict(parse_json(row.document.encode(), limit=1 << 20))
