"""The consent record of a receipt: a log entry and what it opens to, in the words of ISO/IEC TS 27560.

`docs/consent-terms.md` has the table of names. What the standard has no field for stands under
`extension`; so do further members of a payload, under their own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from consent.encoding import Leaf, parse_time
from consent.events import EventType
from privacy.errors import ComityError, Tampered

__all__ = ["SCHEMA", "consent_record"]

SCHEMA = "ISO/IEC TS 27560:2023"

_STATES = {
    EventType.GRANTED: "given",
    EventType.RENEWED: "renewed",
    EventType.REFUSED: "refused",
    EventType.WITHDRAWN: "withdrawn",
    EventType.EXPIRED: "expired",
    EventType.INVALIDATED: "invalidated",
    EventType.OBJECTION: "objected",
}
_PLACED = {
    "actor", "basis", "data_categories", "effective_at", "expires_at", "jurisdiction", "language", "method",
    "notice", "partner", "purpose", "purpose_version", "recipients", "subject", "transfer_country", "v",
}  # fmt: skip
_EXTENSION = {
    "notice_version": "privacy_notice_version",
    "notice_hash": "privacy_notice_hash",
    "previous": "previous_record",
}


def consent_record(origin: str, leaf: Leaf, body: Mapping[str, Any]) -> dict[str, Any]:
    """The record of one decision: a pure function of what the log commits to.

    `origin` names the log, and with it who keeps it. Raises Tampered for entries that are no decision.
    """
    try:
        event = EventType(leaf.type)
        state = _STATES[event]
        parse_time(str(body["effective_at"]))
        purpose = {
            "purpose": body["purpose"],
            "purpose_type": body["purpose_version"],
            "lawful_basis": body["basis"],
            "recipient_third_parties": [body["partner"]],
        }
        happened = {
            "event_type": event.value,
            "event_state": state,
            "event_time": body["effective_at"],
            "entity_id": body["actor"],
            "collection_method": body["method"],
        }
        record: dict[str, Any] = {
            "schema_version": SCHEMA,
            "record_id": leaf.id,
            "pii_principal_id": body["subject"],
            "purposes": [purpose],
            "party_identification": [{"party_id": origin, "party_role": "pii_controller"}],
            "events": [happened],
        }
    except (KeyError, ValueError, ComityError):
        raise Tampered("This entry is not the decision of a person.", code="wrong_commitment") from None
    if "expires_at" in body:
        happened["validity_duration"] = body["expires_at"]
    for name, place in (("notice", "privacy_notice"), ("language", "language")):
        if name in body:
            record[place] = body[name]
    for name, place in (("jurisdiction", "jurisdiction"), ("transfer_country", "geographic_restrictions")):
        if name in body:
            purpose[place] = body[name]
    if isinstance(body.get("data_categories"), list):
        purpose["pii_information"] = [{"pii_type": category} for category in body["data_categories"]]
    if isinstance(body.get("recipients"), list):
        record["party_identification"] += [
            {"party_name": name, "party_role": "recipient"} for name in body["recipients"]
        ]
    more = {_EXTENSION.get(name, name): value for name, value in body.items() if name not in _PLACED}
    if more:
        record["extension"] = more
    return record
