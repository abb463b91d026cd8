"""The terms under which somebody decided: what they were shown, under which law, who gets what, and where.

All of it is optional and goes into the payload under the names given here. `docs/consent-terms.md` maps
every name onto ISO/IEC TS 27560 and the W3C Data Privacy Vocabulary.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import lru_cache

from consent.encoding import canonical_json
from privacy.errors import BadInput
from privacy.signing import PublicKey

__all__ = ["ConsentTerms", "ConsentType", "members"]

MAX_NAMES = 64
MAX_NAME = 200  # characters
MAX_INDEX = (1 << 53) - 1

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8}){0,3}", re.ASCII)
_JURISDICTION = re.compile(r"[A-Z]{2}(?:-[A-Z0-9]{1,3})?", re.ASCII)
_COUNTRY = re.compile(r"[A-Z]{2}", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)


class ConsentType(StrEnum):
    """How a consent was expressed. Each of them is also every one before it."""

    EXPLICIT = "explicit"
    """by a statement or a clear act about this very thing"""
    SEPARATE = "separate"
    """asked for apart from everything else"""
    WRITTEN = "written"

    def satisfies(self, wanted: ConsentType) -> bool:
        order = list(ConsentType)
        return order.index(self) >= order.index(wanted)


@dataclass(frozen=True, slots=True)
class ConsentTerms:
    """Raises BadInput for anything malformed; what is not known stays None or empty.

    - `notice`, `notice_version`, `notice_hash` (hex SHA-256 of its text), `language` (BCP 47), `ui_hash`
      (hex SHA-256 of the screen): what was shown. Name and language are enough where the policy holds the
      notice: the ledger fills in the rest.
    - `jurisdiction`: ISO 3166-1 or 3166-2 (`CN`, `DE`, `US-CA`), or `EU`; decides which law is held to.
    - `data_categories`: names of the policy; `recipients`: organisations by name.
    - `transfer_country` (ISO 3166-1) and `transfer_route` (a name of the law, as `standard_contract`).
    - `consent_type`: explicit, separate or written.
    - `previous`: index of the entry that this one continues (the grant renewed, the consent withdrawn).
    - `actor_key`, `actor_signature`: an Ed25519 signature by whoever acted (`consent.actors`), 64 bytes.
    """

    notice: str | None = None
    notice_version: int | None = None
    notice_hash: str | None = None
    language: str | None = None
    ui_hash: str | None = None
    jurisdiction: str | None = None
    data_categories: tuple[str, ...] = ()
    recipients: tuple[str, ...] = ()
    transfer_country: str | None = None
    transfer_route: str | None = None
    consent_type: ConsentType | None = None
    previous: int | None = None
    actor_key: PublicKey | None = None
    actor_signature: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, pattern, form in (
            ("notice", _NAME, "a lower-case name"),
            ("notice_hash", _HASH, "64 hexadecimal digits"),
            ("ui_hash", _HASH, "64 hexadecimal digits"),
            ("language", _LANGUAGE, "a language tag as zh or en-GB"),
            ("jurisdiction", _JURISDICTION, "a code of ISO 3166 as CN, DE or US-CA"),
            ("transfer_country", _COUNTRY, "a country code of ISO 3166 as SG"),
            ("transfer_route", _NAME, "a lower-case name"),
        ):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
                raise BadInput(f"The field {name} is {form}.", code="bad_terms")
        for name in ("notice_version", "previous"):
            number = getattr(self, name)
            if number is not None and not (
                isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= MAX_INDEX
            ):
                raise BadInput(f"The field {name} is a whole number.", code="bad_terms")
        for name in ("data_categories", "recipients"):
            _names_checked(name, getattr(self, name))
        if not all(_NAME.fullmatch(category) for category in self.data_categories):
            raise BadInput("Data categories have lower-case names.", code="bad_terms")
        if self.consent_type is not None and not isinstance(self.consent_type, ConsentType):
            raise BadInput("A consent is explicit, separate or written.", code="bad_terms")
        if (self.actor_key is None) != (self.actor_signature is None):
            raise BadInput("An actor's signature comes with the key it is by.", code="bad_terms")
        if self.actor_signature is not None and len(self.actor_signature) != 64:
            raise BadInput("An actor's signature has 64 bytes.", code="bad_actor_signature")


def _names_checked(field_name: str, names: object) -> None:
    if not isinstance(names, tuple) or len(names) > MAX_NAMES or len(set(names)) != len(names):
        raise BadInput(f"The field {field_name} is up to {MAX_NAMES} different names.", code="bad_terms")
    for name in names:
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or not name.isprintable():
            raise BadInput(
                f"A name in {field_name} has 1 to {MAX_NAME} printable characters.", code="bad_terms"
            )


@lru_cache(1024)
def members(terms: ConsentTerms) -> tuple[tuple[str, str], ...]:
    """The members that `terms` adds to a payload: (name, canonical JSON of the value), set ones only."""
    return tuple((name, canonical_json(value).decode()) for name, value in plain(terms).items())


def plain(terms: ConsentTerms) -> dict[str, object]:
    """The same as JSON values: `actor_key` and `actor_signature` in base64."""
    found: dict[str, object] = {}
    for each in fields(terms):
        value = getattr(terms, each.name)
        if value is None or value == ():
            continue
        if isinstance(value, PublicKey):
            value = value.to_text()
        elif isinstance(value, bytes):
            value = b64encode(value).decode()
        elif isinstance(value, tuple):
            value = list(value)
        found[each.name] = value.value if isinstance(value, ConsentType) else value
    return found
