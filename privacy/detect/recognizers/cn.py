"""Recognisers for mainland China."""

from __future__ import annotations

from privacy.detect.recognizers.checked import CheckedRecognizer
from privacy.entities import EntityKind

__all__ = ["CnLandlineRecognizer", "CnMobileRecognizer", "CnResidentIdRecognizer"]


class CnMobileRecognizer(CheckedRecognizer):
    """CN_MOBILE: mobile numbers, with or without +86, in any usual grouping."""

    KIND = EntityKind.CN_MOBILE


class CnLandlineRecognizer(CheckedRecognizer):
    """CN_LANDLINE: landlines with area code, checked against the numbering plan."""

    KIND = EntityKind.CN_LANDLINE


class CnResidentIdRecognizer(CheckedRecognizer):
    """CN_RESIDENT_ID: 18-character identity numbers with province, date and check digit."""

    KIND = EntityKind.CN_RESIDENT_ID
