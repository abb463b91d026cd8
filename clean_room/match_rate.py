"""Why will so few match? A look at the own key columns before anything is sent to anybody.

Match rates are lost at home: one side hashes what the other reads in the clear, an export turned hashes
into base64, a thousand visitors gave noemail@. Everything here is computed locally; findings hold counts
and shares, never a value.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc

from privacy.errors import Misuse
from privacy.identifiers import Kind, canonical_column

__all__ = ["Diagnosis", "Finding", "KeyCoverage", "Severity", "examine"]

_SAMPLE = 20_000
_PLACEHOLDERS = (
    r"^(test|testing|noemail|no-?email|none|null|na|n/a|nomail|no-?reply|donotreply|unknown|anonymous|"
    r"example|fake|dummy|asdf|abc|xxx+|aaa+|123+|user|customer|guest|info|admin)@"
    r"|@(example\.(com|org|net)|test\.(com|org)|localhost|none\.(com|org)|noemail\.(com|org)|"
    r"mailinator\.com|invalid|nomail\.(com|org))$"
)
_PLACEHOLDER_PHONE = r"^\+?(\d{0,4})?(0{7,}|1{8,}|12345678\d*|13800138000|13000000000|9{8,})$"
_HEX = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_MANY = 20  # rows that share one identifier before it is called shared


class Severity(StrEnum):
    """How much it will cost: nothing will match, many will not, or a few."""

    STOP = "stop"
    WARN = "warn"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that lowers the match rate. `code` is stable; `share` is of the rows that hold a value."""

    code: str
    kind: str
    severity: Severity
    rows: int
    share: float
    detail: str
    advice: str


@dataclass(frozen=True, slots=True)
class KeyCoverage:
    """One key column: how many rows hold anything, anything usable, and how many people that is."""

    kind: str
    rows: int
    present: int
    usable: int
    distinct: int
    rejected: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found, worst first, and the coverage of every key.

    `reachable` rows have at least one usable key: the most that a waterfall over all keys can match.
    """

    rows: int
    reachable: int
    coverage: tuple[KeyCoverage, ...]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing worse than a note was found."""
        return all(finding.severity is Severity.NOTE for finding in self.findings)


def examine(
    columns: Mapping[str, pa.StringArray], *, profile: str = "comity-1", region: str = "CN"
) -> Diagnosis:
    """Examine key columns by kind (`email`, `phone`); all have one entry a row, null where there is none.

    `profile` is the one agreed with the partner, `region` that of numbers without a country code. Raises
    Misuse for no column, columns of different length, an unknown kind, profile or region.
    """
    lengths = {len(column) for column in columns.values()}
    if not columns or len(lengths) != 1:
        raise Misuse("A diagnosis needs key columns of one length.")
    rows = lengths.pop()
    reachable = pa.array([False] * rows, pa.bool_())
    coverage, findings = [], []
    for name, values in columns.items():
        kind = Kind(name) if name in {k.value for k in Kind} else None
        if kind is None:
            raise Misuse("Keys are of the kinds email and phone.")
        forms = canonical_column(kind, values, profile, region=region)
        reachable = pc.or_(reachable, pc.is_valid(forms.values))
        present = values.drop_null()
        usable = len(forms.values) - forms.values.null_count
        distinct = pc.count_distinct(forms.values.drop_null()).as_py()
        coverage.append(KeyCoverage(kind.value, rows, len(present), usable, distinct, dict(forms.rejected)))
        findings += list(_findings(kind, values, forms.values, profile, region))
    order = list(Severity)
    findings.sort(key=lambda f: (order.index(f.severity), -f.rows))
    return Diagnosis(rows, int(pc.sum(reachable).as_py() or 0), tuple(coverage), tuple(findings))


def _findings(
    kind: Kind, values: pa.StringArray, forms: pa.BinaryArray, profile: str, region: str
) -> Iterator[Finding]:
    text = pc.utf8_trim_whitespace(values.drop_null())
    total = len(text)
    if total == 0:
        yield Finding(
            "empty_key", kind.value, Severity.STOP, len(values), 1.0,
            "no row holds this key", "Leave it out of the keys of this dataset.",
        )  # fmt: skip
        return
    for code, test, detail, advice in _SHAPES:
        found = test(text)
        if found:
            severity = Severity.STOP if found > total // 2 else Severity.WARN
            yield Finding(code, kind.value, severity, found, found / total, detail, advice)
    usable = forms.drop_null()
    if len(usable):
        yield from _of_people(kind, usable)
    if kind is Kind.PHONE:
        yield from _of_numbers(text, profile, region)
    rejected = total - len(usable)
    if rejected > total // 10:
        severity = Severity.STOP if rejected > total // 2 else Severity.WARN
        yield Finding(
            "unusable", kind.value, severity, rejected, rejected / total,
            "many values are no identifiers of this kind",
            "See the reasons in the coverage; the column may hold something else.",
        )  # fmt: skip


def _of_people(kind: Kind, usable: pa.BinaryArray) -> Iterator[Finding]:
    total = len(usable)
    text = usable.cast(pa.string())
    pattern = _PLACEHOLDERS if kind is Kind.EMAIL else _PLACEHOLDER_PHONE
    found = _count(pc.match_substring_regex(text, pattern))
    if found:
        severity = Severity.WARN if found > total // 100 else Severity.NOTE
        yield Finding(
            "placeholder", kind.value, severity, found, found / total,
            "values that people give instead of their own",
            "Drop them: they match each other, not people.",
        )  # fmt: skip
    counts = pc.value_counts(usable).field("counts")
    twice = total - len(counts)
    if twice:
        severity = Severity.WARN if twice > total // 5 else Severity.NOTE
        yield Finding(
            "duplicates", kind.value, severity, twice, twice / total,
            "rows whose identifier another row has too", "A person counts once; the rest are dropped.",
        )  # fmt: skip
    shared = counts.filter(pc.greater_equal(counts, _MANY))
    if len(shared):
        rows = int(pc.sum(shared).as_py())
        yield Finding(
            "shared_identifier", kind.value, Severity.WARN, rows, rows / total,
            f"{len(shared)} identifiers stand in {_MANY} rows or more each",
            "These are switchboards, shops or placeholders rather than people.",
        )  # fmt: skip


def _of_numbers(text: pa.StringArray, profile: str, region: str) -> Iterator[Finding]:
    bare = pc.invert(pc.match_substring_regex(text, r"^\s*(\+|00)"))
    found = _count(bare)
    if not found:
        return
    # If another country would read the same digits as well, the assumption about the region matters.
    sample = text.filter(bare).slice(0, _SAMPLE)
    read = canonical_column(Kind.PHONE, sample, profile, region=region).values
    lost = read.null_count / max(1, len(sample))
    severity = Severity.NOTE if lost < 0.1 else Severity.WARN if lost < 0.5 else Severity.STOP
    yield Finding(
        "no_country_code", "phone", severity, found, found / len(text),
        f"numbers without a country code, read as those of {region}; {lost:.0%} of them cannot be",
        "Set the region of the dataset, or write numbers with + and the country code.",
    )  # fmt: skip


def _count(mask: pa.BooleanArray) -> int:
    return int(pc.sum(mask).as_py() or 0)


def _share(text: pa.StringArray, holds: Callable[[str], bool]) -> int:
    """How many rows hold, from a sample of the first twenty thousand."""
    sample = text.slice(0, _SAMPLE).to_pylist()
    found = sum(1 for value in sample if holds(value))
    return found if len(sample) == len(text) else found * len(text) // len(sample)


def _hashed(text: pa.StringArray) -> int:
    return _count(pc.match_substring_regex(text, "^[0-9a-fA-F]{64}$"))


def _other_hash(text: pa.StringArray) -> int:
    return _count(pc.match_substring_regex(text, "^([0-9a-fA-F]{32}|[0-9a-fA-F]{40}|[0-9a-fA-F]{128})$"))


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _base64_hash(text: pa.StringArray) -> int:
    likely = text.filter(pc.match_substring_regex(text, "^[A-Za-z0-9+/]{43}=$"))
    return _share(likely, lambda v: len(_decoded(v)) == 32) if len(likely) else 0


def _base64_of_hex(text: pa.StringArray) -> int:
    likely = text.filter(pc.match_substring_regex(text, "^[A-Za-z0-9+/]{86}==$"))
    return _share(likely, lambda v: bool(_HEX.fullmatch(_decoded(v).decode("latin-1")))) if len(likely) else 0


_EMPTY_HASHES = frozenset(
    hashlib.sha256(value).hexdigest()
    for nothing in (b"", b" ", b"null", b"NULL", b"None", b"nan", b"NaN", b"0", b"undefined")
    for value in (nothing, hashlib.sha256(nothing).hexdigest().encode())
)


def _hash_of_nothing(text: pa.StringArray) -> int:
    return _count(pc.is_in(pc.utf8_lower(text), value_set=pa.array(sorted(_EMPTY_HASHES))))


_SHAPES: tuple[tuple[str, Callable[[pa.StringArray], int], str, str], ...] = (
    (
        "hashed", _hashed, "SHA-256 in hex where the profile wants the identifier itself",
        "Give the clear identifiers: the node hashes them with a secret. A hash cannot be normalised.",
    ),
    (
        "base64_hash", _base64_hash, "32 bytes in base64: hashes where the profile wants identifiers",
        "Give the clear identifiers.",
    ),
    (
        "base64_of_hex", _base64_of_hex, "base64 of the hex digits of a hash: encoded twice",
        "An export encoded hex text instead of bytes; give the clear identifiers.",
    ),
    (
        "other_hash", _other_hash, "hex of the length of an MD5, SHA-1 or SHA-512",
        "Give the clear identifiers; no profile uses these.",
    ),
    (
        "hash_of_nothing", _hash_of_nothing, "hashes of an empty value (or of the hash of one)",
        "These rows have no identifier: leave them empty.",
    ),
)  # fmt: skip
