"""The compliance scan: every column in use held against the published policy, and what people agreed to.

A column is in use in one of these ways, each of which serves certain purposes:

- *key*: people are recognised by it, for every purpose;
- *measured*: sums over it are given out (`overlap.measure`);
- *feature*: models are trained on it (`model`, after `overlap.align`);
- *described*: segments and dimensions are cut by it (`overlap`, `activation`).

The purposes are those that agreements with partners name; without an agreement, all of the policy's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

from consent.audit.facts import AuditFacts
from consent.purposes import PurposePolicy, ancestry
from privacy.detect.scanner import find_all

__all__ = ["Finding", "Inspected", "ScanReport", "ScannedDataset", "scan"]

_SERVES: dict[str, tuple[str, ...]] = {
    "key": ("overlap", "model", "activation"),
    "measured": ("overlap.measure",),
    "feature": ("model", "overlap.align"),
    "described": ("overlap", "activation"),
}
_STRING = re.compile(r"'(?:[^']|'')*'")
_WORD = re.compile(r'"((?:[^"]|"")+)"|([^\W\d]\w*)')
_SHARE = 0.05
"""Share of the sampled values that read as an identifier, from which a column counts as unmasked."""


class ScannedDataset(Protocol):
    """A dataset as the scan sees it: its name, and which columns it is set up to be used by."""

    @property
    def name(self) -> str: ...

    @property
    def keys(self) -> Mapping[str, str]:
        """Kind of identifier → column."""
        ...

    @property
    def measured(self) -> Collection[str]: ...

    @property
    def features(self) -> Collection[str]: ...

    @property
    def expressions(self) -> Collection[str]:
        """The SQL by which its segments and dimensions are cut."""
        ...


@dataclass(frozen=True, slots=True)
class Inspected:
    """What looking into a dataset's file gave: when it was last changed, and some values of each column."""

    changed_at: datetime | None
    values: Mapping[str, Sequence[object]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `level` is bad or warn; `values` fill the words for `rule`.

    `purpose` lists all that it is the same for.
    """

    rule: str
    level: str
    dataset: str = ""
    column: str = ""
    purpose: str = ""
    values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScanReport:
    """`policy` is the hash of the policy held against, `at` the time (ISO 8601)."""

    policy: str
    at: str
    datasets: int
    columns: int
    findings: tuple[Finding, ...]

    @property
    def bad(self) -> int:
        return sum(finding.level == "bad" for finding in self.findings)

    def to_dict(self) -> dict[str, object]:
        """JSON values."""
        return {
            "policy": self.policy,
            "at": self.at,
            "counts": {
                "datasets": self.datasets,
                "columns": self.columns,
                "bad": self.bad,
                "warn": len(self.findings) - self.bad,
            },
            "findings": [asdict(finding) for finding in self.findings],
        }


def scan(
    datasets: Iterable[ScannedDataset],
    policy: PurposePolicy,
    facts: AuditFacts,
    *,
    agreed: Mapping[str, Collection[str]],
    inspect: Callable[[ScannedDataset], Inspected],
    now: datetime,
) -> ScanReport:
    """Hold datasets, agreements and uses against the policy.

    `facts` are the ledger's; `agreed` maps partners to the purposes of open agreements; `inspect` looks into
    the file of a dataset. Nothing of what is found holds a value.
    """
    named = sorted({purpose for purposes in agreed.values() for purpose in purposes})
    purposes = [p for p in named or sorted(policy.purposes) if p in policy.purposes]
    found: list[Finding] = [
        Finding("unknown_purpose", "bad", purpose=p) for p in named if p not in policy.purposes
    ]
    count = columns = 0
    for dataset in datasets:
        seen = inspect(dataset)
        uses = dict(_uses(dataset, seen.values))
        count, columns = count + 1, columns + len(uses)
        for column, ways in sorted(uses.items()):
            served = [p for p in purposes if any(_serves(way, p) for way in ways)]
            found += _column(policy, dataset.name, column, served)
            if "key" not in ways:
                found += _unmasked(dataset.name, column, seen.values.get(column, ()))
        found += _retention(policy, dataset.name, purposes, seen.changed_at, now)
    found += _consents(policy, facts, purposes if named else [])
    found += _scope(facts, agreed)
    together = sorted(
        _joined(found), key=lambda f: (f.level != "bad", f.dataset, f.column, f.purpose, f.rule)
    )
    return ScanReport(policy.hash, now.isoformat(), count, columns, tuple(together))


def _joined(found: Iterable[Finding]) -> Iterator[Finding]:
    """One finding for all purposes it is the same for, without those below another."""
    alike: dict[tuple[object, ...], list[Finding]] = {}
    for finding in found:
        values = repr(sorted(finding.values.items()))
        alike.setdefault((finding.rule, finding.dataset, finding.column, values), []).append(finding)
    for group in alike.values():
        named = {finding.purpose for finding in group}
        top = sorted(p for p in named if not named.intersection(ancestry(p)[1:]))
        yield replace(group[0], purpose=", ".join(top))


def _uses(dataset: ScannedDataset, present: Collection[str]) -> Iterator[tuple[str, set[str]]]:
    """Column → the ways in which it is in use."""
    ways: dict[str, set[str]] = {}
    listed = (("key", dataset.keys.values()), ("measured", dataset.measured), ("feature", dataset.features))
    for way, columns in listed:
        for column in columns:
            ways.setdefault(column, set()).add(way)
    folded = {column.casefold(): column for column in present}
    for expression in dataset.expressions:
        for quoted, bare in _WORD.findall(_STRING.sub("''", expression)):
            named = folded.get((quoted.replace('""', '"') or bare).casefold())
            if named is not None:
                ways.setdefault(named, set()).add("described")
    yield from ways.items()


def _serves(way: str, purpose: str) -> bool:
    above = ancestry(purpose)
    return any(root in above for root in _SERVES[way])


def _column(policy: PurposePolicy, dataset: str, column: str, purposes: Sequence[str]) -> Iterator[Finding]:
    for purpose in purposes:
        crossed = policy.crossed(purpose, column)
        for line in crossed:
            yield Finding("red_line", "bad", dataset, column, purpose, {"line": dict(line.title)})
        allowed = policy.allows(purpose, column)
        if allowed is None:
            yield Finding("no_list", "warn", dataset, column, purpose)
        elif not allowed and not crossed:
            yield Finding("not_allowed", "bad", dataset, column, purpose)


def _unmasked(dataset: str, column: str, values: Sequence[object]) -> Iterator[Finding]:
    texts = [text for text in values if isinstance(text, str) and text]
    hits: dict[str, int] = {}
    for spans in find_all(texts):
        for kind in {str(span.kind) for span in spans}:
            hits[kind] = hits.get(kind, 0) + 1
    for kind, n in sorted(hits.items()):
        if n >= max(1, _SHARE * len(texts)):
            yield Finding("unmasked", "bad", dataset=dataset, column=column, values={"kind": kind})


def _retention(
    policy: PurposePolicy, dataset: str, purposes: Sequence[str], changed: datetime | None, now: datetime
) -> Iterator[Finding]:
    """A file that nobody has touched for longer than a purpose allows cannot be younger than that."""
    for purpose in purposes:
        limit: timedelta | None = policy.require(purpose).retention
        if limit is None:
            yield Finding("unlimited", "warn", dataset=dataset, purpose=purpose)
        elif changed is not None and now - changed > limit:
            days = {"days": (now - changed).days, "limit": limit.days}
            yield Finding("retention", "bad", dataset=dataset, purpose=purpose, values=days)


def _consents(policy: PurposePolicy, facts: AuditFacts, purposes: Sequence[str]) -> Iterator[Finding]:
    for purpose in purposes:
        if not policy.notices_for(purpose):
            yield Finding("no_notice", "bad", purpose=purpose)
        lines = [facts.consents.by_purpose[p] for p in ancestry(purpose) if p in facts.consents.by_purpose]
        if not any(line.standing for line in lines):
            yield Finding("no_consent", "warn", purpose=purpose)
        own = facts.consents.by_purpose.get(purpose)
        if own is not None and own.stale + own.expired:
            counts = {"count": own.stale, "expired": own.expired}
            yield Finding("stale", "warn", purpose=purpose, values=counts)
        missing = facts.missing_notice.get(purpose, 0)
        if missing:
            level = "bad" if policy.require(purpose).notice_required else "warn"
            yield Finding("missing_notice", level, purpose=purpose, values={"count": missing})


def _scope(facts: AuditFacts, agreed: Mapping[str, Collection[str]]) -> Iterator[Finding]:
    """Uses with a partner for a purpose that no open agreement with them names."""
    for use in facts.uses.by_use:
        if use.purpose not in agreed.get(use.partner, ()):
            values = {"partner": use.partner, "count": use.receipts}
            yield Finding("over_scope", "bad", purpose=use.purpose, values=values)
