"""Partial masks: enough left to recognise one's own record by, the rest stars.

A value that does not have the shape a style is made for becomes ``****``: what is not understood is not
shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from privacy.detect.domains import canonical_value
from privacy.detect.text import normalise
from privacy.identifiers import Rejected

__all__ = ["HIDDEN", "STYLES", "STYLE_OF_CLASS"]

HIDDEN = "****"
_CN_MOBILE = re.compile(rb"\+86(1[3-9][0-9]{9})")
_HANZI = re.compile("[\u3400-\u9fff\U00020000-\U0003ffff]")
_COMPOUND_SURNAMES = frozenset(
    re.findall(
        "..",
        "欧阳太史端木上官司马东方独孤南宫万俟闻人夏侯诸葛尉迟公羊赫连澹台皇甫宗政濮阳公冶太叔"
        "申屠公孙慕容仲孙钟离长孙宇文司徒鲜于司空闾丘令狐百里呼延东郭南门西门左丘第五轩辕拓跋",
    )
)


def mobile(text: str) -> str:
    """``138****1234`` of a Chinese mobile."""
    form = canonical_value("phone", text)
    match = None if isinstance(form, Rejected) else _CN_MOBILE.fullmatch(form)
    if match is None:
        return HIDDEN
    digits = match[1].decode()
    return f"{digits[:3]}****{digits[7:]}"


def surname(text: str) -> str:
    """``张**`` of a Chinese name, compound surnames whole; ``S***`` of any other."""
    name = normalise(text).text.strip()
    if not name:
        return HIDDEN
    if _HANZI.match(name):
        shown = name[:2] if name[:2] in _COMPOUND_SURNAMES and len(name) > 2 else name[:1]
        return f"{shown}**"
    return f"{name[0]}***" if name[0].isalpha() else HIDDEN


def resident_id(text: str) -> str:
    """Birthplace and birth date of a resident ID: ``11010519491231****``."""
    form = canonical_value("resident_id", text)
    return HIDDEN if isinstance(form, Rejected) or len(form) != 18 else f"{form[:14].decode()}****"


def card(text: str) -> str:
    """Issuer and last four of a card: ``622202******0123`` (PCI DSS 4.0, requirement 3.4.1)."""
    form = canonical_value("card", text)
    if isinstance(form, Rejected) or len(form) < 14:
        return HIDDEN
    return f"{form[:6].decode()}{'*' * (len(form) - 10)}{form[-4:].decode()}"


def email(text: str) -> str:
    """First letter and domain: ``z***@example.com``."""
    form = canonical_value("email", text)
    if isinstance(form, Rejected):
        return HIDDEN
    local, _, domain = form.decode().rpartition("@")
    return f"{local[0]}***@{domain}"


STYLES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {"mobile": mobile, "surname": surname, "resident_id": resident_id, "card": card, "email": email}
)
STYLE_OF_CLASS: Mapping[str, str] = MappingProxyType(
    {
        "cn_mobile": "mobile",
        "person": "surname",
        "cn_resident_id": "resident_id",
        "bank_card": "card",
        "email": "email",
    }
)
