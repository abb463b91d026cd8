"""What a policy can do to a column. Each operator checks its own options and is then bound to the keys.

An operator is made from the options of one policy line (`parse`), names itself in canonical form
(`options`), and turns a column into its masked form (`bind` once a table, then call it once a batch).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from privacy.detect.domains import CLASSES, canonical_values
from privacy.detect.names import name_finders
from privacy.detect.rewriting import mask_texts
from privacy.entities import EntityKind, ModelKind
from privacy.errors import BadInput, MaskRefused, Misuse, PolicyError
from privacy.keys import KeyRing
from privacy.masking.buckets import (
    DateEdges,
    DateWidth,
    NotInBucket,
    NumberEdges,
    NumberWidth,
    day,
    number,
)
from privacy.masking.options import Options
from privacy.masking.styles import STYLE_OF_CLASS, STYLES
from privacy.pseudonyms import Pseudonymiser

__all__ = ["OPERATORS", "BadCell", "ColumnMask", "MaskedColumn", "Operator"]

_PURPOSE = "mask"


class BadCell(Exception):
    """A value that an operator cannot take; `row` counts from 0 in the batch. Never holds the value."""

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(problem)
        self.row = row
        self.problem = problem


@dataclass(frozen=True, slots=True)
class MaskedColumn:
    """A masked batch of one column (None: the column is left out) and what there was to count."""

    values: pa.Array | None = field(repr=False)
    missing: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    found: Mapping[EntityKind | ModelKind, int] = field(default_factory=dict)
    detectors: tuple[str, ...] = ()


ColumnMask = Callable[[pa.Array], MaskedColumn]


class Operator(Protocol):
    """One policy line's doing. Frozen; holds no key material, only the names of keys."""

    NAME: ClassVar[str]

    @classmethod
    def parse(cls, options: Options) -> Operator:
        """Make the operator from its options; `PolicyError` for any that is missing, unknown or wrong."""
        ...

    def options(self) -> dict[str, object]:
        """All options with defaults filled in, as JSON values."""
        ...

    def bind(self, keyring: KeyRing) -> ColumnMask:
        """Return the function that masks one batch after another."""
        ...


@dataclass(frozen=True, slots=True)
class Keep:
    """Leave the column as it is."""

    NAME: ClassVar[str] = "keep"

    @classmethod
    def parse(cls, options: Options) -> Keep:  # noqa: ARG003
        """No options."""
        return cls()

    def options(self) -> dict[str, object]:
        """No options."""
        return {}

    def bind(self, keyring: KeyRing) -> ColumnMask:  # noqa: ARG002
        """Return the identity."""
        return lambda column: MaskedColumn(column, column.null_count)


@dataclass(frozen=True, slots=True)
class Drop:
    """Leave the column out."""

    NAME: ClassVar[str] = "drop"

    @classmethod
    def parse(cls, options: Options) -> Drop:  # noqa: ARG003
        """No options."""
        return cls()

    def options(self) -> dict[str, object]:
        """No options."""
        return {}

    def bind(self, keyring: KeyRing) -> ColumnMask:  # noqa: ARG002
        """Return a function that yields no column."""
        return lambda column: MaskedColumn(None, column.null_count)


@dataclass(frozen=True, slots=True)
class Redact:
    """Empty every cell, or write the same text (`with`) into each."""

    NAME: ClassVar[str] = "redact"
    text: str | None

    @classmethod
    def parse(cls, options: Options) -> Redact:
        """`with`: optional text."""
        return cls(options.text("with", None))

    def options(self) -> dict[str, object]:
        """The text, or null."""
        return {"with": self.text}

    def bind(self, keyring: KeyRing) -> ColumnMask:  # noqa: ARG002
        """Return a function that yields the same text in each row."""
        scalar = pa.scalar(self.text, pa.string())
        return lambda column: MaskedColumn(pa.repeat(scalar, len(column)), column.null_count)


@dataclass(frozen=True, slots=True)
class Token:
    """A keyed pseudonym that joins within key, purpose, domain and partner. What is no identifier: null."""

    NAME: ClassVar[str] = "token"
    key: str
    domain: str
    purpose: str
    partner: str
    region: str

    @classmethod
    def parse(cls, options: Options) -> Token:
        """`key` (required), `domain` (default: of the class), `purpose`, `partner`, `region`."""
        domain = options.text("domain", None) or CLASSES.get(options.entity_class or "")
        if not domain:
            raise PolicyError(f"{options.place}: a token needs a class or a domain.")
        return cls(
            options.key("key"),
            domain,
            options.text("purpose", _PURPOSE) or _PURPOSE,
            options.text("partner", "") or "",
            options.region("region"),
        )

    def options(self) -> dict[str, object]:
        """Everything that the token depends on but the key itself."""
        return {
            "key": self.key,
            "domain": self.domain,
            "purpose": self.purpose,
            "partner": self.partner,
            "region": self.region,
        }

    def bind(self, keyring: KeyRing) -> ColumnMask:
        """Return a function that canonicalises and tokenises."""
        pseudonymiser = _pseudonymiser(keyring, self.key, self.purpose, self.domain, self.partner)

        def mask(column: pa.Array) -> MaskedColumn:
            forms = canonical_values(self.domain, _text(column), region=self.region)
            rejected = {reason: n for reason, n in forms.rejected.items() if reason != "missing"}
            return MaskedColumn(pseudonymiser.tokens(forms.values), column.null_count, rejected)

        return mask


@dataclass(frozen=True, slots=True)
class PartialMask:
    """A named style of partial masking; a value of another shape becomes ``****``."""

    NAME: ClassVar[str] = "mask"
    style: str

    @classmethod
    def parse(cls, options: Options) -> PartialMask:
        """`style` (default: of the class)."""
        style = options.text("style", None) or STYLE_OF_CLASS.get(options.entity_class or "")
        if style is None or style not in STYLES:
            raise PolicyError(f"{options.place}: style is one of {', '.join(STYLES)}.")
        return cls(style)

    def options(self) -> dict[str, object]:
        """The style."""
        return {"style": self.style}

    def bind(self, keyring: KeyRing) -> ColumnMask:  # noqa: ARG002
        """Return a function that applies the style to each distinct value."""
        style = STYLES[self.style]
        return lambda column: MaskedColumn(_by_distinct(_text(column), style), column.null_count)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Numbers or dates coarsened into ranges; see `privacy.masking.buckets` for how they are written."""

    NAME: ClassVar[str] = "bucket"
    ranges: NumberWidth | NumberEdges | DateWidth | DateEdges

    @classmethod
    def parse(cls, options: Options) -> Bucket:
        """Either `width` (a number, or years such as ``5y``) or `edges` (rising numbers or dates)."""
        width, edges = options.value("width"), options.value("edges")
        if (width is None) == (edges is None):
            raise PolicyError(f"{options.place}: a bucket has either a width or edges.")
        try:
            return cls(_width(width) if edges is None else _edges(edges))
        except NotInBucket:
            raise PolicyError(
                f"{options.place}: a width is a number above 0 or whole years such as 5y; "
                "edges are a rising list of numbers, or of dates."
            ) from None

    def options(self) -> dict[str, object]:
        """The width or the edges, as text so that no number is rounded."""
        match self.ranges:
            case NumberWidth(width):
                return {"width": str(width.normalize())}
            case DateWidth(years):
                return {"width": f"{years}y"}
            case NumberEdges(edges):
                return {"edges": [str(e.normalize()) for e in edges]}
            case DateEdges(days):
                return {"edges": [d.isoformat() for d in days]}

    def bind(self, keyring: KeyRing) -> ColumnMask:  # noqa: ARG002
        """Return a function that labels each distinct value; it raises `BadCell` for what has no range."""

        def mask(column: pa.Array) -> MaskedColumn:
            if not (
                _is_text(column.type)
                or pa.types.is_null(column.type)
                or pa.types.is_integer(column.type)
                or pa.types.is_floating(column.type)
                or pa.types.is_decimal(column.type)
                or pa.types.is_date(column.type)
                or pa.types.is_timestamp(column.type)
            ):
                raise BadInput(f"A column of type {column.type} cannot be put into buckets.")
            if pa.types.is_timestamp(column.type):
                column = column.cast(pa.date32(), safe=False)
            return MaskedColumn(_by_distinct(column, self.ranges.label), column.null_count)

        return mask


@dataclass(frozen=True, slots=True)
class Text:
    """Personal data in free text, replaced by its kind's name or by its token; names always by ``<PERSON>``.

    `names` says whether a language model looks for names of people: `off`, the default, so that the same
    policy means the same everywhere; `require`, which refuses to mask where a model for one of `languages`
    is not installed; `auto`, which makes do with the models that are there and lets the manifest tell.
    """

    NAME: ClassVar[str] = "text"
    default: Literal["label", "token"]
    key: str | None
    purpose: str
    partner: str
    region: str
    names: Literal["off", "auto", "require"] = "off"
    languages: tuple[str, ...] = ()

    @classmethod
    def parse(cls, options: Options) -> Text:
        """`default` (label or token); for tokens also `key` (required), `purpose`, `partner`; `region`.

        `names` (off, auto or require), and with auto or require `languages` (default: zh and en).
        """
        region = options.region("region")
        names, languages = options.names()
        match options.text("default", "label"):
            case "label":
                return cls("label", None, _PURPOSE, "", region, names, languages)
            case "token":
                purpose = options.text("purpose", _PURPOSE) or _PURPOSE
                partner = options.text("partner", "") or ""
                return cls("token", options.key("key"), purpose, partner, region, names, languages)
        raise PolicyError(f"{options.place}: default is label or token.")

    def options(self) -> dict[str, object]:
        """Everything that the replacement depends on but the key itself.

        `names` only where it is not off: policies from before there were names keep their hashes.
        """
        options: dict[str, object] = {"default": self.default, "region": self.region}
        if self.default == "token":
            options |= {"key": self.key, "purpose": self.purpose, "partner": self.partner}
        if self.names != "off":
            options |= {"names": self.names, "languages": list(self.languages)}
        return options

    def bind(self, keyring: KeyRing) -> ColumnMask:
        """Return a function that rewrites each distinct text; `MaskRefused` if it lacks a model."""
        try:
            finders = name_finders(self.names, self.languages)
        except Misuse as missing:
            raise MaskRefused(
                missing.detail, rule="names_required", code=missing.code, advice=missing.advice
            ) from None
        pseudonymisers: dict[str, Pseudonymiser] = {}
        if self.key is not None:
            for domain in sorted({kind.domain for kind in EntityKind}):
                pseudonymisers[domain] = _pseudonymiser(keyring, self.key, self.purpose, domain, self.partner)

        def mask(column: pa.Array) -> MaskedColumn:
            masked = mask_texts(
                _text(column), self.default, pseudonymisers=pseudonymisers, region=self.region, names=finders
            )
            return MaskedColumn(masked.values, column.null_count, {}, masked.found, masked.detectors)

        return mask


OPERATORS: Mapping[str, type[Operator]] = MappingProxyType(
    {op.NAME: op for op in (Keep, Drop, Redact, Token, PartialMask, Bucket, Text)}
)


def _pseudonymiser(keyring: KeyRing, key: str, purpose: str, domain: str, partner: str) -> Pseudonymiser:
    secret = keyring.derive("pseudonym", key.removeprefix("local:"))
    return Pseudonymiser(secret, purpose=purpose, domain=domain, partner=partner)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _text(column: pa.Array) -> pa.StringArray:
    """The column as text: text itself, integers, or dictionaries of these."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise BadInput(
            f"A column of type {column.type} is not text.",
            advice="Write identifiers as text, so that leading zeros survive.",
        )
    return column.cast(pa.string())


def _by_distinct(column: pa.Array, label: Callable[[Any], str]) -> pa.StringArray:
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    labels: list[str | None] = []
    for i, value in enumerate(encoded.dictionary.to_pylist()):
        try:
            labels.append(None if value is None else label(value))
        except NotInBucket as problem:
            raise BadCell(pc.index(encoded.indices, i).as_py(), str(problem)) from None
    return pa.array(labels, pa.string()).take(encoded.indices)


def _width(value: object) -> NumberWidth | DateWidth:
    if isinstance(value, str) and (match := re.fullmatch(r"([1-9][0-9]{0,3})y", value)):
        return DateWidth(int(match[1]))
    width = number(value)
    if width <= 0:
        raise NotInBucket("is not positive")
    return NumberWidth(width)


def _edges(value: object) -> NumberEdges | DateEdges:
    if not isinstance(value, list) or not value:
        raise NotInBucket("is not a list")
    edges: tuple[Any, ...]
    if isinstance(value[0], dt.date) or (isinstance(value[0], str) and "-" in value[0][1:]):
        edges = tuple(day(v) for v in value)
    else:
        edges = tuple(number(v) for v in value)
    if any(a >= b for a, b in pairwise(edges)):
        raise NotInBucket("is not rising")
    return NumberEdges(edges) if isinstance(edges[0], Decimal) else DateEdges(edges)
