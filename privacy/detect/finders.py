"""The patterns and checks behind the recognisers: plain functions of a normalised text.

Each finder first finds candidates with a pattern that takes linear time on any input, then keeps those
whose check digit, date or numbering plan holds. Chinese has no spaces between words, and ``\\b`` takes a
Hanzi for a word character, so the edges of a number are stated as what they are: no ASCII letter or digit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date

from stdnum import luhn
from stdnum.cn import ric

from privacy.entities import EntityKind, Span
from privacy.identifiers import Rejected, canonical

__all__ = [
    "FINDERS",
    "find_bank_cards",
    "find_cn_landlines",
    "find_cn_mobiles",
    "find_cn_resident_ids",
    "find_emails",
    "find_phones",
]

_START = r"(?<![0-9A-Za-z])"
_END = r"(?![0-9A-Za-z])"

# ------------------------------------------------------------------------------------------ phones

_MOBILE = re.compile(
    _START
    + r"(?:\(?(?:\+|00)?86\)?[ -]{0,2})?"
    + r"(?:1[3-9][0-9](?P<gap>[ .-]?)[0-9]{4}(?P=gap)[0-9]{4}"
    + r"|1(?P<each>[ .-])[3-9](?:(?P=each)[0-9]){9})"
    + _END
)
# 0.13812345678 and 31.13812345678 are measurements; 1.13812345678 is an item of a list, and so is 12. where a
# line begins.
_DECIMAL_BEFORE = re.compile(r"(?:(?<![0-9])0|(?<!\A)(?<![\n0-9])[0-9]{2})\.\Z")
# SO-13812345678 and 2023-13812345678 are order numbers; Tel-13812345678 and Zhang-13812345678 are not: a code
# is short and in capitals, or holds a digit.
_CODE_BEFORE = re.compile(r"(?<![0-9A-Za-z])([A-Z]{2,4}|[A-Za-z]+[0-9]+|[0-9]{4,})[-_#/]\Z")
_CONTACT_WORDS = frozenset(
    "tel tele telephone phone mobile mob cell cellphone call sms fax contact wechat wx vx qq cn".split()  # noqa: SIM905
)


def _inside_a_code(text: str, start: int) -> bool:
    before = text[max(0, start - 24) : start]
    if _DECIMAL_BEFORE.search(before):
        return True
    code = _CODE_BEFORE.search(before)
    return code is not None and code[1].lower() not in _CONTACT_WORDS


def find_cn_mobiles(text: str) -> Iterator[Span]:
    """Mobile numbers of mainland China: 11 digits from 13 to 19, with or without +86, grouped or not.

    The numbering plan is not consulted beyond the second digit: new ranges open every few years, and a
    missed mobile is worse than a masked order number.
    """
    for match in _MOBILE.finditer(text):
        if not _inside_a_code(text, match.start()):
            yield Span(match.start(), match.end(), EntityKind.CN_MOBILE, 0.85)


# The numbering plan takes 0.1 ms to answer. A text with more candidates than this is no note but a list, or
# an attack; what comes after is taken for a phone unasked.
_CHECKED = 500

_LANDLINE = re.compile(
    _START + r"(?:\(0[1-9][0-9]{1,2}\) ?-? ?|0[1-9][0-9]{1,2}[ -]{0,2})[2-8][0-9]{2,3}[ -]?[0-9]{4}" + _END
)


def find_cn_landlines(text: str) -> Iterator[Span]:
    """Landlines of mainland China with their area code, if the numbering plan knows them."""
    for n, match in enumerate(_LANDLINE.finditer(text)):
        known = n >= _CHECKED or not isinstance(canonical("phone", match[0], region="CN"), Rejected)
        if known and not _inside_a_code(text, match.start()):
            yield Span(match.start(), match.end(), EntityKind.CN_LANDLINE, 0.7)


_INTERNATIONAL = re.compile(r"(?<![0-9A-Za-z+])\+[1-9](?:[ ().-]{0,2}[0-9]){6,14}" + _END)
_NORTH_AMERICAN = re.compile(
    _START + r"(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[.-][0-9]{4}" + _END
)


def find_phones(text: str) -> Iterator[Span]:
    """Numbers with a plus sign that some numbering plan knows; North American ones in their usual shape."""
    for n, match in enumerate(_INTERNATIONAL.finditer(text)):
        written = match[0]
        for _ in range(4):
            if n >= _CHECKED or not isinstance(canonical("phone", written), Rejected):
                yield Span(match.start(), match.start() + len(written), EntityKind.PHONE_NUMBER, 0.8)
                break
            # "+44 20 7946 0958 12" is a number and a twelve: give up the last group and look again.
            cut = max(written.rfind(" "), written.rfind("-"))
            if cut < 8:
                break
            written = written[:cut].rstrip(" ().-")
    for n, match in enumerate(_NORTH_AMERICAN.finditer(text)):
        if n >= _CHECKED or not isinstance(canonical("phone", match[0], region="US"), Rejected):
            yield Span(match.start(), match.end(), EntityKind.PHONE_NUMBER, 0.7)


# ------------------------------------------------------------------------------------- resident ID

_RESIDENT_ID = re.compile(_START + r"[1-9][0-9]{5}[ -]?(?:18|19|20)[0-9]{6}[ -]?[0-9]{3}[0-9Xx]" + _END)
_ID_WORDS = re.compile(r"身份|证件|证号|ID\b|identity", re.IGNORECASE)
# GB/T 2260: province-level divisions, and 83 (Taiwan residents under the 2018 rule).
_PROVINCES = frozenset(
    f"{region}{number}"
    for region, numbers in {
        1: "12345",
        2: "123",
        3: "1234567",
        4: "123456",
        5: "01234",
        6: "12345",
        7: "1",
        8: "123",
        9: "1",
    }.items()
    for number in numbers
)


def find_cn_resident_ids(text: str) -> Iterator[Span]:
    """Resident identity numbers of 18 characters (GB 11643-1999): province, date, check digit.

    One whose check digit alone is wrong still counts where the words before it say what it is.
    """
    for match in _RESIDENT_ID.finditer(text):
        number = re.sub(r"[ -]", "", match[0]).upper()
        if number[:2] not in _PROVINCES or not _is_date(number[6:14]):
            continue
        if ric.calc_check_digit(number) == number[17]:
            yield Span(match.start(), match.end(), EntityKind.CN_RESIDENT_ID, 1.0)
        elif _ID_WORDS.search(text, max(0, match.start() - 12), match.start()):
            yield Span(match.start(), match.end(), EntityKind.CN_RESIDENT_ID, 0.6)


def _is_date(digits: str) -> bool:
    try:
        date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return False
    return True


# -------------------------------------------------------------------------------------- bank card

# Overlapping on purpose: in "批次 1234 6222 0212 …" the card starts with the second group.
_CARD = re.compile(
    _START
    + r"(?=("
    + r"[0-9]{14,19}"
    + r"|[0-9]{4}(?P<gap>[ -])[0-9]{4}(?P=gap)[0-9]{4}(?P=gap)[0-9]{4}(?:(?P=gap)[0-9]{1,3})?"
    + r"|[0-9]{4}[ -][0-9]{6}[ -][0-9]{4,5}"
    + r"|[0-9]{6}[ -][0-9]{10,13}"
    + r")"
    + _END
    + r")"
)
_CARD_WORDS = re.compile(r"卡|银行|储蓄|card|bank|visa|master", re.IGNORECASE)
# Issuer ranges (ISO/IEC 7812): prefix pattern, lengths.
_ISSUERS: tuple[tuple[re.Pattern[str], frozenset[int]], ...] = (
    (re.compile(r"62|81[0-7]"), frozenset({16, 17, 18, 19})),  # UnionPay
    (
        re.compile(r"9558|60138|45806[123]"),
        frozenset({16, 18, 19}),
    ),  # mainland debit cards older than UnionPay
    (re.compile(r"4"), frozenset({16, 19})),  # Visa
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), frozenset({16})),  # Mastercard
    (re.compile(r"3[47]"), frozenset({15})),  # American Express
    (re.compile(r"35(?:2[89]|[3-8])"), frozenset({16, 19})),  # JCB
    (re.compile(r"6011|64[4-9]|65"), frozenset({16, 19})),  # Discover
    (re.compile(r"30[0-5]|3[689]"), frozenset({14})),  # Diners Club
)
# Sixteen digits that begin like 2411051230… are an order number of that minute more often than a card.
_DATED = re.compile(r"2[2-7](?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])(?:[01][0-9]|2[0-3])")


def find_bank_cards(text: str) -> Iterator[Span]:
    """Bank cards: a known issuer range (UnionPay and the international schemes) and the Luhn digit."""
    for match in _CARD.finditer(text):
        start, end = match.span(1)
        written = match[1]
        digits = re.sub(r"[ -]", "", written)
        if not any(len(digits) in lengths and issuer.match(digits) for issuer, lengths in _ISSUERS):
            continue
        if not luhn.is_valid(digits) or len(set(digits)) < 2:
            continue
        told = _CARD_WORDS.search(text, max(0, start - 12), start) is not None
        doubtful = len(written) == len(digits) and (_DATED.match(digits) or _inside_a_code(text, start))
        if told or not doubtful:
            yield Span(start, end, EntityKind.BANK_CARD, 0.95 if told else 0.8)


# ------------------------------------------------------------------------------------------ e-mail

# Latin letters with and without accents; Hanzi beside an address belong to the sentence, not to it.
_LETTER = "A-Za-z0-9\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
_LOCAL = re.compile(rf"[{_LETTER}._%+&'-]")
_DOMAIN = re.compile(
    rf"(?:[{_LETTER}](?:[{_LETTER}-]{{0,61}}[{_LETTER}])?\.)+"
    rf"(?:xn--[a-z0-9-]{{1,59}}|[A-Za-z\u00c0-\u024f]{{2,24}}){_END}"
)


def find_emails(text: str) -> Iterator[Span]:
    """E-mail addresses in Latin script."""
    at = text.find("@")
    while at >= 0:
        start = at
        while start > 0 and at - start < 64 and _LOCAL.match(text, start - 1):
            start -= 1
        while start < at and text[start] in "._%+&'-":
            start += 1
        # A domain has at most 253 characters; more is not looked at.
        domain = _DOMAIN.match(text[at + 1 : at + 255]) if start < at else None
        if domain is not None:
            yield Span(start, at + 1 + domain.end(), EntityKind.EMAIL_ADDRESS, 1.0)
        at = text.find("@", at + 1)


FINDERS: dict[EntityKind, Callable[[str], Iterator[Span]]] = {
    EntityKind.EMAIL_ADDRESS: find_emails,
    EntityKind.CN_RESIDENT_ID: find_cn_resident_ids,
    EntityKind.BANK_CARD: find_bank_cards,
    EntityKind.CN_MOBILE: find_cn_mobiles,
    EntityKind.CN_LANDLINE: find_cn_landlines,
    EntityKind.PHONE_NUMBER: find_phones,
}
