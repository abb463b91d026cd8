"""Canonical forms of e-mail addresses and telephone numbers, under named and versioned profiles.

Two partners can only find the people they share if both write an identifier in the same way, so the
rules have names, and the name travels with every set that was made by them:

=========  ==================================================  ====================  ===============
profile    e-mail                                              phone                 match key
=========  ==================================================  ====================  ===============
pair-1     trim, lower; ASCII only                             E.164                 SHA-256, hex
admap-1    trim, lower                                         E.164                 SHA-256, hex
uid2-1     trim, lower; gmail.com without dots and +tag        E.164                 SHA-256, base64
google-1   no spaces, lower; gmail.com and googlemail.com      E.164                 SHA-256, hex
           without dots and +tag
meta-1     trim, lower                                         E.164 without the +   SHA-256, hex
comity-1   NFKC, no invisible characters, trim, lower, IDNA    E.164                 the bytes
           domain; gmail.com and googlemail.com become
           gmail.com without dots and +tag
=========  ==================================================  ====================  ===============

What is not an identifier at all is `Rejected` with a short reason; whether an address is a placeholder or
shared by a family is a question for those who know the dataset, not for this module.
"""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import Literal

import idna
import phonenumbers
import pyarrow as pa
import pyarrow.compute as pc

from privacy.errors import BadInput, Misuse

__all__ = [
    "PROFILES",
    "CanonicalColumn",
    "Kind",
    "Profile",
    "Rejected",
    "canonical",
    "canonical_column",
    "match_key",
]


class Kind(StrEnum):
    """What sort of identifier a value claims to be."""

    EMAIL = "email"
    PHONE = "phone"


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a value is not an identifier. `reason` is a short stable code and never holds the value.

    Codes: `missing` (columns only), `empty`, `not_text`, `too_long`, `not_ascii`, `malformed`,
    `bad_domain`, `empty_local`, `not_a_number`, `invalid_number`.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Profile:
    """One named way to write identifiers. Profiles do not mix: compare sets of equal profile only."""

    name: str
    letters: Literal["ascii", "lower", "nfkc"]
    inner_spaces_removed: bool
    dotless_domains: frozenset[str]  # domains whose owner ignores dots and +tags in the local part
    dotless_becomes: str | None  # the one name that all of them are written as; None keeps each
    phone_plus: bool
    encoding: Literal["hex", "base64", "bytes"]


_GMAIL = frozenset({"gmail.com"})
_GOOGLE_MAIL = frozenset({"gmail.com", "googlemail.com"})
_NONE: frozenset[str] = frozenset()

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        p.name: p
        for p in (
            Profile("pair-1", "ascii", False, _NONE, None, True, "hex"),
            Profile("admap-1", "lower", False, _NONE, None, True, "hex"),
            Profile("uid2-1", "lower", False, _GMAIL, None, True, "base64"),
            Profile("google-1", "lower", True, _GOOGLE_MAIL, None, True, "hex"),
            Profile("meta-1", "lower", False, _NONE, None, False, "hex"),
            Profile("comity-1", "nfkc", False, _GOOGLE_MAIL, "gmail.com", True, "bytes"),
        )
    }
)

_EMAIL_LIMIT = 254  # RFC 5321 section 4.5.3.1.3, less the angle brackets
_LOCAL_LIMIT = 64  # RFC 5321 section 4.5.3.1.1
_DOMAIN_LIMIT = 253
_RAW_LIMIT = 1024  # longer text is no identifier, and is not worth normalising to find out
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_ASCII_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+{_LABEL}")
_FORBIDDEN_LOCAL = re.compile(r'[\x00-\x20\x7f-\xa0"(),:;<>@\[\\\]\s]')
_DOTS = str.maketrans({"。": ".", "｡": ".", "．": "."})
# What pa.compute may decide alone: a subset of what `_email` accepts, on which it changes nothing.
# Labels starting with "xn--" are left to the IDNA check.
_PLAIN_EMAIL = r"^[a-z0-9._+'&/=_-]{1,64}@(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,24}$"

_SEPARATORS = " \t\u00a0\u3000().-/·‐‑‒–—―−﹣－"  # dashes that people really type
_SEPARATOR_TABLE = str.maketrans(dict.fromkeys(_SEPARATORS, None))
_SEPARATOR_CLASS = "[" + re.escape(_SEPARATORS) + "]+"
_COMPACT_PHONE = re.compile(r"\+?[0-9]{3,20}")


def canonical(
    kind: Kind | str, text: str, profile: Profile | str = "comity-1", *, region: str = "CN"
) -> bytes | Rejected:
    """Return the canonical form of one identifier, in UTF-8, or why it is none.

    `region` (ISO 3166-1 alpha-2) is where a phone number without a country code is dialled from.
    The function is idempotent for a phone written with its plus sign and for every e-mail address.
    Raises `Misuse` for an unknown kind, profile or region.
    """
    rules = _profile(profile)
    if _kind(kind) is Kind.EMAIL:
        return _email(text, rules)
    return _phone(text, rules, _region(region))


def match_key(canonical: bytes, profile: Profile | str) -> bytes:
    """Encode a canonical identifier as the profile's partners exchange it.

    ASCII hex (64 bytes) or base64 (44 bytes) of the SHA-256, or the bytes themselves under `comity-1`.
    An unkeyed hash of an e-mail address or a phone number is guessed in minutes: it is an encoding that
    some ecosystems ask for, not protection.
    """
    match _profile(profile).encoding:
        case "hex":
            return hashlib.sha256(canonical).hexdigest().encode()
        case "base64":
            return base64.b64encode(hashlib.sha256(canonical).digest())
        case "bytes":
            return canonical


@dataclass(frozen=True, slots=True)
class CanonicalColumn:
    """A column of canonical identifiers, row by row; null where there was none or it was rejected."""

    values: pa.BinaryArray = field(repr=False)
    rejected: Mapping[str, int]  # reason → rows; nulls of the input count as "missing"
    kind: str
    profile: str


def canonical_column(
    kind: Kind | str,
    values: pa.Array | pa.ChunkedArray,
    profile: Profile | str = "comity-1",
    *,
    region: str = "CN",
) -> CanonicalColumn:
    """`canonical` over a whole column (text, dictionary of text, UTF-8 binary or integers).

    Ordinary ASCII addresses and well-formed Chinese mobiles are handled by vector operations; what is
    left goes through `canonical` once for each distinct value. Raises `BadInput` for a column of another
    type and `Misuse` as `canonical` does.
    """
    rules, which, where = _profile(profile), _kind(kind), _region(region)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
    if pa.types.is_dictionary(values.type):
        # Each distinct value once, then spread over the rows.
        distinct = _as_text(values.dictionary)
        inner = canonical_column(which, distinct, rules, region=where)
        # A rejected dictionary entry counts once for each row that points at it.
        reasons = _reasons(which, distinct, inner.values, rules, where)
        counts = Counter(reasons[i] for i in values.indices.drop_null().to_pylist() if i in reasons)
        if values.indices.null_count:
            counts["missing"] += values.indices.null_count
        return CanonicalColumn(inner.values.take(values.indices), dict(counts), which, rules.name)
    text = _as_text(values)
    fast = _fast_emails(text, rules) if which is Kind.EMAIL else _fast_phones(text, rules, where)
    slow = pc.and_(pc.is_valid(text), pc.is_null(fast))
    counts = Counter()
    if text.null_count:
        counts["missing"] = text.null_count
    result = fast
    if pc.any(slow).as_py():
        encoded = text.filter(slow).dictionary_encode()
        forms: list[bytes | None] = []
        reasons = {}
        for i, value in enumerate(encoded.dictionary.to_pylist()):
            form = canonical(which, value, rules, region=where)
            if isinstance(form, Rejected):
                reasons[i] = form.reason
                forms.append(None)
            else:
                forms.append(form)
        indices = encoded.indices
        if reasons:
            for entry in pc.value_counts(indices).to_pylist():
                if entry["values"] in reasons:
                    counts[reasons[entry["values"]]] += entry["counts"]
        result = pc.replace_with_mask(fast, slow, pa.array(forms, pa.binary()).take(indices))
    return CanonicalColumn(result, dict(counts), which, rules.name)


def _reasons(
    kind: Kind, dictionary: pa.Array, forms: pa.BinaryArray, rules: Profile, region: str
) -> dict[int, str]:
    out: dict[int, str] = {}
    for i in pc.indices_nonzero(pc.is_null(forms)).to_pylist():
        value = dictionary[i].as_py()
        form = Rejected("missing") if value is None else canonical(kind, value, rules, region=region)
        if isinstance(form, Rejected):
            out[i] = form.reason
    return out


def _profile(profile: Profile | str) -> Profile:
    if isinstance(profile, Profile):
        return profile
    try:
        return PROFILES[profile]
    except (KeyError, TypeError):
        raise Misuse(
            "There is no such identifier profile.", advice=f"Known profiles: {', '.join(PROFILES)}."
        ) from None


def _kind(kind: Kind | str) -> Kind:
    try:
        return Kind(kind)
    except ValueError:
        raise Misuse(
            "There is no such kind of identifier.", advice=f"Known kinds: {', '.join(Kind)}."
        ) from None


def _region(region: str) -> str:
    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise Misuse(
            "The region for telephone numbers is not known.",
            advice="Give a two-letter country code such as CN.",
        )
    return region


def _as_text(values: pa.Array) -> pa.StringArray:
    kind = values.type
    try:
        if pa.types.is_string(kind):
            values.validate(full=True)
            return values
        if (
            pa.types.is_large_string(kind)
            or pa.types.is_integer(kind)
            or pa.types.is_null(kind)
            or pa.types.is_string_view(kind)
        ):
            return values.cast(pa.string())
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
            return values.cast(pa.string())
    except pa.ArrowInvalid:
        raise BadInput(
            "The identifier column is not valid UTF-8 text.", advice="Re-encode it as UTF-8."
        ) from None
    raise BadInput(
        f"A column of type {kind} cannot hold identifiers.",
        advice="Read the column as text, so that leading zeros and plus signs survive.",
    )


# ---------------------------------------------------------------------------------------- e-mail


def _email(text: str, rules: Profile) -> bytes | Rejected:
    if len(text) > _RAW_LIMIT:
        return Rejected("too_long")
    try:
        text.encode()
    except UnicodeEncodeError:
        return Rejected("not_text")
    if rules.letters == "nfkc":
        text = _strip_invisible(unicodedata.normalize("NFKC", text))
    text = text.strip()
    if rules.inner_spaces_removed:
        text = "".join(text.split())
    if not text:
        return Rejected("empty")
    if rules.letters == "ascii" and not text.isascii():
        return Rejected("not_ascii")
    text = text.lower()
    if rules.letters == "nfkc":
        text = unicodedata.normalize("NFKC", text)  # lowering may leave decomposed letters behind
    local, at, domain = text.rpartition("@")
    if not at or not local or not domain or _FORBIDDEN_LOCAL.search(local):
        return Rejected("malformed")
    if rules.letters == "nfkc":
        named = _idna_domain(domain)
        if isinstance(named, Rejected):
            return named
        domain = named
    elif not _plausible_domain(domain):
        return Rejected("bad_domain")
    if domain in rules.dotless_domains:
        local = local.partition("+")[0].replace(".", "")
        if not local:
            return Rejected("empty_local")
        domain = rules.dotless_becomes or domain
    encoded = local.encode()
    if len(encoded) > _LOCAL_LIMIT or len(encoded) + 1 + len(domain.encode()) > _EMAIL_LIMIT:
        return Rejected("too_long")
    return encoded + b"@" + domain.encode()


def _strip_invisible(text: str) -> str:
    """Drop format characters (zero-width spaces and joiners, direction marks, byte order marks)."""
    if text.isascii():
        return text
    return "".join(c for c in text if unicodedata.category(c) != "Cf")


@cache
def _idna_domain(domain: str) -> str | Rejected:
    domain = domain.translate(_DOTS)
    if len(domain) > _DOMAIN_LIMIT:
        return Rejected("bad_domain")
    if not domain.isascii() or "xn--" in domain:
        try:
            domain = idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            return Rejected("bad_domain")
    if len(domain) > _DOMAIN_LIMIT or not _ASCII_DOMAIN.fullmatch(domain):
        return Rejected("bad_domain")
    return domain


def _plausible_domain(domain: str) -> bool:
    """A domain as the ecosystem profiles take it: untouched, but recognisably a domain."""
    if domain.isascii():
        return len(domain) <= _DOMAIN_LIMIT and _ASCII_DOMAIN.fullmatch(domain) is not None
    labels = domain.split(".")
    return (
        len(domain.encode()) <= _DOMAIN_LIMIT
        and len(labels) > 1
        and all(labels)
        and not _FORBIDDEN_LOCAL.search(domain)
    )


def _fast_emails(text: pa.StringArray, rules: Profile) -> pa.BinaryArray:
    """Canonical forms of ordinary ASCII addresses; null for whatever needs a closer look."""
    trimmed = pc.ascii_lower(pc.ascii_trim_whitespace(text))
    plain = pc.and_(
        pc.match_substring_regex(trimmed, _PLAIN_EMAIL),
        pc.and_(
            pc.invert(pc.match_substring_regex(trimmed, r"@xn--|\.xn--|[^.@]{64}\.|[^.@]{64}$")),
            pc.less_equal(pc.binary_length(trimmed), _EMAIL_LIMIT),
        ),
    )
    result = pc.if_else(plain, trimmed, pa.scalar(None, pa.string()))
    for domain in sorted(rules.dotless_domains):
        ours = pc.fill_null(pc.ends_with(result, "@" + domain), False)
        if not pc.any(ours).as_py():
            continue
        local = pc.utf8_slice_codeunits(result.filter(ours), 0, -(len(domain) + 1))
        local = pc.replace_substring(pc.replace_substring_regex(local, r"\+.*$", ""), ".", "")
        written = pc.binary_join_element_wise(local, rules.dotless_becomes or domain, "@")
        written = pc.if_else(pc.equal(local, ""), pa.scalar(None, pa.string()), written)
        result = pc.replace_with_mask(result, ours, written)
    return result.cast(pa.binary())


# ----------------------------------------------------------------------------------------- phone


@cache
def _cn_mobile() -> str:
    """Pattern of a Chinese mobile's eleven digits, from the installed numbering plan itself.

    Taken rather than copied, so the fast path and the library cannot drift apart.
    """
    metadata = phonenumbers.PhoneMetadata.metadata_for_region("CN")
    mobile = metadata.mobile if metadata is not None else None
    if mobile is None or not mobile.national_number_pattern:
        raise RuntimeError("the installed phonenumbers carries no numbering plan for China")
    return f"(?:{mobile.national_number_pattern})"


@cache
def _well_formed_mobile(region: str) -> str:
    """Pattern of the compact Chinese mobiles that the fast path may decide when dialled from `region`."""
    prefix = r"(?:\+86|0086|86)?" if region == "CN" else r"\+86"
    return f"^{prefix}{_cn_mobile()}$"


@cache
def _compiled_mobile(region: str) -> re.Pattern[str]:
    return re.compile(_well_formed_mobile(region).removesuffix("$") + r"\Z")


def _compact(text: str) -> str | None:
    """The digits (and a leading plus) of a written phone number; None if anything else is in it."""
    if not text.isascii():
        text = _strip_invisible(unicodedata.normalize("NFKC", text.translate(_SEPARATOR_TABLE)))
        text = "".join(str(unicodedata.decimal(c, c)) for c in text)
    text = text.strip().translate(_SEPARATOR_TABLE)
    return text if _COMPACT_PHONE.fullmatch(text) else None


def _phone(text: str, rules: Profile, region: str) -> bytes | Rejected:
    if len(text) > _RAW_LIMIT:
        return Rejected("too_long")
    if not text.strip():
        return Rejected("empty")
    compact = _compact(text)
    if compact is None:
        return Rejected("not_a_number")
    if _compiled_mobile(region).match(compact):
        e164 = "+86" + compact[-11:]
    else:
        found = _by_library(compact, region)
        if found is None:
            return Rejected("invalid_number")
        e164 = found
    return (e164 if rules.phone_plus else e164[1:]).encode()


def _by_library(compact: str, region: str) -> str | None:
    """E.164 of compact digits according to libphonenumber; None unless its numbering plan knows them."""
    try:
        number = phonenumbers.parse(compact, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    e164: str = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return e164


def _fast_phones(text: pa.StringArray, rules: Profile, region: str) -> pa.BinaryArray:
    """Canonical forms of well-formed Chinese mobiles; null for whatever needs a closer look."""
    compact = pc.replace_substring_regex(text, _SEPARATOR_CLASS, "")
    mobile = pc.and_(
        pc.match_substring_regex(compact, _well_formed_mobile(region)),
        pc.less_equal(pc.binary_length(text), _RAW_LIMIT),
    )
    national = pc.utf8_slice_codeunits(pc.if_else(mobile, compact, pa.scalar(None, pa.string())), -11)
    prefix = pa.scalar("+86" if rules.phone_plus else "86")
    return pc.binary_join_element_wise(prefix, national, "").cast(pa.binary())
