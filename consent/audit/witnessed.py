"""Who has cosigned a log so far, as a report tells it and as its reader checks it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from consent.checkpoint import Checkpoint, open_checkpoint
from consent.cosignatures import witness_key
from consent.encoding import render_time, to_micros
from consent.errors import InvalidNote
from consent.ledger import Ledger
from consent.merkle import verify_consistency
from consent.notes import VerifierKey
from consent.proofs import path_from, to_base64
from consent.trust_policy import NONE, TrustPolicy
from privacy.errors import Tampered

__all__ = ["check_witnessed", "witnessed_by"]


def witnessed_by(ledger: Ledger, head: Checkpoint, policy: TrustPolicy | None) -> dict[str, object]:
    """The newest cosigned checkpoint, how it leads to `head`, its cosignatures, and whether they suffice.

    Without a policy any partner's cosignature is enough; `quorum` is None where nobody could cosign.
    """
    rule = policy or TrustPolicy.any_of(
        {row.name: witness_key(VerifierKey.from_text(row.vkey)) for row in ledger.partners()}
    )
    quorum: bool | None = None if rule.quorum == NONE else False
    static = ledger.log.static
    cosigned = None if static is None else static.cosigned()
    if cosigned is None:
        return {"cosignatures": [], "quorum": quorum}
    try:
        opened, enough = rule.open(cosigned.text, ledger.key)
    except InvalidNote:
        return {"cosignatures": [], "quorum": quorum}
    smaller, larger = sorted((cosigned.size, head.size))
    return {
        "witnessed": cosigned.text,
        "witnessed_size": cosigned.size,
        "consistency": [to_base64(step) for step in ledger.log.consistency(smaller, larger)],
        "cosignatures": [
            {"name": made.key.name, "at": render_time(to_micros(made.at))} for made in opened.cosignatures
        ],
        "quorum": None if rule.quorum == NONE else enough,
    }


def check_witnessed(told: Mapping[str, Any], head: Checkpoint, key: VerifierKey) -> Checkpoint:
    """The cosigned checkpoint that a report tells of, or `head` where it tells of none.

    Raises Tampered unless the log's key has signed both and one extends the other.
    """
    if "witnessed" not in told:
        return head
    cosigned = open_checkpoint(str(told["witnessed"]), [key])
    if cosigned.size != told["witnessed_size"]:
        raise Tampered("The cosigned checkpoint has another size than the report says.")
    smaller, larger = sorted((cosigned, head), key=lambda checkpoint: checkpoint.size)
    proof = path_from(told["consistency"])
    verify_consistency(smaller.size, larger.size, smaller.root, larger.root, proof)
    return cosigned
