"""From a query and the agreement to the terms of the protocol run: the same bytes on both nodes.

The contributor never takes terms from the wire: it derives them here from the query and compares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clean_room.agreements import Agreement
from clean_room.errors import Misuse, PeerViolation
from clean_room.jobs import Query, Source
from clean_room.noise import REFRESHES, NoisePlan, in_epochs, summed_columns
from clean_room.protocols.terms import (
    ActivateTerms,
    AlignTerms,
    EpochTerms,
    EstimateTerms,
    MeasureTerms,
    OverlapTerms,
    PartnerList,
    ReachTerms,
    RefreshTerms,
    Terms,
    WaterfallTerms,
)
from clean_room.rules import Asked, cell_labels
from clean_room.samples import Sampler
from consent.encoding import canonical_json, parse_json
from consent.receipts import GateEvidence
from privacy.errors import BadInput

__all__ = [
    "asked_of",
    "asked_under",
    "commitment_document",
    "read_commitment",
    "sources_of",
    "terms_for",
]

_COMMITTED = (
    "purpose",
    "partner",
    "log_origin",
    "log_size",
    "log_root",
    "policy_hash",
    "set_root",
    "checked_at",
)


def asked_of(query: Query, agreement: Agreement, analyst_key: str) -> Asked:
    """The query in the words of the agreement; `analyst_key` is the asking node's public key (text)."""
    return Asked(
        query=query,
        agreement=agreement,
        analyst=agreement.of_key(analyst_key).name,
        contributor=agreement.other_than(analyst_key).name,
    )


def sources_of(query: Query) -> tuple[Source, ...]:
    """All partners' lists of a reach, in the order of the ring: by collaboration, whoever is asked."""
    own = Source(query.collaboration, query.partner_dataset, query.partner_segment)
    return tuple(sorted((own, *query.others), key=lambda source: source.collaboration))


def asked_under(query: Query, source: Source, epsilon: float) -> Query:
    """A reach as it is put to one of its partners: its list first, the others after it, ε spelt out."""
    return replace(
        query,
        collaboration=source.collaboration,
        partner_dataset=source.dataset,
        partner_segment=source.segment,
        others=tuple(other for other in sources_of(query) if other != source),
        epsilon=epsilon,
    )


def terms_for(
    asked: Asked,
    job: str,
    plan: NoisePlan,
    sampler: Sampler | None = None,
    refresh: tuple[str, int] | None = None,
) -> Terms:
    """The protocol terms of a query that the rules allow; an `estimate` needs its sampler.

    refresh: of a query in epochs, the epoch (the job of its first run) that it goes on with, and the
    generation; None for a first run.
    """
    query, agreement = asked.query, asked.agreement
    shared: dict[str, Any] = {
        "job": job,
        "purpose": query.purpose,
        "analyst": asked.analyst,
        "contributor": asked.contributor,
        "kind": query.key,
        "profile": agreement.terms.key_profile,
        "collaboration": agreement.id,
        "rules": agreement.hash,
        "analyst_dataset": query.dataset,
        "contributor_dataset": query.partner_dataset,
    }
    if query.kind == "align":
        return AlignTerms(**shared)
    if query.kind == "activate":
        return ActivateTerms(**shared, keep=round(1000 * agreement.terms.activation_keep))
    if query.kind == "reach":
        return ReachTerms(
            **shared,
            partners=tuple(
                PartnerList(s.collaboration, s.dataset, s.segment or "") for s in sources_of(query)
            ),
            analyst_segment=query.segment or "",
            dummies=2 * plan.half_width,
            size_slack=plan.size_slack,
            epsilon=plan.epsilon,
            size_epsilon=plan.size_epsilon,
            delta=plan.delta,
        )
    shared |= {
        "analyst_segments": _labels(asked, own=True),
        "contributor_segments": _labels(asked, own=False),
        "dummies": 2 * plan.half_width,
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "keep": round(1000 * plan.keep),
    }
    if query.fallback_keys:
        shared["dummies"] *= plan.patterns
        return WaterfallTerms(**shared, keys=(query.key, *query.fallback_keys))
    if in_epochs(asked):
        shared["refreshes"] = REFRESHES
        if refresh is None:
            return EpochTerms(**shared)
        return RefreshTerms(**shared, epoch=refresh[0], number=refresh[1])
    if query.kind == "overlap":
        return OverlapTerms(**shared)
    if query.kind == "estimate":
        if sampler is None:
            raise Misuse("an estimate has no sample yet.", code="illegal_step")
        key = sampler.key
        return EstimateTerms(**shared, step=sampler.step, period=key.period, sample=key.id)
    columns = summed_columns(asked)
    if not columns:
        raise PeerViolation("a measure query names no agreed column.")
    return MeasureTerms(**shared, columns=columns)


def _labels(asked: Asked, *, own: bool) -> tuple[str, ...]:
    query = asked.query
    if own:
        labels, segment = cell_labels(asked.own, query.dimensions), query.segment
    else:
        labels, segment = cell_labels(asked.partners, query.partner_dimensions), query.partner_segment
    # The segment is part of the label, so that two questions over different segments differ in their terms.
    return labels if segment is None else tuple(f"{segment} · {label}" for label in labels)


def commitment_document(evidence: GateEvidence) -> bytes:
    """What of the consent evidence a partner is shown: heads, policy and set root, not how many people."""
    document = evidence.to_dict()
    return canonical_json({name: document[name] for name in _COMMITTED})


def read_commitment(consent: bytes, *, purpose: str) -> Mapping[str, Any]:
    """A partner's commitment, checked in shape; raises `PeerViolation`."""
    try:
        document = parse_json(consent, limit=1 << 14)
    except BadInput:
        raise PeerViolation("the partner's consent commitment is not JSON.") from None
    if not isinstance(document, dict) or set(document) != set(_COMMITTED) or document["purpose"] != purpose:
        raise PeerViolation("the partner's consent commitment is malformed or for another purpose.")
    return document


def policy_bytes(evidence: GateEvidence) -> bytes:
    """The policy hash as the 32 bytes the protocol commits to."""
    try:
        raw = bytes.fromhex(evidence.policy_hash)
    except ValueError:
        raw = b""
    return (
        raw
        if len(raw) == hashlib.sha256().digest_size
        else hashlib.sha256(evidence.policy_hash.encode()).digest()
    )
