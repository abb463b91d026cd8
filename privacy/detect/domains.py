"""Token domains: what a value is, as far as joining goes, and its canonical form there.

A mobile found in a note, a phone column and a landline column are one domain, `phone`: whoever has the same
canonical form there gets the same token.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from types import MappingProxyType

import pyarrow as pa

from privacy.detect.text import normalise
from privacy.identifiers import CanonicalColumn, Rejected, canonical, canonical_column

__all__ = ["CLASSES", "canonical_value", "canonical_values"]

# Class of a column in a policy → its token domain.
CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "email": "email",
        "phone": "phone",
        "cn_mobile": "phone",
        "cn_landline": "phone",
        "cn_resident_id": "resident_id",
        "bank_card": "card",
        "person": "person",
        "cn_address": "address",
        "address": "address",
        "customer_id": "customer_id",
        "device_id": "device_id",
    }
)

_SHAPES = {"resident_id": re.compile(r"[0-9]{17}[0-9X]|[0-9]{15}"), "card": re.compile(r"[0-9]{12,19}")}
_TEXT_LIMIT = 4096


def canonical_value(domain: str, text: str, *, region: str = "CN") -> bytes | Rejected:
    """Return the canonical form of one value in `domain`, in UTF-8, or why it has none.

    Phones and e-mails follow the `comity-1` profile; resident IDs and cards are their digits; values of
    any other domain are NFKC and trimmed, at most 4096 characters.
    """
    if domain in ("phone", "email"):
        # The same invisible characters go as in free text, or a pasted number would not join its column.
        return canonical(domain, normalise(text).text if domain == "phone" else text, region=region)
    if len(text) > _TEXT_LIMIT:
        return Rejected("too_long")
    if domain in _SHAPES:
        compact = re.sub(r"[ -]", "", normalise(text).text.strip()).upper()
        if not compact:
            return Rejected("empty")
        return compact.encode() if _SHAPES[domain].fullmatch(compact) else Rejected("malformed")
    form = unicodedata.normalize("NFKC", text).strip()
    if not form:
        return Rejected("empty")
    try:
        return form.encode()
    except UnicodeEncodeError:
        return Rejected("not_text")


def canonical_values(domain: str, column: pa.StringArray, *, region: str = "CN") -> CanonicalColumn:
    """`canonical_value` over a text column, each distinct value once; null where there is no form."""
    if domain in ("phone", "email"):
        return canonical_column(domain, column, region=region)
    encoded = column.dictionary_encode()
    forms: list[bytes | None] = []
    rejected: dict[str, int] = {}
    counts = {e["values"]: e["counts"] for e in encoded.indices.value_counts().to_pylist()}
    for i, value in enumerate(encoded.dictionary.to_pylist()):
        form = canonical_value(domain, value, region=region)
        if isinstance(form, Rejected):
            rejected[form.reason] = rejected.get(form.reason, 0) + counts.get(i, 0)
        forms.append(None if isinstance(form, Rejected) else form)
    if column.null_count:
        rejected["missing"] = column.null_count
    return CanonicalColumn(pa.array(forms, pa.binary()).take(encoded.indices), rejected, domain, "comity-1")
