"""The gate: which rows of a column may be used for a purpose with a partner, and evidence of the answer.

It is asked at use (each overlap batch, each training round), never at planning.
"""

from __future__ import annotations

import base64
import threading
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from consent.encoding import entry_type, from_micros
from consent.errors import ConsentStale
from consent.events import GRANTING, RESTRICTING, EventType
from consent.gate_index import AllowedPeople, ColumnCache, LookupSet
from consent.ledger import Ledger, restricted_purposes
from consent.purposes import ancestry
from consent.receipts import GateEvidence, PseudonymSet
from consent.rows import RestrictionRow
from consent.state import decide
from consent.store import LedgerView
from consent.subjects import KeyedHash
from privacy.errors import BadInput

__all__ = ["ConsentGate", "GateEvidence", "GateResult"]

_NEVER = (1 << 31) - 1  # a tree version that never comes: such a purpose can only restrict
_MOST_ENTRIES = 20_000  # that the kept answer is brought forward by, and people that may have changed
_MOST_CHANGED = 5_000
_UNDERSTOOD = {
    t.value
    for t in (
        *GRANTING, *RESTRICTING, EventType.NOTICE_PRESENTED, EventType.USE_RECEIPT, EventType.DELIVERY_ACK,
        EventType.AUDIT, EventType.STATE_COMMITTED, EventType.PARTNER_JOINED,
    )
}  # fmt: skip
"""Entries that change nobody's answer but that of the people they are about."""

Place = tuple[str, str, str]
"""(kind, purpose, partner)"""


@dataclass(frozen=True, slots=True)
class GateResult:
    """`mask[i]` says whether row i may be used; `members` is the set of people let through."""

    mask: npt.NDArray[np.bool_] = field(repr=False)
    evidence: GateEvidence
    members: PseudonymSet

    @property
    def allowed(self) -> int:
        """Rows let through (a person twice in the column counts twice; `evidence.count` counts people)."""
        return int(self.mask.sum())


class ConsentGate:
    """Bulk decisions over Arrow columns: equal, row by row, to `Ledger.check`. Thread-safe."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._cache: dict[Place, AllowedPeople] = {}
        self._columns = ColumnCache()
        self._lock = threading.Lock()

    def retention(self, purpose: str) -> timedelta | None:
        """How long the policy lets what was obtained for `purpose` be kept; None where it sets no limit."""
        return self._ledger.policy.require(purpose).retention

    def filter(
        self, kind: str, canonicals: pa.BinaryArray | pa.ChunkedArray, *, purpose: str, partner: str
    ) -> GateResult:
        """Decide every row of a column of canonical identifiers (binary; null rows are denied).

        Everything is read from one snapshot, whose head the evidence names. Raises UnknownPurpose,
        BadInput for a column of another type, and ConsentStale when the partner's lease has expired.
        """
        if not (pa.types.is_binary(canonicals.type) or pa.types.is_large_binary(canonicals.type)):
            raise BadInput("The gate takes a binary column of canonical identifiers.")
        ledger = self._ledger
        ledger.policy.require(purpose)
        column = self._columns.hashed(canonicals, ledger.vault.lookup(kind))
        with ledger.store.read() as view:
            now = ledger.now(view)
            head = view.head()
            allowed = self._allowed(view, head.size, (kind, purpose, partner), now)
            told = self._restrictions(view, kind, purpose, partner)
            if ledger.leases.expired(view.partner(partner), now):
                raise ConsentStale(
                    "This partner's opt-outs have not been heard for longer than the agreed lease.",
                    rule="lease",
                    advice="Try again when the partner's node can be reached: see GET /v1/optouts/status.",
                )
        found = allowed.among(column)
        mask = column.unsorted(found)
        if mask.any() and any(restricted_purposes(rows, purpose) for rows in told.values()):
            self._restrict(mask, canonicals, told, kind=kind, purpose=purpose, partner=partner)
            found = mask[column.order]
        salt = ledger.random(32)
        members = PseudonymSet.of_rows(salt, column.rows[found])
        evidence = GateEvidence(
            purpose=purpose,
            partner=partner,
            log_origin=ledger.origin,
            log_size=head.size,
            log_root=base64.b64encode(head.root).decode(),
            policy_hash=ledger.policy.hash,
            count=len(members),
            set_root=base64.b64encode(members.root).decode(),
            set_salt=base64.b64encode(salt).decode(),
            checked_at=from_micros(now),
            key_kind=kind,
        )
        return GateResult(mask, evidence, members)

    def _restrict(
        self,
        mask: npt.NDArray[np.bool_],
        canonicals: pa.BinaryArray | pa.ChunkedArray,
        told: dict[bytes, list[RestrictionRow]],
        *,
        kind: str,
        purpose: str,
        partner: str,
    ) -> None:
        """Deny, in `mask`, whom the partner has restricted."""
        restricted = LookupSet(p for p, rows in told.items() if restricted_purposes(rows, purpose))
        keys = self._ledger.pair_keys.pair_keys(partner) if self._ledger.pair_keys else ()
        pairs = [KeyedHash(key, kind) for key in keys]
        if not pairs:
            # No pair key any more means no way to tell who opted out over there: nobody passes.
            mask[:] = False
            return
        named = np.zeros(len(mask), np.bool_)
        for pair in pairs:
            hashed = self._columns.hashed(canonicals, pair)
            named |= hashed.unsorted(restricted.among(hashed))
        for i in np.flatnonzero(mask & named).tolist():
            # By several keys one person has several pseudonyms: what lifts under one lifts them all.
            canonical = canonicals[i].as_py()
            together = [row for pair in pairs for row in told.get(pair(canonical), ())]
            mask[i] = not restricted_purposes(together, purpose)

    def _allowed(self, view: LedgerView, size: int, place: Place, now: int) -> AllowedPeople:
        """Everybody allowed; brought up to date where the log has grown, read anew where it must be."""
        policy = self._ledger.policy
        with self._lock:
            kept = self._cache.get(place)
        if kept is None or kept.policy_hash != policy.hash or (kept.until is not None and kept.until <= now):
            kept = None
        elif kept.size < size:
            kept = self._renewed(view, kept, size, place, now)
        elif kept.size > size:
            kept = None  # an older snapshot than the one kept
        if kept is None:
            kind, purpose, partner = place
            wanted = policy.require(purpose)
            oldest = {
                above: policy.oldest_grant(wanted, above) if above in policy.purposes else _NEVER
                for above in ancestry(purpose)
            }
            lookups, until = view.allowed_lookups(kind, partner, now, oldest)
            kept = AllowedPeople(size, policy.hash, until, LookupSet(lookups), frozenset(), frozenset())
        with self._lock:
            self._cache[place] = kept
        return kept

    def _renewed(
        self, view: LedgerView, kept: AllowedPeople, size: int, place: Place, now: int
    ) -> AllowedPeople | None:
        """`kept` after the entries since; None where it is simpler, or safer, to read everything."""
        if size - kept.size > _MOST_ENTRIES:
            return None
        types = {entry_type(leaf) for leaf in view.leaves(kept.size, size)}
        if not types <= _UNDERSTOOD:
            return None
        subjects, reached = view.changed_subjects(kept.size, size, _MOST_ENTRIES)
        if reached < size or len(subjects) + len(kept.added) + len(kept.removed) > _MOST_CHANGED:
            return None
        kind, purpose, partner = place
        added, removed, until = set(kept.added), set(kept.removed), kept.until
        states = view.standings_of(subjects)
        for subject in subjects:
            state = states.get(subject, {})
            lookups = {lookup for lookup, of in view.aliases_of(subject).items() if of == kind}
            if decide(state, purpose, partner, now, self._ledger.policy).allowed:
                added |= lookups
                removed -= lookups
                ends = [
                    s.expires_at for s in state.values() if s.expires_at is not None and s.expires_at > now
                ]
                until = min([*ends, *([] if until is None else [until])], default=None)
            else:
                removed |= lookups
                added -= lookups
        return AllowedPeople(size, kept.policy_hash, until, kept.base, added, removed)

    def _restrictions(
        self, view: LedgerView, kind: str, purpose: str, partner: str
    ) -> dict[bytes, list[RestrictionRow]]:
        by_pseudonym: dict[bytes, list[RestrictionRow]] = {}
        for row in view.restrictions(partner, kind, ancestry(purpose)):
            by_pseudonym.setdefault(row.pseudonym, []).append(row)
        return by_pseudonym
