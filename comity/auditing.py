"""What an audit of this node needs from the rooms above the ledger: datasets, agreements, witnesses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from clean_room.collaboration import Collaborations
from clean_room.datasets import Dataset
from comity.records import Records
from comity.witnessing import read_trust_policy
from consent.audit.archive import AuditReports
from consent.audit.facts import AuditFacts
from consent.audit.scan import Inspected, ScannedDataset, ScanReport, scan
from privacy.errors import ComityError

__all__ = ["CatalogueDataset", "purposes_agreed", "reports_of", "scan_of"]

_SAMPLE = 2_000  # rows from the start of a file
_LONG = 10**9  # whole numbers from here on may be telephone or card numbers


@dataclass(frozen=True)
class CatalogueDataset:
    """A dataset of the catalogue as the scan wants it. Implements `consent.audit.scan.ScannedDataset`."""

    dataset: Dataset = field(repr=False)

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def keys(self) -> Mapping[str, str]:
        return {kind.value: column for kind, column in self.dataset.keys.items()}

    @property
    def measured(self) -> Collection[str]:
        return tuple(self.dataset.columns)

    @property
    def features(self) -> Collection[str]:
        return self.dataset.features

    @property
    def expressions(self) -> Collection[str]:
        cut = [dimension.sql for dimension in self.dataset.dimensions.values()]
        return (*cut, *self.dataset.segments.values())


def inspect(scanned: ScannedDataset) -> Inspected:
    """The age of a dataset and its first rows; nothing of it where it cannot be read."""
    if not isinstance(scanned, CatalogueDataset):
        return Inspected(None, {})
    try:
        table = scanned.dataset.sample(_SAMPLE)
    except ComityError:
        return Inspected(None, {})
    changed = scanned.dataset.source.changed_at()
    return Inspected(changed, {name: _texts(table[name]) for name in table.column_names})


def _texts(column: pa.ChunkedArray) -> list[object]:
    values = column.to_pylist()
    return [str(v) if isinstance(v, int) and not isinstance(v, bool) and v >= _LONG else v for v in values]


def purposes_agreed(collaborations: Collaborations) -> dict[str, list[str]]:
    """Partner → purposes of the agreement in force with them."""
    return {
        shown["partner"]: list(shown["terms"]["purposes"])
        for shown in collaborations.show()
        if shown["state"] == "agreed"
    }


def scan_of(records: Records, facts: AuditFacts) -> ScanReport:
    """The node's datasets, agreements and uses held against the policy."""
    return scan(
        [CatalogueDataset(dataset) for dataset in records.catalogue],
        records.ledger.policy,
        facts,
        agreed=purposes_agreed(records.collaborations),
        inspect=inspect,
        now=records.clock(),
    )


def reports_of(records: Records) -> AuditReports:
    """The node's audit reports, each with a scan of its datasets."""
    return AuditReports(
        records.ledger,
        records.identity.key,
        policy=lambda: read_trust_policy(records.config),
        scan=lambda facts: scan_of(records, facts),
    )
