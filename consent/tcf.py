"""IAB Europe TCF v2 TC strings (versions 2.0 to 2.3), decoded strictly.

Source: IAB Tech Lab, Consent string and vendor list formats v2. Strict: what the format does not allow is
refused, what was read is bounded, and nothing is taken for consent that was not read. (The package iab-tcf
0.2.2 reads the same from well-formed strings, and takes empty and truncated ones for signals as well.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from consent.bits import BitReader, bad

__all__ = ["TcString", "parse_tc_string"]

VERSION = 2
_MAX_SEGMENTS = 4
_MAX_RESTRICTIONS = 1024
_DISCLOSED, _ALLOWED, _PUBLISHER = 1, 2, 3
_RESTRICTIONS = ("not_allowed", "require_consent", "require_legitimate_interest")


@dataclass(frozen=True, slots=True)
class TcString:
    """What a TC string says. Purposes are 1 to 24, vendors ids of the Global Vendor List.

    `publisher_restrictions` maps (purpose, kind) to first and last vendor of ranges; `disclosed_vendors` is
    None where the segment is missing.
    """

    created: datetime
    updated: datetime
    cmp: tuple[int, int]
    screen: int
    language: str
    vendor_list: int
    policy: int
    service_specific: bool
    non_standard_texts: bool
    special_features: frozenset[int]
    purposes: frozenset[int]
    purposes_interest: frozenset[int]
    purpose_one_treatment: bool
    publisher_country: str
    vendors: frozenset[int] = field(repr=False)
    vendors_interest: frozenset[int] = field(repr=False)
    publisher_restrictions: Mapping[tuple[int, str], tuple[tuple[int, int], ...]] = field(repr=False)
    disclosed_vendors: frozenset[int] | None = field(default=None, repr=False)
    allowed_vendors: frozenset[int] | None = field(default=None, repr=False)
    publisher_purposes: frozenset[int] | None = None

    def to_dict(self) -> dict[str, object]:
        """The part kept in the payload beside the raw string."""
        return {
            "version": VERSION,
            "policy": self.policy,
            "cmp": list(self.cmp),
            "language": self.language,
            "vendor_list": self.vendor_list,
            "updated": self.updated.isoformat(),
            "service_specific": self.service_specific,
            "purposes": sorted(self.purposes),
            "purposes_interest": sorted(self.purposes_interest),
            "publisher_country": self.publisher_country,
        }


def parse_tc_string(text: str) -> TcString:
    """Raises BadInput(bad_signal) for anything that is not a TC string of version 2."""
    core, *rest = text.split(".")
    if len(rest) >= _MAX_SEGMENTS:
        raise bad("has too many segments")
    r = BitReader(core)
    if r.integer(6) != VERSION:
        raise bad("is of a version that is not read")
    created, updated = r.moment(), r.moment()
    cmp = (r.integer(12), r.integer(12))
    screen, language, vendor_list, policy = r.integer(6), r.letters(2), r.integer(12), r.integer(6)
    specific, texts = r.flag(), r.flag()
    features, purposes, interest = r.members(12), r.members(24), r.members(24)
    treatment, country = r.flag(), r.letters(2)
    vendors, vendors_interest = r.vendors(), r.vendors()
    restrictions: dict[tuple[int, str], tuple[tuple[int, int], ...]] = {}
    count = r.integer(12)
    if count > _MAX_RESTRICTIONS:
        raise bad("has too many publisher restrictions")
    for _ in range(count):
        purpose, kind = r.integer(6), r.integer(2)
        if kind >= len(_RESTRICTIONS):
            raise bad("has a publisher restriction of no known kind")
        restrictions[purpose, _RESTRICTIONS[kind]] = r.pairs(65_535)
    segments = _segments(rest)
    return TcString(
        created, updated, cmp, screen, language, vendor_list, policy, specific, texts,
        features, purposes, interest, treatment, country, vendors, vendors_interest, restrictions,
        segments.get(_DISCLOSED), segments.get(_ALLOWED), segments.get(_PUBLISHER),
    )  # fmt: skip


def _segments(texts: list[str]) -> dict[int, frozenset[int]]:
    found: dict[int, frozenset[int]] = {}
    for text in texts:
        r = BitReader(text)
        kind = r.integer(3)
        if kind in found:
            raise bad("has a segment twice")
        if kind in (_DISCLOSED, _ALLOWED):
            found[kind] = r.vendors()
        elif kind == _PUBLISHER:
            found[kind] = r.members(24)
            r.members(24)
            custom = r.integer(6)
            r.members(custom)
            r.members(custom)
        else:
            raise bad("has a segment of no known kind")
    return found
