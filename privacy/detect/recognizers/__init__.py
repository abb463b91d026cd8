"""Presidio recognisers, usable in any Presidio analyser."""

from __future__ import annotations

from privacy.detect.recognizers.cards import BankCardRecognizer
from privacy.detect.recognizers.cn import CnLandlineRecognizer, CnMobileRecognizer, CnResidentIdRecognizer
from privacy.detect.recognizers.contact import EmailAddressRecognizer, PhoneNumberRecognizer
from privacy.detect.recognizers.people import PersonNameRecognizer

__all__ = [
    "BankCardRecognizer",
    "CnLandlineRecognizer",
    "CnMobileRecognizer",
    "CnResidentIdRecognizer",
    "EmailAddressRecognizer",
    "PersonNameRecognizer",
    "PhoneNumberRecognizer",
]
