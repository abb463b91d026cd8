"""The data gate: the only way from a node's rows to a model.

A client of a run asks for `features(run, round, purpose)`. The gate asks the consent ledger again, at its
newest head, every round; hands out the approved columns of the consented rows and nothing else; writes a
use receipt into the ledger; and signs a round receipt for whoever runs the training, who refuses a round
without one.

What the partner sees of a receipt: run, round, purpose, the log head the decision was made at, the policy,
the root of the salted set of people used, and how many rows were aligned. A receipt does not say how many
were denied. The training itself does show it: a row that consent closes scores zero from then on, so when
people withdraw during a run, or after they were aligned, the partner can tell which of the aligned rows
they are.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import threading
from collections.abc import Callable, Mapping, Set
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from consent.encoding import canonical_json, parse_json, render_time, to_micros, uuid7
from consent.purposes import ancestry
from consent.receipts import GateEvidence, PseudonymSet, UseReceipt
from federated.errors import BadInput, ComityError, ReceiptInvalid, TrainingMisuse, TrainingRefused
from privacy.signing import PublicKey, SigningKey

__all__ = [
    "ConsentFilter",
    "DataGate",
    "GateGrant",
    "GatedRows",
    "ReceiptExpectation",
    "RoundReceipt",
    "RowSource",
    "UseLedger",
]

_CONTEXT = "training-receipt"
_RECEIPT_MOST = 16 << 10


class FilterResult(Protocol):
    """What the consent gate says: a bool per row, the evidence, the salted set of who may be used."""

    @property
    def mask(self) -> npt.NDArray[np.bool_]: ...
    @property
    def evidence(self) -> GateEvidence: ...
    @property
    def members(self) -> PseudonymSet: ...


class ConsentFilter(Protocol):
    """Decides who may be used, at the newest head of the ledger each time it is called. Thread-safe."""

    def filter(
        self, kind: str, canonicals: pa.BinaryArray, *, purpose: str, partner: str
    ) -> FilterResult: ...


class UseLedger(Protocol):
    """Where uses are written down. Returns only once the entry is durable."""

    def record_use(self, receipt: UseReceipt, members: PseudonymSet) -> int: ...


class RowSource(Protocol):
    """Aligned rows of one dataset, in the order both sides share."""

    @property
    def kind(self) -> str: ...

    @property
    def rows(self) -> int: ...

    def identifiers(self) -> pa.BinaryArray:
        """Canonical identifier per row, length `rows`; null where there is none."""
        ...

    def read(self, columns: tuple[str, ...], mask: npt.NDArray[np.bool_]) -> pa.Table:
        """The named columns of the rows where `mask` is true, in order."""
        ...


@dataclass(frozen=True, slots=True)
class GateGrant:
    """What this node approved for one run: which rows and columns, for which purpose, with whom."""

    run: str
    purpose: str
    partner: str
    collaboration: str
    columns: tuple[str, ...]
    source: RowSource = field(repr=False)


@dataclass(frozen=True, slots=True)
class RoundReceipt:
    """What a node signs for one round. Bytes and roots are base64, hashes hex, times UTC."""

    run: str
    round: int
    purpose: str
    nonce: str
    log_origin: str
    log_size: int
    log_root: str
    policy_hash: str
    set_root: str
    rows: int
    checked_at: str
    use_receipt: str
    signature: str = ""

    def signed_bytes(self) -> bytes:
        """Canonical JSON of everything but the signature."""
        return canonical_json({k: v for k, v in asdict(self).items() if k != "signature"})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_bytes(cls, blob: bytes) -> RoundReceipt:
        """Read canonical JSON strictly. Raises ReceiptInvalid."""
        try:
            value = parse_json(blob, limit=_RECEIPT_MOST)
        except ComityError as error:
            raise ReceiptInvalid("A round receipt cannot be read.") from error
        whole = {"round", "log_size", "rows"}
        if not isinstance(value, Mapping) or set(value) != set(cls.__dataclass_fields__):
            raise ReceiptInvalid("A round receipt has missing or unknown fields.")
        for name, item in value.items():
            if type(item) is not (int if name in whole else str):
                raise ReceiptInvalid("A field of a round receipt has the wrong type.")
        return cls(**value)

    def to_bytes(self) -> bytes:
        return canonical_json(self.to_dict())


@dataclass(frozen=True, slots=True)
class ReceiptExpectation:
    """What a node's receipt of a round must say. The nonce is fresh each round: no clocks are compared."""

    key: PublicKey
    run: str
    round: int
    purpose: str
    nonce: str
    rows: int
    log_size_at_least: int = 0
    log_origin: str | None = None

    def check(self, receipt: RoundReceipt) -> None:
        """Return if the receipt is of this very round and signed by the node; raise ReceiptInvalid."""
        stated = (receipt.run, receipt.round, receipt.purpose, receipt.rows)
        if stated != (self.run, self.round, self.purpose, self.rows):
            raise ReceiptInvalid("A round receipt is about another run, round, purpose or number of rows.")
        if not hmac.compare_digest(receipt.nonce.encode(), self.nonce.encode()):
            raise ReceiptInvalid("A round receipt is not fresh: it does not answer this round's nonce.")
        if receipt.log_size < self.log_size_at_least or self.log_origin not in (None, receipt.log_origin):
            raise ReceiptInvalid("A round receipt was made at an older or another consent log.")
        try:
            self.key.verify(
                _CONTEXT, receipt.signed_bytes(), base64.b64decode(receipt.signature, validate=True)
            )
        except (ComityError, binascii.Error, ValueError) as error:
            raise ReceiptInvalid("The signature of a round receipt does not hold.") from error


@dataclass(frozen=True, slots=True, eq=False)
class GatedRows:
    """Consented rows of one round. `table` has one row per True in `mask`, shape (rows,), in shared order."""

    table: pa.Table = field(repr=False)
    mask: npt.NDArray[np.bool_] = field(repr=False)
    receipt: RoundReceipt

    def matrix(self, columns: tuple[str, ...]) -> npt.NDArray[np.float64]:
        """float64 (rows, len(columns)); rows that were denied are zero. Raises BadInput for non-numbers."""
        out = np.zeros((len(self.mask), len(columns)))
        for j, name in enumerate(columns):
            column = self.table[name]
            if not (
                pa.types.is_integer(column.type)
                or pa.types.is_floating(column.type)
                or pa.types.is_boolean(column.type)
                or pa.types.is_decimal(column.type)
            ):
                raise BadInput("A training column is not numeric.", code="column_not_numeric")
            kind = pa.int8() if pa.types.is_boolean(column.type) else column.type
            values = column.cast(kind).cast(pa.float64()).to_numpy()
            if not np.isfinite(values).all():
                raise BadInput(
                    "A training column holds missing or infinite values.",
                    advice="Fill or drop them in the dataset's definition.",
                    code="missing_values",
                )
            out[self.mask, j] = values
        return out


class DataGate:
    """One node's gate. Thread-safe; a round of a run is given out once."""

    def __init__(
        self,
        *,
        consent: ConsentFilter,
        ledger: UseLedger,
        signer: SigningKey,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
    ) -> None:
        self._consent, self._ledger, self._signer = consent, ledger, signer
        self._clock, self._random = clock, random
        self._grants: dict[str, GateGrant] = {}
        self._identifiers: dict[str, pa.BinaryArray] = {}
        self._given: dict[str, int] = {}
        self._lock = threading.Lock()

    def approve(self, grant: GateGrant) -> None:
        """Open the gate for one run. Raises TrainingMisuse for a run already approved, or for no columns."""
        if not grant.columns or len(set(grant.columns)) != len(grant.columns):
            raise TrainingMisuse("A run needs at least one column, and none twice.")
        identifiers = grant.source.identifiers()
        if len(identifiers) != grant.source.rows:
            raise TrainingMisuse("Aligned rows and their identifiers differ in number.")
        with self._lock:
            if grant.run in self._grants:
                raise TrainingMisuse("This run has been approved before.", code="already_exists")
            self._grants[grant.run] = grant
            self._identifiers[grant.run] = identifiers
            self._given[grant.run] = 0

    def withdraw(self, run: str) -> None:
        """Close the gate for a run, for good; unknown runs are closed already."""
        with self._lock:
            for kept in (self._grants, self._identifiers, self._given):
                kept.pop(run, None)

    def enforce(self, partner: str, purposes: Set[str]) -> int:
        """How many open runs with a partner its opt-outs for these purposes concern.

        Nothing has to be stopped: each round asks the consent gate anew, and so drops whoever opted out.
        """
        with self._lock:
            return sum(
                grant.partner == partner and not purposes.isdisjoint(ancestry(grant.purpose))
                for grant in self._grants.values()
            )

    def features(self, run: str, round: int, purpose: str, *, nonce: str) -> GatedRows:  # noqa: A002
        """The consented rows for one round, with the receipt that answers `nonce`.

        Raises TrainingRefused for a run that was not approved, another purpose, or a round given out
        before. The use is in the ledger before anything is returned.
        """
        with self._lock:
            grant = self._grants.get(run)
            if grant is None or grant.purpose != purpose:
                raise TrainingRefused(
                    "This node has not approved that run for that purpose.",
                    rule="run_approved",
                    advice="Start the run through the training API of both nodes.",
                )
            if round <= self._given[run]:
                raise TrainingRefused("Rows of that round have been given out already.", rule="round_once")
            self._given[run] = round
            identifiers = self._identifiers[run]
        found = self._consent.filter(grant.source.kind, identifiers, purpose=purpose, partner=grant.partner)
        mask = np.asarray(found.mask, dtype=np.bool_)
        if mask.shape != (grant.source.rows,):
            raise TrainingMisuse("The consent gate answered for another number of rows.")
        table = grant.source.read(grant.columns, mask)
        evidence, now = found.evidence, self._clock()
        use = UseReceipt(
            id=uuid7(to_micros(now), self._random(10)),
            kind="training",
            purpose=purpose,
            collaboration=grant.collaboration,
            job=run,
            round=round,
            partner=grant.partner,
            evidence=evidence,
            output_hash="",
            transcript_hash="",
            at=now,
        )
        self._ledger.record_use(use, found.members)
        receipt = RoundReceipt(
            run=run,
            round=round,
            purpose=purpose,
            nonce=nonce,
            log_origin=evidence.log_origin,
            log_size=evidence.log_size,
            log_root=evidence.log_root,
            policy_hash=evidence.policy_hash,
            set_root=evidence.set_root,
            rows=grant.source.rows,
            checked_at=render_time(to_micros(evidence.checked_at)),
            use_receipt=use.id,
        )
        signature = self._signer.sign(_CONTEXT, receipt.signed_bytes())
        signed = RoundReceipt(**{**asdict(receipt), "signature": base64.b64encode(signature).decode()})
        return GatedRows(table=table, mask=mask, receipt=signed)
