"""The gate: which rows of a column may be used for a purpose with a partner, and evidence of the answer.

It is asked at use (each overlap batch, each training round), never at planning.
"""

from __future__ import annotations

import base64
import threading
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from consent.encoding import from_micros
from consent.errors import ConsentStale
from consent.ledger import Ledger, restricted_purposes
from consent.purposes import ancestry
from consent.receipts import GateEvidence, PseudonymSet
from consent.store import LedgerView, RestrictionRow
from consent.subjects import KeyedHash
from privacy.errors import BadInput

__all__ = ["ConsentGate", "GateEvidence", "GateResult"]

_NEVER = (1 << 31) - 1  # a tree version that never comes: such a purpose can only restrict


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


@dataclass(frozen=True, slots=True)
class _Allowed:
    size: int
    policy_hash: str
    until: int | None
    lookups: frozenset[bytes] = field(repr=False)


class ConsentGate:
    """Bulk decisions over Arrow columns: equal, row by row, to `Ledger.check`. Thread-safe."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._cache: dict[tuple[str, str, str], _Allowed] = {}
        self._lock = threading.Lock()

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
        rows: list[bytes | None] = canonicals.to_pylist()
        with ledger.store.read() as view:
            now = ledger.now(view)
            head = view.head()
            allowed = self._allowed(view, head.size, (kind, purpose, partner), now)
            restricted = self._restricted(view, kind, purpose, partner)
            if ledger.leases.expired(view.partner(partner), now):
                raise ConsentStale(
                    "This partner's opt-outs have not been heard for longer than the agreed lease.",
                    rule="lease",
                    advice="Try again when the partner's node can be reached: see GET /v1/optouts/status.",
                )
        lookups = ledger.vault.lookup(kind).column(rows)
        mask = np.fromiter((lookup in allowed for lookup in lookups), dtype=np.bool_, count=len(lookups))
        if restricted:
            key = ledger.pair_keys and ledger.pair_keys.pair_key(partner)
            # No pair key any more means no way to tell who opted out over there: nobody passes.
            pair = KeyedHash(key, kind) if key else None
            for i in np.flatnonzero(mask).tolist():
                canonical = rows[i]
                if pair is None or canonical is None or pair(canonical) in restricted:
                    mask[i] = False
        salt = ledger.random(32)
        chosen = [lookup for lookup, passed in zip(lookups, mask.tolist(), strict=True) if passed and lookup]
        members = PseudonymSet.of_lookups(salt, chosen)
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

    def _allowed(
        self, view: LedgerView, size: int, place: tuple[str, str, str], now: int
    ) -> frozenset[bytes]:
        """Lookups of everybody allowed. Kept until the log grows or the first of their grants expires."""
        kind, purpose, partner = place
        policy = self._ledger.policy
        kept = self._cache.get(place)
        if (
            kept is not None
            and kept.size == size
            and kept.policy_hash == policy.hash
            and (kept.until is None or now < kept.until)
        ):
            return kept.lookups
        wanted = policy.require(purpose)
        oldest = {
            above: policy.oldest_grant(wanted, above) if above in policy.purposes else _NEVER
            for above in ancestry(purpose)
        }
        lookups, until = view.allowed_lookups(kind, partner, now, oldest)
        found = _Allowed(size, policy.hash, until, frozenset(lookups))
        with self._lock:
            self._cache[place] = found
        return found.lookups

    def _restricted(self, view: LedgerView, kind: str, purpose: str, partner: str) -> set[bytes]:
        by_pseudonym: dict[bytes, list[RestrictionRow]] = {}
        for row in view.restrictions(partner, kind, ancestry(purpose)):
            by_pseudonym.setdefault(row.pseudonym, []).append(row)
        return {p for p, rows in by_pseudonym.items() if restricted_purposes(rows, purpose)}
