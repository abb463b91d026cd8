"""What a piece of personal data in a text is, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["EntityKind", "ModelKind", "Span"]


class EntityKind(StrEnum):
    """Kinds of personal data that are found by shape and check; the values are Presidio entity names."""

    CN_MOBILE = "CN_MOBILE"
    CN_LANDLINE = "CN_LANDLINE"
    PHONE_NUMBER = "PHONE_NUMBER"  # any other country's, written with its plus sign or as in North America
    CN_RESIDENT_ID = "CN_RESIDENT_ID"
    BANK_CARD = "BANK_CARD"
    EMAIL_ADDRESS = "EMAIL_ADDRESS"

    @property
    def domain(self) -> str:
        """The token domain of this kind: a phone is one domain, however it was recognised."""
        return _DOMAINS[self]


class ModelKind(StrEnum):
    """Kinds that take a language model to find. They are sought only where a caller asks for them.

    They have no token domain: a name is shared by many people, so a token of it would join strangers.
    """

    PERSON = "PERSON"


_DOMAINS = {
    EntityKind.CN_MOBILE: "phone",
    EntityKind.CN_LANDLINE: "phone",
    EntityKind.PHONE_NUMBER: "phone",
    EntityKind.CN_RESIDENT_ID: "resident_id",
    EntityKind.BANK_CARD: "card",
    EntityKind.EMAIL_ADDRESS: "email",
}


@dataclass(frozen=True, slots=True)
class Span:
    """`text[start:end]` is personal data of `kind`; `score` is 0 to 1. The text itself is not kept."""

    start: int
    end: int
    kind: EntityKind | ModelKind
    score: float
