"""Recogniser for payment cards."""

from __future__ import annotations

from privacy.detect.recognizers.checked import CheckedRecognizer
from privacy.entities import EntityKind

__all__ = ["BankCardRecognizer"]


class BankCardRecognizer(CheckedRecognizer):
    """BANK_CARD: UnionPay and the international schemes, with Luhn digit."""

    KIND = EntityKind.BANK_CARD
