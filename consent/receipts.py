"""Receipts of use: what was asked of the gate, about which set of people, and what came out.

Every overlap and training run writes one into the log of each side. After an opt-out, each later receipt
yields a proof that the person is not in its set. It cannot show the absence of unreceipted use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from consent.checkpoint import Checkpoint
from consent.encoding import (
    canonical_json,
    commitment,
    from_micros,
    parse_json,
    parse_time,
    render_time,
    to_micros,
)
from consent.notes import VerifierKey
from consent.proofs import EntryProof, from_base64, to_base64
from consent.pseudonym_sets import (
    AbsenceProof,
    PresenceProof,
    PseudonymSet,
    use_leaf,
    verify_absence,
    verify_presence,
)
from privacy.errors import BadInput, ComityError, Tampered

__all__ = [
    "AbsenceProof",
    "GateEvidence",
    "PresenceProof",
    "PseudonymSet",
    "ReceiptProof",
    "UseReceipt",
    "use_leaf",
    "verify_absence",
    "verify_presence",
]

USE_KINDS = ("overlap", "measure", "align", "activate", "estimate", "reach", "training")
_MAX_PAYLOAD = 1 << 20


@dataclass(frozen=True, slots=True)
class GateEvidence:
    """What the gate looked at. `log_root`, `set_root`, `set_salt` are base64; `policy_hash` is hex."""

    purpose: str
    partner: str
    log_origin: str
    log_size: int
    log_root: str
    policy_hash: str
    count: int
    set_root: str
    set_salt: str
    checked_at: datetime
    key_kind: str = ""

    def to_dict(self) -> dict[str, object]:
        return asdict(self) | {"checked_at": render_time(to_micros(self.checked_at))}

    @classmethod
    def from_dict(cls, value: Mapping[str, object]) -> GateEvidence:
        """Raises BadInput for missing, unknown or mistyped fields."""
        fields = _typed(value, _EVIDENCE)
        return cls(**{**fields, "checked_at": from_micros(parse_time(fields["checked_at"]))})


@dataclass(frozen=True, slots=True)
class UseReceipt:
    """One use of a set of people. `kind` is one of USE_KINDS;
    `round` a training round or None; the two hashes are hex SHA-256, or empty where nothing came out."""

    id: str
    kind: str
    purpose: str
    collaboration: str
    job: str
    round: int | None
    partner: str
    evidence: GateEvidence
    output_hash: str
    transcript_hash: str
    at: datetime

    def __post_init__(self) -> None:
        if self.kind not in USE_KINDS:
            raise BadInput("The kind of use is not one this version knows.")
        if self.purpose != self.evidence.purpose or self.partner != self.evidence.partner:
            raise BadInput("A receipt must be about the purpose and partner its evidence was gathered for.")

    @property
    def set_root(self) -> bytes:
        return from_base64(self.evidence.set_root, size=32)

    def to_dict(self) -> dict[str, object]:
        return {
            "id": self.id,
            "kind": self.kind,
            "purpose": self.purpose,
            "collaboration": self.collaboration,
            "job": self.job,
            "round": self.round,
            "partner": self.partner,
            "evidence": self.evidence.to_dict(),
            "output_hash": self.output_hash,
            "transcript_hash": self.transcript_hash,
            "at": render_time(to_micros(self.at)),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, object]) -> UseReceipt:
        """Raises BadInput for missing, unknown or mistyped fields."""
        fields = _typed(value, _RECEIPT)
        evidence = GateEvidence.from_dict(fields["evidence"])
        return cls(**{**fields, "evidence": evidence, "at": from_micros(parse_time(fields["at"]))})


_EVIDENCE: dict[str, type | tuple[type, ...]] = {
    "purpose": str,
    "partner": str,
    "log_origin": str,
    "log_size": int,
    "log_root": str,
    "policy_hash": str,
    "count": int,
    "set_root": str,
    "set_salt": str,
    "checked_at": str,
    "key_kind": str,
}
_RECEIPT: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "kind": str,
    "purpose": str,
    "collaboration": str,
    "job": str,
    "round": (int, type(None)),
    "partner": str,
    "evidence": dict,
    "output_hash": str,
    "transcript_hash": str,
    "at": str,
}


def _typed(value: Mapping[str, object], shape: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    if not isinstance(value, Mapping) or set(value) != set(shape):
        raise BadInput("A receipt has missing or unknown fields.")
    for name, kind in shape.items():
        if not isinstance(value[name], kind) or isinstance(value[name], bool):
            raise BadInput(f"The field {name} of a receipt has the wrong type.")
    return dict(value)


@dataclass(frozen=True, slots=True)
class ReceiptProof:
    """A receipt, the opening of its commitment, and the proof that the log holds it."""

    receipt: UseReceipt
    salt: bytes
    payload: bytes
    entry: EntryProof

    def verify(self, key: VerifierKey) -> Checkpoint:
        """Check everything offline against the log's key. Raises Tampered."""
        leaf, checkpoint = self.entry.verify(key)
        if leaf.type != "use.receipt" or leaf.commit != commitment(self.salt, self.payload):
            raise Tampered("The log entry does not commit to this receipt.", code="wrong_commitment")
        try:
            body = parse_json(self.payload, limit=_MAX_PAYLOAD)
            held = canonical_json(body["receipt"])
        except (ComityError, KeyError, TypeError) as error:
            raise Tampered("The committed payload is not a receipt.", code="wrong_commitment") from error
        if held != canonical_json(self.receipt.to_dict()):
            raise Tampered("The committed payload is another receipt.", code="wrong_commitment")
        return checkpoint

    def to_dict(self) -> dict[str, object]:
        return {
            "receipt": self.receipt.to_dict(),
            "salt": to_base64(self.salt),
            "payload": to_base64(self.payload),
            "entry": self.entry.to_dict(),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, object]) -> ReceiptProof:
        receipt, entry = value.get("receipt"), value.get("entry")
        if not isinstance(receipt, Mapping) or not isinstance(entry, Mapping):
            raise Tampered("A receipt proof is malformed.", code="malformed_proof")
        return cls(
            UseReceipt.from_dict(receipt),
            from_base64(value.get("salt"), size=32),
            from_base64(value.get("payload")),
            EntryProof.from_dict(entry),
        )
