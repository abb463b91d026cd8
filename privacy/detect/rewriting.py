"""Texts with the personal data in them replaced: by its kind's name, or by a token that joins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import polars as pl
import pyarrow as pa

from privacy.detect.domains import canonical_value
from privacy.detect.names import Names, name_finders
from privacy.detect.scanner import find_all
from privacy.entities import EntityKind, ModelKind
from privacy.errors import BadInput, Misuse
from privacy.identifiers import Rejected
from privacy.pseudonyms import Pseudonymiser

__all__ = ["MaskedTexts", "canonical_entity", "mask_texts"]


@dataclass(frozen=True, slots=True)
class MaskedTexts:
    """A text column without the personal data that was found in it, how much was found, and by what."""

    values: pa.StringArray = field(repr=False)
    found: Mapping[EntityKind | ModelKind, int]
    detectors: tuple[str, ...] = ("patterns",)


def mask_texts(
    values: pa.Array | pa.ChunkedArray | pl.Series,
    default: Literal["label", "token"] = "label",
    *,
    pseudonymisers: Mapping[str, Pseudonymiser] | None = None,
    kinds: Iterable[EntityKind | ModelKind | str] | None = None,
    region: str = "CN",
    names: Names = "off",
) -> MaskedTexts:
    """Replace what `find` finds in each text of an Arrow or Polars column.

    `label` writes the kind, ``<CN_MOBILE>``. `token` writes the token of the canonical identifier, which
    equals the token of the same identifier in a column of the same key, purpose and domain;
    `pseudonymisers` holds one for each token domain (`phone`, `email`, `resident_id`, `card`). What
    cannot be made canonical is written as its label. So is a name, always (``<PERSON>``): many people share
    one, and its token would join strangers. `names` says whether names are looked for, as for `find`.
    Raises `BadInput` for a column that is not text and `Misuse` for a domain without a pseudonymiser.
    """
    if isinstance(values, pl.Series):
        values = values.to_arrow()
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_null(values.type) or pa.types.is_string_view(values.type):
        values = values.cast(pa.string())
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise BadInput(f"A column of type {values.type} is not text.")
    write: Callable[[EntityKind | ModelKind, str], str] = _label
    if default == "token":
        write = _token_writer(pseudonymisers or {}, region)
    elif default != "label":
        raise Misuse("Text is rewritten by label or by token.")
    wanted = None if kinds is None else tuple(kinds)
    finders = name_finders(names)
    counts: Counter[EntityKind | ModelKind] = Counter()
    encoded = values.dictionary_encode()
    weights = Counter(encoded.indices.drop_null().to_pylist())
    out: list[str | None] = []
    texts = encoded.dictionary.to_pylist()
    for i, (text, spans) in enumerate(zip(texts, find_all(texts, wanted, names=finders), strict=True)):
        if not spans:
            out.append(text)
            continue
        pieces, at = [], 0
        for span in spans:
            pieces += [text[at : span.start], write(span.kind, text[span.start : span.end])]
            at = span.end
            counts[span.kind] += weights[i]
        out.append("".join([*pieces, text[at:]]))
    detectors = ("patterns", *(finder.detector for finder in finders))
    return MaskedTexts(pa.array(out, pa.string()).take(encoded.indices), dict(counts), detectors)


def canonical_entity(kind: EntityKind, written: str, *, region: str = "CN") -> bytes | Rejected:
    """The canonical form of a found entity, such as columns of the same domain have it."""
    home = region
    if kind in (EntityKind.CN_MOBILE, EntityKind.CN_LANDLINE):
        home = "CN"
    elif kind is EntityKind.PHONE_NUMBER and not written.startswith("+"):
        home = "US"  # the only shape of PHONE_NUMBER without a plus sign is North American
    return canonical_value(kind.domain, written, region=home)


def _label(kind: EntityKind | ModelKind, _written: str) -> str:
    return f"<{kind}>"


def _token_writer(
    pseudonymisers: Mapping[str, Pseudonymiser], region: str
) -> Callable[[EntityKind | ModelKind, str], str]:
    missing = {kind.domain for kind in EntityKind} - set(pseudonymisers)
    if missing:
        raise Misuse(f"Tokens in text need a pseudonymiser for: {', '.join(sorted(missing))}.")

    def write(kind: EntityKind | ModelKind, written: str) -> str:
        if isinstance(kind, ModelKind):
            return _label(kind, written)
        form = canonical_entity(kind, written, region=region)
        return (
            _label(kind, written) if isinstance(form, Rejected) else pseudonymisers[kind.domain].token(form)
        )

    return write
