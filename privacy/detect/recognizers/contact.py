"""Recognisers for e-mail addresses and telephone numbers anywhere."""

from __future__ import annotations

from privacy.detect.recognizers.checked import CheckedRecognizer
from privacy.entities import EntityKind

__all__ = ["EmailAddressRecognizer", "PhoneNumberRecognizer"]


class EmailAddressRecognizer(CheckedRecognizer):
    """EMAIL_ADDRESS: addresses in Latin script, also with Hanzi right beside them."""

    KIND = EntityKind.EMAIL_ADDRESS


class PhoneNumberRecognizer(CheckedRecognizer):
    """PHONE_NUMBER: numbers with a plus sign, and North American ones in their usual shape."""

    KIND = EntityKind.PHONE_NUMBER
