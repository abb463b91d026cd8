"""Model cards: what a run did, to whom it may matter, in plain JSON.

Each side writes its own. It names data, purpose, the consent heads of every round, metrics and limits; it
holds no weight, no row and no count of withdrawn people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from federated.gate import RoundReceipt
from federated.runs import Run
from federated.vertical.terms import RunTerms

__all__ = ["active_card", "passive_card"]

_LIMITS = [
    "Both partners are assumed to follow the protocol; transcripts and receipts show what was done, "
    "not what was done beside it.",
    "The label holder saw, for each training row, the scores along the directions counted here; with as many "
    "directions as partner features these would determine the features up to an unknown linear map.",
    "People who withdrew after the last round are still reflected in the weights until it is retrained.",
    "No red-team, fairness or membership-inference report has been made for this version.",
]


def _head(receipt: RoundReceipt) -> dict[str, Any]:
    return {
        "origin": receipt.log_origin,
        "size": receipt.log_size,
        "root": receipt.log_root,
        "policy_hash": receipt.policy_hash,
        "set_root": receipt.set_root,
        "use_receipt": receipt.use_receipt,
        "checked_at": receipt.checked_at,
    }


def heads(rounds: Sequence[Mapping[str, RoundReceipt]]) -> list[dict[str, Any]]:
    """Consent heads per round: `{"round": i, "parties": {name: head}}`."""
    return [
        {"round": i, "parties": {name: _head(receipt) for name, receipt in receipts.items()}}
        for i, receipts in enumerate(rounds, 1)
    ]


def _common(run: Run, terms: RunTerms, now: str) -> dict[str, Any]:
    return {
        "v": 1,
        "run": run.id,
        "role": run.role.value,
        "partner": run.partner,
        "collaboration": run.collaboration,
        "created_at": now,
        "purpose": terms.purpose,
        "model": {
            "kind": "vertical logistic regression",
            "protection": "BFV-encrypted residuals, gradients masked uniformly mod t, smudged",
            "l2": terms.l2,
            "rounds": terms.rounds,
            "epochs_at_most": terms.epochs,
            "tolerance": terms.tolerance,
            "test_fraction": terms.test_fraction,
        },
        "limits": list(_LIMITS),
    }


def active_card(
    run: Run,
    terms: RunTerms,
    *,
    label: str,
    columns: Sequence[str],
    partner_columns: Sequence[str],
    result: Mapping[str, Any],
    now: str,
) -> dict[str, Any]:
    """The label holder's card."""
    return {
        **_common(run, terms, now),
        "data": {
            "dataset": run.request["dataset"],
            "partner_dataset": run.request["partner_dataset"],
            "alignment": run.alignment,
            "aligned_people": terms.rows,
            "held_out": "by a keyed hash of the identifier: the same people in every run of this dataset "
            "with this partner at this test fraction",
            "label": label,
            "columns": list(columns),
            "partner_columns": list(partner_columns),
        },
        "metrics": {name: result[name] for name in ("auc_alone", "auc_joint", "train_rows", "test_rows")},
        "disclosed": {
            "to_label_holder": f"{result['directions_shown']} score vectors over the training rows, "
            "partial scores of the test rows",
            "to_feature_holder": f"{result['epochs']} exact gradients of {terms.features} numbers",
        },
        "heads": result["heads"],
    }


def passive_card(
    run: Run, terms: RunTerms, columns: Sequence[str], receipts: Sequence[RoundReceipt], now: str
) -> dict[str, Any]:
    """The feature holder's card; metrics are with the label holder."""
    return {
        **_common(run, terms, now),
        "data": {
            "dataset": run.request["dataset"],
            "alignment": run.alignment,
            "aligned_people": terms.rows,
            "columns": list(columns),
        },
        "metrics": {"held_by": run.partner},
        "heads": heads([{"own": receipt} for receipt in receipts]),
    }
