"""Two-sided receipts: what one join was about, signed by both partners, checkable by anyone with the keys.

    body      job, kind, purpose, agreement hash; both sides' input commitments (padded sizes, consent
              heads, policy hash, set root); noise parameters; transcript hash
    output    SHA-256 of the analyst's released result, which the contributor never learns

The contributor signs the body; the analyst signs the body with the output hash. The receipt's id is the
hash of the body, so both sides file it under the same name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clean_room.armour import armoured, unarmoured
from clean_room.errors import PeerViolation
from clean_room.protocols.messages import InputCommitment
from clean_room.protocols.terms import (
    ActivateTerms,
    EpochTerms,
    OverlapTerms,
    ReachTerms,
    RefreshTerms,
    Terms,
    WaterfallTerms,
)
from clean_room.questions import read_commitment
from clean_room.thinning import guarantees, share
from consent.encoding import canonical_json
from privacy.errors import Misuse, Tampered
from privacy.signing import PublicKey, SigningKey

__all__ = ["Receipt", "ReceiptCheck", "check_receipt", "output_hash", "receipt_body", "verify"]

_ANALYST = "clean-room-receipt-analyst"
_CONTRIBUTOR = "clean-room-receipt-contributor"


def receipt_body(
    terms: Terms,
    kind: str,
    *,
    analyst: InputCommitment,
    contributor: InputCommitment,
    transcript: bytes,
    at: datetime,
) -> dict[str, Any]:
    """The body both nodes compute for themselves from what was committed in the run."""
    noise: dict[str, Any] = {"mechanism": "none", "epsilon": 0.0, "delta": 0.0}
    if isinstance(terms, OverlapTerms):
        noise = {
            "mechanism": "truncated discrete Laplace by contributor's dummies",
            "epsilon": terms.epsilon,
            "delta": terms.delta,
            "dummies_per_cell": terms.dummies,
        }
        if kind == "measure":
            noise["sums"] = "discrete Laplace by the contributor"
        if isinstance(terms, EpochTerms):
            # ε and δ are those of the whole epoch, charged with its first run.
            began = terms.epoch if isinstance(terms, RefreshTerms) else terms.job
            noise |= {"epoch": began, "generation": terms.generation, "refreshes": terms.refreshes}
        if isinstance(terms, WaterfallTerms):
            noise |= {"keys": list(terms.keys), "patterns": terms.patterns}
        if terms.keep < 1000:
            noise["thinning"] = {
                "keep": share(terms.keep),
                # The real intersection is the analyst's result, which this must not tell.
                "alone": guarantees(share(terms.keep), terms.delta),
            }
    if isinstance(terms, ActivateTerms):
        noise |= {
            "reveals": "the contributor's encrypted ids of shared people, under the rule for activations",
            "keep": share(terms.keep),
        }
    if isinstance(terms, ReachTerms):
        noise = {
            "mechanism": "truncated discrete Laplace by every contributor's dummies and in its list's length",
            "epsilon": terms.epsilon,
            "size_epsilon": terms.size_epsilon,
            "delta": terms.delta,
            "dummies_per_set": terms.dummies,
            "size_slack": terms.size_slack,
            "lists": terms.parties,
            "panel": terms.panel,
        }
    return {
        "v": 1,
        "job": terms.job,
        "kind": kind,
        "purpose": terms.purpose,
        "collaboration": terms.collaboration,
        "agreement_hash": terms.rules,
        "analyst": _side(terms.analyst, terms.analyst_dataset, analyst, terms.purpose),
        "contributor": _side(terms.contributor, terms.contributor_dataset, contributor, terms.purpose),
        "terms_hash": hashlib.sha256(terms.to_bytes()).hexdigest(),
        "noise": noise,
        "transcript_hash": transcript.hex(),
        "at": at.isoformat(),
    }


def _side(name: str, dataset: str, commitment: InputCommitment, purpose: str) -> dict[str, Any]:
    return {
        "partner": name,
        "dataset": dataset,
        "padded_sizes": list(commitment.sizes),
        "consent": dict(read_commitment(commitment.consent, purpose=purpose)),
        "policy": commitment.policy.hex(),
    }


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt as stored and shown. `contributor_signature` is empty until the contributor has signed."""

    body: Mapping[str, Any]
    output_hash: str
    analyst_signature: str
    contributor_signature: str = ""

    @property
    def id(self) -> str:
        """Hex, the first 32 digits of the SHA-256 of the body."""
        return hashlib.sha256(canonical_json(dict(self.body))).hexdigest()[:32]

    @classmethod
    def by_analyst(cls, body: Mapping[str, Any], output_hash: str, key: SigningKey) -> Receipt:
        """The analyst's half."""
        return cls(body, output_hash, armoured(key.sign(_ANALYST, _whole(body, output_hash))))

    def countersigned(self, key: SigningKey) -> Receipt:
        """The receipt with the contributor's signature over the body."""
        signature = armoured(key.sign(_CONTRIBUTOR, canonical_json(dict(self.body))))
        return Receipt(self.body, self.output_hash, self.analyst_signature, signature)

    def with_contributor(self, signature: object) -> Receipt:
        """The receipt with a signature that came from the contributor, not yet verified."""
        if not isinstance(signature, str):
            raise PeerViolation("the partner did not sign the receipt.")
        return Receipt(self.body, self.output_hash, self.analyst_signature, signature)

    def check_analyst(self, key: PublicKey) -> None:
        """Raises `Tampered` unless the analyst's signature holds."""
        key.verify(_ANALYST, _whole(self.body, self.output_hash), _raw(self.analyst_signature))

    def check_contributor(self, key: PublicKey) -> None:
        """Raises `Tampered` unless the contributor's signature holds."""
        key.verify(_CONTRIBUTOR, canonical_json(dict(self.body)), _raw(self.contributor_signature))

    def document(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "body": dict(self.body),
            "output_hash": self.output_hash,
            "analyst_signature": self.analyst_signature,
            "contributor_signature": self.contributor_signature,
        }

    @classmethod
    def from_document(cls, document: object) -> Receipt:
        """Raises `Misuse(malformed_receipt)`; checks no signature."""
        names = ("output_hash", "analyst_signature", "contributor_signature")
        if (
            not isinstance(document, Mapping)
            or not isinstance(document.get("body"), Mapping)
            or not all(isinstance(document.get(name), str) for name in names)
        ):
            raise Misuse("this is not a receipt.", code="malformed_receipt")
        return cls(document["body"], *(document[name] for name in names))


def verify(document: object, *, analyst: PublicKey, contributor: PublicKey) -> Receipt:
    """Check both signatures and the id, offline. Raises `Tampered` or `Misuse(malformed_receipt)`."""
    receipt = Receipt.from_document(document)
    if isinstance(document, Mapping) and document.get("id", receipt.id) != receipt.id:
        raise Tampered("the receipt's id is not the hash of its body.")
    receipt.check_analyst(analyst)
    receipt.check_contributor(contributor)
    return receipt


@dataclass(frozen=True, slots=True)
class ReceiptCheck:
    """What of a receipt holds. `result`: whether it is the one signed; None if there was none to compare."""

    analyst: bool
    contributor: bool
    agreement: bool
    result: bool | None

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the receipt."""
        return self.analyst and self.contributor and self.agreement and self.result is not False


def check_receipt(
    document: object,
    *,
    keys: Mapping[str, PublicKey],
    agreements: Collection[str],
    result: Mapping[str, Any] | None = None,
) -> ReceiptCheck:
    """Check a receipt with nothing but what is handed in: offline, and without believing any node.

    keys: the parties' by name; agreements: the hashes of all versions both signed; result: what the analyst
    was shown, if at hand. Never raises for what the receipt holds: one that cannot be read does not hold.
    """
    try:
        receipt = Receipt.from_document(document)
        named = document.get("id", receipt.id) == receipt.id if isinstance(document, Mapping) else False
        analyst, contributor = (
            keys[str(receipt.body[side]["partner"])] for side in ("analyst", "contributor")
        )
        known = receipt.body.get("agreement_hash") in agreements
    except (Misuse, KeyError, TypeError, ValueError):
        return ReceiptCheck(False, False, False, None)
    return ReceiptCheck(
        analyst=named and _holds(receipt.check_analyst, analyst),
        contributor=named and _holds(receipt.check_contributor, contributor),
        agreement=known,
        result=None if result is None else output_hash(dict(result)) == receipt.output_hash,
    )


def _holds(check: Callable[[PublicKey], None], key: PublicKey) -> bool:
    try:
        check(key)
    except Tampered:
        return False
    return True


_ADDED = frozenset(
    {"budget_left", "receipt_id", "receipts", "partners", "people", "repeated_from", "first_cost"}
)


def output_hash(result: dict[str, Any]) -> str:
    """SHA-256 (hex) of a released result, without what a node adds once the receipt is signed."""
    # A repeat costs nothing; what was signed is what its answer cost the first time.
    first = result | dict(result.get("first_cost") or {})
    signed = {name: value for name, value in first.items() if name not in _ADDED}
    return hashlib.sha256(canonical_json(signed)).hexdigest()


def _whole(body: Mapping[str, Any], output_hash: str) -> bytes:
    return canonical_json({"body": dict(body), "output_hash": output_hash})


def _raw(text: str) -> bytes:
    return unarmoured(text, "a signature on the receipt", Tampered)
