"""Every use held against the consents that stood when it was made.

A receipt names the tree head its gate looked at and commits to the set of people let through. For each
of these people the audit folds what the log held by then and decides again. A gate that looked at an older
head than it could have (by more than `GATE_DELAY`) is judged by the newer one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from consent.audit.facts import UseFact, Uses, Violation
from consent.audit.reading import first_since, published_policy, system_events
from consent.encoding import render_time, to_micros
from consent.errors import UnknownPurpose
from consent.events import MAX_IDENTIFIERS, EventType, Identifier
from consent.history import facts_of, facts_then, whole_record
from consent.ledger import restricted_purposes
from consent.peers import PairKeys
from consent.pseudonym_sets import PseudonymSet, use_leaf
from consent.purposes import PurposePolicy, ancestry
from consent.receipts import UseReceipt
from consent.rows import RestrictionRow
from consent.state import Decision, Fact, Reason, Standing, StateKey, decide, fold
from consent.store import LedgerView
from consent.subjects import PSEUDONYM, KeyedHash, SubjectVault
from privacy.errors import ComityError, Tampered

__all__ = ["GATE_DELAY", "Prover", "UseAudit"]

GATE_DELAY = 5_000_000
"""Microseconds by which the head a gate looked at may be behind: one snapshot beside one commit."""
_PAGE = 4_000
_AT_ONCE = 192 << 20  # bytes of pseudonym sets held at a time
_SHOWN = 100  # violations shown with proof

Prover = Callable[[UseReceipt, PseudonymSet, bytes, int, int | None], dict[str, object]]
"""`(receipt, set, leaf, its entry, deciding entry)` → the proofs of one violation, as JSON."""


@dataclass(eq=False)
class _Case:
    """One receipt under examination. `cut`: entries below it counted when the gate was asked."""

    index: int
    recorded: int
    receipt: UseReceipt
    members: PseudonymSet = field(repr=False)
    leaves: npt.NDArray[np.bytes_] = field(repr=False)
    cut: int
    stale: bool
    version: int
    policy: PurposePolicy | None
    banned: set[bytes] | None = field(repr=False)
    found: int = 0

    @property
    def moment(self) -> int:
        return to_micros(self.receipt.evidence.checked_at)


class _Person(NamedTuple):
    """A member found on record: now's state, and the identifier where it is needed."""

    handle: bytes
    state: dict[StateKey, Standing]
    identifier: Identifier | None


@dataclass(eq=False)
class UseAudit:
    """Examines the receipts of start ≤ index < end. `size` bounds the snapshot the report is about."""

    view: LedgerView
    vault: SubjectVault
    policy: PurposePolicy
    pair_keys: PairKeys | None
    prove: Prover
    size: int
    uses: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    people: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    cases: list[Violation] = field(default_factory=list)
    _policies: dict[str, PurposePolicy | None] = field(default_factory=dict)
    _restricted: dict[tuple[str, str], dict[bytes, list[Fact]]] = field(default_factory=dict)
    _versions: list[tuple[int, int]] = field(default_factory=list)
    _survivors: frozenset[bytes] = frozenset()

    def run(self, start: int, end: int) -> Uses:
        """Raises Tampered for a receipt whose set is not the one that the log commits to."""
        self._versions = self.view.lookup_versions()
        self._survivors = frozenset(self.view.merged_subjects().values())
        erasures = _erasures(self.view, self.vault, start, self.size)
        batch: list[_Case] = []
        held = 0
        for case in self._receipts(start, end):
            if batch and held + case.leaves.nbytes > _AT_ONCE:
                self._examine(batch, erasures)
                batch, held = [], 0
            batch.append(case)
            held += case.leaves.nbytes
        self._examine(batch, erasures)
        c = self.counts
        self.cases.sort(key=lambda found: (found.index, found.decision or 0))
        return Uses(
            receipts=sum(self.uses.values()),
            by_use=tuple(
                UseFact(*key, receipts=n, people=self.people[key]) for key, n in sorted(self.uses.items())
            ),
            members=c["members"],
            allowed=c["allowed"],
            violations=c["denied"] + c["unexplained"],
            unattributable=c["unattributable"],
            unexplained=c["unexplained"],
            overtaken=c["overtaken"],
            unchecked=c["unchecked"],
            stale_gates=c["stale"],
            cases=tuple(self.cases),
        )

    def _receipts(self, start: int, end: int) -> Iterator[_Case]:
        for event in system_events(self.view, self.vault, start, end):
            if event.leaf.type != EventType.USE_RECEIPT.value:
                continue
            try:
                receipt = UseReceipt.from_dict(event.body["receipt"])  # type: ignore[arg-type]
            except (ComityError, KeyError) as error:
                raise Tampered("A receipt in the log cannot be read.", code="wrong_commitment") from error
            key = (receipt.kind, receipt.purpose, receipt.partner)
            self.uses[key] += 1
            self.people[key] += receipt.evidence.count
            data = self.view.members(receipt.id)
            members = None if data is None else PseudonymSet.from_bytes(data)
            if members is None or members.root != receipt.set_root:
                raise Tampered("The people of a use are not those its receipt names.", code="wrong_set")
            self.counts["members"] += len(members)
            moment = to_micros(receipt.evidence.checked_at)
            newest = first_since(self.view, event.idx, moment - GATE_DELAY)
            stale = newest > receipt.evidence.log_size
            self.counts["stale"] += stale
            cut = min(max(newest, receipt.evidence.log_size), event.idx)
            leaves = np.frombuffer(members.to_bytes()[36:], dtype="S32")
            policy = self._policy(receipt.evidence.policy_hash)
            banned = self._banned(receipt, cut)
            self.counts["unchecked"] += banned is None
            versions = [v for since, v in self._versions if since < max(receipt.evidence.log_size, 1)]
            yield _Case(
                event.idx,
                event.leaf.recorded_at,
                receipt,
                members,
                leaves,
                cut,
                stale,
                versions[-1] if versions else self.vault.version,
                policy,
                banned,
            )

    def _policy(self, hash_: str) -> PurposePolicy | None:
        """The policy that a receipt says was in force; None where no such policy was published."""
        if hash_ not in self._policies:
            document = self.view.policy_document(hash_)
            found = None if document is None else published_policy(document)
            self._policies[hash_] = found
        return self._policies[hash_]

    # restrictions that the partner passed on, as they stood at an entry

    def _banned(self, receipt: UseReceipt, cut: int) -> set[bytes] | None:
        """Pair pseudonyms restricted below `cut`; None where they cannot be recognised any more."""
        partner, kind = receipt.partner, receipt.evidence.key_kind
        if (partner, kind) not in self._restricted:
            self._restricted[partner, kind] = self._heard(partner, kind)
        banned = set()
        for pseudonym, facts in self._restricted[partner, kind].items():
            rows = [
                RestrictionRow(partner, kind, pseudonym, purpose, s.restricted_at, s.granted_at, 0)
                for (purpose, _), s in fold(f for f in facts if f.idx < cut).items()
                if purpose in ancestry(receipt.purpose)
            ]
            if restricted_purposes(rows, receipt.purpose):
                banned.add(pseudonym)
        if banned and (self.pair_keys is None or self.pair_keys.pair_key(partner) is None):
            return None
        return banned

    def _heard(self, partner: str, kind: str) -> dict[bytes, list[Fact]]:
        hashed = self.vault.lookup(PSEUDONYM)
        prefix = partner.encode() + b"\x00" + kind.encode() + b"\x00"
        named = {
            row.pseudonym: hashed(prefix + row.pseudonym)
            for row in self.view.all_restrictions()
            if row.partner == partner and row.kind == kind
        }
        handles = self.view.find_subjects(list(named.values()))
        return {
            pseudonym: [r.fact for r in facts_of(self.view, self.vault, handles[lookup])]
            for pseudonym, lookup in named.items()
            if lookup in handles
        }

    # one pass over everybody for a batch of receipts

    def _examine(self, cases: Sequence[_Case], erasures: list[tuple[int, str]]) -> None:
        for kind, version in sorted({(case.receipt.evidence.key_kind, case.version) for case in cases}):
            keyed = [c for c in cases if (c.receipt.evidence.key_kind, c.version) == (kind, version)]
            for page in self._everybody(kind, version):
                self._page(keyed, kind, version, page)
        for case in cases:
            missing = len(case.members) - case.found
            self.counts["unattributable"] += missing
            later = [type_ for index, type_ in erasures if index > case.index]
            if EventType.RESTORE_PERFORMED.value not in later:
                self.counts["unexplained"] += max(0, missing - MAX_IDENTIFIERS * len(later))

    def _everybody(self, kind: str, version: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """Pages of (lookup, handle) under a version of the lookup key: stored ones, or hashed again."""
        after = b""
        if version == self.vault.version:
            while page := self.view.aliases_after(kind, after, _PAGE):
                after = page[-1][0]
                yield page
            return
        hashed, merged = self.vault.lookup(kind, version), self.view.merged_subjects()
        while rows := self.view.subjects_after(after, _PAGE):
            after = rows[-1].handle
            yield [
                (hashed(identifier.canonical), row.handle)
                for row in rows
                if row.handle not in merged
                for identifier in self.vault.open_identifiers(row)
                if identifier.kind == kind
            ]

    def _page(self, cases: Sequence[_Case], kind: str, version: int, page: list[tuple[bytes, bytes]]) -> None:
        chosen: list[tuple[_Case, list[tuple[bytes, bytes, bytes]]]] = []
        for case in cases:
            salt = case.members.salt
            leaves = np.array([use_leaf(salt, lookup) for lookup, _ in page], dtype="S32")
            places = np.searchsorted(case.leaves, leaves)
            inside = [
                (leaf, *page[i])
                for i, place in enumerate(places.tolist())
                if place < len(case.leaves) and case.leaves[place] == leaves[i]
                for leaf in (use_leaf(salt, page[i][0]),)
            ]
            chosen.append((case, inside))
        handles = list(dict.fromkeys(handle for _, inside in chosen for _, _, handle in inside))
        states = self.view.standings_of(handles)
        named = self._identifiers(chosen, kind, version)
        for case, inside in chosen:
            key = case.banned and self.pair_keys and self.pair_keys.pair_key(case.receipt.partner)
            pair = KeyedHash(key, kind) if key else None
            for leaf, lookup, handle in inside:
                person = _Person(handle, states.get(handle, {}), named.get(lookup))
                decision = self._decide(case, person, case.cut, case.moment)
                told = pair(person.identifier.canonical) if pair and person.identifier else None
                if decision.allowed and case.banned and told in case.banned:
                    decision = Decision(False, Reason.RESTRICTED_BY_PARTNER)
                self._count(case, leaf, person, decision)

    def _identifiers(
        self, chosen: list[tuple[_Case, list[tuple[bytes, bytes, bytes]]]], kind: str, version: int
    ) -> dict[bytes, Identifier]:
        """Lookup → identifier, for those whose answer needs it: pseudonyms to compare, merges to undo."""
        handles = {
            handle
            for case, inside in chosen
            for _, _, handle in inside
            if case.banned or handle in self._survivors
        }
        hashed = self.vault.lookup(kind, version)
        return {
            hashed(identifier.canonical): identifier
            for row in self.view.subjects(sorted(handles)).values()
            for identifier in self.vault.open_identifiers(row)
            if identifier.kind == kind
        }

    def _count(self, case: _Case, leaf: bytes, person: _Person, decision: Decision) -> None:
        if decision.reason is Reason.NO_RECORD and not self._on_record(person.handle):
            return
        case.found += 1
        if not decision.allowed:
            self.counts["denied"] += 1
            self._show(case, leaf, decision)
            return
        self.counts["allowed"] += 1
        if not self._decide(case, person, case.index, case.recorded).allowed:
            self.counts["overtaken"] += 1

    def _on_record(self, handle: bytes) -> bool:
        """Whether anything had been decided about a subject by the head that the report is about."""
        return any(recorded.fact.idx < self.size for recorded in whole_record(self.view, self.vault, handle))

    def _decide(self, case: _Case, person: _Person, cut: int, at: int) -> Decision:
        """Would the entries below `cut` have let this person through at `at`?"""
        if case.policy is None:
            return Decision(False, Reason.NOT_COVERED)
        state = person.state
        if person.handle in self._survivors and person.identifier is not None:
            then = facts_then(self.view, self.vault, person.handle, person.identifier, at)
            state = fold(r.fact for r in then if r.fact.idx < cut)
        elif any((s.granted_index or 0) >= cut or (s.restricted_index or 0) >= cut for s in state.values()):
            state = fold(r.fact for r in facts_of(self.view, self.vault, person.handle) if r.fact.idx < cut)
        try:
            return decide(state, case.receipt.purpose, case.receipt.partner, at, case.policy)
        except UnknownPurpose:
            return Decision(False, Reason.NOT_COVERED)

    def _show(self, case: _Case, leaf: bytes, decision: Decision) -> None:
        proof: dict[str, object] = {}
        if len(self.cases) < _SHOWN:
            proof = self.prove(case.receipt, case.members, leaf, case.index, decision.index)
        elif len(self.cases) >= 10 * _SHOWN:
            return
        self.cases.append(
            Violation(
                receipt=case.receipt.id,
                index=case.index,
                kind=case.receipt.kind,
                purpose=case.receipt.purpose,
                partner=case.receipt.partner,
                at=render_time(case.moment),
                reason=decision.reason.value,
                decision=decision.index,
                proof=proof,
            )
        )


def _erasures(view: LedgerView, vault: SubjectVault, start: int, end: int) -> list[tuple[int, str]]:
    """(index, type) of what takes people off the record."""
    types = {EventType.ERASURE_COMPLETED.value, EventType.RESTORE_PERFORMED.value}
    return [(e.idx, e.leaf.type) for e in system_events(view, vault, start, end) if e.leaf.type in types]
